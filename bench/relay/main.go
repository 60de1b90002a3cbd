// Command relay measures what sharing reads is worth: many agents that list every pod, through a gate that shares their
// LISTs, through the group-commit proxy one writes in an afternoon, and straight from the API server. All share the same
// two CPUs with the same real API server in one run, in turns, so that what else the machine does happens to all of them
// and a proxy has to save what it uses.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/run"
)

// options are how a run is made; the zero value of none is useful.
type options struct {
	run.Options
	seakeep     string
	naive       string
	pods        int // of the small cluster
	grown       int // of the large one
	most        int // agents
	watches     int
	subscribers int
	objects     int
	frozen      string
}

func main() {
	agents.Become()
	if len(os.Args) > 1 && os.Args[1] == bareArg {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		err := bareMain(ctx, os.Args[2:])
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		return
	}
	run.Main(run.Part{Name: "relay", Subject: gateName}, func(args []string, getenv func(string) string, stderr io.Writer) (run.Options, run.Start, error) {
		o, err := parse(args, getenv, stderr)
		return o.Options, func(ctx context.Context, dir string, say run.Say) (run.Rig, error) { return newRig(ctx, o, dir, say) }, err
	})
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	// A turn is as long as agents need to show a rate, and two rounds show whether it is one.
	defaults := []string{"-rounds", "2"}
	if getenv("BENCH_SECONDS") == "" {
		defaults = append(defaults, "-turn", "5s")
	}
	o.Options, err = run.Parse("relay", append(defaults, args...), getenv, stderr, func(flags *flag.FlagSet) {
		flags.StringVar(&o.seakeep, "seakeep", "bin/seakeep", "the `program` under test")
		flags.StringVar(&o.naive, "naive", "bin/bench/relay-naive", "the naive `program` it is compared with")
		flags.IntVar(&o.pods, "pods", 1000, "pods of the small cluster")
		flags.IntVar(&o.grown, "grown", 6000, "pods of the large cluster, which 300 agents list")
		flags.IntVar(&o.most, "agents", 1000, "agents at most; a tenth and a hundredth of them as well")
		flags.IntVar(&o.watches, "watches", 200, "watches of one object that is written 50 times a second")
		flags.IntVar(&o.subscribers, "subscribers", 2000, "watches whose memory is measured")
		flags.IntVar(&o.objects, "objects", 0, "objects of a collection that 20 agents LIST, 100000 say; 0 leaves it out, because making them takes minutes")
		flags.StringVar(&o.frozen, "frozen", "", "`folder` that keeps the populated control planes for the next run; made when absent")
	})
	switch {
	case err != nil:
		return o, err
	case o.pods < 100 || o.grown < o.pods || o.most < 100 || o.watches < 1 || o.subscribers < 100:
		return o, errors.New("pods must be ≥ 100, grown ≥ pods, agents ≥ 100, watches ≥ 1, subscribers ≥ 100")
	}
	for _, program := range []*string{&o.seakeep, &o.naive} {
		if *program, err = filepath.Abs(*program); err != nil {
			return o, fmt.Errorf("finding a program: %w", err)
		}
		if _, err := os.Stat(*program); err != nil {
			return o, fmt.Errorf("finding a program: %w", err)
		}
	}
	return o, nil
}
