package engine

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// lane is one cluster's goroutine. All it keeps to itself may be lost with it.
type lane struct {
	e    *Engine
	name string
	Cluster

	// answered is when the cluster last did; progressed when a node was last moved, which needs one before it to be ready, or
	// when nothing was under way.
	answered   time.Time
	progressed time.Time
	// moved is when nodes were last moved forward.
	moved time.Time
	// looked is the last look, and when it was taken; passed when a look last said Pass, for the bake's clock.
	looked *verdict.Look
	at     time.Time
	doubt  doubt
	passed time.Time
	// answers are the scale gate's, by number of nodes, for the step they were asked for; asked is when it last was.
	answers    map[int]verdict.Finding
	answersFor journal.Leg
	asked      time.Time
	unanswered int
	// told is true once an event said that nothing can be done here.
	told bool
	// again is set when the next round must not wait: something failed.
	again bool
	// spent is what the component had cost at the last look, rate its mean between the last two looks, seconds a second; eased the
	// reading after a measure that the next is compared with.
	spent, eased spent
	rate         float64
	// observing is the measurement of what is held now; nil when none is under way. without is true once the cluster was measured
	// without the change.
	observing *observation
	without   bool
}

// run takes the lease and works, until the context ends. While another process has the lease, or nobody knows, nothing is done.
func (l *lane) run(ctx context.Context) {
	l.answered = time.Now()
	for ctx.Err() == nil {
		held, release, err := l.acquire(ctx)
		if err != nil {
			continue
		}
		l.hasAnswered()
		l.forget()
		l.work(held)
		release()
		if ctx.Err() == nil {
			l.e.note("", l.name, journal.Warning, "Frozen", "the lease was lost: nothing moves here until it is held again (%v)", context.Cause(held))
		}
	}
}

// acquire waits for the lease; a cluster that does not even answer that is skipped.
func (l *lane) acquire(ctx context.Context) (context.Context, func(), error) {
	type result struct {
		held    context.Context
		release func()
		err     error
	}
	got := make(chan result, 1)
	var other atomic.Bool // another process has it: the cluster answers, and there is nothing to do but wait
	go func() {
		held, release, err := l.Fence.Acquire(ctx, func(holder string) {
			other.Store(true)
			l.e.note("", l.name, journal.Normal, "Waiting", "%s holds the lease: nothing is done here until it is free", holder)
		})
		got <- result{held, release, err}
	}()
	tick := time.NewTicker(l.e.o.Every)
	defer tick.Stop()
	for {
		l.mayBreakGlass(l.assignment())
		select {
		case r := <-got:
			if r.err != nil && ctx.Err() == nil {
				l.e.note("", l.name, journal.Warning, "NoLease", "%v", r.err)
				l.unreachable(r.err)
				select {
				case <-ctx.Done():
				case <-tick.C:
				}
			}
			return r.held, r.release, r.err
		case <-tick.C:
			if !other.Load() {
				l.unreachable(errors.New("the lease cannot be had"))
			}
		}
	}
}

// forget drops what was known from before the lease was held.
func (l *lane) forget() {
	l.looked, l.unanswered, l.passed, l.answersFor = nil, 0, time.Time{}, journal.Leg{}
	l.doubt = doubt{since: time.Now()}
	l.spent, l.eased, l.rate = spent{}, spent{}, 0
	l.progressed = time.Now()
}

