package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// back takes the change back on this cluster: load first, where the control plane suffers, then the template, then the pods
// within the budget. It needs no look: whatever is known, less of the change is not more harm.
func (l *lane) back(ctx context.Context, a assignment) error {
	if a.cluster.Back {
		return nil
	}
	if !a.cluster.Began {
		return l.isBack(ctx, a) // nothing was ever written
	}
	human := a.run.Phase == journal.RollingBack && a.run.Reason != reasonFailed
	if a.cluster.Failed != "" && !a.cluster.Reverted && !human {
		revert, err := l.climb(ctx, a)
		if err != nil {
			return err
		}
		a = l.assignment()
		if !revert {
			return l.seeOnly(ctx, a)
		}
	}
	if a.cluster.Pins.Update == "" {
		// The process before died over the write. To write again moves nothing, and says which pods are the change's.
		pins, err := l.Target.Begin(ctx, a.cluster.Pins)
		if err != nil {
			return err
		}
		if a.cluster.Pins = pins; !l.putCluster(a.cluster) {
			return nil
		}
	}
	if !a.cluster.Reverted {
		if err := l.Target.Revert(ctx, a.cluster.Pins); err != nil {
			return err
		}
		if a.cluster.Reverted = true; !l.putCluster(a.cluster) {
			return nil
		}
		l.e.note(a.leg.Stage, l.name, journal.Normal, "Reverted", "what was before is in force again (revision %s); pods follow, %d at once", orNone(a.cluster.Pins.Stable), a.route.MaxUnavailable)
	}
	seen, err := l.see(ctx, a)
	if err != nil {
		return err
	}
	d := a.route.Back(seen)
	l.show(d)
	if len(d.Moves) > 0 {
		return l.move(ctx, a, d.Moves, true)
	}
	if d.Complete {
		return l.isBack(ctx, a)
	}
	return nil
}

// seeOnly reads the cluster for those who watch.
func (l *lane) seeOnly(ctx context.Context, a assignment) error {
	if a.cluster.Pins.Update == "" {
		return nil
	}
	seen, err := l.see(ctx, a)
	if err != nil {
		return err
	}
	l.show(a.route.Forward(min(a.leg.Step, len(a.route.Steps)-1), seen))
	return nil
}

// isBack ends the way back on this cluster: what held the load off is taken away.
func (l *lane) isBack(ctx context.Context, a assignment) error {
	if err := l.descend(ctx, a); err != nil {
		return err
	}
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	c := l.e.s.Clusters[l.name]
	c.Back, c.Taken = true, nil
	for key, leg := range l.e.s.Legs {
		if key.Cluster == l.name && leg.Phase != journal.Waiting {
			leg.Phase = journal.RolledBack
			l.e.putLeg(leg)
		}
	}
	if l.e.putCluster(c) && c.Began {
		l.e.event(a.leg.Stage, l.name, journal.Normal, "TakenBack", "no node runs the change any more")
	}
	return nil
}

// reverter lets the ladder say that it is time to revert; what reverts is the lane, round by round.
type reverter struct{}

func (reverter) Prove(context.Context, jail.Component) error { return nil } // proveBack asks for its rights
func (reverter) Revert(context.Context, jail.Component, string) error {
	return nil
}

// ladder is the ladder of a cluster. record writes down what is tried.
func (e *Engine) ladder(cluster string, record func(jail.Taken, bool) error) *jail.Ladder {
	rungs := []jail.Rung{jail.Freeze{}}
	rungs = append(rungs, e.o.Clusters[cluster].Rungs...)
	rungs = append(rungs, jail.Revert{Target: reverter{}}, jail.Emergency{Tell: func(page string) error {
		e.note("", cluster, journal.Warning, "Emergency", "%s", page)
		return nil
	}})
	return &jail.Ladder{Spec: e.spec.OnFailure, Rungs: rungs, Record: record, Log: e.o.Log}
}

