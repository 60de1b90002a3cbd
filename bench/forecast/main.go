// Command forecast measures how well a forecast from a few nodes says what all nodes cost: components drawn from a seed are
// held on none, one and three nodes of a lab of 300, forecast, and then let onto all nodes; and from staging and three nodes;
// and, drawn anew many times, on traces of such runs. A forecast is near when it is within a fifth of the truth, and right when
// the truth lies in its interval.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// options are how a run is made.
type options struct {
	run.Options
	seakeep string
	nodes   int
	staging int
	live    int
	drawn   int
	seed    uint64
	window  time.Duration
	few     int
	traces  string
	record  bool
}

const subject = "seakeep"

func main() {
	becomeAgent()
	run.Main(run.Part{Name: "forecast", Subject: subject}, func(args []string, getenv func(string) string, stderr io.Writer) (run.Options, run.Start, error) {
		o, err := parse(args, getenv, stderr)
		return o.Options, func(ctx context.Context, dir string, say run.Say) (run.Rig, error) {
			return &rig{options: o, dir: dir, say: say}, nil
		}, err
	})
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	o.Options, err = run.Parse("forecast", args, getenv, stderr, func(flags *flag.FlagSet) {
		flags.StringVar(&o.seakeep, "seakeep", "bin/seakeep", "the `program`, which runs the agents")
		flags.IntVar(&o.nodes, "nodes", 300, "nodes of the cluster")
		flags.IntVar(&o.staging, "staging", 50, "nodes of the staging cluster")
		flags.IntVar(&o.live, "live", 8, "components measured live")
		flags.IntVar(&o.drawn, "drawn", 32, "forecasts drawn from traces")
		flags.Uint64Var(&o.seed, "seed", 1, "draws the components")
		flags.DurationVar(&o.window, "window", 15*time.Second, "length of a sample")
		flags.IntVar(&o.few, "few", 6, "samples of one and of three nodes")
		flags.StringVar(&o.traces, "traces", "bench/forecast/testdata", "`folder` of the traces")
		flags.BoolVar(&o.record, "record", false, "write the traces anew, from this run")
	})
	if err != nil {
		return o, err
	}
	if o.nodes < 10 || o.staging < 5 || o.live < 1 || o.drawn < 0 || o.few < 3 || o.window < time.Second {
		return o, errors.New("nodes must be ≥ 10, staging ≥ 5, live ≥ 1, drawn ≥ 0, few ≥ 3, window ≥ 1s")
	}
	if o.seakeep, err = filepath.Abs(o.seakeep); err == nil {
		_, err = os.Stat(o.seakeep)
	}
	if err != nil {
		return o, fmt.Errorf("finding the program: %w", err)
	}
	return o, nil
}

// rig is the run.
type rig struct {
	options options
	dir     string
	say     run.Say
}

// Close implements run.Rig: clusters end where they are used.
func (r *rig) Close() {}

// Setup implements run.Rig.
func (r *rig) Setup(context.Context) []string {
	o := r.options
	said := []string{
		fmt.Sprintf("A lab of %d nodes, one of %d for staging, each with a real API server on the whole machine, which the agents share with it at nice 10.", o.nodes, o.staging),
		fmt.Sprintf("%d components drawn from seed %d: DaemonSets whose agents LIST 20 to 200 ConfigMaps of 0.3 to 2 KB, JSON or protobuf, compressed or not, from the API server's cache or newest, each a few seconds. Each comes to at most %g seats or so on all nodes: further up requests wait for each other, and the truth is cut off.", o.live, o.seed, most),
		fmt.Sprintf("All components are on none, one and three nodes at a time, %d samples of %s each, measured by flow schemas of their own. Then one after the other on all nodes, two samples: the truth is their mean.", o.few, o.window),
	}
	if !o.Wanted("live") {
		said = append(said, "In this run the large cluster is the recorded one: what follows is forecast of it.")
	}
	if o.Wanted("live") || o.Wanted("staging") {
		said = append(said,
			"Staging: the same components on all nodes of the staging cluster, of which the forecast knows none, one, and all; with them only three nodes of the large cluster.",
			"Rehearsal: the agents as a program of their own, a process for each node with its node's identity, on none, one, three and nine nodes of the staging lab, which has as many of the objects that they read; nothing of the large cluster itself is known.",
		)
	}
	return append(said,
		"Cost is requests, and service: the seats that requests would hold if none waited, each at the lower quartile of its like on that step, by the API server's audit log. Seats are what priority and fairness counts, as long as requests take: on a machine that others use too they are demand and waiting, and stand beside without a target.",
		fmt.Sprintf("Traces: requests with their nodes and times, as the audit log of such a run has them. %d forecasts are drawn from them: which node was the one, when the samples were taken, and which moment is the truth.", o.drawn),
		"The floor of what is timed, 8 %, was set with the first traces at hand; their intervals were ±10 % at the least before, and held 90 % of the truths. Live runs test it anew.",
		run.LoadAverage(),
	)
}

// outcome is one forecast and what became of it.
type outcome struct {
	how, name   string
	kind        string
	truth, mean float64
	lower       float64
	upper       float64
	unknown     string
}

func (o outcome) error() float64 { return 100 * (o.mean/o.truth - 1) }

func (o outcome) right() bool { return o.unknown == "" && o.lower <= o.truth && o.truth <= o.upper }

func (o outcome) String() string {
	if o.unknown != "" {
		return fmt.Sprintf("%s %s, %s: truth %.4g, unknown: %s", o.how, o.name, o.kind, o.truth, o.unknown)
	}
	mark := ""
	if !o.right() {
		mark = "  OUTSIDE"
	}
	return fmt.Sprintf("%s %s, %s: truth %.4g, forecast %.4g (%.4g–%.4g), %+.0f %%%s", o.how, o.name, o.kind, o.truth, o.mean, o.lower, o.upper, o.error(), mark)
}

// Measure implements run.Rig.
func (r *rig) Measure(ctx context.Context, report *result.Report) error {
	outcomes, err := r.measure(ctx)
	if err != nil {
		return err
	}
	for _, o := range outcomes {
		r.say("%s", o)
	}
	return r.cases(report, outcomes)
}
