package agents

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Values of the label result.
const (
	resultOK        = "ok"
	resultThrottled = "429"
	resultError     = "error"
)

// Metrics count what all agents of a runner do. One is made for a runner.
type Metrics struct {
	requests *prometheus.CounterVec
	bytes    prometheus.Counter
	duration prometheus.Histogram
	running  prometheus.Gauge
	refused  *prometheus.CounterVec
}

// NewMetrics registers the metrics.
func NewMetrics(registerer prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_lab_agent_requests_total", Help: "Requests of all agents by result; each retry is one.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_lab_agent_received_bytes_total", Help: "Bytes of all answers' bodies, as sent.",
		}),
		// From an idle API server's 5 ms to the agents' own timeout.
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "seakeep_lab_agent_request_seconds", Help: "Time until a successful answer was read, watches left out.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 14),
		}),
		running: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_lab_agents_running", Help: "Agents that run.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_lab_agents_refused_total", Help: "Agents that were not started, by reason.",
		}, []string{"reason"}),
	}
	for _, result := range []string{resultOK, resultThrottled, resultError} {
		m.requests.WithLabelValues(result)
	}
	for _, reason := range []string{reasonLimit, reasonBehaviour} {
		m.refused.WithLabelValues(reason)
	}
	registerer.MustRegister(m.requests, m.bytes, m.duration, m.running, m.refused)
	return m
}

// Values of the label reason.
const (
	reasonLimit     = "limit"     // as many agents run as may
	reasonBehaviour = "behaviour" // the annotations are wrong
)
