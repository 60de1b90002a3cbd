package admin

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	changes  *prometheus.CounterVec
	inForce  prometheus.Gauge
	squeezes prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		changes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_admin_emergency_events_total",
			Help: "What happened to emergency rules: set, learn (set on another gate), prolong, lift, expire or refuse.",
		}, []string{"event"}),
		inForce: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_admin_emergency_rules",
			Help: "Emergency rules kept by the admin endpoint.",
		}),
		squeezes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_admin_squeezes_total",
			Help: "Calls of the break-glass lane for room.",
		}),
	}
	for _, event := range []string{"set", "learn", "prolong", "lift", "expire", "refuse"} {
		m.changes.WithLabelValues(event)
	}
	if reg != nil {
		reg.MustRegister(m.changes, m.inForce, m.squeezes)
	}
	return m
}
