package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/apf/plan"
)

// apfFollowing are the flags of `gate apf follow`.
type apfFollowing struct {
	apfTarget
	apfLevel
	least  int
	every  time.Duration
	hold   time.Duration
	dryRun bool
}

// newAPFFollow is `seakeep gate apf follow`.
func newAPFFollow(env *Env) *cobra.Command {
	var o apfFollowing
	cmd := &cobra.Command{
		Use:   "follow",
		Short: "Keep the seats of everyone else at the gate's limit, until it is ended; then restore",
		Long: `Withholds seats by a ballast level, and moves it with a number:

  --gate-metrics  the limit that a gate has found (seakeep_gate_admit_limit_seats)
  --seats         a number of yours
  --cpu, --memory the API servers' own load against what each of them has; coarser than a gate

The number is for all API servers together. Seats move by at most a factor of two at a time, and are written only when that
changes a tenth, or after half a minute. When the source is silent they stay as they are for --hold and then double every ten
seconds until there is no ballast: never tighter without evidence.

Ended by SIGTERM or SIGINT it restores what it found. Killed, the next start does, or 'seakeep gate apf restore'. A second one
waits until the first has ended. It ends by itself, and restores, when somebody else edits a level that it has edited.`,
		Example: `  seakeep gate apf follow --gate-metrics http://127.0.0.1:7445/metrics
  seakeep gate apf follow --seats 60 --dry-run
  seakeep gate apf follow --cpu 4 --memory 16Gi --server https://10.0.0.1:6443 --server https://10.0.0.2:6443`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAPFFollow(cmd.Context(), env, &o) },
	}
	o.apfTarget.flags(cmd, "table", "json", "yaml")
	o.serverFlag(cmd)
	o.stateFlag(cmd)
	o.apfLevel.flags(cmd)
	flags := cmd.Flags()
	flags.Float64Var(&o.cpu, "cpu", 0, "follow the API servers' own load: `cores` that each of them has")
	flags.StringVar(&o.memory, "memory", "", "follow the API servers' own load: memory that each of them has, a `quantity`")
	flags.IntVar(&o.least, "min", plan.DefaultPacing.Min, "the fewest seats of one API server that everyone else is left, whatever the source says")
	flags.DurationVar(&o.every, "every", 2*time.Second, "how often the source is asked, 1s to 1m")
	flags.DurationVar(&o.hold, "hold", plan.DefaultPacing.Hold, "how long the seats stay when the source is silent, 5s to 1h")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print each plan and write nothing")
	for _, name := range []string{"cpu", "memory", "min", "every", "hold"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func (o *apfFollowing) check() (memory float64, err error) {
	if err := o.apfLevel.check(); err != nil {
		return 0, err
	}
	if o.memory != "" {
		quantity, err := resource.ParseQuantity(o.memory)
		if err != nil || quantity.Sign() <= 0 {
			return 0, usageError(fmt.Errorf("--memory must be a quantity such as 16Gi, got %q", o.memory), apfHint)
		}
		memory = quantity.AsApproximateFloat64()
	}
	sources := 0
	for _, given := range []bool{o.seats > 0, len(o.gates) > 0, o.cpu > 0 || memory > 0} {
		if given {
			sources++
		}
	}
	switch {
	case o.cpu < 0:
		return 0, usageError(fmt.Errorf("--cpu must be ≥ 0, got %v", o.cpu), apfHint)
	case sources != 1:
		return 0, usageError(errors.New("follow needs one of --gate-metrics, --seats, or --cpu and --memory"), apfHint)
	case o.least < 1 || o.least > 100_000:
		return 0, usageError(fmt.Errorf("--min must be 1 to 100000, got %d", o.least), apfHint)
	case o.every < time.Second || o.every > time.Minute:
		return 0, usageError(fmt.Errorf("--every must be 1s to 1m, got %v", o.every), apfHint)
	case o.hold < 5*time.Second || o.hold > time.Hour:
		return 0, usageError(fmt.Errorf("--hold must be 5s to 1h, got %v", o.hold), apfHint)
	}
	return memory, nil
}

func runAPFFollow(ctx context.Context, env *Env, o *apfFollowing) error {
	memory, err := o.check()
	if err != nil {
		return err
	}
	cluster, err := o.connect(env)
	if err != nil {
		return err
	}
	defer cluster.close()
	servers, err := cluster.serversOf(&o.apfTarget)
	if err != nil {
		return err
	}
	var journal *apf.Journal
	if !o.dryRun {
		if journal, err = cluster.journal(ctx, o.state); err != nil {
			return withHint(err, "--state-dir names a folder that this process may write; "+apfRights)
		}
	}
	var level apf.Level
	if o.cpu > 0 || memory > 0 {
		level = &apf.Signals{Servers: servers, CPU: o.cpu, Memory: memory}
	} else {
		level = o.level()
	}
	pacing := plan.DefaultPacing
	pacing.Min, pacing.Hold = o.least, o.hold
	var printing error
	follower := &apf.Follower{
		Writer: cluster.writer(env, journal), Level: level, Servers: servers, Protected: slices.Clone(o.protected), Pacing: pacing,
		Every: o.every, Timeout: 2 * o.timeout, Count: o.count, DryRun: o.dryRun, Log: env.Log(),
	}
	if o.dryRun {
		follower.Planned = func(p plan.Plan, apiServers int) {
			planned := &apfPlanned{APIServers: apiServers, Plan: p}
			if o.output == "table" {
				printing = errors.Join(printing, writeAPFPlan(env.Stdout, planned))
			} else {
				printing = errors.Join(printing, o.write(env, planned))
			}
		}
	}
	if err := errors.Join(follower.Run(ctx), printing); err != nil {
		return withHint(err, "'seakeep gate apf status' says what is left, 'seakeep gate apf restore' takes it back; "+apfRights)
	}
	return nil
}
