package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/fleet"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
)

// rolloutCarry is how runs are begun and carried out: by `run` from a file, by `controller` from objects.
type rolloutCarry struct {
	state rolloutState
	// folder is where the names of files in the rollout begin; "" where there is no file, and for what the run was begun with.
	folder      string
	timeout     time.Duration
	lease       time.Duration
	every       time.Duration
	unreachable time.Duration
}

func (o *rolloutCarry) flags(cmd *cobra.Command) {
	o.state.flags(cmd)
	flags := cmd.Flags()
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long each request to a cluster may take, 1s to 1m; less than two thirds of --lease")
	flags.DurationVar(&o.lease, "lease", 20*time.Second, "how long the lease on a cluster outlives this process, 3s to 5m")
	flags.DurationVar(&o.every, "every", 2*time.Second, "how often a cluster that moves is read, 200ms to 10s")
	flags.DurationVar(&o.unreachable, "unreachable-after", time.Minute, "how long a cluster may fail to answer before it is skipped, 5s to 1h")
	for _, name := range []string{"timeout", "lease", "every", "unreachable-after"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

// patience is how long the ordinary way may fail on the way back before the break-glass way is taken: less than the lease is kept
// for without being renewed.
func (o *rolloutCarry) patience() time.Duration { return o.lease / 4 }

func (o *rolloutCarry) check() error {
	if err := checkLengths(
		lengthFlag{"timeout", o.timeout, time.Second, time.Minute}, lengthFlag{"lease", o.lease, 3 * time.Second, 5 * time.Minute},
		lengthFlag{"every", o.every, 200 * time.Millisecond, 10 * time.Second}, lengthFlag{"unreachable-after", o.unreachable, 5 * time.Second, time.Hour},
	); err != nil {
		return err
	}
	if o.timeout*3 >= o.lease*2 {
		return usageError(fmt.Errorf("--timeout must be less than two thirds of --lease, got %v and %v: what was sent must have arrived before another process may write", o.timeout, o.lease), rolloutHint)
	}
	return nil
}

// lengthFlag is a flag with a length of time, and what it may be.
type lengthFlag struct {
	name         string
	v, low, high time.Duration
}

func checkLengths(all ...lengthFlag) error {
	for _, f := range all {
		if f.v < f.low || f.v > f.high {
			return usageError(fmt.Errorf("--%s must be %v to %v, got %v", f.name, f.low, f.high, f.v), rolloutHint)
		}
	}
	return nil
}

// load reads the fleet as it is now. Hub is the one that is worked for; nil when there is none.
func (o *rolloutCarry) load(ctx context.Context, members *v1alpha1.Fleet, hub *rest.Config) (map[string]fleet.Cluster, error) {
	clusters, err := fleet.Load(ctx, members, fleet.Options{UserAgent: "seakeep-rollout/" + versionOf(version, nil).Version, Timeout: o.timeout, Hub: hub})
	if err != nil {
		return nil, usageError(err, "")
	}
	return clusters, nil
}

func planRollout(ctx context.Context, r *v1alpha1.Rollout, run string, clusters map[string]fleet.Cluster) (*plan.Plan, map[string][]string, error) {
	risks, invalid := risksOf(r.Change)
	if err := invalid.ToAggregate(); err != nil {
		return nil, nil, usageError(fmt.Errorf("planning rollout %s: %w", r.Name, err), "nothing was written to any cluster")
	}
	fleetOf := map[string]engine.Member{}
	for name, c := range clusters {
		over, err := rest.HTTPClientFor(c.Config)
		if err != nil {
			return nil, nil, fmt.Errorf("preparing to call cluster %s: %w", name, err)
		}
		t, err := rolloutTarget(r, run, c, over)
		if err != nil {
			return nil, nil, err
		}
		fleetOf[name] = engine.Member{Labels: c.Labels, Target: t}
	}
	p, orders, err := engine.Plan(ctx, r, run, fleetOf)
	if err != nil {
		return nil, nil, usageError(fmt.Errorf("planning rollout %s: %w", r.Name, err), "nothing was written to any cluster")
	}
	if err := refuseUncounted(r, p, clusters); err != nil {
		return nil, nil, err
	}
	p.Risks = risks
	return p, orders, nil
}

// begin plans a new run, proves that it can be carried out, and records it. Origin may be nil. It returns the run's id.
func (o *rolloutCarry) begin(ctx context.Context, env *Env, j *journal.Journal, r *v1alpha1.Rollout, origin *journal.Origin, clusters map[string]fleet.Cluster) (string, error) {
	id := engine.NewRunID(r.Name, time.Now())
	p, orders, err := planRollout(ctx, r, id, clusters)
	if err != nil {
		return "", err
	}
	probe, err := joinRollout(ctx, env, o, r, p, true, clusters)
	if err != nil {
		return "", err
	}
	probe.close(ctx, env)
	return id, engine.Record(j, r, origin, o.folder, p, orders)
}

// rolloutTold is who is told while a run is carried out.
type rolloutTold struct {
	// event is told of each, from one goroutine at a time; it must not block.
	event func(journal.Event)
	// ready is told how the run is looked at, once all is proved and before anything moves; what it returns is called at the end.
	ready func(ctx context.Context, view func() engine.View, r *v1alpha1.Rollout) (wait func(), err error)
}

// carry carries a run of the journal out, until it is over or the context ends.
func (o *rolloutCarry) carry(ctx context.Context, env *Env, j *journal.Journal, run string, clusters map[string]fleet.Cluster, told rolloutTold) (journal.Run, error) {
	state, err := j.Load(run)
	if err != nil {
		return journal.Run{}, err
	}
	join := *o
	if join.folder == "" {
		join.folder = state.Run.Folder
	}
	forth, err := goesForth(j, state.Run)
	if err != nil {
		return state.Run, err
	}
	if forth {
		if err := refuseUncounted(state.Run.Rollout, state.Plan, clusters); err != nil {
			return state.Run, err
		}
	}
	joined, err := joinRollout(ctx, env, &join, state.Run.Rollout, state.Plan, forth, clusters)
	if err != nil {
		return state.Run, err
	}
	defer joined.close(ctx, env)
	e, err := engine.New(engine.Options{
		Journal: j, Run: run, Clusters: joined.clusters, Analyst: joined.analyst, Growth: joined.scaleGate(), Every: o.every, Unreachable: o.unreachable,
		Told: told.event, Log: env.Log(),
	})
	if errors.Is(err, engine.ErrNoGrowth) {
		return state.Run, usageError(fmt.Errorf("scaleGate.mode: %w", err), "")
	}
	if err != nil {
		return state.Run, err
	}
	joined.bind(e)
	if forth {
		if err := e.Preflight(ctx); err != nil {
			return state.Run, usageError(fmt.Errorf("pre-flight: %w", err), "the way back is proved before the first node moves: onFailure.rungs says which rungs there are, and which are optional; breakGlass of a cluster in the Fleet may do all that the way back needs")
		}
	}
	wait, err := told.ready(ctx, e.View, state.Run.Rollout)
	if err != nil {
		return state.Run, err
	}
	defer wait()
	defer joined.measure(ctx, env)()
	return e.Run(ctx)
}

// goesForth is true for a run that moves on at once: not for one that was told to stand still, to end or to go back while nobody
// carried it out. What that needs does not wait for a cluster that is down.
func goesForth(j *journal.Journal, run journal.Run) (bool, error) {
	orders, _, err := journal.Orders(j.Dir())
	told := slices.ContainsFunc(orders, func(o journal.Placed) bool {
		return o.Run == run.ID && o.Verb != journal.Resume && o.Verb != journal.Approve
	})
	return run.Phase == journal.Running && !told, err
}
