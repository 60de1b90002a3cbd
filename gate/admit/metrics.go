package admit

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// metrics are the room's.
type metrics struct {
	admitted, rejected, gone *prometheus.CounterVec
	wait                     *prometheus.HistogramVec
}

// levelMetrics are one level's, looked up once.
type levelMetrics struct {
	admitted, gone prometheus.Counter
	rejected       map[Reason]prometheus.Counter
	wait           prometheus.Observer
}

func newMetrics(registerer prometheus.Registerer, r *Room) *metrics {
	m := &metrics{
		admitted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_admit_admitted_total",
			Help: "Requests that admission let go on, by level.",
		}, []string{"level"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_admit_rejected_total",
			Help: "Requests that admission turned away with 429, by level and reason (queue-full, waited-too-long, ramp); in mode Shadow those it would have.",
		}, []string{"level", "reason"}),
		gone: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_admit_gone_total",
			Help: "Requests whose client left while they waited, by level.",
		}, []string{"level"}),
		wait: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "seakeep_gate_admit_wait_seconds",
			Help:    "How long requests waited for seats, those that were turned away included, by level; in mode Shadow how long they would have.",
			Buckets: []float64{.001, .005, .025, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"level"}),
	}
	if registerer != nil {
		registerer.MustRegister(m.admitted, m.rejected, m.gone, m.wait, &state{room: r})
	}
	return m
}

func (m *metrics) of(name v1alpha1.LevelName) levelMetrics {
	l := levelMetrics{
		admitted: m.admitted.WithLabelValues(string(name)), gone: m.gone.WithLabelValues(string(name)),
		rejected: map[Reason]prometheus.Counter{}, wait: m.wait.WithLabelValues(string(name)),
	}
	for _, reason := range reasons {
		l.rejected[reason] = m.rejected.WithLabelValues(string(name), string(reason))
	}
	return l
}

func (m *metrics) waited(l *level, d time.Duration) { l.metrics.wait.Observe(d.Seconds()) }

// state are the metrics of what is so now.
type state struct{ room *Room }

var (
	limitDesc      = prometheus.NewDesc("seakeep_gate_admit_limit_seats", "Seats that requests may hold at once, as the control plane allows it now.", nil, nil)
	bytesDesc      = prometheus.NewDesc("seakeep_gate_admit_list_limit_bytes", "Bytes of LISTs' answers that may be under way at once; 0: no bound.", nil, nil)
	levelLimitDesc = prometheus.NewDesc("seakeep_gate_admit_level_limit_seats", "Seats of the limit that a level may use now.", []string{"level"}, nil)
	inUseDesc      = prometheus.NewDesc("seakeep_gate_admit_seats_in_use", "Seats held, by level.", []string{"level"}, nil)
	waitingDesc    = prometheus.NewDesc("seakeep_gate_admit_seats_waiting", "Seats waited for, by level.", []string{"level"}, nil)
	pressureDesc   = prometheus.NewDesc("seakeep_gate_admit_pressure_ratio", "How near each signal is to where the limit falls: 1 is there.", []string{"signal"}, nil)
	errorDesc      = prometheus.NewDesc("seakeep_gate_admit_cost_error_ratio", "Median of |predicted - measured| / measured of the cost of requests whose like was seen 20 times or more, by what was predicted (seconds, bytes).", []string{"of"}, nil)
	shapesDesc     = prometheus.NewDesc("seakeep_gate_admit_cost_shapes", "Kinds of request whose cost is known.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *state) Describe(into chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{limitDesc, bytesDesc, levelLimitDesc, inUseDesc, waitingDesc, pressureDesc, errorDesc, shapesDesc} {
		into <- d
	}
}

// Collect implements prometheus.Collector. Where admission is off there is nothing to tell.
func (s *state) Collect(into chan<- prometheus.Metric) {
	status := s.room.Status()
	if status.Mode == v1alpha1.OverloadDisabled {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		into <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(limitDesc, float64(status.LimitSeats))
	gauge(bytesDesc, float64(status.ListLimitBytes))
	for _, l := range status.Levels {
		gauge(levelLimitDesc, float64(l.LimitSeats), string(l.Name))
		gauge(inUseDesc, float64(l.InUse), string(l.Name))
		gauge(waitingDesc, float64(l.Waiting), string(l.Name))
	}
	for signal, pressure := range status.Pressures {
		gauge(pressureDesc, pressure, signal)
	}
	gauge(shapesDesc, float64(status.Cost.Shapes))
	if status.Cost.Measured > 0 {
		gauge(errorDesc, status.Cost.SecondsError, "seconds")
		gauge(errorDesc, status.Cost.BytesError, "bytes")
	}
}
