package keeper

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/store"
)

type metrics struct {
	state        *prometheus.GaugeVec
	age          prometheus.Gauge
	objects      *prometheus.GaugeVec
	heldNow      prometheus.Gauge
	held         *prometheus.CounterVec
	released     *prometheus.CounterVec
	lists        *prometheus.CounterVec
	watches      *prometheus.CounterVec
	events       *prometheus.CounterVec
	gone         *prometheus.CounterVec
	sourceErrors *prometheus.CounterVec
	foreign      *prometheus.CounterVec
	writes       *prometheus.CounterVec
	saved        prometheus.Gauge
	refused      prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		state: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_dns_state",
			Help: "1 for the state the data is in: empty, restored, live, stale or guarded.",
		}, []string{"state"})),
		age: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_dns_data_age_seconds",
			Help: "Time since all the data was last known to be current; 0 when there is none.",
		})),
		objects: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "seakeep_dns_objects",
			Help: "Objects served, by kind.",
		}, []string{"kind"})),
		heldNow: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_dns_guard_held",
			Help: "Endpoints and objects served that the source no longer has.",
		})),
		held: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_guard_holds_total",
			Help: "Removals held, by reason.",
		}, []string{"reason"})),
		released: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_guard_releases_total",
			Help: "Held removals applied, by what released them.",
		}, []string{"reason"})),
		lists: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_source_lists_total",
			Help: "Lists begun, by kind and class of source.",
		}, []string{"kind", "class"})),
		watches: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_source_watches_total",
			Help: "Watches begun, by kind and class of source.",
		}, []string{"kind", "class"})),
		events: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_source_events_total",
			Help: "Events of watches, bookmarks included, by kind.",
		}, []string{"kind"})),
		gone: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_source_gone_total",
			Help: "Versions that a source no longer had (HTTP 410), by kind.",
		}, []string{"kind"})),
		sourceErrors: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_source_errors_total",
			Help: "Requests to sources that failed, by class.",
		}, []string{"class"})),
		foreign: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_source_foreign_total",
			Help: "Times a source was refused because it is another cluster's, by class.",
		}, []string{"class"})),
		writes: register(r, prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_dns_snapshot_writes_total",
			Help: "Writes of the snapshot (save) and of its sidecar (confirm), by result.",
		}, []string{"what", "result"})),
		saved: register(r, prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_dns_snapshot_confirmed_timestamp_seconds",
			Help: "When the data on disk was last known to be current; 0 when there is none.",
		})),
		refused: register(r, prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_dns_snapshot_refused_total",
			Help: "Snapshots that were not loaded: torn, foreign, too new, too large or not signed.",
		})),
	}
	// Series that are there from the start can be alerted on.
	for _, reason := range guard.Reasons {
		m.held.WithLabelValues(string(reason))
	}
	for _, reason := range []string{"time", "operator", "corroborated", "replaced"} {
		m.released.WithLabelValues(reason)
	}
	return m
}

// register returns the collector, or the equal one that is registered already: CoreDNS starts a new configuration
// before it stops the old one, with the same registry.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	if r == nil {
		return c
	}
	err := r.Register(c)
	if registered, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		return registered.ExistingCollector.(C)
	}
	if err != nil {
		panic("BUG: registering metrics: " + err.Error())
	}
	return c
}

func (m *metrics) observe(s Status, now time.Time) {
	for _, state := range States {
		value := 0.0
		if state == s.State {
			value = 1
		}
		m.state.WithLabelValues(string(state)).Set(value)
	}
	m.age.Set(s.Age(now).Seconds())
	m.heldNow.Set(float64(s.Held))
	for kind := range store.Kind(store.KindCount) {
		if n, ok := s.Counts[kind.String()]; ok {
			m.objects.WithLabelValues(kind.String()).Set(float64(n))
		}
	}
	if !s.SnapshotSaved.IsZero() {
		m.saved.Set(float64(s.SnapshotSaved.Unix()))
	}
}
