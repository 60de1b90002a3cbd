package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	human := a.run.Phase == journal.RollingBack // decided by a human, or attributed
	freezeOnly := l.e.spec.OnFailure.Mode == v1alpha1.LadderFreezeOnly && !human
	if !freezeOnly && (a.cluster.Overload || a.cluster.Failed != "" && !a.cluster.Attributed) {
		if err := l.climb(ctx, a, human || a.cluster.Attributed); err != nil {
			l.e.note(a.leg.Stage, l.name, journal.Warning, "RungFailed", "%v", err)
		}
		a = l.assignment()
	}
	if freezeOnly || !human && !a.cluster.Attributed {
		return l.seeOnly(ctx, a)
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
	c.Back, c.Rungs = true, nil
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

// climb takes the next rung, when the one before had its time to show effect. With all rungs taken it does nothing.
func (l *lane) climb(ctx context.Context, a assignment, may bool) error {
	ladder := l.e.spec.OnFailure
	if len(a.cluster.Rungs) > 0 && (time.Since(l.climbed) < ladder.EffectWithin.Duration || l.relieved(ctx, a)) {
		return nil
	}
	var errs []error
	for _, wanted := range ladder.Rungs {
		name := string(wanted.Name)
		at := slices.IndexFunc(l.Rungs, func(r jail.Rung) bool { return r.Name() == name })
		if own(name) || at < 0 || slices.Contains(a.cluster.Rungs, name) {
			continue
		}
		rung := l.Rungs[at]
		if !may && !rung.ReducesLoad() || rung.HitsStable() && !l.mayHitStable(a) {
			continue
		}
		component, err := l.Target.Component(ctx, a.cluster.Pins)
		if err != nil {
			// It is known from the pins even when the cluster no longer answers; the pods' names are not.
			component.UpdatePods = nil
		}
		// Noted before it is taken: who dies between the two takes it back all the same.
		a.cluster.Rungs = append(slices.Clone(a.cluster.Rungs), name)
		if !l.putCluster(a.cluster) {
			return nil
		}
		within, cancel := context.WithTimeout(ctx, ladder.EffectWithin.Duration)
		err = rung.Do(within, component, l.e.o.Run+": "+a.cluster.Failed, ladder.Duration.Duration)
		cancel()
		l.climbed = time.Now()
		if err == nil {
			l.e.note(a.leg.Stage, l.name, journal.Warning, "Rung", "%s: the change's load is taken away for at most %v", name, ladder.Duration.Duration)
			return nil
		}
		errs = append(errs, fmt.Errorf("taking rung %s: %w", name, err))
	}
	return errors.Join(errs...)
}

// relieved is true when a look says that the control plane no longer fails.
func (l *lane) relieved(ctx context.Context, a assignment) bool {
	look, err := l.look(ctx, a, l.decided, l.e.spec.Interval.Duration)
	if err != nil {
		return false
	}
	for _, f := range look.Findings {
		if f.Verdict != verdict.Pass && strings.HasPrefix(f.Check, checkControlPlane) {
			return false
		}
	}
	return true
}

func (l *lane) mayHitStable(a assignment) bool {
	switch l.e.spec.OnFailure.HitStable {
	case v1alpha1.StableAlways:
		return true
	case v1alpha1.StableNever:
		return false
	}
	return a.cluster.Overload
}

// descend takes back every rung that was taken.
func (l *lane) descend(ctx context.Context, a assignment) error {
	if len(a.cluster.Rungs) == 0 {
		return nil
	}
	component, err := l.Target.Component(ctx, a.cluster.Pins)
	if err != nil {
		return err
	}
	for _, name := range a.cluster.Rungs {
		at := slices.IndexFunc(l.Rungs, func(r jail.Rung) bool { return r.Name() == name })
		if at < 0 {
			continue
		}
		if err := l.Rungs[at].Undo(ctx, component); err != nil {
			return fmt.Errorf("taking rung %s back: %w", name, err)
		}
		l.e.note(a.leg.Stage, l.name, journal.Normal, "RungBack", "%s is taken back", name)
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
