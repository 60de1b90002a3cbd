package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// The targets.
const (
	mostOfDirect  = 1.0 / 20 // of an engineer's p99
	mostOfIdle    = 10.0
	alwaysGood    = 150.0 // ms, however short idle's is
	leastOfFixed  = 0.8   // of the best fixed limit's goodput
	mostMemory    = 3.0   // times idle
	mostOfStorm   = 1.0 / 4
	nearlyTheBest = 0.8 // of the best goodput is what a setting may cost
)

// metrics are what a turn comes to, in the order of the table.
var metrics = []struct {
	name, unit string
	of         func(*reading) float64
}{
	{adminP50, "ms", func(g *reading) float64 { return g.admin.latency.Milliseconds(0.5) }},
	{adminP99, "ms", func(g *reading) float64 { return g.admin.latency.Milliseconds(0.99) }},
	{adminFailed, "%", func(g *reading) float64 { return 100 * float64(g.admin.failed) / float64(max(1, g.admin.asked)) }},
	{leasesMissed, "leases", func(g *reading) float64 { return float64(g.missed) }},
	{leaseWorst, "s", func(g *reading) float64 { return g.worst.Seconds() }},
	{goodput, "1/s", func(g *reading) float64 { return g.PerSecond() }},
	{inPart, "1/s", func(g *reading) float64 { return g.InPart() }},
	{refused, "1/s", func(g *reading) float64 { return float64(g.Refused) / g.Seconds }},
	{failed, "1/s", func(g *reading) float64 { return float64(g.Failed+g.Wrong) / g.Seconds }},
	{memory, "MiB", func(g *reading) float64 { return mib(g.peak) }},
	{memoryIdle, "MiB", func(g *reading) float64 { return mib(g.idle) }},
	{memoryTimes, "×", func(g *reading) float64 { return float64(g.peak) / float64(max(1, g.idle)) }},
	{serverCores, "cores", func(g *reading) float64 { return g.server }},
	{proxyCores, "cores", func(g *reading) float64 { return g.proxy }},
	{died, "times", func(g *reading) float64 { return float64(g.deaths) }},
}

const (
	adminP50     = "engineer's GET, p50"
	adminP99     = "engineer's GET, p99"
	adminFailed  = "engineer's GETs without an answer in 10 s"
	leasesMissed = "leases not renewed before the next renewal was due"
	leaseWorst   = "the slowest renewal that was made"
	goodput      = "complete answers to the storm"
	inPart       = "answers to the storm, those under way in part"
	refused      = "refused with 429"
	failed       = "failed otherwise"
	memory       = "API server's memory, peak"
	memoryIdle   = "API server's memory before the storm"
	memoryTimes  = "API server's memory, peak beside before"
	serverCores  = "API server's CPU"
	proxyCores   = "CPU of what stands between"
	died         = "API server died"
)

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// numbers are runs by metric and contender.
type numbers struct {
	runs  map[string]result.Runs
	notes []string
}

func newNumbers() *numbers {
	n := &numbers{runs: map[string]result.Runs{}}
	for _, m := range metrics {
		n.runs[m.name] = result.Runs{}
	}
	return n
}

func (n *numbers) add(contender string, s storm, got *reading) {
	for _, m := range metrics {
		switch {
		case s.clients == 0 && slices.Contains([]string{goodput, inPart, refused, failed}, m.name),
			s.kind != agents.List && m.name == inPart:
		default:
			n.runs[m.name].Add(contender, m.of(got))
		}
	}
	if got.Failed+got.Wrong > 0 {
		n.notes = append(n.notes, fmt.Sprintf("By %s %d of the storm failed and %d were not complete, the first: %s.", contender, got.Failed, got.Wrong, got.Err))
	}
	if got.admin.failed > 0 {
		n.notes = append(n.notes, fmt.Sprintf("By %s the engineer's first failure was: %v.", contender, got.admin.err))
	}
}

// median of a contender's metric.
func (n *numbers) median(metric, contender string) float64 {
	return result.Median(n.runs[metric][contender])
}

