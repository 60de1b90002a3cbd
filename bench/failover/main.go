// Command failover measures what clients lose when one of three API servers loses its etcd and seems well otherwise:
// through the gate, and through HAProxy tuned for it. Both stand before the same three real API servers, each on an etcd
// member of its own, and take turns.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"time"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/run"
)

// options are how a run is made; the zero value of none is useful.
type options struct {
	run.Options
	seakeep string
	writes  float64
	window  time.Duration
}

func main() {
	part := run.Part{
		Name: "failover", Subject: gateName, Baselines: []baseline.Program{baseline.HAProxy},
		Hint: "the benchmark compares with Debian's haproxy and cannot run without it",
	}
	run.Main(part, func(args []string, getenv func(string) string, stderr io.Writer) (run.Options, run.Start, error) {
		o, err := parse(args, getenv, stderr)
		return o.Options, func(ctx context.Context, dir string, say run.Say) (run.Rig, error) { return newRig(ctx, o, dir, say) }, err
	})
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	o.Options, err = run.Parse("failover", args, getenv, stderr, func(flags *flag.FlagSet) {
		flags.StringVar(&o.seakeep, "seakeep", "bin/seakeep", "the `program` under test")
		flags.Float64Var(&o.writes, "writes", 60, "writes per second that are offered")
		flags.DurationVar(&o.window, "window", 10*time.Second, "how long after the fault writes are counted")
	})
	if err == nil && (o.writes < 10 || o.writes > 500 || o.window < 5*time.Second) {
		err = errors.New("writes must be 10–500, the window ≥ 5s")
	}
	return o, err
}
