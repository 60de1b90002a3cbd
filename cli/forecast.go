package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/seakeep/seakeep/fleet"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/signals"
)

const forecastHint = "see 'seakeep forecast --help'"

// forecastOptions are the flags of `forecast`.
type forecastOptions struct {
	cluster  clusterTarget
	servers  []string
	workload string
	name     string
	nodes    int
	counted  string
	gates    []string
	agents   []string
	audits   []string
	samples  string
	hold     time.Duration
	window   time.Duration
	period   time.Duration
	shares   int32
	targets  []string
	capacity []string
	most     float64
	strict   bool
	output   string
	dryRun   bool
	fleet    string

	clusters map[string]fleet.Cluster
	record   *observe.Record // nil without a file
}

// newForecast is `seakeep forecast`.
func newForecast(env *Env) *cobra.Command {
	var o forecastOptions
	cmd := &cobra.Command{
		Use:   "forecast",
		Short: "Say what a change will cost the control plane on all nodes, from what it costs on a few",
		Long: `Measures what a DaemonSet costs the API servers on the nodes it runs on now, and says what it would cost on all of them, with
the interval that 95 of 100 measurements would lie in, and whether the API servers have that much left.

It is measured by a flow schema and a priority level that are made for the DaemonSet's ServiceAccount, for as long as it is
measured, and that cap it meanwhile; or by gates' ledgers (--gate), or from an audit log, with nothing written anywhere
(--audit). Each step that the change takes is measured once; --samples keeps what was measured for the next. None, one and
three nodes are enough for a first answer. How long to hold a step: two of the component's slowest periods, and several windows.

It answers Unknown where the data do not carry a prediction, and says what is missing. Exit code 3 is for anything but Pass.`,
		Example: `  seakeep forecast --workload daemonset/telemetry/agent --samples telemetry.jsonl --hold 10m     # at none, 1 and 3 nodes
  seakeep forecast --workload daemonset/telemetry/agent --audit /var/log/kubernetes/audit.log --nodes 300
  seakeep forecast --workload daemonset/telemetry/agent --samples telemetry.jsonl --fleet fleet.yaml --cluster production
  seakeep forecast --samples telemetry.jsonl --for production=3000 --capacity seats=40 -o json
  seakeep forecast lint -f agent.yaml
  seakeep forecast rehearse --exec ./agent --nodes 27 --for production=300`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runForecast(cmd.Context(), env, &o) },
	}
	o.cluster.flags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.servers, "server", nil, "an API server's `URL`, read with the kubeconfig's credentials; name every one (default the kubeconfig's server)")
	flags.StringVar(&o.workload, "workload", "", "what is measured: daemonset/`NAMESPACE/NAME`")
	flags.StringVar(&o.name, "cluster", "cluster", "`name` of the cluster that is measured")
	flags.IntVar(&o.nodes, "nodes", 0, "how many nodes the cluster has (default: what the API servers say)")
	flags.StringVar(&o.counted, "objects", "pods", "the `resource` the component reads, as pods or deployments.apps: with it the cost of a node may grow")
	flags.StringArrayVar(&o.gates, "gate", nil, "a gate's admin `socket`, or its URL; name every gate of the cluster: measure by their ledgers, and write nothing")
	flags.StringArrayVar(&o.agents, "user-agent", nil, "count only what calls itself so (a `glob`), with --gate or --audit")
	flags.StringArrayVar(&o.audits, "audit", nil, "an API server's audit log, plain or gzip: measure nothing, read it; may be repeated, - is standard input")
	flags.StringVar(&o.samples, "samples", "", "`file` with what was measured before; what is measured now is added")
	flags.DurationVar(&o.hold, "hold", 10*time.Minute, "how long to measure")
	flags.DurationVar(&o.window, "window", time.Minute, "length of one sample")
	flags.DurationVar(&o.period, "period", 0, "the component's slowest timer, if it is known")
	flags.Int32Var(&o.shares, "shares", observe.DefaultShares, "concurrency shares of the priority level that is made: its cap")
	flags.StringVar(&o.fleet, "fleet", "", "Fleet `file`: say it for each of its clusters too, with the room each has now; --cluster names the one that is measured")
	_ = cmd.MarkFlagFilename("fleet", "yaml", "yml", "json")
	flags.StringArrayVar(&o.targets, "for", nil, "say it for another cluster too, as `NAME=NODES[,OBJECTS]`; may be repeated")
	flags.StringSliceVar(&o.capacity, "capacity", nil, "what API servers have of a kind, as `KIND=AMOUNT[-USED]`, seats, requests, bytes, watches, cpu or memory (default: processors, memory limit and seats as they say themselves)")
	flags.Float64Var(&o.most, "max-utilization", forecast.DefaultMaxUtilization, "share of what others leave that the component may take")
	flags.BoolVar(&o.strict, "strict", false, "let memory, which is counted for whole API servers and breathes, hold it back as well")
	flags.StringVarP(&o.output, "output", "o", "table", "table | json | html")
	flags.BoolVar(&o.dryRun, "dry-run", false, "check that the flow schema can be made, and write and measure nothing")
	for _, name := range []string{"server", "workload", "cluster", "nodes", "objects", "user-agent", "hold", "window", "period", "shares", "for", "capacity", "max-utilization"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "html"}, cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(newForecastLint(env), newForecastShape(env), newForecastRehearse(env))
	return cmd
}

