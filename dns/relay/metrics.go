package relay

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// metrics of what clients cost.
type metrics struct {
	requests *prometheus.CounterVec
	watches  *prometheus.GaugeVec
	events   prometheus.Counter
	dropped  *prometheus.CounterVec
}

// Verbs of requests.
const (
	verbGet      = "get"
	verbList     = "list"
	verbWatch    = "watch"
	verbSnapshot = "snapshot"
	verbOther    = "other"
)

// Reasons why a watch was ended before its time.
const (
	dropSlow    = "slow"
	dropBehind  = "behind"
	dropClosing = "closing"
)

func newMetrics(registerer prometheus.Registerer) *metrics {
	f := promauto.With(registerer)
	return &metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_relay_requests_total",
			Help: "Requests of clients of the relay, by verb and HTTP status code.",
		}, []string{"verb", "code"}),
		watches: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_dns_relay_watches",
			Help: "Watches that are open, by kind.",
		}, []string{"kind"}),
		events: f.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_dns_relay_events_total",
			Help: "Events sent to watchers, bookmarks among them.",
		}),
		dropped: f.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_relay_dropped_watches_total",
			Help: "Watches that the relay ended, by reason: slow is a client that did not read, behind is one whose version is no longer remembered or whose data was replaced, closing is the relay's own end.",
		}, []string{"reason"}),
	}
}
