package upstream

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/upstream/choice"
)

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

// keeperMetrics are of the servers in use. They are read when they are asked for, so that a server that is gone leaves no
// series behind. Label values are the configuration's names and constants.
type keeperMetrics struct {
	keeper                      *Keeper
	in, seats, streams, out     *prometheus.Desc
	panicRequests, panicRefused *prometheus.Desc
	loadAge, loadReadings       *prometheus.Desc
	moved                       prometheus.Counter
	lookups                     *prometheus.CounterVec
}

func newKeeperMetrics(registerer prometheus.Registerer, k *Keeper) *keeperMetrics {
	m := &keeperMetrics{
		keeper: k,
		in: prometheus.NewDesc("seakeep_gate_upstream_in_ratio",
			"Whether requests go to the API server: 1, half open (a few, to find out) 0.5, out 0; by ability: serving, or quorum (its etcd).",
			[]string{"upstream", "ability"}, nil),
		out: prometheus.NewDesc("seakeep_gate_upstream_outs_total",
			"How often the API server was taken out, by ability (serving, quorum) and reason (unreachable, broken, not_ready, silent, errors, etcd_errors, hanging).",
			[]string{"upstream", "ability", "reason"}, nil),
		seats: prometheus.NewDesc("seakeep_gate_upstream_seats",
			"Requests under way at the API server, streams not counted.", []string{"upstream"}, nil),
		streams: prometheus.NewDesc("seakeep_gate_upstream_streams",
			"Streams open at the API server: watches, followed logs, shells.", []string{"upstream"}, nil),
		panicRequests: prometheus.NewDesc("seakeep_gate_upstream_panic_requests_total",
			"Requests sent to an API server that is out, because no other is left.", nil, nil),
		panicRefused: prometheus.NewDesc("seakeep_gate_upstream_panic_refused_total",
			"Requests answered 429 because every API server is out and enough requests were trying.", nil, nil),
		loadAge: prometheus.NewDesc("seakeep_gate_upstream_load_age_seconds",
			"How old the latest that the API server said of its load is; absent while it has said nothing.", []string{"upstream"}, nil),
		loadReadings: prometheus.NewDesc("seakeep_gate_upstream_load_readings_total",
			"Readings of the API server's /metrics, by result: read, forbidden (the group system:monitoring may not), refused (429), errored, late, unreachable, unreadable.",
			[]string{"upstream", "result"}, nil),
		moved: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_gate_upstream_moved_watches_total",
			Help: "Watches ended so that their clients open them again at another API server.",
		}),
	}
	m.lookups = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_gate_upstream_lookups_total",
		Help: "Lookups of the API servers an entry of upstreams stands for, by result: good, or failed, after which those found last stay in use.",
	}, []string{"upstream", "result"})
	if registerer != nil {
		registerer.MustRegister(m, m.moved, m.lookups)
	}
	return m
}

func (m *keeperMetrics) looked(entry string, err error) {
	result := "good"
	if err != nil {
		result = "failed"
	}
	m.lookups.WithLabelValues(entry, result).Inc()
}

// Describe implements prometheus.Collector.
func (m *keeperMetrics) Describe(into chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.in, m.out, m.seats, m.streams, m.panicRequests, m.panicRefused, m.loadAge, m.loadReadings} {
		into <- d
	}
}

// Collect implements prometheus.Collector.
func (m *keeperMetrics) Collect(into chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		into <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	now := time.Now()
	for _, s := range m.keeper.Servers() {
		v := m.keeper.table.View(now, s.state)
		gauge(m.seats, v.Seats, s.Name)
		gauge(m.streams, float64(v.Streams), s.Name)
		if last := s.load.latest().Last; last != nil {
			gauge(m.loadAge, now.Sub(last.Read).Seconds(), s.Name)
		}
		for result, n := range s.load.results() {
			into <- prometheus.MustNewConstMetric(m.loadReadings, prometheus.CounterValue, float64(n), s.Name, result)
		}
		for _, a := range []choice.Ability{choice.Serving, choice.Quorum} {
			gauge(m.in, [...]float64{choice.In: 1, choice.HalfOpen: 0.5, choice.Out: 0}[v.States[a]], s.Name, a.String())
			for _, why := range choice.Reasons {
				into <- prometheus.MustNewConstMetric(m.out, prometheus.CounterValue, float64(v.Out[a][why]), s.Name, a.String(), string(why))
			}
		}
	}
	sent, refused := m.keeper.table.Panic()
	into <- prometheus.MustNewConstMetric(m.panicRequests, prometheus.CounterValue, float64(sent))
	into <- prometheus.MustNewConstMetric(m.panicRefused, prometheus.CounterValue, float64(refused))
}
