package budget

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reads        *prometheus.CounterVec
	lastRead     prometheus.Gauge
	declarations *prometheus.GaugeVec
	nodes        prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_budget_reads_total",
			Help: "Readings of API budgets and the cluster's size, by result (ok, failed); after a failed one what was read last is in force.",
		}, []string{"result"}),
		lastRead: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_budget_read_timestamp_seconds",
			Help: "When API budgets and the cluster's size were last read whole, in seconds since the epoch; 0: not by this process.",
		}),
		declarations: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_budget_declarations",
			Help: "Declarations of API budgets, by state (used, invalid).",
		}, []string{"state"}),
		nodes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_budget_nodes",
			Help: "Nodes of the cluster as last read; 0: not known.",
		}),
	}
	for _, result := range []string{"ok", "failed"} {
		m.reads.WithLabelValues(result)
	}
	if registerer != nil {
		registerer.MustRegister(m.reads, m.lastRead, m.declarations, m.nodes)
	}
	return m
}

func (m *metrics) read(err error) {
	if err != nil {
		m.reads.WithLabelValues("failed").Inc()
		return
	}
	m.reads.WithLabelValues("ok").Inc()
	m.lastRead.Set(float64(time.Now().Unix()))
}
