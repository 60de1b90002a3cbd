package watch

import "github.com/prometheus/client_golang/prometheus"

// Results of asking again whether a watch may go on: values of the label "result".
const (
	recheckAllowed = "allowed"
	recheckDenied  = "denied"
	recheckFailed  = "failed"
)

type metrics struct {
	sources, subscribers                                   prometheus.Gauge
	received, delivered, resumed, catchUps, moved, dropped prometheus.Counter
	ends, rechecks                                         *prometheus.CounterVec
}

func newMetrics(registerer prometheus.Registerer) *metrics {
	m := &metrics{
		sources:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "seakeep_gate_relay_watch_upstreams", Help: "Watches the gate has at the API servers for its subscribers, those of subscribers that catch up not counted."}),
		subscribers: prometheus.NewGauge(prometheus.GaugeOpts{Name: "seakeep_gate_relay_watch_subscribers", Help: "Watches that are served from shared ones."}),
		received:    prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_gate_relay_watch_events_received_total", Help: "Events, bookmarks included, that came from the API servers over shared watches."}),
		delivered:   prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_gate_relay_watch_events_delivered_total", Help: "Events that were written to subscribers."}),
		resumed:     prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_gate_relay_watch_resumed_total", Help: "Shared watches that ended upstream and were asked for again."}),
		catchUps:    prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_gate_relay_watch_catch_ups_total", Help: "Watches of their own that subscribers were given because their version was older than what is kept."}),
		moved:       prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_gate_relay_watch_moved_total", Help: "Subscribers that went over from a watch of their own to the shared one."}),
		dropped:     prometheus.NewCounter(prometheus.CounterOpts{Name: "seakeep_gate_relay_watch_dropped_total", Help: "Subscribers that were ended because they were too slow: an event they had not had was let go."}),
		ends: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_watch_ends_total",
			Help: "Shared watches that are over, by cause: idle (nobody followed), error (the API server sent an ERROR event, such as 410 Gone), refused (it answered with an error), outage (it could not be reached for too long), garbled (what came was not understood or out of order), flushed (versions of the resource ran backwards), starved (no memory for the objects of a filtered watch), shutdown.",
		}, []string{"cause"}),
		rechecks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_watch_rechecks_total",
			Help: "Times it was asked whether an open watch may go on, by result: allowed, denied (it was ended), failed (nobody could say; it went on).",
		}, []string{"result"}),
	}
	for _, cause := range []string{endIdle, endError, endRefused, endOutage, endGarbled, endFlushed, endStarved, endShutdown} {
		m.ends.WithLabelValues(cause)
	}
	for _, result := range []string{recheckAllowed, recheckDenied, recheckFailed} {
		m.rechecks.WithLabelValues(result)
	}
	if registerer != nil {
		registerer.MustRegister(m.sources, m.subscribers, m.received, m.delivered, m.resumed, m.catchUps, m.moved, m.dropped, m.ends, m.rechecks)
	}
	return m
}
