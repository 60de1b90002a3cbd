// Package controllers is the probe that sees whether the controllers work: it scales a Deployment and waits until as
// many pods run. It asks as the observer, so that what it measures are the controllers, the scheduler and the nodes, and
// not an engineer's way in.
package controllers

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

// Series is the probe's one series.
const Series = "scale"

// look is how often the Deployment's status is read; the measured time is exact to that.
const look = 100 * time.Millisecond

type probe struct {
	spec   v1alpha1.RequestProbe
	ns     string
	caller *apicall.Caller
}

// New returns the probe.
func New(spec v1alpha1.RequestProbe, env drill.Env) (drill.Probe, error) {
	caller, err := session.As(env.Target, v1alpha1.AsObserver)
	if err != nil {
		return nil, err
	}
	return &probe{spec: spec, ns: env.Drill.Fixtures.Namespace, caller: caller}, nil
}

// Run implements drill.Probe. One scaling at a time: there is one Deployment. What falls due meanwhile has waited.
func (p *probe) Run(ctx context.Context, sink drill.Sink) error {
	defer p.caller.Close()
	var outcome drill.Outcome
	record := func(due time.Time) {
		if ctx.Err() == nil {
			latency := time.Since(due)
			if outcome == drill.OK && latency > p.spec.Within.Duration {
				sink.Record(Series, due, latency, drill.Slow)
				return
			}
			sink.Record(Series, due, latency, outcome)
		}
	}
	drill.Queued(ctx, p.spec.Interval.Duration, func(ctx context.Context, n int, due time.Time) {
		attempt, cancel := context.WithTimeout(ctx, p.spec.Timeout.Duration)
		defer cancel()
		outcome = p.scale(attempt, 1+(n+1)%2)
		record(due)
	}, record)
	return nil
}

// scale sets the size and waits until as many pods are ready.
func (p *probe) scale(ctx context.Context, replicas int) drill.Outcome {
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	scaled := false
	last := drill.Timeout
	for {
		if !scaled {
			path := "/apis/apps/v1/namespaces/" + p.ns + "/deployments/" + fixtures.Scaled
			body := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
			code, err := p.caller.Discard(ctx, http.MethodPatch, path, apicall.MergePatch, body)
			scaled = err == nil && code == http.StatusOK
			last = drill.OutcomeOf(code, err, 0, time.Second)
		} else if ready, err := fixtures.Ready(ctx, p.caller, p.ns, fixtures.Scaled); err == nil && ready == replicas {
			return drill.OK
		} else {
			last = drill.Timeout
		}
		select {
		case <-ctx.Done():
			if last == drill.OK {
				last = drill.Timeout
			}
			return last
		case <-ticker.C:
		}
	}
}
