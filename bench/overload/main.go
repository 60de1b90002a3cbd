// Command overload measures what becomes of a control plane under storms that are too much for it: an engineer's requests,
// the nodes' leases, the API server's memory, and what the storm itself gets done. Through the gate whose limit follows the
// control plane, through the same gate with fixed limits, through HAProxy, and straight to an API server as shipped and as
// tuned. All stand before the same real API server of one core, in turns, each with an API server just started.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/baseline"
	"github.com/seakeep/seakeep/bench/run"
)

// options are how a run is made; the zero value of none is useful.
type options struct {
	run.Options
	seakeep string
	nodes   int
	pods    int
	frozen  string
	// memory is the API server's bound, little the one of the recovery in which it dies again; in MiB.
	memory, little int
	informers      int
	// against matches the contenders that the gate is measured beside.
	against *regexp.Regexp
	// inflight, maxconn and fixed are the settings that are tried of what is tuned.
	inflight, maxconn, fixed []int
}

func main() {
	agents.Become()
	part := run.Part{
		Name: "overload", Subject: gateName, Baselines: []baseline.Program{baseline.HAProxy},
		Hint: "the benchmark compares with Debian's haproxy and cannot run without it",
	}
	run.Main(part, func(args []string, getenv func(string) string, stderr io.Writer) (run.Options, run.Start, error) {
		o, err := parse(args, getenv, stderr)
		return o.Options, func(ctx context.Context, dir string, say run.Say) (run.Rig, error) { return newRig(ctx, o, dir, say) }, err
	})
}

func parse(args []string, getenv func(string) string, stderr io.Writer) (o options, err error) {
	// A turn is as long as the nodes' leases take to be renewed once.
	defaults := []string{"-rounds", "1"}
	if getenv("BENCH_SECONDS") == "" {
		defaults = append(defaults, "-turn", renewEvery.String())
	}
	against := ""
	lists := map[string]*[]int{"inflight": &o.inflight, "maxconn": &o.maxconn, "fixed": &o.fixed}
	o.Options, err = run.Parse("overload", append(defaults, args...), getenv, stderr, func(flags *flag.FlagSet) {
		flags.StringVar(&o.seakeep, "seakeep", "bin/seakeep", "the `program` under test")
		flags.IntVar(&o.nodes, "nodes", 300, "nodes of the cluster, which renew their leases")
		flags.IntVar(&o.pods, "pods", 6000, "pods of the cluster")
		flags.IntVar(&o.memory, "memory", 8192, "bound of the API server's memory in MiB: a storm may not take the machine's")
		flags.IntVar(&o.little, "little", 700, "bound of the API server's memory in the recovery it does not survive unaided, in MiB")
		flags.IntVar(&o.informers, "informers", 1000, "informers that are attached when the API server is killed")
		flags.StringVar(&against, "against", "", "measure the gate only beside the contenders whose name matches the `expression`")
		flags.StringVar(&o.frozen, "frozen", "", "`folder` that keeps the populated control plane for the next run; made when absent")
		for _, f := range []struct{ name, value, usage string }{
			{"inflight", "4,32", "`settings` of the API server's --max-requests-inflight and --max-mutating-requests-inflight that are tried"},
			{"maxconn", "4,32", "`settings` of HAProxy's maxconn that are tried"},
			{"fixed", "10,30,90", "`settings` of the gate's fixed limit that are tried, in seats"},
		} {
			*lists[f.name], _ = parseList(f.value)
			flags.Func(f.name, f.usage+" (default "+f.value+")", func(text string) (err error) {
				*lists[f.name], err = parseList(text)
				return err
			})
		}
	})
	switch {
	case err != nil:
		return o, err
	case o.nodes < 1 || o.pods < 1000 || o.memory < 1000 || o.little < 500 || o.informers < 1:
		return o, errors.New("nodes must be ≥ 1, pods ≥ 1000, memory ≥ 1000, little ≥ 500, informers ≥ 1")
	}
	if o.against, err = regexp.Compile(against); err != nil {
		return o, fmt.Errorf("compiling -against: %w", err)
	}
	if o.seakeep, err = filepath.Abs(o.seakeep); err == nil {
		_, err = os.Stat(o.seakeep)
	}
	if err != nil {
		return o, fmt.Errorf("finding the program under test: %w", err)
	}
	return o, nil
}

// parseList parses numbers with commas between.
func parseList(text string) ([]int, error) {
	var list []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(part)
		if err != nil || n < 1 || slices.Contains(list, n) {
			return nil, fmt.Errorf("must be different numbers ≥ 1 with commas between, got %q", text)
		}
		list = append(list, n)
	}
	return list, nil
}
