package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/catalog"
	"github.com/seakeep/seakeep/rollout/analysis"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// othersNeed is how long the gates that are compared with look at a change at least. A trace is looked at for as long as there is
// patience: courses drawn from it may take longer than it did.
const othersNeed = bakes + 2*time.Second

// patience is how long is waited for a verdict.
const patience = 3 * bakes

// layers is what the trials are run with: verdicts, and nothing that takes a change back.
const layers = "verdict"

// live runs one trial on the labs, as the Drill that it is, and judges beside it: until there is a verdict, and for at least so
// long from the exposure on. Then it takes the change back.
func (r *labRig) live(ctx context.Context, t trial, n int, atLeast time.Duration) (o outcome, recorded *trace, err error) {
	d := *t.Drill
	d.Parameters.Seed = r.seed*1_000_003 + uint64(n) // other nodes each time
	l := &looking{rig: r, nodes: t.update.Action.Update.Nodes, atLeast: atLeast, trace: &trace{Trial: t.Name}}
	if l.before, err = r.big.state(ctx); err != nil {
		return o, nil, err
	}
	analyst, err := r.analyst(l)
	if err != nil {
		return o, nil, err
	}
	l.analyst = analyst
	measuring, stop := context.WithCancel(ctx)
	measured := make(chan error, 1)
	go func() { measured <- analyst.Run(measuring) }()
	result, err := drill.Run(ctx, &d, drilled{world: r.big, over: l.over.Load}, drill.Options{
		Layers: layers, Log: slog.New(slog.DiscardHandler), NewProbe: catalog.NewProbe,
		NewAction: func(a v1alpha1.DrillAction, env drill.Env) (drill.Action, error) {
			action, err := catalog.NewAction(a, env)
			if err == nil && a.Update != nil {
				action = &watchedUpdate{Action: action, looking: l, beside: env.Beside}
			}
			return action, err
		},
	})
	stop()
	err = errors.Join(err, l.failed, <-measured)
	if err == nil && len(result.Problems) > 0 {
		err = fmt.Errorf("the drill did not go as it is written: %q", result.Problems)
	}
	if back := r.big.back(ctx, l.before); back != nil {
		err = errors.Join(err, fmt.Errorf("taking the change back: %w", back))
	}
	if err != nil {
		return o, nil, err
	}
	o = l.held.outcome
	result.Rollout = o.rollout(len(l.exposure.Exposed), d.Parameters.Nodes)
	o.judged = drill.Overall(drill.Judge(result))
	return o, l.trace, nil
}

// analyst measures both clusters, and keeps what it measures.
func (r *labRig) analyst(l *looking) (*analysis.Analyst, error) {
	exposed, err := r.big.cluster(withChange)
	if err != nil {
		return nil, err
	}
	exposed.Workload = analysis.Labelled{Client: r.big.client, Namespace: namespace, Selector: "app=" + agent, Label: appsv1.ControllerRevisionHashLabelKey}
	exposed.FlowSchema = schema
	control, err := r.small.cluster(without)
	if err != nil {
		return nil, err
	}
	return analysis.New(analysis.Options{
		Analysis: spec(interval), Interval: interval, Clusters: []analysis.Cluster{exposed, control}, Log: slog.New(slog.DiscardHandler),
		Record: func(one analysis.Record) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.trace.Looks = append(l.trace.Looks, one)
		},
	})
}

// watchedUpdate is a trial's update, and begins to look when it is done.
type watchedUpdate struct {
	drill.Action
	looking *looking
	beside  func(drill.Beside)
}

// Do implements drill.Action.
func (w *watchedUpdate) Do(ctx context.Context) error {
	l := w.looking
	l.trace.Since = time.Now()
	err := w.Action.Do(ctx)
	if err != nil {
		return err
	}
	e := engine.Exposure{
		Cluster: withChange, Step: 1, Nodes: l.rig.big.nodes, Planned: l.nodes, Since: l.trace.Since, Ready: l.trace.Since, StableRevision: l.before.revision,
	}
	if e.Exposed, e.UpdateRevision, err = l.rig.changed(ctx, e.StableRevision); err != nil {
		return err
	}
	l.exposure, l.trace.Exposed = e, e.Exposed
	w.beside(drill.Beside{While: l.look})
	return nil
}

// looking judges one trial while it runs. What is not locked is written by one goroutine and read when that has ended.
type looking struct {
	rig     *labRig
	analyst *analysis.Analyst
	before  state
	nodes   int
	atLeast time.Duration

	exposure engine.Exposure
	held     held
	failed   error
	over     atomic.Bool

	mu    sync.Mutex
	trace *trace
}

// look looks until there is a verdict and the others have seen enough.
func (l *looking) look(ctx context.Context) {
	defer l.over.Store(true)
	decided := false
	for since := l.trace.Since; time.Since(since) < patience; {
		look, err := l.analyst.Look(ctx, l.exposure)
		if err != nil {
			l.failed = err
			return
		}
		// It is looked on for as long as the others need, and ours has said what it said.
		decided = decided || l.held.add(time.Now(), since, look)
		if decided && time.Since(since) >= l.atLeast {
			return
		}
		if err := run.Pause(ctx, interval); err != nil {
			return // the drill's end came first
		}
	}
	if l.held.verdict == verdict.Unknown {
		l.held.why = "no verdict: " + l.held.why
	}
}
