package main

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/lab"
)

const (
	// getRate is well below what one CPU of an API server answers.
	getRate  = 300
	protobuf = "application/vnd.kubernetes.protobuf"
	// smallNamespace holds 500 pods of the population.
	smallNamespace = "app-0"
	// A warm-up that opens the connections is no part of a turn.
	warmUp = 300 * time.Millisecond
)

// workload is requests of one sort.
type workload struct {
	name        string
	of          func(i int) call
	certificate bool // with a client certificate instead of a token: direct and gate only
	// perSecond is the constant rate; 0: as fast as the workers get answers.
	perSecond float64
	workers   int
	// targets are held.
	targets bool
}

func (r *rig) workloads() []workload {
	get := func(i int) call {
		pod := r.pods[i%len(r.pods)]
		return call{method: http.MethodGet, path: "/api/v1/namespaces/" + pod.namespace + "/pods/" + pod.name, accept: protobuf}
	}
	list := func(path string) func(int) call {
		return func(int) call { return call{method: http.MethodGet, path: path, accept: protobuf} }
	}
	small := list("/api/v1/namespaces/" + smallNamespace + "/pods?resourceVersion=0")
	patch := func(i int) call {
		pod := r.pods[i%64]
		return call{
			method: http.MethodPatch, path: "/api/v1/namespaces/" + pod.namespace + "/pods/" + pod.name,
			accept: protobuf, contentType: "application/merge-patch+json",
			body: func(i int) []byte { return fmt.Appendf(nil, `{"metadata":{"annotations":{"bench":"%d"}}}`, i) },
		}
	}
	return []workload{
		{name: "GET pod", of: get, perSecond: getRate, targets: true},
		{name: "GET pod, saturated", of: get, workers: 32, targets: true},
		{name: "GET pod, client certificate", of: get, certificate: true, perSecond: getRate},
		{name: "LIST 500 pods", of: small, perSecond: 8, targets: true},
		{name: "LIST 500 pods, saturated", of: small, workers: 8, targets: true},
		{name: fmt.Sprintf("LIST %d pods", r.options.pods), of: list("/api/v1/pods?resourceVersion=0"), perSecond: 1},
		{name: "PATCH pod", of: patch, perSecond: 60, targets: true},
	}
}

// Measure fills the report's cases.
func (r *rig) Measure(ctx context.Context, report *result.Report) error {
	if r.options.Wanted(idleWatches) {
		if err := r.measureMemory(ctx, report); err != nil {
			return err
		}
	}
	for _, w := range r.workloads() {
		if !r.options.Wanted(w.name) {
			continue
		}
		if err := r.measureWorkload(ctx, w, report); err != nil {
			return fmt.Errorf("measuring %s: %w", w.name, err)
		}
	}
	if r.options.Wanted(watchFanIn) {
		if err := r.measureFanIn(ctx, report); err != nil {
			return fmt.Errorf("measuring %s: %w", watchFanIn, err)
		}
	}
	return r.explain(ctx, report)
}

// numbers are the runs of one workload's metrics.
type numbers struct{ p50, p99, rate, cpu, share, server, late result.Runs }

func newNumbers() *numbers {
	return &numbers{result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}}
}

func (r *rig) measureWorkload(ctx context.Context, w workload, report *result.Report) error {
	r.say("%s", w.name)
	contenders := r.order
	if w.certificate {
		contenders = []string{directName, gateName}
	}
	numbers := newNumbers()
	failed := map[string]int64{}
	err := run.Turns(r.options.Rounds, contenders, func(contender string) error {
		outcome, err := r.turn(ctx, w, contender, r.options.Turn, numbers)
		if err != nil {
			return fmt.Errorf("through %s: %w", contender, err)
		}
		failed[contender] += outcome.Failed
		return nil
	})
	if err != nil {
		return err
	}
	note := ""
	for _, contender := range contenders {
		if failed[contender] > 0 {
			note += fmt.Sprintf("%d requests through %s failed. ", failed[contender], contender)
		}
	}
	report.Cases = append(report.Cases, numbers.cases(w, note)...)
	return nil
}

