// Command dns measures seakeep-dns beside what clusters run today: CoreDNS with the kubernetes plugin, the same with a
// cache, and unbound with the same names in a file. All read the same API server in one run, in turns of seconds, so that
// what else the machine does happens to all of them.
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
	program   string
	rate      int
	services  int // of the first cases; with 10 endpoints each
	grown     int // of the last cases
	instances int
}

// The programs beside Seakeep's own.
var (
	dnsperf = baseline.Program{Name: "dnsperf", Package: "dnsperf", VersionArgs: []string{"-h"}}
	unbound = baseline.Program{Name: "unbound", Package: "unbound", VersionArgs: []string{"-V"}}
)

func main() {
	part := run.Part{
		Name: "dns", Subject: seakeepName, Baselines: []baseline.Program{dnsperf, unbound},
		Hint: "the benchmark asks with Debian's dnsperf, compares with Debian's unbound, and cannot run without them",
	}
	run.Main(part, func(args []string, getenv func(string) string, stderr io.Writer) (run.Options, run.Start, error) {
		o, err := parse(args, getenv, stderr)
		return o.Options, func(ctx context.Context, dir string, say run.Say) (run.Rig, error) { return newRig(ctx, o, dir, say) }, err
	})
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	o.Options, err = run.Parse("dns", args, getenv, stderr, func(flags *flag.FlagSet) {
		flags.StringVar(&o.program, "seakeep-dns", "bin/seakeep-dns", "the `program` under test; stock CoreDNS is the same program with another plugin")
		flags.IntVar(&o.rate, "rate", 20000, "queries per second of the constant rate")
		flags.IntVar(&o.services, "services", 1000, "services of the small cluster, with 10 endpoints each")
		flags.IntVar(&o.grown, "grown", 10000, "services of the large cluster, with 10 endpoints each")
		flags.IntVar(&o.instances, "instances", 200, "DNS servers that restart against one API server")
	})
	if err == nil && (o.rate < 1000 || o.services < 100 || o.grown < o.services || o.grown > 99999 || o.instances < 2) {
		err = errors.New("the rate must be ≥ 1000, services ≥ 100, grown ≥ services and ≤ 99999, instances ≥ 2")
	}
	return o, err
}
