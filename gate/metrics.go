package gate

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reloads    *prometheus.CounterVec
	lastReload prometheus.Gauge
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_config_reloads_total",
			Help: "Configuration reloads by result (applied, refused); after a refused one the previous configuration is in force.",
		}, []string{"result"}),
		lastReload: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_gate_config_applied_timestamp_seconds",
			Help: "When the configuration in force was applied, in seconds since the epoch.",
		}),
	}
	registerer.MustRegister(m.reloads, m.lastReload)
	m.lastReload.Set(float64(time.Now().Unix()))
	return m
}

func (m *metrics) reloaded(applied bool) {
	if !applied {
		m.reloads.WithLabelValues("refused").Inc()
		return
	}
	m.reloads.WithLabelValues("applied").Inc()
	m.lastReload.Set(float64(time.Now().Unix()))
}
