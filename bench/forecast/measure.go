package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
)

// How a forecast was made.
const (
	fromSteps     = "steps 0, 1, 3"
	fromStaging   = "staging and 3"
	fromRehearsal = "rehearsal"
	fromRecorded  = "recorded: steps 0, 1, 3"
	fromTraces    = "traces"
)

const (
	large   = "large"
	staging = "staging"
)

// kinds are what truth is held against, and whether they have a target: seats as they are held are told beside them, because on
// a machine that others use as well the truth is demand and waiting.
var kinds = []struct {
	kind     forecast.Kind
	targeted bool
}{{forecast.Service, true}, {forecast.Requests, true}, {forecast.Seats, false}}

func (r *rig) measure(ctx context.Context) ([]outcome, error) {
	var outcomes []outcome
	if r.options.Wanted("live") {
		live, err := r.live(ctx)
		if err != nil {
			return nil, err
		}
		outcomes = live
	} else if r.options.Wanted("staging") {
		staged, err := r.againstRecorded(ctx)
		if err != nil {
			return nil, err
		}
		outcomes = staged
	}
	if r.options.Wanted("traces") {
		traces, err := readTraces(r.options.traces)
		if err != nil {
			return nil, err
		}
		if len(outcomes) == 0 {
			// The runs that the traces are of, as a live run forecasts them.
			if outcomes, err = recorded(traces); err != nil {
				return nil, err
			}
		}
		drawn, err := draw(traces, r.options.drawn, r.options.seed)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, drawn...)
	}
	return outcomes, nil
}

// againstRecorded rehearses and stages live, and holds against them the large cluster as it was recorded: a quarter of the time of
// measuring that anew.
func (r *rig) againstRecorded(ctx context.Context) ([]outcome, error) {
	traces, err := readTraces(r.options.traces)
	if err != nil {
		return nil, err
	}
	all := make([]variation, len(traces))
	for i, t := range traces {
		all[i] = t.Variation
	}
	staged, rehearsed, err := r.staging(ctx, all)
	if err != nil {
		return nil, err
	}
	var outcomes []outcome
	for _, t := range traces {
		steps, truth, length := t.whole()
		at := forecast.At{Cluster: large, Nodes: t.Nodes, Objects: t.Variation.Objects}
		for how, samples := range map[string][]forecast.Sample{
			fromStaging: slices.Concat(staged[t.Variation.Name], exposedOn(steps, 0, 3)), fromRehearsal: rehearsed[t.Variation.Name],
		} {
			made, err := held(how, t.Variation, samples, truth, at, length)
			if err != nil {
				return nil, err
			}
			outcomes = append(outcomes, made...)
		}
	}
	return outcomes, nil
}

// whole cuts a trace into the samples of all steps with few nodes, and what all nodes cost.
func (t *trace) whole() (samples []forecast.Sample, truth map[forecast.Kind]float64, length time.Duration) {
	for _, p := range t.Phases {
		switch {
		case p.Exposed == t.Nodes:
			length = p.To - p.From
			truth = mean(t.cut(p, p.From, length, 1, nil))
		case p.Exposed == 0:
			samples = append(samples, t.cut(p, p.From, p.To-p.From, 1, nil)...)
		default:
			samples = append(samples, t.cut(p, p.From, (p.To-p.From)/6, 6, nil)...)
		}
	}
	return samples, truth, length
}

// live measures components in labs.
func (r *rig) live(ctx context.Context) ([]outcome, error) {
	o := r.options
	all := variations(o.live, o.nodes, o.seed)
	small, rehearsed, err := r.staging(ctx, all)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(ctx, o, r.dir, large, o.nodes, r.say)
	if err != nil {
		return nil, err
	}
	defer c.close()
	for _, v := range all {
		if err := c.install(ctx, v); err != nil {
			return nil, err
		}
	}
	steps, phases, err := r.few(ctx, c, all, 0, 1, 3)
	if err != nil {
		return nil, err
	}
	var outcomes []outcome
	for _, v := range all {
		r.say("%s on all nodes", v)
		if err := c.expose(ctx, v, o.nodes); err != nil {
			return nil, err
		}
		from := time.Since(c.began)
		full, err := c.hold(ctx, []variation{v}, o.nodes, v.whole(o.window), 2)
		if err != nil {
			return nil, err
		}
		phases := append(slices.Clone(phases), phaseOf(o.nodes, from, time.Since(c.began)))
		t, err := c.record(v, phases)
		if err != nil {
			return nil, err
		}
		truth, known := mean(full[v.Name]), steps[v.Name]
		serve(known, t.requests, c.began)
		truth[forecast.Service] = t.truth()
		for how, samples := range map[string][]forecast.Sample{
			fromSteps:     known,
			fromStaging:   slices.Concat(small[v.Name], exposedOn(known, 0, 3)),
			fromRehearsal: rehearsed[v.Name],
		} {
			made, err := held(how, v, samples, truth, forecast.At{Cluster: large, Nodes: o.nodes, Objects: v.Objects}, 2*o.window)
			if err != nil {
				return nil, err
			}
			outcomes = append(outcomes, made...)
		}
		if err := c.end(ctx, v); err != nil {
			return nil, err
		}
		if o.record {
			if err := t.write(o.traces); err != nil {
				return nil, err
			}
		}
	}
	return outcomes, nil
}

