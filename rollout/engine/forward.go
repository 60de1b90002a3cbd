package engine

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// forward does what the leg's step asks for: begin, move, hold, or go on to the next.
func (l *lane) forward(ctx context.Context, a assignment) error {
	if !a.cluster.Began || a.cluster.Pins.Update == "" {
		return l.begin(ctx, a)
	}
	seen, err := l.see(ctx, a)
	if err != nil {
		return err
	}
	if a.leg.Phase == journal.Waiting {
		a.leg.Phase, a.leg.Since = journal.Stepping, time.Now().UTC()
		if !l.put(a.leg) {
			return nil
		}
		l.progressed = time.Now()
	}
	d := a.route.Forward(a.leg.Step, seen)
	l.show(d)
	look, err := l.look(ctx, a, d, l.e.spec.Interval.Duration)
	if len(d.InFlight) > 0 {
		l.doubt = doubt{since: time.Now()} // what is not there yet cannot be known; progressDeadline bounds it
	}
	switch {
	case err != nil:
		return err
	case look.Verdict == verdict.Fail:
		l.fail(a, look)
		return nil
	case l.leaked(a, d), l.inDoubt(look):
		return nil
	}
	if !d.Complete {
		return l.step(ctx, a, d, look)
	}
	l.progressed = time.Now()
	return l.hold(ctx, a, d, look)
}

