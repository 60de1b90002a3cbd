package export

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	last   prometheus.Gauge
	writes *prometheus.CounterVec
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_dns_export_timestamp_seconds", Help: "When all exported files were last written.",
		}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_export_writes_total", Help: "Rounds of writing the exported files, by result.",
		}, []string{"result"}),
	}
	r.MustRegister(m.last, m.writes)
	for _, result := range []string{"ok", "failed"} {
		m.writes.WithLabelValues(result)
	}
	return m
}

func (m *metrics) wrote(at time.Time, ok bool) {
	if !ok {
		m.writes.WithLabelValues("failed").Inc()
		return
	}
	m.writes.WithLabelValues("ok").Inc()
	m.last.Set(float64(at.Unix()))
}