// few holds all components on a few nodes, at the same time.
func (r *rig) few(ctx context.Context, c *cluster, all []variation, steps ...int) (map[string][]forecast.Sample, []phase, error) {
	samples := map[string][]forecast.Sample{}
	var phases []phase
	for _, n := range steps {
		if err := c.exposeAll(ctx, all, n); err != nil {
			return nil, nil, err
		}
		windows := r.options.few
		switch {
		case n == 0:
			windows = 1
		case c.name == staging:
			windows = 3
		}
		r.say("%d components on %d nodes of %s for %s", len(all), n, c.name, time.Duration(windows)*r.options.window)
		from := time.Since(c.began)
		got, err := c.hold(ctx, all, n, r.options.window, windows)
		if err != nil {
			return nil, nil, err
		}
		phases = append(phases, phaseOf(n, from, time.Since(c.began)))
		for name, list := range got {
			samples[name] = append(samples[name], list...)
		}
	}
	return samples, phases, nil
}

func phaseOf(n int, from, to time.Duration) phase {
	return phase{Exposed: n, From: from, To: to, FromMS: from.Milliseconds(), ToMS: to.Milliseconds()}
}

// staging rehearses the components on the small cluster, and then measures them there.
func (r *rig) staging(ctx context.Context, all []variation) (samples, rehearsed map[string][]forecast.Sample, err error) {
	c, err := newCluster(ctx, r.options, r.dir, staging, r.options.staging, r.say)
	if err != nil {
		return nil, nil, err
	}
	defer c.close()
	for _, v := range all {
		if err := c.install(ctx, v); err != nil {
			return nil, nil, err
		}
	}
	if rehearsed, err = r.rehearse(ctx, c, all); err != nil {
		return nil, nil, err
	}
	if samples, _, err = r.few(ctx, c, all, 0, 1, r.options.staging); err != nil {
		return nil, nil, err
	}
	for _, v := range all {
		t, err := c.record(v, nil)
		if err != nil {
			return nil, nil, err
		}
		serve(samples[v.Name], t.requests, c.began)
		serve(rehearsed[v.Name], t.requests, c.began)
	}
	return samples, rehearsed, nil
}

// serve adds to samples of a flow schema what the audit log says of the same time: what requests take that do not wait.
func serve(samples []forecast.Sample, requests []observe.Request, began time.Time) {
	moved := slices.Clone(requests)
	for i := range moved {
		moved[i].Start = began.Add(moved[i].Start.Sub(begin))
	}
	slices.SortStableFunc(samples, func(a, b forecast.Sample) int { return a.From.Compare(b.From) })
	observe.AddService(samples, moved)
}

// truth is what all nodes hold without waiting, in the phase that has all of them.
func (t *trace) truth() float64 {
	for _, p := range t.Phases {
		if p.Exposed == t.Nodes {
			return mean(t.cut(p, p.From, p.To-p.From, 1, nil))[forecast.Service]
		}
	}
	return 0
}

func exposedOn(samples []forecast.Sample, steps ...int) (some []forecast.Sample) {
	for _, s := range samples {
		if slices.Contains(steps, s.Exposed) {
			some = append(some, s)
		}
	}
	return some
}

func mean(samples []forecast.Sample) map[forecast.Kind]float64 {
	total := map[forecast.Kind]float64{}
	for _, s := range samples {
		for kind, v := range s.Cost {
			total[kind] += v / float64(len(samples))
		}
	}
	return total
}

