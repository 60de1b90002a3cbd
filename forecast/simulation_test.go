package forecast

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var epoch = time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)

// world is a cluster with a component, simulated request by request: what the forecast sees is what was counted in windows,
// edges, phases and all.
type world struct {
	nodes  int
	period time.Duration
	jitter float64
	// seats one request takes for a second; scatter is the relative standard deviation of it, differ that between nodes.
	seats, scatter, differ float64
	// fixed is what the component costs besides, in seats, where it runs on any node; elected says that it does not without.
	fixed   float64
	elected bool
	// watched is what each request costs more for each node that watches what it writes, listed for each pair of nodes.
	watched, listed float64
	drift           float64 // relative standard deviation of a whole step: the hour of the day
}

type agent struct{ phase, cost float64 }

func (w world) agents(random *rand.Rand) []agent {
	all := make([]agent, w.nodes)
	for i := range all {
		all[i] = agent{phase: random.Float64(), cost: w.seats * math.Exp(w.differ*random.NormFloat64())}
	}
	return all
}

// hold counts windows of a step.
func (w world) hold(random *rand.Rand, name string, agents []agent, exposed, windows int, length time.Duration) []Sample {
	all := make([]Sample, windows)
	from := epoch.Add(time.Duration(random.IntN(1000)) * time.Hour)
	for i := range all {
		at := from.Add(time.Duration(i) * length)
		all[i] = Sample{Cluster: name, Nodes: w.nodes, Exposed: exposed, From: at, To: at.Add(length), Cost: map[Kind]float64{Seats: 0, Requests: 0}}
	}
	seconds := length.Seconds()
	hour := math.Exp(w.drift * random.NormFloat64())
	for _, a := range agents[:exposed] {
		for at := a.phase * w.period.Seconds(); at < seconds*float64(windows); at += w.period.Seconds() * (1 + w.jitter*random.Float64()) {
			cost := hour * (a.cost + (w.watched+w.listed*float64(exposed))*float64(exposed)) * math.Exp(w.scatter*random.NormFloat64()-w.scatter*w.scatter/2)
			c := all[int(at/seconds)].Cost
			c[Seats] += cost / seconds
			c[Requests] += 1 / seconds
		}
	}
	for i := range all {
		if exposed > 0 || !w.elected {
			all[i].Cost[Seats] += w.fixed * (1 + 0.05*random.NormFloat64())
		}
	}
	return all
}

func (w world) steps(random *rand.Rand, name string, agents []agent, windows int, length time.Duration, steps ...int) (all []Sample) {
	for _, n := range steps {
		all = append(all, w.hold(random, name, agents, n, windows, length)...)
	}
	return all
}

