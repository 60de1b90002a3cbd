package tracing

import "github.com/prometheus/client_golang/prometheus"

// Metrics outlive a reload of the configuration, so the gate makes them once.
type Metrics struct {
	exported, failed, dropped prometheus.Counter
}

// NewMetrics registers the metrics; nil registers none.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_trace_spans_total",
		Help: "Spans by what became of them: exported, failed (the collector did not take them), dropped (the queue was full).",
	}, []string{"result"})
	if registerer != nil {
		registerer.MustRegister(spans)
	}
	return &Metrics{
		exported: spans.WithLabelValues("exported"),
		failed:   spans.WithLabelValues("failed"),
		dropped:  spans.WithLabelValues("dropped"),
	}
}
