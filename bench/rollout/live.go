package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/rollout/analysis"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

func tlsOf(p *pki.Pair) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{p.TLS()}}
}

// othersNeed is how long the gates that are compared with look at a change at least. A trace is looked at for as long as there is
// patience: courses drawn from it may take longer than it did.
const othersNeed = bakes + 2*time.Second

// patience is how long is waited for a verdict.
const patience = 3 * bakes

// before is how long the clusters are measured before the change comes.
const before = 7 * time.Second

// live runs one trial on the labs: measures, lets the change onto its nodes, looks until there is a verdict and for at least so
// long, and takes it back.
func (r *labRig) live(ctx context.Context, t trial, n int, atLeast time.Duration) (o outcome, recorded *trace, err error) {
	exposedCluster, err := r.big.cluster(withChange)
	if err != nil {
		return o, nil, err
	}
	exposedCluster.Workload = analysis.Labelled{Client: r.big.client, Namespace: namespace, Selector: "app=" + component, Label: appsv1.ControllerRevisionHashLabelKey}
	exposedCluster.FlowSchema = schema
	control, err := r.small.cluster(without)
	if err != nil {
		return o, nil, err
	}
	recorded = &trace{Trial: t.Name}
	var mu sync.Mutex
	analyst, err := analysis.New(analysis.Options{
		Analysis: spec(), Interval: interval, Clusters: []analysis.Cluster{exposedCluster, control}, Log: slog.New(slog.DiscardHandler),
		Record: func(one analysis.Record) {
			mu.Lock()
			defer mu.Unlock()
			recorded.Looks = append(recorded.Looks, one)
		},
	})
	if err != nil {
		return o, nil, err
	}
	measuring, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- analyst.Run(measuring) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	if err := run.Pause(ctx, before); err != nil {
		return o, nil, err
	}
	recorded.Since = time.Now()
	exposed, update, stable, err := r.step(ctx, fmt.Sprint("agent:", n), t.Nodes)
	if err != nil {
		return o, nil, fmt.Errorf("letting the change onto its nodes: %w", err)
	}
	recorded.Exposed = exposed
	undo, err := r.start(ctx, t, exposed, update)
	if err != nil {
		return o, nil, err
	}
	e := engine.Exposure{Cluster: withChange, Step: 1, Nodes: 12, Planned: t.Nodes, Exposed: exposed, Since: recorded.Since, Ready: recorded.Since, UpdateRevision: update, StableRevision: stable}
	var h held
	decided := false
	for deadline := recorded.Since.Add(patience); time.Now().Before(deadline); {
		look, err := analyst.Look(ctx, e)
		if err != nil {
			return o, nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
		}
		// It is looked on for as long as the others need, and ours has said what it said.
		decided = decided || h.add(time.Now(), recorded.Since, look)
		if decided && time.Since(recorded.Since) >= atLeast {
			break
		}
		if err := run.Pause(ctx, interval); err != nil {
			return o, nil, errors.Join(err, undo(context.WithoutCancel(ctx)))
		}
	}
	if h.verdict == verdict.Unknown {
		h.why = "no verdict: " + h.why
	}
	if err := undo(ctx); err != nil {
		return o, nil, fmt.Errorf("taking the effects back: %w", err)
	}
	if err := r.back(ctx, update); err != nil {
		return o, nil, fmt.Errorf("taking the change back: %w", err)
	}
	return h.outcome, recorded, nil
}