// settle lets the best setting stand for its contender, and takes the others' columns away. What they did is noted.
func (n *numbers) settle(best *way, tried []*way) {
	var parts []string
	for _, w := range tried {
		parts = append(parts, fmt.Sprintf("%d: %s/s, p99 %s ms", w.setting, result.Number(n.median(goodput, w.name)), result.Number(n.median(adminP99, w.name))))
	}
	n.notes = append(n.notes, fmt.Sprintf("%s stands with %d, of what was tried (%s).", best.contender, best.setting, strings.Join(parts, "; ")))
	for _, runs := range n.runs {
		if values, ok := runs[best.name]; ok {
			runs[best.contender] = values
		}
		maps.DeleteFunc(runs, func(name string, _ []float64) bool {
			return slices.ContainsFunc(tried, func(w *way) bool { return w.name == name })
		})
	}
}

// choose is the setting that does best: the gate's fixed limit by goodput alone, because it is what the limit that follows
// is held to; others by the engineer's p99 among those that get nearly the most done, because that is what one tunes for.
func (n *numbers) choose(tried []*way) *way {
	byGoodput := func(a, b *way) int { return cmpFloat(n.median(goodput, b.name), n.median(goodput, a.name)) }
	best := slices.MinFunc(tried, byGoodput)
	if best.contender == fixedName {
		return best
	}
	most := n.median(goodput, best.name)
	good := slices.DeleteFunc(slices.Clone(tried), func(w *way) bool { return n.median(goodput, w.name) < nearlyTheBest*most })
	return slices.MinFunc(good, func(a, b *way) int { return cmpFloat(n.median(adminP99, a.name), n.median(adminP99, b.name)) })
}