// turn is one contender's turn in one round.
func (r *rig) turn(ctx context.Context, w workload, contender string, during time.Duration, into *numbers) (*load.Result, error) {
	c, err := r.clientsOf(contender, w.certificate, accounts)
	if err != nil {
		return nil, err
	}
	defer c.close()
	do := c.do(w.of)
	for i := range accounts { // every connection is there
		if _, err := do(ctx, i); err != nil {
			return nil, fmt.Errorf("warming up: %w", err)
		}
		if w.perSecond > 0 && w.perSecond < accounts {
			break // requests this heavy would be a load of their own
		}
	}
	if err := run.Pause(ctx, warmUp); err != nil {
		return nil, err
	}
	before, err := r.used(contender)
	if err != nil {
		return nil, err
	}
	var outcome *load.Result
	if w.perSecond > 0 {
		outcome = load.Open(ctx, w.perSecond, during, do)
	} else {
		outcome = load.Closed(ctx, w.workers, during, do)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	after, err := r.used(contender)
	if err != nil {
		return nil, err
	}
	if outcome.Failed*100 > outcome.Answered {
		return nil, fmt.Errorf("%d of %d requests failed, the first: %w", outcome.Failed, outcome.Failed+outcome.Answered, outcome.Err)
	}
	count := float64(outcome.Answered)
	into.p50.Add(contender, outcome.Latency.Milliseconds(0.5))
	into.p99.Add(contender, outcome.Latency.Milliseconds(0.99))
	into.late.Add(contender, outcome.Late.Milliseconds(0.99))
	into.rate.Add(contender, outcome.PerSecond())
	server := after.server - before.server
	into.server.Add(contender, server/count*1e6)
	if contender != directName {
		into.cpu.Add(contender, (after.proxy-before.proxy)/count*1e6)
		into.share.Add(contender, (after.proxy-before.proxy)/server*100)
	}
	return outcome, nil
}

// usage is CPU seconds.
type usage struct{ proxy, server float64 }

func (r *rig) used(contender string) (u usage, err error) {
	if u.server, err = machine.CPUSeconds(r.pid(lab.KindAPIServer)); err != nil {
		return u, err
	}
	if contender != directName {
		u.proxy, err = machine.CPUSeconds(r.pid(contender))
	}
	return u, err
}

const getProfile = "CPU of the gate under GET pod"

// cases are the numbers of a workload, with their targets.
func (n *numbers) cases(w workload, note string) []result.Case {
	var cases []result.Case
	add := func(runs result.Runs, metric, unit string, judge func(*result.Case)) {
		c := runs.Case(w.name, metric, unit, gateName)
		if judge != nil && w.targets {
			judge(&c)
		}
		if c.Met != nil && !*c.Met {
			c.Profile = getProfile
		}
		cases = append(cases, c)
	}
	if w.perSecond > 0 {
		add(n.p50, "p50 at "+strconv.FormatFloat(w.perSecond, 'g', -1, 64)+"/s", "ms", func(c *result.Case) { c.AtMostAbove(n.p50, gateName, haproxyName, 0.3) })
		add(n.p99, "p99", "ms", func(c *result.Case) { c.AtMostAbove(n.p99, gateName, haproxyName, 1) })
	} else {
		add(n.rate, "throughput, "+strconv.Itoa(w.workers)+" at a time", "1/s", func(c *result.Case) { c.WithinNoise(n.rate, gateName, haproxyName, 0.95) })
	}
	add(n.cpu, "CPU of the proxy per request", "µs", nil)
	add(n.share, "CPU of the proxy, share of the API server's", "%", func(c *result.Case) {
		if w.perSecond == getRate {
			c.AtMost(15)
		}
	})
	add(n.server, "CPU of the API server per request", "µs", nil)
	cases[0].Note = note
	if w.perSecond > 0 {
		cases[0].Note += fmt.Sprintf("The generator sent its requests %s ms late at p99, which is in every contender's latencies.", result.Number(result.Median(n.late[gateName])))
	}
	return cases
}
