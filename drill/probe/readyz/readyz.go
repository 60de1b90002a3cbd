// Package readyz is the probe that asks every API server whether it is ready, as a load balancer does.
package readyz

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
)

// Series is the probe's one series.
const Series = "readyz"

type probe struct {
	spec   v1alpha1.RequestProbe
	target drill.Target

	mu      sync.Mutex
	callers map[string]*apicall.Caller
}

// New returns the probe.
func New(spec v1alpha1.RequestProbe, env drill.Env) (drill.Probe, error) {
	return &probe{spec: spec, target: env.Target, callers: map[string]*apicall.Caller{}}, nil
}

// Run implements drill.Probe.
func (p *probe) Run(ctx context.Context, sink drill.Sink) error {
	drill.OpenLoop(ctx, p.spec.Interval.Duration, func(ctx context.Context, _ int, due time.Time) {
		var asks sync.WaitGroup
		for _, server := range p.target.APIServers() {
			asks.Go(func() { p.once(ctx, sink, server, due) })
		}
		asks.Wait()
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.callers {
		c.Close()
	}
	return nil
}

func (p *probe) once(ctx context.Context, sink drill.Sink, server drill.APIServer, due time.Time) {
	attempt, cancel := context.WithDeadline(ctx, due.Add(p.spec.Timeout.Duration))
	defer cancel()
	caller, err := p.caller(server)
	code := 0
	if err == nil {
		code, err = caller.Discard(attempt, http.MethodGet, "/readyz", "", nil)
	}
	if ctx.Err() != nil {
		return
	}
	latency := time.Since(due)
	sink.Record(Series, due, latency, drill.OutcomeOf(code, err, latency, p.spec.Within.Duration))
}

func (p *probe) caller(server drill.APIServer) (*apicall.Caller, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := p.callers[server.Name]; ok {
		return c, nil
	}
	c, err := apicall.New(server.Config, "seakeep-drill/readyz")
	if err == nil {
		p.callers[server.Name] = c
	}
	return c, err
}
