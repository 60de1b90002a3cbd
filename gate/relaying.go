package gate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/gate/relay"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/internal/config"
)

// relaying is the relay of a configuration and what keeps it going. Unlike rooms it outlives a reload that does not change
// it: the watches it shares would otherwise all be opened again for a rotated certificate. nil: nothing is shared.
type relaying struct {
	config   *v1alpha1.GateRelay
	patience time.Duration
	relay    *relay.Relay
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
	next := &relaying{config: cfg.Relay, patience: cfg.UpstreamTimeout.Duration, registry: prometheus.NewRegistry()}
	own := &ownWay{gate: g, user: cfg.Relay.User}
	may, err := access.New(access.Options{Upstream: own, Reviews: cfg.Relay.Reviews, Registerer: next.registry, Log: g.log})
	if err != nil {
		return nil, doc.Errorf(field.NewPath("relay"), nil, err.Error())
	}
	next.relay = relay.New(cfg.Relay, relay.Options{
		Upstream: own, Access: may, Patience: next.patience, Registerer: next.registry, Log: g.log,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var owned sync.WaitGroup
	next.start = sync.OnceFunc(func() {
		owned.Go(func() { may.Run(ctx) })
		owned.Go(func() { next.relay.Run(ctx) })
	})
	next.stop = func() { next.start(); cancel(); owned.Wait() }
	return next, nil
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
	if f.LongRunning {
		o.gate.ledger.Opened(f)
	}
	response, err := rooms.proxy.Own(o.user).RoundTrip(r)
	outcome := ledger.Outcome{Unanswered: err != nil, Upstream: time.Since(f.Arrived)}
	if f.Verb == "create" {
		outcome.SeatSeconds = outcome.Upstream.Seconds() // a review is the gate's own cost
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
