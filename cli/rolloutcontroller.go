package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/fleet"
	fileconfig "github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/telemetry"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/hub"
	"github.com/seakeep/seakeep/rollout/journal"
)

// rolloutController are the flags of `rollout controller`.
type rolloutController struct {
	rolloutCarry
	fleet               string
	kubeconfig, context string
	namespace           string
	metrics, health     string
	insecureListen      bool
	statusEvery, retry  time.Duration
	leaderLease         time.Duration
}

func newRolloutController(env *Env) *cobra.Command {
	var o rolloutController
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Carry out the Rollouts that are objects of a hub cluster",
		Long: `Watches the Rollouts of one namespace of a hub cluster, and carries each out as 'rollout run' would: with the same fields, the same
checks, the same engine, and a journal in --state-dir from which the next process goes on. The Fleet is read anew when a run
begins, and when one is gone on with.

A Rollout annotated with seakeep.dev/approval-for=clusterstagedupdaterun/NAME approves the requests of that update run of KubeFleet,
stage by stage, while its own stages pass.

Whoever may write Rollouts in that namespace may change every cluster of the fleet. An object may not have files of this machine
read. deploy/rollout has what the hub needs.`,
		Example: `  seakeep rollout controller --fleet fleet.yaml --namespace seakeep
  kubectl -n seakeep annotate rollout telemetry seakeep.dev/order=pause
  kubectl -n seakeep get rollouts`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), env) },
	}
	o.rolloutCarry.flags(cmd)
	cmd.ValidArgsFunction = cobra.NoFileCompletions
	flags := cmd.Flags()
	flags.StringVar(&o.fleet, "fleet", "", "`file` with the Fleet")
	flags.StringVar(&o.kubeconfig, "kubeconfig", "", "`file` that says how the hub is reached (default: the pod's own)")
	flags.StringVar(&o.context, "context", "", "one of its `contexts` (default: its current one)")
	flags.StringVarP(&o.namespace, "namespace", "n", "", "the `namespace` whose Rollouts are carried out, and that holds the leader's Lease")
	flags.StringVar(&o.metrics, "metrics", "127.0.0.1:7461", "serve metrics at this `address`; 0 for nowhere")
	flags.StringVar(&o.health, "health", "127.0.0.1:7462", "serve /healthz and /readyz at this `address`; 0 for nowhere")
	flags.BoolVar(&o.insecureListen, "insecure-listen", false, "let --metrics and --health be beyond loopback, where whoever reaches them may read them")
	flags.DurationVar(&o.statusEvery, "status-every", 5*time.Second, "how often a status is written while a run is under way, 200ms to 1m")
	flags.DurationVar(&o.retry, "retry", time.Minute, "how long after a refusal (a cluster that does not answer) it is tried again, 1s to 1h")
	flags.DurationVar(&o.leaderLease, "leader-lease", time.Minute, "how long the leader's Lease outlives it, 5s to 10m; while the hub is down for longer, nothing moves")
	_ = cmd.MarkFlagFilename("fleet", "yaml", "yml", "json")
	_ = cmd.MarkFlagFilename("kubeconfig")
	for _, name := range []string{"context", "namespace", "metrics", "health", "status-every", "retry", "leader-lease"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func (o *rolloutController) check() error {
	switch {
	case o.fleet == "":
		return usageError(errors.New("controller needs --fleet FILE: which clusters?"), rolloutHint)
	case o.namespace == "":
		return usageError(errors.New("controller needs --namespace: whose Rollouts?"), rolloutHint)
	}
	if err := checkLengths(
		lengthFlag{"status-every", o.statusEvery, 200 * time.Millisecond, time.Minute}, lengthFlag{"retry", o.retry, time.Second, time.Hour},
		lengthFlag{"leader-lease", o.leaderLease, 5 * time.Second, 10 * time.Minute},
	); err != nil {
		return err
	}
	for name, address := range map[string]string{"metrics": o.metrics, "health": o.health} {
		if address == "0" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return usageError(fmt.Errorf("--%s must be host:port or 0, got %q", name, address), rolloutHint)
		}
		if !o.insecureListen && !v1alpha1.IsLoopback(address) {
			return usageError(fmt.Errorf("--%s %s is beyond loopback: it needs --insecure-listen", name, address), rolloutHint)
		}
	}
	return o.rolloutCarry.check()
}

