package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// contenders of a case: the naive proxy shares no watches.
func (s sharing) contenders() []string {
	if s.watchList {
		return []string{directName, gateName}
	}
	return []string{directName, gateName, naiveName}
}

// numbers are the runs of one case's metrics.
type numbers struct {
	delivered, inPart, refused, took         result.Runs
	cpu, reads, each, atATime, proxy, memory result.Runs
	adminP50, adminP99                       result.Runs
	notes                                    []string
}

func newNumbers() *numbers {
	n := &numbers{}
	for _, runs := range n.all() {
		*runs = result.Runs{}
	}
	return n
}

func (n *numbers) all() []*result.Runs {
	return []*result.Runs{
		&n.delivered, &n.inPart, &n.refused, &n.took, &n.cpu, &n.reads, &n.each, &n.atATime, &n.proxy, &n.memory, &n.adminP50, &n.adminP99,
	}
}

func (n *numbers) add(contender string, got *reading) {
	// CPU is spent on answers under way too, so it is divided by those in part.
	answers := got.InPart() * got.Seconds
	n.delivered.Add(contender, got.PerSecond())
	n.inPart.Add(contender, got.InPart())
	n.refused.Add(contender, float64(got.Refused+got.Failed+got.Wrong)/got.Seconds)
	n.reads.Add(contender, got.upstream.perSecond())
	n.atATime.Add(contender, got.upstream.atATime())
	n.adminP50.Add(contender, got.admin.Latency.Milliseconds(0.5))
	n.adminP99.Add(contender, got.admin.Latency.Milliseconds(0.99))
	if got.upstream.reads > 0 {
		n.each.Add(contender, got.upstream.each())
	}
	if got.Delivered > 0 {
		n.took.Add(contender, got.P50)
	}
	if answers > 0 {
		n.cpu.Add(contender, got.cpu.server/answers*1000)
	}
	if contender != directName {
		n.memory.Add(contender, float64(got.peak)/(1<<20))
		if answers > 0 {
			n.proxy.Add(contender, got.cpu.proxy/answers*1000)
		}
	}
	if got.Failed+got.Wrong > 0 {
		n.notes = append(n.notes, fmt.Sprintf("Through %s %d failed and %d were not complete, the first: %s.", contender, got.Failed, got.Wrong, got.Err))
	}
	if got.admin.Failed > 0 {
		n.notes = append(n.notes, fmt.Sprintf("Through %s %d of the engineer's requests failed, the first: %v.", contender, got.admin.Failed, got.admin.Err))
	}
}

// measureAgents measures LISTs and WatchLists by so many agents; the last count is the one that saturates.
func (r *rig) measureAgents(ctx context.Context, report *result.Report, counts []int) error {
	for _, watchList := range []bool{false, true} {
		var before *numbers
		for i, count := range counts {
			s := sharing{agents: count, pods: r.pods, watchList: watchList, saturates: i == len(counts)-1}
			if !r.options.Wanted(s.name()) {
				before = nil
				continue
			}
			n, err := r.measureSharing(ctx, s)
			if err != nil {
				return fmt.Errorf("measuring %s: %w", s.name(), err)
			}
			cases := n.cases(s)
			if before != nil {
				cases = append(cases, n.series(s, counts[i-1], before)...)
			}
			if err := r.explain(ctx, report, s, cases); err != nil {
				return err
			}
			report.Cases = append(report.Cases, cases...)
			before = n
		}
	}
	return nil
}

func (r *rig) measureSharing(ctx context.Context, s sharing) (*numbers, error) {
	r.say("%s", s.name())
	n := newNumbers()
	err := run.Turns(r.options.Rounds, s.contenders(), func(contender string) error {
		got, err := r.turn(ctx, s, contender, r.options.Turn, nil)
		if err != nil {
			return fmt.Errorf("through %s: %w", contender, err)
		}
		n.add(contender, got)
		if contender == gateName {
			return r.note(ctx, n)
		}
		return nil
	})
	return n, err
}

// cases are the numbers of a case, with their targets.
func (n *numbers) cases(s sharing) []result.Case {
	profile := cpuProfile(s)
	var cases []result.Case
	add := func(runs result.Runs, metric, unit string, judge func(*result.Case)) {
		if len(runs[gateName]) == 0 {
			return
		}
		c := runs.Case(s.name(), metric, unit, gateName)
		if judge != nil {
			judge(&c)
		}
		if c.Met != nil && !*c.Met {
			c.Profile = profile
		}
		cases = append(cases, c)
	}
	when := func(is bool, judge func(*result.Case)) func(*result.Case) {
		if !is {
			return nil
		}
		return judge
	}
	beside := s.saturates && !s.watchList // naive is there too
	add(n.delivered, "complete answers delivered", "1/s", when(s.saturates, func(c *result.Case) { c.AtLeastTimes(n.delivered, gateName, directName, 4) }))
	add(n.inPart, "delivered, those under way in part", "1/s", when(beside, func(c *result.Case) { c.AtLeastTimes(n.inPart, gateName, naiveName, 1) }))
	add(n.refused, "refused or failed", "1/s", nil)
	add(n.took, "an answer took, p50", "ms", nil)
	add(n.reads, "reads of the API server", "1/s", nil)
	add(n.each, "a read of the API server takes (T)", "ms", nil)
	add(n.atATime, "reads of the API server under way (their rate × T)", "reads", func(c *result.Case) { c.AtMost(1.1) })
	add(n.cpu, "CPU of the API server per delivered answer", "ms", nil)
	add(n.proxy, "CPU of the proxy per delivered answer", "ms", nil)
	add(n.memory, "peak memory of the proxy over idle", "MiB", when(beside, func(c *result.Case) { c.AtMostTimes(n.memory, gateName, naiveName, 1) }))
	add(n.adminP50, "small request, p50", "ms", nil)
	add(n.adminP99, "small request, p99", "ms", when(beside, func(c *result.Case) { c.AtMostTimes(n.adminP99, gateName, naiveName, 1) }))
	cases[0].Note = strings.Join(n.notes, " ")
	return cases
}

// series compares with the same for fewer agents.
func (n *numbers) series(s sharing, fewer int, before *numbers) []result.Case {
	over := func(now, then result.Runs) result.Runs {
		ratios := result.Runs{}
		for _, contender := range s.contenders() {
			for i := range min(len(now[contender]), len(then[contender])) {
				if then[contender][i] > 0 {
					ratios.Add(contender, now[contender][i]/then[contender][i])
				}
			}
		}
		return ratios
	}
	var cases []result.Case
	add := func(runs result.Runs, metric string, judge func(*result.Case)) {
		if len(runs[gateName]) == 0 {
			return
		}
		c := runs.Case(s.name(), metric, "×", gateName)
		if judge(&c); c.Met != nil && !*c.Met {
			c.Profile = cpuProfile(s)
		}
		cases = append(cases, c)
	}
	add(over(n.reads, before.reads), fmt.Sprintf("reads of the API server a second, beside those for %d agents", fewer), func(c *result.Case) {
		if fewer >= 100 {
			c.AtMost(1.1)
		}
	})
	add(over(n.cpu, before.cpu), fmt.Sprintf("CPU of the API server per delivered answer, beside that for %d agents", fewer), func(c *result.Case) { c.AtMost(1) })
	return cases
}
