// Package engine carries a rollout out: stages of clusters, steps of nodes, and a look before each. Nothing moves without a
// grant for that very wave, so a rollout whose engine is gone stands still.
//
// The engine's own goroutine takes orders and says which clusters may be under way. Each of those has a lane, one goroutine
// that alone speaks to its cluster, under a lease there. What they know of each other is in the journal's records, behind one
// lock.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/way"
)

// Options are what an engine needs.
type Options struct {
	Journal *journal.Journal
	// Run is the id of a run that is in the journal.
	Run string
	// Clusters are those of the plan, by name.
	Clusters map[string]Cluster
	Analyst  Analyst
	// Growth may be nil only when the rollout's scaleGate is disabled.
	Growth Growth
	// Bake is how long a step of a cluster is held at least; nil: the rollout's bake.minDuration.
	Bake func(cluster string) time.Duration
	// Every is how often a cluster that moves is read; default 2 s.
	Every time.Duration
	// Unreachable is how long a cluster may fail to answer before it is skipped; default 1 min.
	Unreachable time.Duration
	// Told, if set, is told of each event, from one goroutine at a time. It must not block.
	Told func(journal.Event)
	Log  *slog.Logger
}

// Cluster is how one cluster is stepped.
type Cluster struct {
	Target Target
	Fence  Fence
	// Rungs are the measures that take load away, from the lightest on. Freezing, reverting and handing over are the engine's own.
	Rungs []jail.Rung
	// Prove asks by the ordinary way whether it may do what Target says that the way back needs, and what Fence does.
	Prove func(ctx context.Context, rights []authorizationv1.ResourceAttributes) error
	// Spent is for how many seconds requests of the component have executed so far, and when that was read; nil when its requests are
	// not told from others'. What was spent before an API server started is not in it.
	Spent func(ctx context.Context) (seconds float64, read time.Time, err error)
	// Glass is the break-glass way beside the ordinary one; nil when there is none.
	Glass *Glass
}

// Glass is the way that a lane goes on by when the ordinary one fails while it takes the change back.
type Glass struct {
	// Switch is what Target, Fence and Rungs send their requests through.
	Switch *way.Switch
	// Prove asks by the break-glass way whether it may do what Target says that it needs, and what Fence does.
	Prove func(ctx context.Context, rights []authorizationv1.ResourceAttributes) error
}

// Pins are what is pinned of a cluster.
func (e *Engine) Pins(cluster string) target.Pins {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.s.Clusters[cluster].Pins
}

// Engine carries out one run.
type Engine struct {
	o      Options
	spec   *v1alpha1.Rollout
	routes map[journal.LegKey]*plan.Route

	mu sync.Mutex
	s  *journal.State
	// active are the legs that may be under way.
	active map[journal.LegKey]bool
	lanes  map[string]*lane
	shown  map[string]*ClusterView
	events []journal.Event
	// watched is true while a task waits for looks at all clusters.
	watched bool
	// broken is why nothing can go on: what cannot be written down is not done.
	broken error
}

// ErrNoGrowth says that nothing predicts what the change will cost.
var ErrNoGrowth = errors.New("scaleGate is enabled and nothing measures what the change costs: give it a source, or set scaleGate.mode to Disabled and say so in the open")

