package gate

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/clamp"
)

type policingMetrics struct {
	named    *prometheus.CounterVec
	clamps   *prometheus.CounterVec
	suspects *prometheus.GaugeVec
}

func newPolicingMetrics(registerer prometheus.Registerer) *policingMetrics {
	m := &policingMetrics{
		named: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_clamp_named_total",
			Help: "Clients whose cost grew with their nodes and would have passed the headroom, by why they are not clamped (none, system, exempt, lifted, crowd).",
		}, []string{"spared"}),
		clamps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_clamp_clamps_total",
			Help: "Growth clamps, by what was done (enforce, shadow, renewed, failed).",
		}, []string{"done"}),
		suspects: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_clamp_suspects",
			Help: "Clients whose cost grew with their nodes lately, by state (clamped: a rule is in force, in shadow too; named: none is).",
		}, []string{"state"}),
	}
	for _, spared := range []string{"none", clamp.SparedSystem, clamp.SparedExempt, clamp.SparedLifted, clamp.SparedCrowd} {
		m.named.WithLabelValues(spared)
	}
	for _, done := range []string{"enforce", "shadow", "renewed", "failed"} {
		m.clamps.WithLabelValues(done)
	}
	m.tell(nil)
	if registerer != nil {
		registerer.MustRegister(m.named, m.clamps, m.suspects)
	}
	return m
}

func (m *policingMetrics) tell(suspects []clamp.Suspect) {
	clamped := 0
	for i := range suspects {
		if suspects[i].Rule != "" {
			clamped++
		}
	}
	m.suspects.WithLabelValues("clamped").Set(float64(clamped))
	m.suspects.WithLabelValues("named").Set(float64(len(suspects) - clamped))
}
