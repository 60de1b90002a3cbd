package gate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/gate/relay"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/gate/relay/survive"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/internal/config"
)

// relaying is the relay of a configuration and what keeps it going. Unlike rooms it outlives a reload that does not change
// it: the watches it shares would otherwise all be opened again for a rotated certificate. nil: nothing is shared.
type relaying struct {
	config   *v1alpha1.GateRelay
	patience time.Duration
	relay    *relay.Relay
	access   *access.Access
	kept     *keeping
	registry *prometheus.Registry
	start    func()
	stop     func()
}

// relayingOf makes the relay of a configuration; that of before is taken over where nothing changed. It is started once the
// configuration is in force.
func (g *Gate) relayingOf(cfg *v1alpha1.GateConfiguration, doc *config.Document) (*relaying, error) {
	before := g.relaying.Load()
	switch {
	case cfg.Relay == nil:
		return nil, nil
	case before != nil && before.patience == cfg.UpstreamTimeout.Duration && reflect.DeepEqual(before.config, cfg.Relay):
		return before, nil
	}
	kept := &keeping{}
	next := &relaying{config: cfg.Relay, patience: cfg.UpstreamTimeout.Duration, registry: prometheus.NewRegistry(), kept: kept}
	own := &ownWay{gate: g, user: cfg.Relay.User}
	may, err := access.New(access.Options{Upstream: own, Reviews: cfg.Relay.Reviews, Recorder: kept, Registerer: next.registry, Log: g.log})
	if err != nil {
		return nil, doc.Errorf(field.NewPath("relay"), nil, err.Error())
	}
	options := relay.Options{Upstream: own, Access: may, Patience: next.patience, Rank: g.admission.Rank, OnBehalf: admit.OnBehalf, Registerer: next.registry, Log: g.log}
	if cfg.Relay.Survive != nil {
		options.Survivor = kept
	}
	next.relay, next.access = relay.New(cfg.Relay, options), may
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	next.start = sync.OnceFunc(func() {
		owned.Go(func() { may.Run(ctx) })
		owned.Go(func() { next.relay.Run(ctx) })
		if cfg.Relay.Survive == nil {
			return
		}
		dir := filepath.Join(cfg.StateDir, "relay")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			g.log.Error("What should survive an outage will not survive a restart", "reason", err)
		}
		store, err := survive.New(survive.Options{
			Upstream: own, Survive: *cfg.Relay.Survive, PerTokenExtras: cfg.Relay.Reviews.PerTokenExtras == v1alpha1.Enabled,
			Reviewer: may, Dir: dir, Registerer: next.registry, Log: g.log,
		})
		if err != nil {
			g.log.Error("Serving without what would survive an outage", "reason", err)
			return
		}
		kept.store.Store(store)
		owned.Go(func() { store.Run(ctx) })
	})
	next.stop = func() { next.start(); cancel(); owned.Wait() }
	return next, nil
}

// keeping is the store of what survives an outage, from when it is open; without one nothing is kept or served. The store
// is opened when its predecessor is closed, because they have one folder.
type keeping struct{ store atomic.Pointer[survive.Store] }

// Serve implements relay.Survivor.
func (k *keeping) Serve(w http.ResponseWriter, r *http.Request, f *flow.Request, done func(upstream.Result)) bool {
	s := k.store.Load()
	return s != nil && s.Serve(w, r, f, done)
}

// Failed implements relay.Survivor.
func (k *keeping) Failed(err error) {
	if s := k.store.Load(); s != nil {
		s.Failed(err)
	}
}

// Answered implements relay.Survivor.
func (k *keeping) Answered() {
	if s := k.store.Load(); s != nil {
		s.Answered()
	}
}

// Reviewed implements access.Recorder.
func (k *keeping) Reviewed(who user.Info, f *flow.Request, allowed bool) {
	if s := k.store.Load(); s != nil {
		s.Reviewed(who, f, allowed)
	}
}

// observed tells what the API server answered to a request that was forwarded.
func (r *relaying) observed(req *http.Request, f *flow.Request, code int) {
	if r == nil {
		return
	}
	if s := r.kept.store.Load(); s != nil {
		s.Observed(req, f, code)
	}
}

