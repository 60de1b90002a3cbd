package survive

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What an answer was: the label values of "answer".
const (
	servedList    = "list"
	servedObject  = "object"
	servedWatch   = "watch"
	servedAbsent  = "absent"  // the object asked for was not there: 503
	servedNoWatch = "instead" // a most-recent WatchList sent to a LIST with resourceVersion=0: 503
)

// Why a request was left to the gate's ordinary answer while every API server was gone: the label values of "reason".
const (
	leftOther      = "other"      // not a read of something kept
	leftUnverified = "unverified" // its credential could not be verified without an API server
	leftNoGrant    = "no_grant"   // the API server is not known to have granted it
	leftQuestion   = "question"   // it asks for what cannot be answered: the most recent state, a page, another version
	leftFormat     = "format"     // in no format that can be written
	leftEmpty      = "empty"      // nothing was kept
)

const (
	saveOK      = "ok"
	saveFailed  = "failed"
	savedGrants = "grants"
)

// metrics label resources from the configuration, which is a closed set.
type metrics struct {
	gone    prometheus.Gauge
	watches prometheus.Gauge
	grants  prometheus.Gauge
	served  *prometheus.CounterVec
	left    *prometheus.CounterVec
	saves   *prometheus.CounterVec
	told    *prometheus.CounterVec
	age     *prometheus.GaugeVec
	objects *prometheus.GaugeVec
	bytes   *prometheus.GaugeVec
}

func newMetrics(registerer prometheus.Registerer, resources []string) *metrics {
	m := &metrics{
		gone: registered(registerer, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_gate_relay_survive_gone",
			Help: "1 while every API server is gone and what was kept is served.",
		})),
		watches: registered(registerer, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_gate_relay_survive_watches",
			Help: "Watches held open until an API server is back.",
		})),
		grants: registered(registerer, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_gate_relay_survive_grants",
			Help: "Grants of the API server that are kept for an outage.",
		})),
		served: registered(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_survive_served_total",
			Help: "Requests answered while every API server was gone, by resource and answer: list, object, watch, absent (503: the object was not known), instead (503: the client shall list with resourceVersion=0).",
		}, []string{"resource", "answer"})),
		left: registered(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_survive_left_total",
			Help: "Requests not answered from what was kept while every API server was gone, by reason: other (no read of something kept), unverified, no_grant, question (the most recent state, a page, another version), format, empty (nothing was kept).",
		}, []string{"reason"})),
		told: registered(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_survive_watches_ended_total",
			Help: "Held watches that ended because an API server was back, by whether they were told what had changed meanwhile (caught_up) or not (as_they_were).",
		}, []string{"how"})),
		saves: registered(registerer, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_gate_relay_survive_saves_total",
			Help: "Times something was written to disk, by resource (or grants) and result.",
		}, []string{"resource", "result"})),
		age: registered(registerer, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_gate_relay_survive_age_seconds",
			Help: "How long ago an API server last vouched for what is kept, by resource; -1 while nothing is kept.",
		}, []string{"resource"})),
		objects: registered(registerer, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_gate_relay_survive_objects",
			Help: "Objects kept, by resource.",
		}, []string{"resource"})),
		bytes: registered(registerer, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_gate_relay_survive_bytes",
			Help: "Memory taken by kept objects, by resource.",
		}, []string{"resource"})),
	}
	for _, reason := range []string{leftOther, leftUnverified, leftNoGrant, leftQuestion, leftFormat, leftEmpty} {
		m.left.WithLabelValues(reason)
	}
	for _, how := range []string{endedCaughtUp, endedAsTheyWere} {
		m.told.WithLabelValues(how)
	}
	for _, resource := range resources {
		for _, answer := range []string{servedList, servedObject, servedWatch, servedAbsent, servedNoWatch} {
			m.served.WithLabelValues(resource, answer)
		}
		for _, result := range []string{saveOK, saveFailed} {
			m.saves.WithLabelValues(resource, result)
		}
	}
	return m
}

// registered registers a collector, or returns the one that an earlier configuration registered.
func registered[C prometheus.Collector](registerer prometheus.Registerer, c C) C {
	if registerer == nil {
		return c
	}
	err := registerer.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if same, ok := already.ExistingCollector.(C); ok {
			return same
		}
	}
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return c
}

// measure brings the gauges up to date.
func (s *Store) measure() {
	s.metrics.grants.Set(float64(s.grants.count()))
	for name, k := range s.kept {
		k.mu.Lock()
		age := -1.0
		if k.whole {
			age = time.Since(k.confirmed).Seconds()
		}
		objects, bytes := len(k.objects), k.bytes
		k.mu.Unlock()
		s.metrics.age.WithLabelValues(name).Set(age)
		s.metrics.objects.WithLabelValues(name).Set(float64(objects))
		s.metrics.bytes.WithLabelValues(name).Set(float64(bytes))
	}
}
