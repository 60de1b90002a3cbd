// Package requests is the probe of an engineer at a keyboard: GET the namespaces, LIST the pods of one, PATCH a
// Deployment, each over connections that nobody else uses. It is both the admin and the break-glass probe: the same
// work by two ways in.
package requests

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/drill/session"
)

// The series.
const (
	Get   = "get"
	List  = "list"
	Patch = "patch"
)

type probe struct {
	spec   v1alpha1.RequestProbe
	ns     string
	caller *apicall.Caller
}

// New returns the probe of one identity.
func New(spec v1alpha1.RequestProbe, as v1alpha1.DrillIdentity, env drill.Env) (drill.Probe, error) {
	caller, err := session.As(env.Target, as)
	if err != nil {
		return nil, err
	}
	return &probe{spec: spec, ns: env.Drill.Fixtures.Namespace, caller: caller}, nil
}

// Run implements drill.Probe. The three series take turns, each at the probe's interval.
func (p *probe) Run(ctx context.Context, sink drill.Sink) error {
	defer p.caller.Close()
	series := []string{Get, List, Patch}
	drill.OpenLoop(ctx, p.spec.Interval.Duration/time.Duration(len(series)), func(ctx context.Context, n int, due time.Time) {
		p.once(ctx, sink, series[n%len(series)], n, due)
	})
	return nil
}

func (p *probe) once(ctx context.Context, sink drill.Sink, series string, n int, due time.Time) {
	attempt, cancel := context.WithDeadline(ctx, due.Add(p.spec.Timeout.Duration))
	defer cancel()
	code, err := p.ask(attempt, series, n)
	if ctx.Err() != nil {
		return // the run is over: nobody knows what would have come
	}
	latency := time.Since(due)
	sink.Record(series, due, latency, drill.OutcomeOf(code, err, latency, p.spec.Within.Duration))
}

func (p *probe) ask(ctx context.Context, series string, n int) (int, error) {
	switch series {
	case Get:
		return p.caller.Discard(ctx, http.MethodGet, "/api/v1/namespaces", "", nil)
	case List:
		return p.caller.Discard(ctx, http.MethodGet, "/api/v1/namespaces/"+p.ns+"/pods", "", nil)
	default:
		body := fmt.Sprintf(`{"metadata":{"annotations":{"drill.seakeep.dev/patched":"%d"}}}`, n)
		path := "/apis/apps/v1/namespaces/" + p.ns + "/deployments/" + fixtures.Patched
		return p.caller.Discard(ctx, http.MethodPatch, path, apicall.MergePatch, []byte(body))
	}
}
