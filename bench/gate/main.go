// Command gate measures the gate beside what teams put in front of their API servers today: nothing, HAProxy, nginx.
// All stand before the same real API server in one run, in turns of seconds, so that what else the machine does
// happens to all of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"

	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
)

// options are how a run is made; the zero value of none is useful.
type options struct {
	seakeep string
	out     string
	version string
	rounds  int
	turn    time.Duration
	pods    int
	watches int
	only    *regexp.Regexp
	frozen  string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "error:", err)
		if errors.Is(err, baseline.ErrMissing) {
			fmt.Fprintln(os.Stderr, "hint: the benchmark compares with Debian's haproxy and nginx-light and cannot run without them")
		}
		os.Exit(1)
	}
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("bench-gate", flag.ContinueOnError)
	flags.SetOutput(stderr)
	turn := "3s"
	if seconds := getenv("BENCH_SECONDS"); seconds != "" {
		turn = seconds + "s"
	}
	length, err := time.ParseDuration(turn)
	if err != nil {
		return o, fmt.Errorf("BENCH_SECONDS must be a number of seconds: %w", err)
	}
	only := ""
	flags.StringVar(&o.seakeep, "seakeep", "bin/seakeep", "the `program` under test")
	flags.StringVar(&o.out, "out", "out/bench", "`folder` of the report and the profiles")
	flags.StringVar(&o.version, "version", "devel", "`version` of the program under test")
	flags.IntVar(&o.rounds, "rounds", 5, "how often each contender has its turn in each case")
	flags.DurationVar(&o.turn, "turn", length, "how long a turn is")
	flags.IntVar(&o.pods, "pods", 5000, "pods in the cluster")
	flags.IntVar(&o.watches, "watches", 1000, "watches of the fan-in; twice as many of the memory")
	flags.StringVar(&only, "only", "", "measure only the cases whose name matches the `expression`")
	flags.StringVar(&o.frozen, "frozen", "", "`folder` that keeps the populated control plane for the next run; made when absent")
	if err := flags.Parse(args); err != nil {
		return o, flag.ErrHelp
	}
	if o.rounds < 1 || o.turn < time.Second || o.pods < 1000 || o.watches < 100 {
		return o, errors.New("rounds must be ≥ 1, a turn ≥ 1s, pods ≥ 1000, watches ≥ 100")
	}
	if o.only, err = regexp.Compile(only); err != nil {
		return o, fmt.Errorf("compiling -only: %w", err)
	}
	return o, nil
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	o, err := parse(args, getenv, stderr)
	if err != nil {
		return err
	}
	if err := baseline.Install(ctx, stderr, baseline.HAProxy, baseline.Nginx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "seakeep-bench-gate-")
	if err != nil {
		return fmt.Errorf("making a scratch folder: %w", err)
	}
	defer os.RemoveAll(dir)
	say := func(format string, a ...any) {
		fmt.Fprintf(stderr, "bench-gate: "+format+"\n", a...)
	}
	began := time.Now()
	r, err := newRig(ctx, o, dir, say)
	if err != nil {
		return err
	}
	defer r.close()
	report := &result.Report{
		Part: "gate", Subject: gateName, Machine: machine.Describe(), Taken: time.Now().UTC(), Version: o.version, Setup: r.setup(ctx),
	}
	if err := r.measure(ctx, report); err != nil {
		return err
	}
	if err := r.explain(ctx, report); err != nil {
		return err
	}
	if err := report.Table(stdout); err != nil {
		return err
	}
	file, err := report.Write(o.out)
	if err != nil {
		return err
	}
	say("%d numbers, %d targets missed, in %s; report in %s", len(report.Cases), len(report.Missed()), time.Since(began).Round(time.Second), file)
	return nil
}