// New reads the run from the journal. Nothing is asked of a cluster.
func New(o Options) (*Engine, error) {
	if o.Every == 0 {
		o.Every = 2 * time.Second
	}
	if o.Unreachable == 0 {
		o.Unreachable = time.Minute
	}
	s, err := o.Journal.Load(o.Run)
	if err != nil {
		return nil, err
	}
	e := &Engine{
		o: o, spec: s.Run.Rollout, s: s,
		routes: map[journal.LegKey]*plan.Route{}, active: map[journal.LegKey]bool{}, lanes: map[string]*lane{},
		shown: map[string]*ClusterView{},
	}
	if e.spec.ScaleGate.Mode != v1alpha1.Disabled && o.Growth == nil {
		return nil, ErrNoGrowth
	}
	for _, stage := range s.Plan.Stages {
		for _, leg := range stage.Legs {
			if _, ok := o.Clusters[leg.Cluster]; !ok {
				return nil, fmt.Errorf("run %s needs cluster %s, which the fleet no longer has", o.Run, leg.Cluster)
			}
			key := journal.LegKey{Stage: stage.Name, Cluster: leg.Cluster}
			e.routes[key] = plan.NewRoute(leg, s.Orders[leg.Cluster])
			if _, ok := s.Legs[key]; !ok {
				s.Legs[key] = journal.Leg{Stage: stage.Name, Cluster: leg.Cluster, Phase: journal.Waiting}
			}
			if _, ok := s.Clusters[leg.Cluster]; !ok {
				s.Clusters[leg.Cluster] = journal.Cluster{Name: leg.Cluster}
			}
		}
	}
	if e.events, err = o.Journal.Events(o.Run, shownEvents); err != nil {
		return nil, err
	}
	return e, nil
}

// Preflight proves each rung on each cluster, and the break-glass way where there is one. It changes nothing that stays. What is
// not optional and cannot be proved is an error: a rollout without a way back does not start.
func (e *Engine) Preflight(ctx context.Context) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(e.s.Clusters)) {
		c := e.o.Clusters[name]
		pins := e.s.Clusters[name].Pins
		if pins.After == nil {
			var err error
			if pins, err = c.Target.Prepare(ctx); err != nil {
				errs = append(errs, fmt.Errorf("cluster %s: %w", name, err))
				continue
			}
		}
		if err := c.proveBack(ctx, pins); err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", name, err))
		}
		component, err := c.Target.Component(ctx, pins)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", name, err))
			continue
		}
		proofs, err := e.ladder(name, nil).Prove(ctx, component, proving)
		if err != nil {
			errs = append(errs, fmt.Errorf("onFailure.rungs: %w", err))
		}
		for _, p := range proofs {
			if p.Err != nil && p.Optional {
				e.note("", name, journal.Warning, "RungMissing", "%s, which is optional, would not work: %v", p.Rung, p.Err)
			}
		}
	}
	return errors.Join(errs...)
}

// proveBack asks by both ways for the rights that the way back needs.
func (c Cluster) proveBack(ctx context.Context, pins target.Pins) error {
	rights, err := c.Target.Rights(pins)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, proving)
	defer cancel()
	if err := c.Prove(ctx, rights); err != nil || c.Glass == nil {
		return err
	}
	return c.Glass.Prove(ctx, rights)
}

// proving is how long the proof of one rung may take.
const proving = 15 * time.Second