func cmpFloat(a, b float64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// calmName is the case that the others are held to.
const calmName = "no storm"

// Measure implements run.Rig.
func (r *rig) Measure(ctx context.Context, report *result.Report) error {
	idle, err := r.measureStorm(ctx, storm{name: calmName})
	if err != nil {
		return err
	}
	report.Cases = append(report.Cases, idle.cases(storm{name: calmName}, nil)...)
	for _, s := range storms() {
		if !r.options.Wanted(s.name) {
			continue
		}
		n, err := r.measureStorm(ctx, s)
		if err != nil {
			return err
		}
		cases := n.cases(s, idle)
		if err := r.explain(ctx, report, s, cases); err != nil {
			return err
		}
		report.Cases = append(report.Cases, cases...)
	}
	if err := r.measureRecovery(ctx, report, idle); err != nil {
		return err
	}
	return r.predictionCases(report)
}

// measureStorm gives every contender its turns; the first storm of a kind tries every setting of those that are tuned.
func (r *rig) measureStorm(ctx context.Context, s storm) (*numbers, error) {
	byName, order := map[string]*way{}, []string{}
	tried := map[string][]*way{}
	for _, w := range r.ways {
		if w.memory != 0 || w.name != gateName && !r.options.against.MatchString(w.name) {
			continue
		}
		best := r.best[tunedBy(s.kind, w.contender)][w.contender]
		switch {
		case w.setting == 0, best == w:
		case s.clients == 0 || best != nil:
			continue
		default:
			tried[w.contender] = append(tried[w.contender], w)
		}
		byName[w.name], order = w, append(order, w.name)
	}
	r.say("%s: %s", s.name, strings.Join(order, ", "))
	n := newNumbers()
	err := run.Turns(r.options.Rounds, order, func(name string) error {
		w := byName[name]
		got, err := r.turn(ctx, s, w, r.options.Turn, nil)
		if err != nil {
			return fmt.Errorf("%s, by %s: %w", s.name, name, err)
		}
		if len(tried[w.contender]) == 0 {
			name = w.contender
		}
		n.add(name, s, got)
		r.say("%s", got.line(name))
		if w.name != gateName {
			return nil
		}
		return r.predicted(ctx, w, s)
	})
	if err != nil {
		return nil, err
	}
	for _, contender := range slices.Sorted(maps.Keys(tried)) {
		best := n.choose(tried[contender])
		n.settle(best, tried[contender])
		kind := tunedBy(s.kind, contender)
		if r.best[kind] == nil {
			r.best[kind] = map[string]*way{}
		}
		r.best[kind][contender] = best
	}
	return n, nil
}

// tunedBy is the kind of storm whose sweep finds a contender's setting for a kind. No max-inflight holds a watch.
func tunedBy(kind agents.Work, contender string) agents.Work {
	if kind == agents.WatchOpen && contender == inflightName {
		return agents.List
	}
	return kind
}

// line is a turn for whoever waits.
func (g *reading) line(name string) string {
	number := result.Number
	text := fmt.Sprintf("  %-12s engineer p50 %s p99 %s ms, %d of %d without answer; leases missed %d of %d, slowest %.1f s; memory %s → %s MiB, CPU %s + %s",
		name, number(g.admin.latency.Milliseconds(0.5)), number(g.admin.latency.Milliseconds(0.99)), g.admin.failed, g.admin.asked,
		g.missed, g.made+g.missed, g.worst.Seconds(), number(mib(g.idle)), number(mib(g.peak)), number(g.server), number(g.proxy))
	if g.Seconds > 0 {
		text += fmt.Sprintf("; storm %s/s (%s in part), 429 %s/s, failed %d", number(g.PerSecond()), number(g.InPart()), number(float64(g.Refused)/g.Seconds), g.Failed+g.Wrong)
	}
	if g.deaths > 0 {
		text += fmt.Sprintf("; died %d times", g.deaths)
	}
	return text
}

// cases are the table's rows, with their targets; idle are the numbers without a storm.
func (n *numbers) cases(s storm, idle *numbers) []result.Case {
	var cases []result.Case
	for _, m := range metrics {
		runs := n.runs[m.name]
		if len(runs[gateName]) == 0 {
			continue
		}
		c := runs.Case(s.name, m.name, m.unit, gateName)
		if s.clients > 0 {
			cases = append(cases, n.judge(s, c, idle)...)
		} else {
			cases = append(cases, c)
		}
	}
	cases[0].Note = strings.Join(n.notes, " ")
	return cases
}

// judge holds a case to its targets; two of the metrics have two. Beside whom is not there nobody is held to.
func (n *numbers) judge(s storm, c result.Case, idle *numbers) []result.Case {
	profile := func(c *result.Case) {
		if c.Met != nil && !*c.Met {
			c.Profile = profileName(s)
		}
	}
	second := c
	switch c.Metric {
	case adminP99:
		calm := idle.median(adminP99, gateName)
		c.AtMost(max(mostOfIdle*calm, alwaysGood))
		if len(n.runs[adminP99][directName]) == 0 {
			break
		}
		second.Metric += ", held to direct"
		if n.median(adminP99, directName) < calm/mostOfDirect {
			second.Note = fmt.Sprintf("no target: a twentieth of direct's is less than the %s ms of a control plane without a storm.", result.Number(calm))
		} else {
			second.AtMostTimes(n.runs[adminP99], gateName, directName, mostOfDirect)
		}
	case memory:
		if len(n.runs[memory][directName]) == 0 {
			break
		}
		second.Metric += ", held to direct"
		if n.median(memory, directName) < n.median(memoryIdle, gateName)/mostOfStorm {
			second.Note = "no target: a quarter of direct's is less than what the API server has before the storm."
		} else {
			second.AtMostTimes(n.runs[memory], gateName, directName, mostOfStorm)
		}
	case memoryTimes:
		c.AtMost(mostMemory)
	case leasesMissed:
		c.AtMost(0)
	case goodput:
		if len(n.runs[goodput][fixedName]) == 0 {
			break
		}
		c.AtLeastTimes(n.runs[goodput], gateName, fixedName, leastOfFixed)
	}
	profile(&c)
	if c.Metric == second.Metric {
		return []result.Case{c}
	}
	profile(&second)
	return []result.Case{c, second}
}
