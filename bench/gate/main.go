// Command gate measures the gate beside what teams put in front of their API servers today: nothing, HAProxy, nginx.
// All stand before the same real API server in one run, in turns of seconds, so that what else the machine does
// happens to all of them.
package main

import (
	"context"
	"errors"
	"flag"
	"io"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/run"
)

// options are how a run is made; the zero value of none is useful.
type options struct {
	run.Options
	seakeep string
	pods    int
	watches int
	frozen  string
}

func main() {
	part := run.Part{
		Name: "gate", Subject: gateName, Baselines: []baseline.Program{baseline.HAProxy, baseline.Nginx},
		Hint: "the benchmark compares with Debian's haproxy and nginx-light and cannot run without them",
	}
	run.Main(part, func(args []string, getenv func(string) string, stderr io.Writer) (run.Options, run.Start, error) {
		o, err := parse(args, getenv, stderr)
		return o.Options, func(ctx context.Context, dir string, say run.Say) (run.Rig, error) { return newRig(ctx, o, dir, say) }, err
	})
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	o.Options, err = run.Parse("gate", args, getenv, stderr, func(flags *flag.FlagSet) {
		flags.StringVar(&o.seakeep, "seakeep", "bin/seakeep", "the `program` under test")
		flags.IntVar(&o.pods, "pods", 5000, "pods in the cluster")
		flags.IntVar(&o.watches, "watches", 1000, "watches of the fan-in; twice as many of the memory")
		flags.StringVar(&o.frozen, "frozen", "", "`folder` that keeps the populated control plane for the next run; made when absent")
	})
	if err == nil && (o.pods < 1000 || o.watches < 100) {
		err = errors.New("pods must be ≥ 1000, watches ≥ 100")
	}
	return o, err
}