// Run carries the run out until it is over, and returns it as it ended. When the context ends before, everything stands still
// where it is, and another Run goes on from there.
func (e *Engine) Run(ctx context.Context) (journal.Run, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var lanes sync.WaitGroup
	tick := time.NewTicker(e.o.Every)
	defer tick.Stop()
	e.start()
	for {
		e.takeOrders()
		e.advance()
		for _, l := range e.due() {
			lanes.Go(func() { l.run(ctx) })
		}
		e.publish()
		if run, over, err := e.ended(); over {
			cancel()
			lanes.Wait()
			e.publish()
			return run, err
		}
		select {
		case <-ctx.Done():
			lanes.Wait()
			e.publish()
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.s.Run, context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// start says that the run is carried out, and what its plan warns of while no cluster has begun.
func (e *Engine) start() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.event("", "", journal.Normal, "Started", "the engine carries the run out")
	for _, c := range e.s.Clusters {
		if c.Began {
			return
		}
	}
	for _, r := range e.s.Plan.Risks {
		e.event("", "", journal.Warning, "Risk", "%s %s of %s, %s: %s", r.Severity, r.Name, r.Object, r.Field, r.Why)
	}
}

// ended is true when the run is over and its end is written to every cluster, or when nothing can go on.
func (e *Engine) ended() (journal.Run, bool, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.broken != nil {
		return e.s.Run, true, e.broken
	}
	if !e.s.Run.Phase.Over() {
		return e.s.Run, false, nil
	}
	for _, c := range e.s.Clusters {
		if e.unfinished(c) {
			return e.s.Run, false, nil
		}
	}
	return e.s.Run, true, nil
}

// unfinished is true for a cluster on which the run's own marks are still to be taken away.
func (e *Engine) unfinished(c journal.Cluster) bool {
	phase := e.s.Run.Phase
	return c.Began && !c.Finished && (phase == journal.Completed || phase == journal.RolledBack)
}

// due makes the lanes that are needed and do not run yet.
func (e *Engine) due() []*lane {
	e.mu.Lock()
	defer e.mu.Unlock()
	var start []*lane
	for name, c := range e.s.Clusters {
		wanted := c.Began && !e.s.Run.Phase.Over() || e.unfinished(c)
		for key := range e.active {
			wanted = wanted || key.Cluster == name
		}
		if wanted && e.lanes[name] == nil && e.broken == nil {
			l := &lane{e: e, name: name, Cluster: e.o.Clusters[name]}
			e.lanes[name] = l
			start = append(start, l)
		}
	}
	return start
}

// written notes an error of the journal: nothing goes on that cannot be written down. True: it is written.
func (e *Engine) written(err error) bool {
	if err != nil && e.broken == nil {
		e.broken = err
		e.o.Log.Error("The journal cannot be written, nothing moves any more", "err", err)
	}
	return err == nil
}

func (e *Engine) putRun() bool { return e.written(e.o.Journal.PutRun(e.s.Run)) }
func (e *Engine) putLeg(l journal.Leg) bool {
	e.s.Legs[l.Key()] = l
	return e.written(e.o.Journal.PutLeg(e.o.Run, l))
}
func (e *Engine) putTask(t journal.Task) bool {
	e.s.Tasks[t.Key()] = t
	return e.written(e.o.Journal.PutTask(e.o.Run, t))
}
func (e *Engine) putCluster(c journal.Cluster) bool {
	e.s.Clusters[c.Name] = c
	return e.written(e.o.Journal.PutCluster(e.o.Run, c))
}

// note writes an event down. The lock must not be held.
func (e *Engine) note(stage, cluster, kind, reason, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.event(stage, cluster, kind, reason, format, args...)
}

// event is note for those who hold the lock.
func (e *Engine) event(stage, cluster, kind, reason, format string, args ...any) {
	event := journal.Event{At: time.Now().UTC(), Stage: stage, Cluster: cluster, Type: kind, Reason: reason, Message: fmt.Sprintf(format, args...)}
	e.written(e.o.Journal.Tell(e.o.Run, event))
	e.events = append(e.events, event)
	e.events = e.events[max(0, len(e.events)-shownEvents):]
	if e.o.Told != nil {
		e.o.Told(event)
	}
	e.o.Log.Debug("Rollout", "run", e.o.Run, "stage", stage, "cluster", cluster, "reason", reason, "message", event.Message)
}

// become changes the run's phase; the reason is one word, the message a sentence. The lock must be held.
func (e *Engine) become(phase journal.Phase, reason, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	if e.s.Run.Phase == phase && e.s.Run.Reason == reason && e.s.Run.Message == message {
		return
	}
	e.s.Run.Phase, e.s.Run.Reason, e.s.Run.Message = phase, reason, message
	if phase.Over() {
		e.s.Run.Ended = time.Now().UTC()
	}
	e.putRun()
	kind := journal.Normal
	if phase != journal.Running && phase != journal.Completed {
		kind = journal.Warning
	}
	e.event("", "", kind, reason, "%s: %s", phase, message)
}