// begin pins the revisions and writes the change, once a look says that the cluster is well: under OnDelete the write moves
// nothing, but new nodes take what is written.
func (l *lane) begin(ctx context.Context, a assignment) error {
	pins := a.cluster.Pins
	if pins.After == nil {
		var err error
		if pins, err = l.Target.Prepare(ctx); err != nil {
			return err
		}
		a.cluster.Pins = pins
		if !l.putCluster(a.cluster) {
			return nil
		}
	}
	look, err := l.look(ctx, a, plan.Decision{}, l.e.spec.Interval.Duration)
	switch {
	case err != nil:
		return err
	case look.Verdict == verdict.Fail:
		// It was not the change, which is not there yet.
		l.stop(journal.Paused, "NotWell", fmt.Errorf("the cluster fails before it has the change: %s", look.Why()))
		return nil
	case l.inDoubt(look), look.Verdict != verdict.Pass, !l.fresh(look):
		return nil
	}
	if done, err := l.withoutIt(ctx, a); err != nil || !done {
		return err
	}
	if !l.granted(ctx, a, a.route.Steps[0].Nodes, false) {
		return nil
	}
	// Begun before it is: who dies between the two finds the mark, and begins again.
	a.cluster.Began = true
	if !l.putCluster(a.cluster) {
		return nil
	}
	pins, err = l.Target.Begin(ctx, pins)
	if err != nil {
		return err
	}
	a.cluster.Pins = pins
	if l.putCluster(a.cluster) {
		l.e.note(a.leg.Stage, l.name, journal.Normal, "Began", "the change is written and moves nothing by itself: from revision %s to %s", orNone(pins.Stable), pins.Update)
	}
	return nil
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// step moves nodes, when a fresh look and the scale gate let it.
func (l *lane) step(ctx context.Context, a assignment, d plan.Decision, look verdict.Look) error {
	step := a.route.Steps[a.leg.Step]
	if a.leg.Phase == journal.Baking {
		// A pod of the change fell over, or a node came: what is held is no longer what is measured.
		l.unobserve()
		a.leg.Phase, a.leg.Baked = journal.Stepping, 0
		if !l.put(a.leg) {
			return nil
		}
	}
	if len(d.InFlight) > 0 && time.Since(l.progressed) > l.e.spec.ProgressDeadline.Duration {
		now := time.Now()
		l.fail(a, verdict.Of(now, verdict.Finding{
			Check: "progress", Verdict: verdict.Fail, Attributed: true, At: now, Fresh: true,
			Reason: fmt.Sprintf("nothing moved on for %v, with %d nodes under way (%s)", l.e.spec.ProgressDeadline.Duration, len(d.InFlight), first(d.InFlight, 3)),
		}))
		return nil
	}
	if len(d.Moves) == 0 {
		return nil
	}
	l.progressed = time.Now()
	if look.Verdict != verdict.Pass || !l.fresh(look) {
		return nil
	}
	moves, atOnce := d.Moves, a.route.MaxUnavailable
	if step.Probes() {
		if len(d.InFlight) > 0 || time.Since(l.moved) < l.apart() {
			return nil
		}
		moves, atOnce = d.Moves[:1], 1
	}
	if !l.granted(ctx, a, step.Nodes, step.All) {
		return l.observeAgain(ctx, a, d)
	}
	l.unobserve()
	if !a.leg.Moved {
		a.leg.Moved = true
		if !l.put(a.leg) {
			return nil
		}
		l.e.note(a.leg.Stage, l.name, journal.Normal, "Step", "step %d of %d: up to %d of %d nodes, %d at once", a.leg.Step+1, len(a.route.Steps), step.Nodes, a.route.Nodes, atOnce)
	}
	l.moved = time.Now()
	return l.move(ctx, a, moves, false)
}

// apart is how long lies between two of the nodes that are there to be measured: as many looks as make a verdict. A new agent begins
// with LISTs of all it wants to know, and what several begin with at once adds up to an outage of some seconds.
func (l *lane) apart() time.Duration {
	return time.Duration(l.e.spec.Analysis.ConsecutiveLooks) * l.e.spec.Interval.Duration
}

// hold lets the bake's clock run, and goes on when it has run for long enough. It runs from one look that says Pass to the next,
// so that it stands still while nothing is known.
func (l *lane) hold(ctx context.Context, a assignment, d plan.Decision, look verdict.Look) error {
	step := a.route.Steps[a.leg.Step]
	if a.leg.Phase != journal.Baking {
		a.leg.Phase, a.leg.Baked = journal.Baking, 0
		l.passed = time.Time{}
		if !l.put(a.leg) {
			return nil
		}
		l.e.note(a.leg.Stage, l.name, journal.Normal, "Baking", "%d nodes run the change; it is held for %v", len(d.Exposed), l.bake(step))
	}
	if err := l.observe(ctx, a, d); err != nil {
		return err
	}
	switch {
	case look.Verdict != verdict.Pass || !l.fresh(look):
		l.passed = time.Time{}
		return nil
	case l.passed.IsZero():
		l.passed = time.Now()
	default:
		now := time.Now()
		a.leg.Baked += min(now.Sub(l.passed), l.e.spec.Analysis.MaxDataAge.Duration)
		l.passed = now
		if !l.put(a.leg) {
			return nil
		}
	}
	if a.leg.Baked < l.bake(step) {
		return nil
	}
	if l.e.o.Growth != nil {
		err, done := l.observed()
		if !done {
			return nil // it is looked at meanwhile
		}
		if err != nil {
			l.e.note(a.leg.Stage, l.name, journal.Warning, "NotObserved", "what this step cost could not be measured: %v", err)
		}
		// What all nodes would cost is asked after each step: the incident's change is stopped by the third node.
		// One node alone does not stop it unless what it cost is its own beyond doubt: a Fail that nobody may be blamed for would wait
		// for a human, and two nodes more under the same cap tell whose it is. They ask the scale gate for themselves.
		switch f := l.may(ctx, a.route.Nodes); {
		case f.Verdict == verdict.Fail && !f.Attributed && a.probesOn():
			l.e.note(a.leg.Stage, l.name, journal.Warning, "ScaleGate", "%d nodes do not tell whose it is, and the next step does: %s", len(d.Exposed), f.Reason)
		case f.Verdict == verdict.Fail:
			l.fail(a, verdict.Of(time.Now(), f))
			return nil
		}
	}
	l.next(a, d)
	return nil
}

// next ends the step.
func (l *lane) next(a assignment, d plan.Decision) {
	l.unobserve()
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	if len(d.Missed) > 0 {
		c := l.e.s.Clusters[l.name]
		c.Missed = d.Missed
		l.e.putCluster(c)
	}
	done := a.leg.Step + 1
	a.leg.Baked, a.leg.Moved = 0, false
	a.leg.Since = time.Now().UTC()
	if done < len(a.route.Steps) {
		a.leg.Step, a.leg.Phase = done, journal.Stepping
		l.e.putLeg(a.leg)
		return
	}
	a.leg.Phase = journal.Completed
	if l.e.putLeg(a.leg) {
		missed := ""
		if len(d.Missed) > 0 {
			missed = fmt.Sprintf("; %d nodes are not ready and keep the old revision (%s)", len(d.Missed), first(d.Missed, 3))
		}
		l.e.event(a.leg.Stage, l.name, journal.Normal, "Completed", "%d of %d nodes run the change%s", len(d.Exposed), a.route.Nodes, missed)
	}
}

// bake is how long a step is held.
func (l *lane) bake(step plan.Step) time.Duration { return l.e.bake(l.name, step) }

func (e *Engine) bake(cluster string, step plan.Step) time.Duration {
	least := e.spec.Bake.MinDuration.Duration
	if e.o.Bake != nil {
		least = max(least, e.o.Bake(cluster))
	}
	return max(least, step.Pause.Duration)
}

// reasonFailed is why a run goes back by itself, reasonLeaked why it pauses for more nodes than were let.
const (
	reasonFailed = "Failed"
	reasonLeaked = "Leaked"
)

// leaked pauses the run when more nodes run the change than were let to, beyond the budget.
func (l *lane) leaked(a assignment, d plan.Decision) bool {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	c := l.e.s.Clusters[l.name]
	if c.AcceptedLeaks < 0 {
		c.AcceptedLeaks = len(d.Leaked)
		l.e.putCluster(c)
	}
	if len(d.Leaked) <= max(a.route.MaxLeaked, c.AcceptedLeaks) {
		return false
	}
	l.e.become(journal.Paused, reasonLeaked, "cluster %s: %d nodes run the change without having been let to, %d may: new and repaired nodes take the new template at once (%s)", l.name, len(d.Leaked), a.route.MaxLeaked, first(d.Leaked, 5))
	return true
}

// doubt is how long looks have come to no verdict.
type doubt struct {
	unknown   int       // looks in a row that knew nothing
	undecided int       // looks in a row without a verdict, also those that passed or failed by themselves and in turn
	since     time.Time // the last verdict
}

func (d *doubt) count(look verdict.Look, now time.Time) {
	if look.Verdict != verdict.Unknown {
		*d = doubt{since: now}
		return
	}
	d.undecided++
	if d.unknown++; look.Undecided {
		d.unknown = 0
	}
}

// inDoubt is true when the run waits for a human because looks know nothing, or come to no verdict. Those that pass and fail in turn are
// given progressDeadline: a row that fails takes the change back, and one that passes lets more nodes tell.
func (l *lane) inDoubt(look verdict.Look) bool {
	long := time.Since(l.doubt.since) > l.e.spec.ProgressDeadline.Duration
	return l.lost(&l.doubt.unknown, "know nothing: %s", look.Why()) ||
		long && l.lost(&l.doubt.undecided, "came to no verdict, for more than %v: %s", l.e.spec.ProgressDeadline.Duration, look.Why())
}

// lost is true when so many looks in a row were of no use that the run waits for a human.
func (l *lane) lost(times *int, format string, args ...any) bool {
	if *times < l.e.spec.InconclusiveLimit || l.e.spec.OnUnknown == v1alpha1.OnUnknownWait {
		return false
	}
	*times = 0
	l.stop(journal.Paused, "Unknown", fmt.Errorf("%d looks in a row "+format, append([]any{l.e.spec.InconclusiveLimit}, args...)...))
	return true
}

// watch looks at a cluster that has the change and is not to move: it is done, or waits, or the run is paused. The slow verdict
// can condemn it still.
func (l *lane) watch(ctx context.Context, a assignment) error {
	if a.cluster.Back || a.cluster.Pins.Update == "" {
		return nil
	}
	l.doubt = doubt{since: time.Now()} // of use to nobody while nothing is to move
	seen, err := l.see(ctx, a)
	if err != nil {
		return err
	}
	d := a.route.Forward(min(a.leg.Step, len(a.route.Steps)-1), seen)
	l.show(d)
	interval := l.e.spec.Interval.Duration
	if a.leg.Phase == journal.Completed && !l.e.isWatched() {
		interval = max(interval, l.e.spec.Analysis.Slow.Interval.Duration)
	}
	look, err := l.look(ctx, a, d, interval)
	if err == nil && look.Verdict == verdict.Fail {
		l.fail(a, look)
	}
	return err
}

func (e *Engine) isWatched() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.watched
}

