package plugin

import (
	"strconv"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/seakeep/seakeep/dns/keeper"
)

// metrics of what was answered, beside those that CoreDNS's own plugins count. The state and the age of the data are the
// keeper's metrics.
type metrics struct {
	answers *prometheus.CounterVec
	packed  prometheus.Counter
	chain   prometheus.Counter
	shed    *prometheus.CounterVec
	batch   prometheus.Histogram
	sockets prometheus.Gauge
}

// Reasons for which a query is not answered; see newMetrics.
const (
	shedClient = "client"
	shedBusy   = "busy"
	shedShort  = "short"
	shedBuffer = "buffer"
	shedFilter = "filter"
)

func newMetrics(registerer prometheus.Registerer) *metrics {
	f := promauto.With(registerer)
	fast := f.NewCounterVec(prometheus.CounterOpts{
		Name: "seakeep_dns_fastpath_queries_total",
		Help: "UDP queries by who answered them: packed is from memory, chain is by the chain of plugins.",
	}, []string{"by"})
	return &metrics{
		packed: fast.WithLabelValues("packed"),
		chain:  fast.WithLabelValues("chain"),
		answers: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_answers_total",
			Help: "Answers made from the cluster's data, by the state of the data, the class of records and the response code.",
		}, []string{"state", "class", "rcode"}),
		shed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_shed_queries_total",
			Help: "UDP queries that were dropped, by reason: client is one client's share used up under load, busy is too many under way, short is no DNS message, filter is what the kernel dropped while one client's share was cut before the socket, buffer is the socket's memory.",
		}, []string{"reason"}),
		batch: f.NewHistogram(prometheus.HistogramOpts{
			Name:    "seakeep_dns_fastpath_batch_queries",
			Help:    "Queries taken in by one system call.",
			Buckets: []float64{1, 2, 4, 8, 16, 32, 64},
		}),
		sockets: f.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_dns_fastpath_sockets",
			Help: "Sockets that the fast path reads; 0 when CoreDNS reads its own.",
		}),
	}
}

// answered counts an answer of the chain. A nil receiver counts nothing.
func (m *metrics) answered(status keeper.Status, c class, rcode int) {
	if m == nil {
		return
	}
	name, ok := dns.RcodeToString[rcode]
	if !ok {
		name = strconv.Itoa(rcode)
	}
	if c == "" {
		c = classNegative
	}
	m.answers.WithLabelValues(string(status.State), string(c), name).Inc()
}
