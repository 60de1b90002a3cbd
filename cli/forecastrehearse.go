package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spf13/cobra"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/forecast/rehearse"
	"github.com/seakeep/seakeep/lab"
)

const rehearseHint = "see 'seakeep forecast rehearse --help'"

// rehearseOptions are the flags of `forecast rehearse`.
type rehearseOptions struct {
	forecastOptions
	dir     string
	program string
	args    []string
	env     []string
	last    int
	account string
	role    string
}

// newForecastRehearse is `seakeep forecast rehearse`.
func newForecastRehearse(env *Env) *cobra.Command {
	var o rehearseOptions
	cmd := &cobra.Command{
		Use:   "rehearse --exec PROGRAM --nodes N [flags] [-- ARGUMENTS]",
		Short: "Run the real program against a lab, once for each node, and forecast what it will cost",
		Long: `Runs a component's real program against a lab that 'seakeep lab up' made, on 1, 3, 9 and so on nodes up to --nodes: each as a
process of its own, with the token its pod would have on that node and a kubeconfig in $KUBECONFIG. $NODE_NAME, $POD_NAME and
$POD_NAMESPACE are set, and replaced in the arguments as $(NODE_NAME). What each step costs the lab's API server is measured, and
says what all nodes would cost: before any node of a real cluster has seen it. 'seakeep lab up --shape' makes the lab as large as
the cluster it is about; what a lab's API server needs for a request on this machine, another may do faster.

The programs run as you, on this machine, and are not confined. They end with this command.`,
		Example: `  seakeep lab up --nodes 300 --pods 5000
  seakeep forecast rehearse --exec ./agent --nodes 27 --service-account telemetry/agent --cluster-role view -- --interval=10s
  seakeep forecast rehearse --exec ./agent --nodes 9 --samples rehearsal.jsonl --for production=300,5000 --capacity cpu=8-2`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.args = args
			return runRehearse(cmd.Context(), env, &o)
		},
	}
	dirFlag(cmd, &o.dir)
	flags := cmd.Flags()
	flags.StringVar(&o.program, "exec", "", "the component's `program`")
	flags.IntVar(&o.last, "nodes", 9, "nodes of the last step")
	flags.StringArrayVar(&o.env, "env", nil, "a further `NAME=VALUE` of the program's environment; may be repeated")
	flags.StringVar(&o.account, "service-account", "rehearsal/agent", "whose identity the programs have, `NAMESPACE/NAME`; made when it is not there")
	flags.StringVar(&o.role, "cluster-role", "view", "cluster role of the service account; empty: what it may do is in the lab already")
	flags.StringVar(&o.counted, "objects", "pods", "the `resource` the component reads, as pods or deployments.apps: with it the cost of a node may grow")
	flags.StringVar(&o.samples, "samples", "", "`file` with what was measured before; what is measured now is added")
	flags.DurationVar(&o.hold, "hold", 2*time.Minute, "how long to measure each step")
	flags.DurationVar(&o.window, "window", 20*time.Second, "length of one sample")
	flags.DurationVar(&o.period, "period", 0, "the component's slowest timer, if it is known")
	flags.StringArrayVar(&o.targets, "for", nil, "say it for another cluster too, as `NAME=NODES[,OBJECTS]`; may be repeated")
	flags.StringSliceVar(&o.capacity, "capacity", nil, "what API servers have of a kind, as `KIND=AMOUNT[-USED]` (default: what the lab's say themselves)")
	flags.Float64Var(&o.most, "max-utilization", forecast.DefaultMaxUtilization, "share of what others leave that the component may take")
	flags.StringVarP(&o.output, "output", "o", "table", "table | json | html")
	_ = cmd.MarkFlagFilename("exec")
	for _, name := range []string{"nodes", "env", "service-account", "cluster-role", "objects", "hold", "window", "period", "for", "capacity", "max-utilization"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "html"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func runRehearse(ctx context.Context, env *Env, o *rehearseOptions) error {
	o.workload, o.name, o.shares = "rehearsal", "rehearsal", observe.DefaultShares
	switch {
	case o.program == "":
		return usageError(errors.New("rehearse needs --exec: the component's program"), rehearseHint)
	case o.last < 3:
		return usageError(fmt.Errorf("--nodes must be ≥ 3, or there is no line through the steps, got %d", o.last), rehearseHint)
	}
	if err := o.check(); err != nil {
		return err
	}
	rooms, err := o.parseCapacity()
	if err != nil {
		return usageError(err, rehearseHint)
	}
	targets, err := o.parseTargets()
	if err != nil {
		return usageError(err, rehearseHint)
	}
	samples, err := o.earlier()
	if err != nil {
		return err
	}
	measured, survey, err := o.rehearse(ctx, env)
	if err != nil {
		return err
	}
	return o.report(env, append(samples, measured...), rooms, targets, survey)
}

// rehearse runs the programs, step by step, and takes everything back.
func (o *rehearseOptions) rehearse(ctx context.Context, env *Env) (samples []forecast.Sample, survey *observe.Survey, err error) {
	status, err := lab.ReadStatus(o.dir)
	if err != nil {
		return nil, nil, labError(err, o.dir)
	}
	text, err := lab.Kubeconfig(o.dir, lab.Masters, "", "")
	if err != nil {
		return nil, nil, labError(err, o.dir)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(text)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the lab's kubeconfig: %w", err)
	}
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, fmt.Errorf("preparing to call the lab: %w", err)
	}
	sources, err := apiServers(config, nil)
	if err != nil {
		return nil, nil, err
	}
	defer utilnet.CloseIdleConnectionsFor(sources[0].client.Transport)
	servers := []observe.Server{{Name: sources[0].name, URL: sources[0].url, Client: sources[0].client}}
	authority, err := os.ReadFile(status.CAFile)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the lab's authority: %w", err)
	}
	r, err := rehearse.New(ctx, rehearse.Options{
		Client: client, Server: status.Server, CA: authority, Dir: filepath.Join(o.dir, "rehearsal"),
		Exec: o.program, Args: o.args, Env: o.env, Path: env.Getenv("PATH"), ServiceAccount: o.account, ClusterRole: o.role,
	})
	if err != nil {
		return nil, nil, usageError(err, rehearseHint)
	}
	ending := context.WithoutCancel(ctx)
	defer func() { err = errors.Join(err, r.End(ending)) }()
	if o.last > r.Nodes() {
		return nil, nil, usageError(fmt.Errorf("--nodes is %d, and the lab has %d", o.last, r.Nodes()), "'seakeep lab up --nodes' makes it larger")
	}
	meter, remove, err := o.flow(ctx, env, client, servers, o.account)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	looked, err := observe.Look(ctx, servers, min(o.window, 10*time.Second))
	if err != nil {
		return nil, nil, err
	}
	r.Objects = looked.Objects[o.resource()]
	samples, err = o.steps(ctx, env, r, meter)
	return samples, &looked, err
}