// held makes a forecast and holds the truth against it.
func held(how string, v variation, samples []forecast.Sample, truth map[forecast.Kind]float64, at forecast.At, window time.Duration) ([]outcome, error) {
	m, err := forecast.Fit(samples, forecast.Options{Period: v.Period, Window: window})
	if err != nil {
		return nil, fmt.Errorf("forecasting %s: %w", v.Name, err)
	}
	p := m.Predict(at)
	var outcomes []outcome
	for _, k := range kinds {
		i, predicted := p.Kinds[k.kind]
		if _, measured := truth[k.kind]; !predicted || !measured {
			continue
		}
		o := outcome{how: how, name: v.Name, kind: string(k.kind), truth: truth[k.kind], mean: i.Mean, lower: i.Lower, upper: i.Upper, unknown: i.Unknown}
		if p.Unknown != "" {
			o.unknown = p.Unknown
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, nil
}

// recorded forecasts each trace's run from all of its steps, as it was when it was live.
func recorded(traces []*trace) ([]outcome, error) {
	var outcomes []outcome
	for _, t := range traces {
		samples, truth, length := t.whole()
		made, err := held(fromRecorded, t.Variation, samples, truth, forecast.At{Cluster: large, Nodes: t.Nodes, Objects: t.Variation.Objects}, length)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, made...)
	}
	return outcomes, nil
}

// draw makes forecasts from traces: of each, which node was the one, which part of each step is known, and which moment of all
// nodes is the truth, are drawn.
func draw(traces []*trace, n int, seed uint64) ([]outcome, error) {
	if len(traces) == 0 {
		return nil, fmt.Errorf("there are no traces; -record writes them")
	}
	random := rand.New(rand.NewPCG(seed, 40))
	var outcomes []outcome
	for i := range n {
		t := traces[i%len(traces)]
		var samples []forecast.Sample
		var truth map[forecast.Kind]float64
		var length time.Duration
		for _, p := range t.Phases {
			switch {
			case p.Exposed == t.Nodes:
				length = t.Variation.whole(20 * time.Second)
				at := p.From + time.Duration(random.Int64N(int64(p.To-p.From-length)+1))
				truth = mean(t.cut(p, at, length, 1, nil))
			case p.Exposed == 0:
				samples = append(samples, t.cut(p, p.From, (p.To-p.From)/2, 2, nil)...)
			default:
				// Four windows of what was measured, from anywhere in it.
				window := (p.To - p.From) / 6
				at := p.From + time.Duration(random.Int64N(int64(p.To-p.From-4*window)+1))
				samples = append(samples, t.cut(p, at, window, 4, nil)...)
				if p.Exposed == 3 {
					// The node that was alone may have been any of them.
					one := t.nodesIn(p)
					if len(one) == 3 && random.IntN(2) == 0 {
						samples = exposedOn(samples, 0, 3)
						samples = append(samples, t.cut(p, at, window, 4, []string{one[random.IntN(3)]})...)
					}
				}
			}
		}
		if truth == nil || truth[forecast.Service] == 0 {
			return nil, fmt.Errorf("the trace of %s has no requests on all nodes", t.Variation.Name)
		}
		made, err := held(fromTraces, t.Variation, samples, truth, forecast.At{Cluster: large, Nodes: t.Nodes, Objects: t.Variation.Objects}, length)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, made...)
	}
	return outcomes, nil
}

// nodesIn are the nodes that asked in a phase.
func (t *trace) nodesIn(p phase) (nodes []string) {
	for _, q := range t.requests {
		if at := q.Start.Sub(begin); at >= p.From && at < p.To && !slices.Contains(nodes, q.From) {
			nodes = append(nodes, q.From)
		}
	}
	return nodes
}

// cut makes samples of windows of a phase; only of some nodes, or of all of them.
func (t *trace) cut(p phase, from, window time.Duration, windows int, only []string) []forecast.Sample {
	all := make([]forecast.Sample, windows)
	exposed := p.Exposed
	if only != nil {
		exposed = len(only)
	}
	for i := range all {
		at := begin.Add(from + time.Duration(i)*window)
		all[i] = forecast.Sample{
			Cluster: large, Nodes: t.Nodes, Exposed: exposed, Objects: t.Variation.Objects, From: at, To: at.Add(window),
			Cost: map[forecast.Kind]float64{forecast.Seats: 0, forecast.Requests: 0},
		}
	}
	var counted []observe.Request
	defer func() { observe.AddService(all, counted) }()
	for _, q := range t.requests {
		if only != nil && !slices.Contains(only, q.From) {
			continue
		}
		counted = append(counted, q)
		i := int(math.Floor(float64(q.Start.Sub(begin)-from) / float64(window)))
		if i < 0 || i >= windows {
			continue
		}
		all[i].Cost[forecast.Requests] += 1 / window.Seconds()
		all[i].Cost[forecast.Seats] += q.Took.Seconds() / window.Seconds()
	}
	return all
}
