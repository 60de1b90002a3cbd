package gate

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/accesslog"
	"github.com/seakeep/seakeep/gate/tracing"
)

type metrics struct {
	reloads    *prometheus.CounterVec
	lastReload prometheus.Gauge
	// of the lane's listener
	connections, connectionsMax prometheus.Gauge
	connectionsClosed           *prometheus.CounterVec
	tracing                     *tracing.Metrics
	access                      *accesslog.Metrics
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
		tracing: tracing.NewMetrics(registerer),
		access:  accesslog.NewMetrics(registerer),
	}
	m.connections = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "seakeep_gate_connections",
		Help: "Connections that clients hold open on the standard lane.",
	})
	m.connectionsMax = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "seakeep_gate_connections_max",
		Help: "How many connections clients may hold open: listen.connections.max, or less when the limit of descriptors allows less.",
	})
	m.connectionsClosed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_connections_closed_total",
		Help: "Connections the gate closed to keep places free: source (its address has its share), full (all places are taken), gave_up (idle, of the source with the most, for a newcomer).",
	}, []string{"reason"})
	for _, reason := range []string{closedSource, closedFull, closedGaveUp} {
		m.connectionsClosed.WithLabelValues(reason)
	}
	registerer.MustRegister(m.reloads, m.lastReload, m.connections, m.connectionsMax, m.connectionsClosed)
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