// steps measures none, 1, 3, 9 … nodes. What was measured while programs started is a startup's.
func (o *rehearseOptions) steps(ctx context.Context, env *Env, r *rehearse.Rehearsal, meter observe.Meter) (samples []forecast.Sample, err error) {
	before := 0
	for _, n := range slices.Concat([]int{0}, rehearse.Steps(o.last)) {
		windows := max(2, int(o.hold/o.window))
		if n == 0 {
			windows = 2
		}
		if err := r.Grow(ctx, n); err != nil {
			return nil, err
		}
		fmt.Fprintf(env.Stderr, "rehearsing on %d of %d nodes, %s\n", n, r.Nodes(), time.Duration(windows)*o.window)
		first := n > 0
		began, took := n-before, 0
		var refused error
		err := observe.Samples(ctx, meter, r, observe.Hold{Window: o.window, Windows: windows, Skip: func(why string) { refused = errors.New(why) }}, func(s forecast.Sample) {
			// The programs of this step started just before its first window.
			if first {
				s.Startup, s.Started, first = true, began, false
			}
			took++
			samples = append(samples, s)
			fmt.Fprintf(env.Stderr, "%d nodes: %s\n", s.Exposed, costText(s))
		})
		switch {
		case err != nil:
			return nil, err
		case took < 2 && refused != nil:
			return nil, fmt.Errorf("rehearsing on %d nodes: %w", n, refused)
		}
		before = n
	}
	return samples, o.keep(samples)
}