// check reads what flags alone cannot say.
func (o *forecastOptions) check() error {
	switch {
	case !slices.Contains([]string{"table", "json", "html"}, o.output):
		return usageError(fmt.Errorf("output must be table, json or html, got %q", o.output), forecastHint)
	case o.workload == "" && o.samples == "":
		return usageError(errors.New("forecast needs --workload, or --samples of one"), forecastHint)
	case len(o.audits) > 0 && len(o.gates) > 0:
		return usageError(errors.New("--audit and --gate are two ways to measure: use one of them"), forecastHint)
	case len(o.audits) > 0 && o.workload == "":
		return usageError(errors.New("--audit needs --workload: whose requests are to be counted"), forecastHint)
	case o.dryRun && (o.workload == "" || len(o.audits) > 0 || len(o.gates) > 0):
		return usageError(errors.New("--dry-run is for a flow schema: with --workload, and without --audit and --gate"), forecastHint)
	case o.window < observe.MinWindow || o.window > time.Hour:
		return usageError(fmt.Errorf("--window must be %s to 1h, got %s", observe.MinWindow, o.window), forecastHint)
	case o.hold < o.window || o.hold > 24*time.Hour:
		return usageError(fmt.Errorf("--hold must be at least a window, %s, and at most 24h, got %s", o.window, o.hold), forecastHint)
	case o.nodes < 0:
		return usageError(fmt.Errorf("--nodes must be ≥ 1, got %d", o.nodes), forecastHint)
	case !(o.most > 0 && o.most <= 1):
		return usageError(fmt.Errorf("--max-utilization must be > 0 and ≤ 1, got %v", o.most), forecastHint)
	}
	return checkURLs("an API server", o.servers, forecastHint)
}

// forecastTarget is a cluster that is asked about.
type forecastTarget struct {
	at forecast.At
	// survey is what the fleet's cluster said of itself, unread why it said nothing.
	survey *observe.Survey
	unread error
}

// parseForecastTarget reads NAME=NODES[,OBJECTS].
func parseForecastTarget(text string) (forecast.At, error) {
	wrong := fmt.Errorf("--for must be NAME=NODES or NAME=NODES,OBJECTS, got %q", text)
	name, sizes, ok := strings.Cut(text, "=")
	nodes, objects, more := strings.Cut(sizes, ",")
	at := forecast.At{Cluster: name}
	var err error
	if at.Nodes, err = strconv.Atoi(nodes); err != nil || !ok || name == "" || at.Nodes < 1 {
		return at, wrong
	}
	if more {
		if at.Objects, err = strconv.Atoi(objects); err != nil || at.Objects < 1 {
			return at, wrong
		}
	}
	return at, nil
}

func (o *forecastOptions) parseTargets() ([]forecastTarget, error) {
	var targets []forecastTarget
	for _, text := range o.targets {
		at, err := parseForecastTarget(text)
		if err != nil {
			return nil, err
		}
		targets = append(targets, forecastTarget{at: at})
	}
	return targets, nil
}

// parseCapacity reads KIND=AMOUNT[-USED].
func (o *forecastOptions) parseCapacity() (map[forecast.Kind]forecast.Room, error) {
	rooms := map[forecast.Kind]forecast.Room{}
	for _, text := range o.capacity {
		wrong := fmt.Errorf("--capacity must be KIND=AMOUNT or KIND=AMOUNT-USED, as seats=40-12 or memory=16Gi, got %q", text)
		kind, amounts, ok := strings.Cut(text, "=")
		has, used, more := strings.Cut(amounts, "-")
		if !ok || !slices.Contains(forecast.Kinds(), forecast.Kind(kind)) {
			return nil, wrong
		}
		var room forecast.Room
		q, err := resource.ParseQuantity(has)
		if err != nil || q.Sign() <= 0 {
			return nil, wrong
		}
		room.Capacity = q.AsApproximateFloat64()
		if more {
			if q, err = resource.ParseQuantity(used); err != nil || q.Sign() < 0 {
				return nil, wrong
			}
			room.Used = q.AsApproximateFloat64()
		}
		rooms[forecast.Kind(kind)] = room
	}
	return rooms, nil
}