func (o *rolloutController) run(ctx context.Context, env *Env) error {
	if err := o.check(); err != nil {
		return err
	}
	runs := &hubRuns{env: env, rolloutCarry: &o.rolloutCarry, fleet: o.fleet}
	if _, err := runs.members(); err != nil { // refused at the start, not when a run is to begin
		return err
	}
	reach, err := o.hub(env)
	if err != nil {
		return err
	}
	runs.hub = reach
	ctrllog.SetLogger(telemetry.Logr(env.Log()))
	renew, retry, again := o.leaderLease*2/3, o.leaderLease/15, true
	m, err := manager.New(reach, manager.Options{
		Scheme: runtime.NewScheme(), Logger: telemetry.Logr(env.Log()),
		Cache:          cache.Options{DefaultNamespaces: map[string]cache.Config{o.namespace: {}}},
		LeaderElection: true, LeaderElectionID: "seakeep-rollout-controller", LeaderElectionNamespace: o.namespace, LeaderElectionReleaseOnCancel: true,
		LeaseDuration: &o.leaderLease, RenewDeadline: &renew, RetryPeriod: &retry,
		Metrics: metricsserver.Options{BindAddress: o.metrics}, HealthProbeBindAddress: o.health,
		Controller: config.Controller{SkipNameValidation: &again}, // a process may play the controller more than once, in tests
	})
	if err != nil {
		return fmt.Errorf("preparing to watch the hub %s: %w", reach.Host, err)
	}
	if err := hub.Add(m, hub.Options{Runs: runs, StateDir: o.state.dir, Every: o.statusEvery, Retry: o.retry, Log: env.Log()}); err != nil {
		return fmt.Errorf("preparing the controller: %w", err)
	}
	fmt.Fprintf(env.Stderr, "carrying out the Rollouts of %s on %s, state in %s\n", o.namespace, reach.Host, o.state.dir)
	if err := m.Start(ctx); err != nil {
		return fmt.Errorf("carrying out Rollouts: %w", err)
	}
	return nil
}

func (o *rolloutController) hub(env *Env) (reach *rest.Config, err error) {
	if o.kubeconfig == "" && o.context == "" {
		if reach, err = rest.InClusterConfig(); err != nil {
			err = usageError(fmt.Errorf("reading how the hub is reached: %w", err), "--kubeconfig names a file; in a pod none is needed")
		}
	} else {
		reach, err = (&clusterTarget{kubeconfig: o.kubeconfig, context: o.context}).config(env)
	}
	if err != nil {
		return nil, err
	}
	reach.UserAgent = "seakeep-rollout-controller/" + versionOf(version, nil).Version
	return reach, nil
}

// hubRuns joins the controller to what `run` does.
type hubRuns struct {
	*rolloutCarry
	env   *Env
	fleet string
	// hub is where sources of the fleet without a kubeconfig are read.
	hub *rest.Config
}

var _ hub.Runs = (*hubRuns)(nil)

func (r *hubRuns) members() (*v1alpha1.Fleet, error) {
	members, _, err := fileconfig.LoadKind[*v1alpha1.Fleet](r.fleet, nil)
	if err != nil {
		return nil, usageError(err, "'seakeep config defaults Fleet' prints what there is")
	}
	return members, nil
}

// known is the fleet as it is now.
func (r *hubRuns) known(ctx context.Context) (map[string]fleet.Cluster, error) {
	members, err := r.members()
	if err != nil {
		return nil, err
	}
	return r.load(ctx, members, r.hub)
}

// Begin implements hub.Runs.
func (r *hubRuns) Begin(ctx context.Context, j *journal.Journal, rollout *v1alpha1.Rollout, origin journal.Origin) (string, error) {
	clusters, err := r.known(ctx)
	if err != nil {
		return "", err
	}
	return r.begin(ctx, r.env, j, rollout, &origin, clusters)
}

// Carry implements hub.Runs.
func (r *hubRuns) Carry(ctx context.Context, j *journal.Journal, run string, ready func(func() engine.View), event func(journal.Event)) (journal.Run, error) {
	clusters, err := r.known(ctx)
	if err != nil {
		return journal.Run{}, err
	}
	return r.carry(ctx, r.env, j, run, clusters, rolloutTold{event: event, ready: func(_ context.Context, view func() engine.View, _ *v1alpha1.Rollout) (func(), error) {
		ready(view)
		return func() {}, nil
	}})
}