// climb asks the ladder for the next measure, and takes it. True: the change is to be taken back. What failed is kept from when
// it did: that the jail works is no reason to let the change out of it again.
func (l *lane) climb(ctx context.Context, a assignment) (revert bool, err error) {
	c := a.cluster
	if slices.ContainsFunc(c.Taken, func(t jail.Taken) bool { return t.Name == v1alpha1.RungRevert }) {
		return true, nil
	}
	// An API server that is too busy to say which pods there are is why a rung is needed: who is held back is known from the pins.
	asking, cancel := context.WithTimeout(ctx, askingPods)
	component, err := l.Target.Component(asking, c.Pins)
	cancel()
	if err != nil && component.ServiceAccount == "" {
		return false, err
	}
	record := func(t jail.Taken, done bool) error {
		at := len(c.Taken)
		if done {
			at--
		}
		c.Taken = append(slices.Clone(c.Taken[:at]), t)
		if !l.putCluster(c) {
			return errors.New("the journal cannot be written")
		}
		return nil
	}
	ladder := l.e.ladder(l.name, record)
	for ctx.Err() == nil {
		reduced, measured := l.reduced(ctx, c.Taken)
		d, taken := ladder.Step(ctx, component, jail.Situation{
			Now: time.Now(), Verdict: verdict.Fail, Attributed: c.Attributed, ControlPlaneFails: c.Overload, Load: c.Load,
			Reduced: reduced, Measured: measured, Protected: component.Protected, Taken: c.Taken,
		}, c.Failed)
		if measured && taken != nil {
			l.e.note(a.leg.Stage, l.name, journal.Normal, "Reduced", "requests of the component execute for %.0f %% less time than before it failed", 100*reduced)
		}
		if taken == nil {
			return false, nil
		}
		switch {
		case taken.Err != "":
			l.e.note(a.leg.Stage, l.name, journal.Warning, "RungFailed", "%s did not work: %s", taken.Name, taken.Err)
		case taken.Name == v1alpha1.RungRevert:
			l.e.note(a.leg.Stage, l.name, journal.Warning, "Rung", "%s: %s", taken.Name, d.Why)
			return true, nil
		case taken.Name != v1alpha1.RungEmergency:
			l.e.note(a.leg.Stage, l.name, journal.Warning, "Rung", "%s: %s", taken.Name, d.Why)
		}
	}
	return false, ctx.Err()
}

// askingPods is how long may be asked for the names of the pods before something is done against their load, and for what they cost
// after it.
const askingPods = 2 * time.Second

// spent is a reading of what the component has cost so far.
type spent struct {
	seconds float64
	read    time.Time
}

// since is the mean between two readings, seconds a second; false when they say nothing: they are too near, or an API server started.
func (s spent) since(before spent) (rate float64, ok bool) {
	took := s.read.Sub(before.read).Seconds()
	if before.read.IsZero() || took < 1 || s.seconds < before.seconds {
		return 0, false
	}
	return (s.seconds - before.seconds) / took, true
}

// meter reads what the component has cost so far; ok is false when that is not known.
func (l *lane) meter(ctx context.Context) (now spent, ok bool) {
	if l.Spent == nil {
		return spent{}, false
	}
	ctx, cancel := context.WithTimeout(ctx, askingPods)
	defer cancel()
	var err error
	now.seconds, now.read, err = l.Spent(ctx)
	return now, err == nil
}

// reduced is the share of the component's cost before it failed that is gone since the last measure worked; false when that is not
// known, or none has.
func (l *lane) reduced(ctx context.Context, taken []jail.Taken) (share float64, measured bool) {
	var acts time.Time
	for _, t := range taken {
		if t.Err == "" && t.Name != v1alpha1.RungFreeze {
			acts = t.At
		}
	}
	if acts.IsZero() || l.rate <= 0 {
		return 0, false
	}
	now, ok := l.meter(ctx)
	if !ok {
		return 0, false
	}
	if l.eased.read.Before(acts) {
		l.eased = now
		return 0, false
	}
	rate, ok := now.since(l.eased)
	if !ok {
		return 0, false
	}
	l.eased = now
	return max(0, 1-rate/l.rate), true
}

// release takes back what held the load off on a cluster that a human has let go on, wherever its leg stands.
func (l *lane) release(ctx context.Context, a assignment) error {
	if err := l.descend(ctx, a); err != nil || len(a.cluster.Taken) == 0 {
		return err
	}
	a.cluster.Taken = nil
	l.putCluster(a.cluster)
	return nil
}

// descend takes back every rung that was taken.
func (l *lane) descend(ctx context.Context, a assignment) error {
	if len(a.cluster.Taken) == 0 {
		return nil
	}
	component, err := l.Target.Component(ctx, a.cluster.Pins)
	if err != nil {
		return err
	}
	for _, t := range slices.Backward(a.cluster.Taken) {
		at := slices.IndexFunc(l.Rungs, func(r jail.Rung) bool { return r.Name() == string(t.Name) })
		if at < 0 {
			continue
		}
		if err := l.Rungs[at].Undo(ctx, component); err != nil {
			return fmt.Errorf("taking rung %s back: %w", t.Name, err)
		}
		l.e.note(a.leg.Stage, l.name, journal.Normal, "RungBack", "%s is taken back", t.Name)
	}
	return nil
}

// finish takes away what the run wrote for itself, when it is over.
func (l *lane) finish(ctx context.Context, a assignment) error {
	back := a.run.Phase == journal.RolledBack || a.cluster.Back
	if a.cluster.Finished || !a.cluster.Began || a.run.Phase != journal.Completed && a.run.Phase != journal.RolledBack {
		return nil
	}
	if err := l.Target.Finish(ctx, a.cluster.Pins, back); err != nil {
		return err
	}
	a.cluster.Finished = true
	l.putCluster(a.cluster)
	return nil
}
