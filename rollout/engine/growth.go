package engine

import (
	"context"
	"errors"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// probesOn is true when the next step is there to be measured, too.
func (a assignment) probesOn() bool {
	next := a.leg.Step + 1
	return next < len(a.route.Steps) && a.route.Steps[next].Probes()
}

// observation is a measurement under way, in a goroutine of its own: it takes minutes, in which the lane goes on looking.
type observation struct {
	cancel context.CancelFunc
	ended  chan error
}

// observe begins to measure what is held, once for each step.
func (l *lane) observe(ctx context.Context, a assignment, d plan.Decision) error {
	if l.e.o.Growth == nil || l.observing != nil {
		return nil
	}
	e, err := l.exposure(ctx, a, d)
	if err != nil {
		return err
	}
	within, cancel := context.WithCancel(ctx)
	o := &observation{cancel: cancel, ended: make(chan error, 1)}
	l.observing = o
	go func() { o.ended <- l.e.o.Growth.Observe(within, e) }()
	return nil
}

// withoutIt measures the cluster without the change, while the lane looks as it will with it: looks cost the API servers more than
// a node of most changes, and what is taken from one another must have them in both. It returns whether that is done.
func (l *lane) withoutIt(ctx context.Context, a assignment) (done bool, err error) {
	if l.e.o.Growth == nil || l.without {
		return true, nil
	}
	if err := l.observe(ctx, a, plan.Decision{}); err != nil {
		return false, err
	}
	failed, done := l.observed()
	if !done {
		return false, nil
	}
	l.unobserve()
	l.without = true
	if failed != nil {
		l.e.note(a.leg.Stage, l.name, journal.Warning, "NotObserved", "what the cluster does without the change could not be measured: %v", failed)
	}
	return true, nil
}

// observeAgain measures what is held once more while the scale gate knows too little to let it grow: more samples narrow what is
// forecast, and nothing else would change it.
func (l *lane) observeAgain(ctx context.Context, a assignment, d plan.Decision) error {
	now := l.assignment()
	if now.run.Phase != journal.Running || now.goesBack() || len(d.Exposed) == 0 || len(d.InFlight) > 0 {
		return nil
	}
	if l.observing != nil {
		if _, done := l.observed(); !done {
			return nil
		}
		l.unobserve()
	}
	return l.observe(ctx, a, d)
}

// observed is true when the measurement is over.
func (l *lane) observed() (err error, done bool) {
	select {
	case err := <-l.observing.ended:
		l.observing.ended <- err // it is asked again until the step ends
		return err, true
	default:
		return nil, false
	}
}

// unobserve ends a measurement, and waits for its end.
func (l *lane) unobserve() {
	if o := l.observing; o != nil {
		o.cancel()
		<-o.ended
		l.observing = nil
	}
}

// granted asks the scale gate, once a step. What at most three nodes cost is asked for by letting three nodes; beyond that
// nothing moves without a Pass.
func (l *lane) granted(ctx context.Context, a assignment, nodes int, all bool) bool {
	if l.e.o.Growth == nil {
		return true
	}
	if all {
		nodes = max(nodes, a.route.Nodes)
	}
	f := l.mayOnce(ctx, a, nodes)
	switch {
	case f.Verdict == verdict.Fail && a.cluster.Began:
		l.fail(a, verdict.Of(time.Now(), f))
		return false
	case f.Verdict == verdict.Fail:
		l.stop(journal.Paused, "ScaleGate", errors.New(f.Reason))
		return false
	case f.Verdict == verdict.Pass, nodes <= v1alpha1.MaxFirstStep:
		return true
	}
	l.lost(&l.unanswered, "know nothing: %s: %s", f.Check, f.Reason)
	return false
}

// mayOnce keeps a Pass for the step it was given for; whatever else is asked for again, at most once an interval.
func (l *lane) mayOnce(ctx context.Context, a assignment, nodes int) verdict.Finding {
	step := journal.Leg{Stage: a.leg.Stage, Cluster: l.name, Step: a.leg.Step}
	if f, known := l.answers[nodes]; known && l.answersFor == step && (f.Verdict == verdict.Pass || time.Since(l.asked) < l.e.spec.Interval.Duration) {
		return f
	}
	if l.answersFor != step {
		l.answers, l.answersFor = map[int]verdict.Finding{}, step
	}
	f := l.may(ctx, nodes)
	l.answers[nodes], l.asked = f, time.Now()
	if l.unanswered++; f.Verdict != verdict.Unknown {
		l.unanswered = 0
	}
	return f
}

func (l *lane) may(ctx context.Context, nodes int) verdict.Finding {
	f, err := l.e.o.Growth.May(ctx, l.name, nodes)
	if err != nil {
		f = verdict.Finding{Check: checkScaleGate, Verdict: verdict.Unknown, Reason: err.Error(), At: time.Now()}
	}
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	l.e.view(l.name).ScaleGate = &f
	return f
}

// checkScaleGate is what the scale gate's findings are called.
const checkScaleGate = "scaleGate"