func (l *lane) work(ctx context.Context) {
	tick := time.NewTicker(l.e.o.Every)
	defer tick.Stop()
	defer l.unobserve()
	for {
		l.tick(ctx)
		if l.again && ctx.Err() == nil {
			l.again = false
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// assignment is what the lane is to do now.
type assignment struct {
	run     journal.Run
	cluster journal.Cluster
	leg     journal.Leg
	// active is true when the leg may move.
	active bool
	route  *plan.Route
}

func (l *lane) assignment() assignment {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	a := assignment{run: l.e.s.Run, cluster: l.e.s.Clusters[l.name]}
	for _, stage := range l.e.s.Plan.Stages {
		key := journal.LegKey{Stage: stage.Name, Cluster: l.name}
		leg, ours := l.e.s.Legs[key]
		if !ours {
			continue
		}
		// The first that is not done; when all are, the last.
		if a.route == nil || a.leg.Phase == journal.Completed {
			a.leg, a.route, a.active = leg, l.e.routes[key], l.e.active[key]
		}
	}
	return a
}

// tick does one round: read, look, decide, move.
func (l *lane) tick(ctx context.Context) {
	a := l.assignment()
	l.mayBreakGlass(a)
	var err error
	if !a.goesBack() && !a.run.Phase.Over() && len(a.cluster.Taken) > 0 { // a human has resumed it
		if err = l.release(ctx, a); err == nil {
			a = l.assignment()
		}
	}
	switch {
	case err != nil:
	case a.run.Phase.Over():
		err = l.finish(ctx, a)
	case a.run.Phase == journal.RollingBack, a.cluster.Failed != "":
		err = l.back(ctx, a)
	case a.active && a.leg.Phase != journal.Completed && a.run.Phase == journal.Running:
		err = l.forward(ctx, a)
	case a.cluster.Began:
		err = l.watch(ctx, a)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		l.isThere(a)
	case a.run.Phase.Over() && (errors.Is(err, target.ErrForeign) || errors.Is(err, target.ErrGone)):
		a.cluster.Finished = true
		if l.putCluster(a.cluster) {
			l.e.note("", l.name, journal.Warning, "NotFinished", "what the run wrote for itself is left there: %v", err)
		}
	case errors.Is(err, target.ErrForeign), errors.Is(err, target.ErrNothing):
		l.stop(journal.Paused, "ForeignChange", err)
	case errors.Is(err, target.ErrGone):
		l.gone(err)
	default:
		l.e.o.Log.Debug("A round failed", "cluster", l.name, "err", err)
		l.failing(a, err)
		l.unreachable(err)
	}
}

// failing shows why nothing is done on a cluster, and says it once in an event when it lasts: what takes a change back must not stand
// still in silence.
func (l *lane) failing(a assignment, why error) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	v := l.e.view(l.name)
	v.Error = why.Error()
	if !l.told && time.Since(l.answered) >= l.e.o.Unreachable/2 {
		l.told = true
		l.e.event(a.leg.Stage, l.name, journal.Warning, "StandsStill", "nothing could be done for %v: %v", time.Since(l.answered).Round(time.Second), why)
	}
}

// isThere notes that the cluster answers; one that was skipped goes on.
func (l *lane) isThere(a assignment) {
	l.hasAnswered()
	if a.leg.Skipped == "" {
		return
	}
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	leg := l.e.s.Legs[a.leg.Key()]
	leg.Skipped = ""
	if l.e.putLeg(leg) {
		l.e.event(leg.Stage, l.name, journal.Normal, "Returned", "the cluster answers again and goes on at step %d", leg.Step+1)
	}
}

// goesBack is true while what is done on the cluster takes the change back. tick decides by the same.
func (a assignment) goesBack() bool {
	return a.run.Phase == journal.RollingBack || a.run.Phase == journal.RolledBack || a.cluster.Failed != ""
}

// mayBreakGlass lets the lane go by the break-glass way while it takes the change back, and never else.
func (l *lane) mayBreakGlass(a assignment) {
	if l.Glass != nil {
		l.Glass.Switch.Back(a.goesBack())
	}
}

// hasAnswered notes that the cluster did what was asked, and tells when that was by another way than before.
func (l *lane) hasAnswered() {
	l.answered = time.Now()
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	v := l.e.view(l.name)
	v.Error = ""
	if l.told {
		l.told = false
		l.e.event("", l.name, journal.Normal, "GoesOn", "what was to be done can be done again")
	}
	if l.Glass == nil {
		return
	}
	l.Glass.Switch.Done()
	switch byGlass, why := l.Glass.Switch.Now(); {
	case byGlass && v.BreakGlass == "":
		v.BreakGlass = why
		l.e.event("", l.name, journal.Warning, "BreakGlass", "the way back goes on by the break-glass way: %s", why)
	case !byGlass && v.BreakGlass != "":
		v.BreakGlass = ""
		l.e.event("", l.name, journal.Normal, "OrdinaryWay", "the cluster is reached by the ordinary way again: %s", why)
	}
}

// unreachable skips the cluster when it has not answered for too long.
func (l *lane) unreachable(why error) {
	if time.Since(l.answered) < l.e.o.Unreachable {
		return
	}
	a := l.assignment()
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	if a.leg.Phase != journal.Completed && l.e.s.Run.Phase == journal.Running && l.e.active[a.leg.Key()] {
		l.e.skip(l.e.s.Legs[a.leg.Key()], fmt.Sprintf("nothing could be done there for %v: %v", time.Since(l.answered).Round(time.Second), why))
	}
}

// stop stops the whole run for a human.
func (l *lane) stop(phase journal.Phase, reason string, why error) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	if l.e.s.Run.Phase.Over() || l.e.s.Run.Phase == journal.Paused {
		return
	}
	l.e.become(phase, reason, "cluster %s: %v", l.name, why)
}

// gone marks a cluster whose object was deleted in the middle of the run: there is nothing left there to step or to take back,
// and whether its deletion was part of a greater harm is for a human to say.
func (l *lane) gone(why error) {
	l.e.mu.Lock()
	c := l.e.s.Clusters[l.name]
	fresh := !c.Back
	if fresh {
		c.Back = true // what stands beside the object is taken away at the end
		if c.Failed == "" {
			c.Failed = why.Error()
			l.e.s.Run.Failures = append(l.e.s.Run.Failures, l.name)
			l.e.putRun()
		}
		l.e.putCluster(c)
	}
	l.e.mu.Unlock()
	if fresh {
		l.stop(journal.Paused, "Gone", why)
	}
}

// see reads the cluster, and settles what was intended before.
func (l *lane) see(ctx context.Context, a assignment) (plan.Seen, error) {
	seen, err := l.Target.See(ctx, a.cluster.Pins)
	if err != nil {
		return seen, err
	}
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	open := l.e.s.Intents[:0]
	for _, i := range l.e.s.Intents {
		if i.Cluster != l.name {
			open = append(open, i)
			continue
		}
		// The process that intended it is dead, and its lease was over before this one was had: what it sent has arrived
		// by now, and is in what was just read.
		l.e.event("", l.name, journal.Normal, "Resumed", "%d moves were intended when the process before ended; the cluster says which were made", len(i.Moves))
		l.e.written(l.e.o.Journal.Settle(l.e.o.Run, i.ID))
	}
	l.e.s.Intents = open
	return seen, nil
}

// move makes moves, each written down before.
func (l *lane) move(ctx context.Context, a assignment, moves []plan.Move, back bool) error {
	l.e.mu.Lock()
	id, err := l.e.o.Journal.Intend(l.e.o.Run, journal.Intent{Cluster: l.name, At: time.Now().UTC(), Moves: moves, Back: back})
	ok := l.e.written(err)
	l.e.mu.Unlock()
	if !ok {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err // the lease is lost
	}
	err = l.Target.Move(ctx, a.cluster.Pins, moves, back)
	if ctx.Err() != nil {
		return err // the outcome is not known: the intent stays
	}
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	l.e.written(l.e.o.Journal.Settle(l.e.o.Run, id))
	return err
}

// exposure is what runs the change, for those who look.
func (l *lane) exposure(ctx context.Context, a assignment, d plan.Decision) (Exposure, error) {
	e := Exposure{
		Cluster: l.name, Stage: a.leg.Stage, Step: a.leg.Step + 1, Nodes: a.route.Nodes, Planned: d.Moved, Exposed: d.Exposed, Since: a.leg.Since,
		UpdateRevision: a.cluster.Pins.Update, StableRevision: a.cluster.Pins.Stable,
	}
	var err error
	if len(d.Exposed) > 0 {
		if e.Ready, err = l.Target.Ready(ctx, a.cluster.Pins); err != nil {
			return e, err
		}
	}
	e.Component, err = l.Target.Component(ctx, a.cluster.Pins)
	return e, err
}

// look looks, at most once an interval, and counts looks that know nothing.
func (l *lane) look(ctx context.Context, a assignment, d plan.Decision, interval time.Duration) (verdict.Look, error) {
	if l.looked != nil && time.Since(l.at) < interval {
		return *l.looked, nil
	}
	e, err := l.exposure(ctx, a, d)
	if err != nil {
		return verdict.Look{}, err
	}
	within, cancel := context.WithTimeout(ctx, max(interval, 30*time.Second))
	defer cancel()
	look, err := l.e.o.Analyst.Look(within, e)
	now := time.Now()
	if err != nil {
		look = verdict.Of(now, verdict.Finding{Check: "look", Verdict: verdict.Unknown, Reason: err.Error(), At: now})
	}
	l.looked, l.at = &look, now
	if s, ok := l.meter(ctx); ok {
		l.rate, _ = s.since(l.spent)
		l.spent = s
	}
	l.doubt.count(look, now)
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	l.e.view(l.name).Look = &look
	return look, nil
}

// fresh is true when a look is young enough to grant something.
func (l *lane) fresh(look verdict.Look) bool {
	return time.Since(look.At) <= l.e.spec.Analysis.MaxDataAge.Duration
}
