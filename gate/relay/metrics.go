package relay

import (
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// The kinds of a shared answer.
const (
	kindList      = "list"
	kindWatchList = "watch-list"
)

type metrics struct {
	forwarded *prometheus.CounterVec
	answers   *prometheus.CounterVec
	reads     *prometheus.CounterVec
	bytes     prometheus.Counter
	flushes   prometheus.Counter
}

func newMetrics(registerer prometheus.Registerer, r *Relay) *metrics {
	m := &metrics{
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_forwarded_total",
			Help: "Requests of shared resources that were forwarded to the API server, each on its own, by reason.",
		}, []string{"reason"}),
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_answers_total",
			Help: "Requests answered from a shared read, by kind: list, or watch-list for the initial events of a watch.",
		}, []string{"kind"}),
		reads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_upstream_reads_total",
			Help: "Reads of the API server that were shared, by kind.",
		}, []string{"kind"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_delivered_bytes_total",
			Help: "Bytes of shared answers that went to clients, as encoded.",
		}),
		flushes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_flushes_total",
			Help: "Times everything held of a resource was forgotten because its versions ran backwards.",
		}),
	}
	for _, why := range reasons {
		m.forwarded.WithLabelValues(string(why))
	}
	for _, kind := range []string{kindList, kindWatchList} {
		m.answers.WithLabelValues(kind)
		m.reads.WithLabelValues(kind)
	}
	if registerer != nil {
		registerer.MustRegister(m.forwarded, m.answers, m.reads, m.bytes, m.flushes,
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "seakeep_gate_relay_memory_bytes",
				Help: "Bytes of answers and events held for readers; relay.maxMemory is the bound.",
			}, func() float64 { return float64(r.budget.Used()) }),
			prometheus.NewGaugeFunc(prometheus.GaugeOpts{
				Name: "seakeep_gate_relay_keys",
				Help: "Reads that are or lately were shared: one for each path, query, media type and encoding.",
			}, func() float64 { r.mu.Lock(); defer r.mu.Unlock(); return float64(len(r.entries)) }),
		)
	}
	return m
}

// forwards is how many requests were forwarded for a reason.
func (m *metrics) forwards(why reason) int64 {
	var sample dto.Metric
	if err := m.forwarded.WithLabelValues(string(why)).Write(&sample); err != nil {
		return 0 // a counter of ours always writes
	}
	return int64(sample.GetCounter().GetValue())
}

func kindOf(initial bool) string {
	if initial {
		return kindWatchList
	}
	return kindList
}

func (m *metrics) read(initial bool) { m.reads.WithLabelValues(kindOf(initial)).Inc() }

func (m *metrics) answered(initial bool, bytes int64) {
	m.answers.WithLabelValues(kindOf(initial)).Inc()
	m.bytes.Add(float64(bytes))
}