// hears lets the relay hear of a watch the API server granted when it begins: it may be open for days.
func (r *relaying) hears(w http.ResponseWriter, req *http.Request, f *flow.Request) http.ResponseWriter {
	if r == nil || f.Verb != "watch" || f.Upgrade {
		return w
	}
	return &begins{ResponseWriter: w, begun: func(code int) { r.observed(req, f, code) }}
}

// look says what a request asks of the relay.
func (r *relaying) look(req *http.Request, f *flow.Request) relay.Question {
	if r == nil {
		return relay.Question{}
	}
	return r.relay.Look(req, f)
}

// close ends the relay, unless it is also the other's.
func (r *relaying) close(other *relaying) {
	if r != nil && r != other {
		r.stop()
	}
}

// relayStatus answers the admin endpoint's question what is shared.
func (g *Gate) relayStatus() any {
	r := g.relaying.Load()
	if r == nil {
		status := relay.Status{Taken: time.Now()}
		status.Finish()
		return status
	}
	status := r.relay.Status()
	status.Access = relay.AccessStatus(r.access.Status())
	if s := r.kept.store.Load(); s != nil {
		now := s.Status()
		for _, k := range now.Resources {
			kept := relay.SurviveStatus{Resource: k.Resource, Bytes: k.Bytes, Serving: now.Gone}
			if !k.Confirmed.IsZero() {
				age := status.Taken.Sub(k.Confirmed).Seconds()
				kept.AgeSeconds, kept.Version = &age, strconv.FormatUint(k.ResourceVersion, 10)
			}
			status.Survive = append(status.Survive, kept)
		}
	}
	status.Finish()
	return status
}

// relayMetrics are those of the relay in force. A new relay counts from zero, as after a restart.
type relayMetrics struct{ gate *Gate }

// Describe implements prometheus.Collector: what there is depends on the configuration.
func (relayMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m relayMetrics) Collect(into chan<- prometheus.Metric) {
	if r := m.gate.relaying.Load(); r != nil {
		r.registry.Collect(into)
	}
}

// ownWay is the gate's own way to the API servers of the configuration in force. What goes it is in the ledger: the cost of
// what is read for others is charged to them and not here.
type ownWay struct {
	gate *Gate
	user string
}

var errNotOpen = errors.New("the gate is not open yet")

// RoundTrip implements http.RoundTripper.
func (o *ownWay) RoundTrip(r *http.Request) (*http.Response, error) {
	rooms := o.gate.rooms.Load()
	if rooms == nil {
		return nil, errNotOpen
	}
	f, err := flow.Classify(r, flow.Caller{User: o.user, Certainty: flow.CertificateVerified}, flow.Standard, time.Now())
	if err != nil {
		return nil, err
	}
	seats, turned := o.gate.enter(r.Context(), f, r)
	switch {
	case turned != nil:
		o.gate.ledger.Record(f, ledger.Outcome{Code: http.StatusTooManyRequests, RejectedBy: ledger.RejectedOverload + ":" + string(turned.Level)})
		return upstream.StatusResponse(r, turned.Status())
	case seats == nil:
		return nil, context.Cause(r.Context())
	}
	if f.LongRunning {
		o.gate.ledger.Opened(f)
	}
	sent := time.Now()
	response, err := rooms.proxy.Own(o.user).RoundTrip(r.WithContext(upstream.WithSeats(r.Context(), seats.Held())))
	outcome := ledger.Outcome{Unanswered: err != nil, Upstream: time.Since(sent)}
	if f.Verb == "create" {
		outcome.SeatSeconds = outcome.Upstream.Seconds() // a review is the gate's own cost
	}
	switch {
	case err != nil:
		seats.Done(admit.Outcome{Failed: r.Context().Err() == nil})
	case f.LongRunning:
		seats.Release()
	default:
		response.Body = newSeated(response, seats, sent)
	}
	if err == nil {
		outcome.Code = response.StatusCode
	}
	switch {
	case !f.LongRunning:
		o.gate.ledger.Record(f, outcome)
	case err != nil:
		o.gate.ledger.Closed(f, outcome)
	default:
		response.Body = &closing{ReadCloser: response.Body, then: sync.OnceFunc(func() { o.gate.ledger.Closed(f, outcome) })}
	}
	return response, err
}

// closing tells when a body is closed.
type closing struct {
	io.ReadCloser
	then func()
}

// Close implements io.Closer.
func (c *closing) Close() error {
	c.then()
	return c.ReadCloser.Close()
}
