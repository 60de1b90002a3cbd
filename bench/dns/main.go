// Command dns measures seakeep-dns beside what clusters run today: CoreDNS with the kubernetes plugin, the same with a
// cache, and unbound with the same names in a file. All read the same API server in one run, in turns of seconds, so that
// what else the machine does happens to all of them.
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
	program   string
	out       string
	version   string
	rounds    int
	turn      time.Duration
	rate      int
	services  int // of the first cases; with 10 endpoints each
	grown     int // of the last cases
	instances int
	only      *regexp.Regexp
}

// The programs beside Seakeep's own.
var (
	dnsperf = baseline.Program{Name: "dnsperf", Package: "dnsperf", VersionArgs: []string{"-h"}}
	unbound = baseline.Program{Name: "unbound", Package: "unbound", VersionArgs: []string{"-V"}}
)

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
			fmt.Fprintln(os.Stderr, "hint: the benchmark asks with Debian's dnsperf, compares with Debian's unbound, and cannot run without them")
		}
		os.Exit(1)
	}
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("bench-dns", flag.ContinueOnError)
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
	flags.StringVar(&o.program, "seakeep-dns", "bin/seakeep-dns", "the `program` under test; stock CoreDNS is the same program with another plugin")
	flags.StringVar(&o.out, "out", "out/bench", "`folder` of the report and the profiles")
	flags.StringVar(&o.version, "version", "devel", "`version` of the program under test")
	flags.IntVar(&o.rounds, "rounds", 5, "how often each contender has its turn in each case")
	flags.DurationVar(&o.turn, "turn", length, "how long a turn is")
	flags.IntVar(&o.rate, "rate", 20000, "queries per second of the constant rate")
	flags.IntVar(&o.services, "services", 1000, "services of the small cluster, with 10 endpoints each")
	flags.IntVar(&o.grown, "grown", 10000, "services of the large cluster, with 10 endpoints each")
	flags.IntVar(&o.instances, "instances", 200, "DNS servers that restart against one API server")
	flags.StringVar(&only, "only", "", "measure only the cases whose name matches the `expression`")
	if err := flags.Parse(args); err != nil {
		return o, flag.ErrHelp
	}
	if o.rounds < 1 || o.turn < time.Second || o.rate < 1000 || o.services < 100 || o.grown < o.services || o.grown > 99999 || o.instances < 2 {
		return o, errors.New("rounds must be ≥ 1, a turn ≥ 1s, the rate ≥ 1000, services ≥ 100, grown ≥ services and ≤ 99999, instances ≥ 2")
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
	if err := baseline.Install(ctx, stderr, dnsperf, unbound); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "seakeep-bench-dns-")
	if err != nil {
		return fmt.Errorf("making a scratch folder: %w", err)
	}
	defer os.RemoveAll(dir)
	say := func(format string, a ...any) {
		fmt.Fprintf(stderr, "bench-dns: "+format+"\n", a...)
	}
	began := time.Now()
	r, err := newRig(ctx, o, dir, say)
	if err != nil {
		return err
	}
	defer r.close()
	report := &result.Report{
		Part: "dns", Subject: seakeepName, Machine: machine.Describe(), Taken: time.Now().UTC(), Version: o.version, Setup: r.setup(ctx),
	}
	if err := r.measure(ctx, report); err != nil {
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