// fail takes a Fail: the cluster's lane goes back from its next round on, and with no budget for failures every other cluster's
// too. Without attribution only load is taken away; to revert needs a human then.
func (l *lane) fail(a assignment, look verdict.Look) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	c := l.e.s.Clusters[l.name]
	run := &l.e.s.Run
	if c.Failed != "" || run.Phase.Over() || run.Phase == journal.RollingBack {
		return
	}
	s := jail.SituationOf(time.Now(), look)
	c.Failed, c.Attributed, c.Overload, c.Load = look.Why(), s.Attributed, s.ControlPlaneFails, s.Load
	if !l.e.putCluster(c) {
		return
	}
	l.again = true
	l.e.view(l.name).Look = &look
	exposed, nodes := l.e.view(l.name).ExposedNodes, a.route.Nodes
	l.e.event(a.leg.Stage, l.name, journal.Warning, "Failed", "with %d of %d nodes exposed (%.2g%%): %s", exposed, nodes, 100*float64(exposed)/math.Max(1, float64(nodes)), c.Failed)
	if !slices.Contains(run.Failures, l.name) {
		run.Failures = append(run.Failures, l.name)
	}
	switch {
	case !c.Attributed || l.e.spec.OnFailure.Mode == v1alpha1.LadderFreezeOnly:
		why := "the harm is not shown to be the change's own, so only load is taken away by itself"
		if c.Attributed {
			why = "onFailure.mode is FreezeOnly"
		}
		l.e.become(journal.Paused, "NeedsHuman", "cluster %s: %s; %s: rollback takes the change back, resume goes on", l.name, c.Failed, why)
	case len(run.Failures) > l.e.s.Plan.MaxFailures:
		l.e.become(journal.RollingBack, reasonFailed, "cluster %s: %s", l.name, c.Failed)
	default:
		l.e.putRun()
		l.e.event(a.leg.Stage, l.name, journal.Warning, "WithinBudget", "the change is taken back on this cluster alone: %d of %d failures", len(run.Failures), l.e.s.Plan.MaxFailures)
	}
}

func (l *lane) put(leg journal.Leg) bool {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	return l.e.putLeg(leg)
}

func (l *lane) putCluster(c journal.Cluster) bool {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	return l.e.putCluster(c)
}

// first names the first of a list.
func first(names []string, n int) string {
	if len(names) <= n {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:n], ", "), len(names)-n)
}