func (o *forecastOptions) resource() signals.Resource {
	name, group, _ := strings.Cut(o.counted, ".")
	return signals.Resource{Group: group, Resource: name}
}

func runForecast(ctx context.Context, env *Env, o *forecastOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	rooms, err := o.parseCapacity()
	if err != nil {
		return usageError(err, forecastHint)
	}
	targets, err := o.parseTargets()
	if err != nil {
		return usageError(err, forecastHint)
	}
	samples, err := o.earlier()
	if err != nil {
		return err
	}
	if o.clusters, err = o.loadFleet(ctx, env); err != nil {
		return err
	}
	var survey *observe.Survey
	switch {
	case len(o.audits) > 0:
		var read []forecast.Sample
		if read, err = o.readAudits(ctx, env); err == nil {
			samples = append(samples, read...)
			err = o.keep(read)
		}
	case o.workload != "":
		var measured []forecast.Sample
		measured, survey, err = o.measure(ctx, env)
		samples = append(samples, measured...)
	}
	if err != nil || o.dryRun {
		return err
	}
	return o.report(env, samples, rooms, mergeTargets(o.survey(ctx), targets), survey)
}

// report says what the samples come to on every cluster that is asked about.
func (o *forecastOptions) report(env *Env, samples []forecast.Sample, rooms map[forecast.Kind]forecast.Room, targets []forecastTarget, survey *observe.Survey) error {
	model, err := forecast.Fit(samples, forecast.Options{Period: o.period})
	if err != nil {
		return usageError(err, forecastHint)
	}
	f := forecastReport{Workload: o.workload, MaxUtilization: o.most, Samples: samples}
	worst := forecast.Pass
	for _, t := range mergeTargets(o.measured(samples), targets) {
		var row forecastRow
		if t.unread != nil {
			row = unreadRow(t)
		} else {
			capacity := forecast.Capacity{Kinds: o.rooms(t, rooms, model, survey), MaxUtilization: o.most}
			row = forecastRow{Cluster: t.at.Cluster, Nodes: t.at.Nodes, Prediction: model.Predict(t.at), Capacity: capacity}
			row.Judgement = forecast.Judge(row.Prediction, capacity)
		}
		if row.Judgement.Outcome != forecast.Pass {
			worst = row.Judgement.Outcome
		}
		f.Clusters = append(f.Clusters, row)
	}
	if err := f.write(env.Stdout, o.output, model); err != nil {
		return err
	}
	if worst != forecast.Pass {
		return findings()
	}
	return nil
}

// measured are the clusters that samples are of, as they were last.
func (o *forecastOptions) measured(samples []forecast.Sample) []forecastTarget {
	var targets []forecastTarget
	for _, s := range samples {
		i := slices.IndexFunc(targets, func(t forecastTarget) bool { return t.at.Cluster == s.Cluster })
		if i < 0 {
			targets = append(targets, forecastTarget{at: forecast.At{Cluster: s.Cluster}})
			i = len(targets) - 1
		}
		targets[i].at.Nodes, targets[i].at.Objects = s.Nodes, s.Objects
	}
	return targets
}

// rooms are what a cluster has: what the command line says, else what its API servers said of themselves.
func (o *forecastOptions) rooms(t forecastTarget, given map[forecast.Kind]forecast.Room, model *forecast.Model, survey *observe.Survey) map[forecast.Kind]forecast.Room {
	if len(given) > 0 {
		return given
	}
	if survey != nil && t.at.Cluster == o.name {
		t.survey = survey // of before it was measured
	}
	if t.survey == nil {
		return nil
	}
	own := 0.0
	if background, ok := model.Background(t.at.Cluster, forecast.CPU); ok {
		own = max(0, t.survey.CPU-background)
	}
	rooms := t.survey.Room(own)
	if o.strict {
		for kind, room := range rooms {
			room.Advisory = false
			rooms[kind] = room
		}
	}
	return rooms
}

// earlier reads the samples of before, and opens the file for those that are taken.
func (o *forecastOptions) earlier() (_ []forecast.Sample, err error) {
	if o.samples == "" {
		return nil, nil
	}
	if _, err := os.Stat(o.samples); err != nil && (o.workload == "" || !errors.Is(err, os.ErrNotExist)) { // at the first step there is none
		return nil, usageError(fmt.Errorf("reading samples: %w", err), "")
	}
	if o.record, err = observe.OpenRecord(o.samples, 0o644); err != nil {
		return nil, usageError(err, "")
	}
	return slices.Clone(o.record.Samples), nil
}

// keep adds samples to the file.
func (o *forecastOptions) keep(samples []forecast.Sample) error {
	if o.record == nil {
		return nil
	}
	for _, s := range samples {
		if err := o.record.Keep(s); err != nil {
			return fmt.Errorf("keeping samples: %w", err)
		}
	}
	return nil
}
