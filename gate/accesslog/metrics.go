package accesslog

import "github.com/prometheus/client_golang/prometheus"

// Metrics outlive a reload of the configuration, so the gate makes them once.
type Metrics struct {
	lines, droppedQueue, droppedRate, droppedWrite prometheus.Counter
}

// NewMetrics registers the metrics; nil registers none.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	lines := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "seakeep_gate_access_log_lines_total",
		Help: "Lines written to the access log.",
	})
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_access_log_dropped_lines_total",
		Help: "Lines not written to the access log, by reason: queue (the disk is slower than the requests), rate (more than maxLinesPerSecond), write (the disk refused).",
	}, []string{"reason"})
	if registerer != nil {
		registerer.MustRegister(lines, dropped)
	}
	return &Metrics{
		lines:        lines,
		droppedQueue: dropped.WithLabelValues("queue"),
		droppedRate:  dropped.WithLabelValues("rate"),
		droppedWrite: dropped.WithLabelValues("write"),
	}
}