// TestCoverage is what a 95 % interval promises: over many worlds that are not the model's own (requests in phases, nodes that
// differ, hours that differ), the truth on all nodes lies inside, and the interval is still worth having.
func TestCoverage(t *testing.T) {
	const trials = 300
	telemetry := world{nodes: 300, period: 30 * time.Second, jitter: 0.1, seats: 0.12, scatter: 0.3, differ: 0.05, drift: 0.02}
	with := func(change func(*world)) world { w := telemetry; change(&w); return w }
	for name, tc := range map[string]struct {
		w       world
		steps   []int
		windows int
		// near is the share of means within ±20 %, narrow the median of the half interval, at most.
		near, narrow float64
	}{
		"1 and 3 nodes, and none":      {telemetry, []int{0, 1, 3}, 6, 0.9, 0.35},
		"1 and 3 nodes only":           {telemetry, []int{1, 3}, 8, 0.75, 0.8},
		"1, 3 and 9":                   {telemetry, []int{0, 1, 3, 9}, 6, 0.95, 0.25},
		"few windows":                  {telemetry, []int{0, 1, 3}, 2, 0.7, 1.2},
		"something fixed":              {with(func(w *world) { w.fixed = 0.01 }), []int{0, 1, 3}, 6, 0.9, 0.4},
		"one of many is elected":       {with(func(w *world) { w.fixed, w.elected = 0.05, true }), []int{0, 1, 3}, 8, 0.75, 0.8},
		"requests that differ much":    {with(func(w *world) { w.scatter = 0.8 }), []int{0, 1, 3}, 8, 0.7, 0.8},
		"all at their beat":            {with(func(w *world) { w.jitter = 0 }), []int{0, 1, 3}, 6, 0.9, 0.35},
		"a period that fits no window": {with(func(w *world) { w.period = 47 * time.Second }), []int{0, 1, 3}, 8, 0.9, 0.5},
		"a request every two seconds":  {with(func(w *world) { w.period = 2 * time.Second; w.seats = 0.01 }), []int{0, 1, 3}, 4, 0.95, 0.3},
	} {
		t.Run(name, func(t *testing.T) {
			in, near, bent := 0, 0, 0
			var widths []float64
			for seed := range uint64(trials) {
				random := rand.New(rand.NewPCG(seed, 7))
				agents := tc.w.agents(random)
				m, err := Fit(tc.w.steps(random, "large", agents, tc.windows, time.Minute, tc.steps...), Options{})
				if err != nil {
					t.Fatal(err)
				}
				truth := tc.w.hold(random, "large", agents, tc.w.nodes, 1, time.Minute)[0].Cost[Seats]
				p := m.Predict(At{Cluster: "large", Nodes: tc.w.nodes})
				i, ok := p.Kinds[Seats]
				if !ok || i.Unbounded {
					bent++ // by chance
					continue
				}
				if i.Lower <= truth && truth <= i.Upper {
					in++
				}
				if math.Abs(i.Mean/truth-1) <= 0.2 {
					near++
				}
				widths = append(widths, (i.Upper-i.Lower)/2/truth)
			}
			width := median(widths)
			t.Logf("%.1f %% inside, %.1f %% within ±20 %%, half interval %.0f %%", 100*float64(in)/trials, 100*float64(near)/trials, 100*width)
			if float64(in)/trials < 0.92 || float64(bent)/trials > 0.015 {
				t.Errorf("%d of %d truths are inside the 95 %% interval, %d lines are called bent", in, trials, bent)
			}
			if float64(near)/trials < tc.near || width > tc.narrow {
				t.Errorf("%.1f %% are within ±20 %%, want %g; the half interval is %.2f, want ≤ %g", 100*float64(near)/trials, 100*tc.near, width, tc.narrow)
			}
		})
	}
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// An agent that watches what all of them write costs n² in itself, and one that LISTs all of it whenever one writes n³. Three nodes
// show a strong one, nine a weaker one; from the step that shows it on the upper bound is above the truth, and nothing passes for which
// there is no room.
func TestAgentsThatWatchWhatTheyWrite(t *testing.T) {
	const trials = 200
	for name, tc := range map[string]struct {
		watched, listed float64 // of what a request costs, for each node that watches, and for each pair of nodes
		steps           []int
		found           float64
	}{
		"as much again for each node, at 3": {1, 0, []int{0, 1, 3}, 0.8},
		"as much again for each node, at 9": {1, 0, []int{0, 1, 3, 9}, 0.99},
		"a twentieth, at 9":                 {0.05, 0, []int{0, 1, 3, 9}, 0.5},
		"a twentieth, at 27":                {0.05, 0, []int{0, 1, 3, 9, 27}, 0.99},
		"a twentieth, at 81":                {0.05, 0, []int{0, 1, 3, 9, 27, 81}, 0.99},
		"by the cube, at 9":                 {0, 0.05, []int{0, 1, 3, 9}, 0.99},
		"by the cube, at 81":                {0, 0.05, []int{0, 1, 3, 9, 27, 81}, 0.99},
	} {
		t.Run(name, func(t *testing.T) {
			found, below, passed := 0, 0, 0
			for seed := range uint64(trials) {
				random := rand.New(rand.NewPCG(seed, 8))
				w := world{nodes: 300, period: 15 * time.Second, jitter: 0.1, seats: 0.05, scatter: 0.2, differ: 0.05, drift: 0.02, watched: tc.watched * 0.05, listed: tc.listed * 0.05}
				agents := w.agents(random)
				m, err := Fit(w.steps(random, "large", agents, 6, time.Minute, tc.steps...), Options{})
				if err != nil {
					t.Fatal(err)
				}
				truth := w.hold(random, "large", agents, w.nodes, 1, time.Minute)[0].Cost[Seats]
				p := m.Predict(At{Cluster: "large", Nodes: 300})
				if p.Kinds[Seats].Unknown == "" {
					continue
				}
				found++
				if truth > p.Kinds[Seats].Upper {
					below++
				}
				if Judge(p, Capacity{Kinds: map[Kind]Room{Seats: {Capacity: truth}}}).Outcome == Pass {
					passed++
				}
			}
			t.Logf("%d of %d found; the truth of %d is above the bound", found, trials, below)
			if float64(found)/trials < tc.found || below > found/40 || passed > 0 {
				t.Errorf("%d of %d are found, want %g; of %d the truth is above the bound; %d passed without room", found, trials, tc.found, below, passed)
			}
		})
	}
}

// Staging says what production will cost with the prior's doubt of how cost grows with size; three sizes say how it grows.
func TestOverSizes(t *testing.T) {
	const trials = 200
	for name, tc := range map[string]struct {
		exponent      float64 // of the world
		sizes         []int
		least, widest float64 // share inside; median of upper / mean
	}{
		"one size, as the prior has it":            {1, []int{50}, 0.97, 9},
		"one size, agents that read their node":    {0, []int{50}, 0.9, 9},
		"three sizes, as the prior has it":         {1, []int{20, 50, 100}, 0.92, 2.5},
		"three sizes, agents that read their node": {0, []int{20, 50, 100}, 0.92, 2.5},
	} {
		t.Run(name, func(t *testing.T) {
			in := 0
			var widths []float64
			for seed := range uint64(trials) {
				random := rand.New(rand.NewPCG(seed, 9))
				var all []Sample
				sized := func(nodes int) world {
					return world{nodes: nodes, period: 15 * time.Second, jitter: 0.1, seats: 0.1 * math.Pow(float64(nodes)/300, tc.exponent) * math.Exp(0.08*random.NormFloat64()), scatter: 0.2, differ: 0.05}
				}
				for _, nodes := range tc.sizes {
					w := sized(nodes)
					all = append(all, w.steps(random, time.Duration(nodes).String(), w.agents(random), 4, time.Minute, 0, 1, 3, 9)...)
				}
				m, err := Fit(all, Options{})
				if err != nil {
					t.Fatal(err)
				}
				w := sized(300)
				truth := w.hold(random, "large", w.agents(random), 300, 1, time.Minute)[0].Cost[Seats]
				i := m.Predict(At{Cluster: "large", Nodes: 300}).Kinds[Seats]
				if i.Lower <= truth && truth <= i.Upper {
					in++
				}
				widths = append(widths, i.Upper/i.Mean)
			}
			t.Logf("%.1f %% inside, upper is %.2f times the mean", 100*float64(in)/trials, median(widths))
			if float64(in)/trials < tc.least || median(widths) > tc.widest {
				t.Errorf("%d of %d inside, the upper bound is %.2f times the mean", in, trials, median(widths))
			}
		})
	}
}
