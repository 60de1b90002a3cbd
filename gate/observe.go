package gate

import (
	"io"
	"net/http"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/accesslog"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/gate/tracing"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/internal/config"
)

// observers follow requests through the corridor for people who look later: spans and the access log. Both are off by
// default and then cost a pointer's look. They outlive a reload that does not change them.
type observers struct {
	config *v1alpha1.GateConfiguration
	tracer *tracing.Tracer // nil when off
	access *accesslog.Log  // nil when off
}

// observersOf makes the observers of a configuration; those of before are taken over where nothing changed.
func (g *Gate) observersOf(cfg *v1alpha1.GateConfiguration, doc *config.Document) (*observers, error) {
	next := &observers{config: cfg}
	before := g.observers.Load()
	switch t := cfg.Tracing; {
	case t == nil:
	case before != nil && t.CAFile == "" && reflect.DeepEqual(t, before.config.Tracing):
		next.tracer = before.tracer
	default:
		var err error
		next.tracer, err = tracing.New(tracing.Options{
			Config: *t, Version: g.opts.Version, Address: cfg.Listen.Address, Metrics: g.metrics.tracing, Log: g.log,
		})
		if err != nil {
			return nil, doc.Errorf(field.NewPath("tracing"), nil, err.Error())
		}
	}
	switch a := cfg.AccessLog; {
	case a == nil:
	case before != nil && reflect.DeepEqual(a, before.config.AccessLog):
		next.access = before.access
	default:
		stdout := g.opts.Stdout
		if stdout == nil {
			stdout = io.Discard
		}
		var err error
		next.access, err = accesslog.New(accesslog.Options{Config: *a, Stdout: stdout, Metrics: g.metrics.access, Log: g.log})
		if err != nil {
			next.close(before)
			return nil, doc.Errorf(field.NewPath("accessLog", "file"), a.File, err.Error())
		}
	}
	return next, nil
}

// close ends the observers, but for those that others still use.
func (o *observers) close(others *observers) {
	if others == nil || o.tracer != others.tracer {
		o.tracer.Close()
	}
	if others == nil || o.access != others.access {
		o.access.Close()
	}
}

// ReopenLogs opens the access log again, for a program that moved it and says so with SIGHUP.
func (g *Gate) ReopenLogs() { g.observers.Load().access.Reopen() }

// observation follows one request. nil, when nobody looks, follows nothing and costs nothing.
type observation struct {
	gate    *Gate
	span    *tracing.Span // nil when this request is not sampled
	arrived time.Time
	query   string
}

// observe begins to follow a request.
func (g *Gate) observe(r *http.Request, arrived time.Time) *observation {
	o := g.observers.Load()
	if o.tracer == nil && o.access == nil {
		return nil
	}
	span := o.tracer.Begin(r, arrived)
	if span == nil && o.access == nil {
		return nil
	}
	return &observation{gate: g, span: span, arrived: arrived, query: r.URL.RawQuery}
}

func (o *observation) enter(room tracing.Room) {
	if o != nil {
		o.span.Enter(room)
	}
}

// forward is enter for the last room: the API server's spans hang below it.
func (o *observation) forward(h http.Header) {
	if o != nil {
		o.span.Enter(tracing.Upstream)
		o.span.Propagate(h)
	}
}

// refused is the outcome of a request the gate answered itself.
func (o *observation) refused(f *flow.Request, outcome *ledger.Outcome) {
	if o != nil {
		o.outcome(f, &accesslog.Outcome{Code: outcome.Code, RejectedBy: outcome.RejectedBy, Stream: f.LongRunning})
	}
}

// answered is the outcome of a request that went upstream; h is the answer's header.
func (o *observation) answered(f *flow.Request, result *upstream.Result, h http.Header) {
	if o != nil {
		o.outcome(f, &accesslog.Outcome{
			Code: result.Code, Server: result.Server, AuditID: h.Get("Audit-Id"), Upstream: result.Upstream,
			RequestBytes: result.RequestBytes, ResponseBytes: result.ResponseBytes, Stream: f.LongRunning, Shared: result.Shared,
		})
	}
}

func (o *observation) outcome(f *flow.Request, outcome *accesslog.Outcome) {
	outcome.Took = time.Since(o.arrived)
	o.span.Describe(f, &tracing.Outcome{Code: outcome.Code, Server: outcome.Server, RejectedBy: outcome.RejectedBy, AuditID: outcome.AuditID})
	// The log in force now, not at arrival: a watch may have been open for days.
	if log := o.gate.observers.Load().access; log != nil && log.Wants(outcome) {
		log.Write(accesslog.NewLine(f, outcome, o.query))
	}
}

// end is to be called when the request is over, whatever became of it.
func (o *observation) end() {
	if o != nil {
		o.span.End()
	}
}
