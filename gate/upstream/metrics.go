package upstream

import "github.com/prometheus/client_golang/prometheus"

// Why a request that an API server did not take could not be sent again: the label values of "reason".
const (
	refusedSize     = "size"     // its body was larger than what is kept of one
	refusedMemory   = "memory"   // other bodies had taken the memory
	refusedAttempts = "attempts" // every API server kept sending it away
)

type bodyMetrics struct {
	replays prometheus.Counter
	refused *prometheus.CounterVec
}

func newBodyMetrics(registerer prometheus.Registerer, kept func() float64) *bodyMetrics {
	m := &bodyMetrics{
		replays: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_gate_upstream_replays_total",
			Help: "Requests with a body that were sent again because an API server, closing the connection (GOAWAY), said that it had not taken them.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_upstream_replays_refused_total",
			Help: "Requests an API server had not taken that could not be sent again and were answered 429, by reason: size (the body is larger than 1 MiB), memory (64 MiB of bodies were kept already), attempts.",
		}, []string{"reason"}),
	}
	for _, reason := range []string{refusedSize, refusedMemory, refusedAttempts} {
		m.refused.WithLabelValues(reason)
	}
	if registerer != nil {
		registerer.MustRegister(m.replays, m.refused, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "seakeep_gate_upstream_kept_body_bytes",
			Help: "Memory that holds request bodies until their answers begin, in case they have to be sent again.",
		}, kept))
	}
	return m
}
