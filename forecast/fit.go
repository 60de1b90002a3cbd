package forecast

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Model is what was learned of one component.
type Model struct {
	options  Options
	clusters []*cluster
	// identified is true when sizes of clusters tell β: three and more, the largest four times the smallest.
	identified bool
}

// cluster is what was learned on one cluster.
type cluster struct {
	name  string
	nodes int
	// objects is the mean over the samples, 0 when not all say.
	objects float64
	most    int // exposed at once
	lines   map[Kind]*line
	bursts  map[Kind]burst
	// earned is the largest sample of those cut off by the component itself.
	earned *Sample
	// disturbed samples were cut off by others and left out.
	disturbed, samples int
	// short says what is missing of the time.
	short string
}

// line is the cost of one kind over the number of nodes exposed, on one cluster.
type line struct {
	own bool
	// why is what is missing when nothing could be fitted.
	why string

	a, s float64 // intercept; cost of one more node
	// varA, varS and cov are of what was estimated; base and each are the variance of a second's worth of measurement: of the
	// cluster, and of one exposed node.
	varA, varS, cov float64
	base, each      float64
	freedom         float64
	levels          []int
	windows         int
	// bent is how many times more a node costs on the highest step than on the first by the term w·n², when it is significant.
	bent   float64
	tested bool
}

// burst is what the start of one node costs beyond its steady state: seat-seconds, requests, bytes.
type burst struct {
	mean, variance, freedom float64
	starts                  int
}

// Fit learns from samples in any order. An error is a sample that makes no sense; data that do not suffice are none: Predict
// then says what is missing.
func Fit(samples []Sample, options Options) (*Model, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("fitting a forecast: %w", err)
	}
	by := map[string][]Sample{}
	for i := range samples {
		if err := samples[i].Validate(); err != nil {
			return nil, fmt.Errorf("fitting a forecast: sample %d: %w", i+1, err)
		}
		by[samples[i].Cluster] = append(by[samples[i].Cluster], samples[i])
	}
	m := &Model{options: options}
	for name, list := range by {
		m.clusters = append(m.clusters, m.learn(name, list))
	}
	slices.SortFunc(m.clusters, func(a, b *cluster) int { return cmp.Compare(a.name, b.name) })
	m.identified = m.sizesTell()
	return m, nil
}

// learn fits one cluster.
func (m *Model) learn(name string, samples []Sample) *cluster {
	slices.SortStableFunc(samples, func(a, b Sample) int { return a.From.Compare(b.From) })
	c := &cluster{name: name, lines: map[Kind]*line{}, bursts: map[Kind]burst{}, samples: len(samples)}
	var steady, startups []Sample
	total, weight := 0.0, 0.0
	for _, s := range samples {
		c.nodes = s.Nodes // of the latest
		switch {
		case s.Censored == ByItself:
			if c.earned == nil || s.Exposed > c.earned.Exposed {
				c.earned = &s
			}
			continue
		case s.Censored == ByOthers:
			c.disturbed++
			continue
		case s.Startup:
			startups = append(startups, s)
			continue
		}
		steady = append(steady, s)
		c.most = max(c.most, s.Exposed)
		if s.Exposed > 0 {
			if s.Objects == 0 {
				weight = math.Inf(1) // one that does not say makes the mean meaningless
			}
			total, weight = total+float64(s.Objects)*s.seconds(), weight+s.seconds()
		}
	}
	if weight > 0 {
		c.objects = total / weight
	}
	c.short = m.held(steady)
	for _, kind := range Kinds() {
		if l := fitLine(steady, kind, m.options.ModelError); l != nil {
			c.lines[kind] = l
			if b, ok := fitBurst(startups, kind, l); ok {
				c.bursts[kind] = b
			}
		}
	}
	return c
}

// held says which step was not held long enough for the component's slowest timer to be seen.
func (m *Model) held(samples []Sample) string {
	type level struct{ seconds, requests float64 }
	levels := map[int]*level{}
	counted := false
	for _, s := range samples {
		if _, ok := s.Cost[Requests]; ok {
			counted = true
		}
		if s.Exposed == 0 {
			continue
		}
		l := levels[s.Exposed]
		if l == nil {
			l = &level{}
			levels[s.Exposed] = l
		}
		l.seconds += s.seconds()
		l.requests += s.Cost[Requests] * s.seconds() / float64(s.Exposed)
	}
	for _, n := range slices.Sorted(maps.Keys(levels)) {
		l := levels[n]
		switch need := 2 * m.options.Period.Seconds(); {
		case l.seconds < need:
			return fmt.Sprintf("%d nodes were held for %.0f s, and two periods of the component are %.0f s", n, l.seconds, need)
		case need == 0 && !counted && l.seconds < m.options.MinHold.Seconds():
			return fmt.Sprintf("%d nodes were held for %.0f s, and nothing says how often the component asks: its requests must be counted, or its slowest period given", n, l.seconds)
		case need == 0 && l.requests < 2 && l.seconds < m.options.MinHold.Seconds():
			return fmt.Sprintf("%d nodes were held for %.0f s and made %.1f requests each: hold them for two of the component's periods, or %s",
				n, l.seconds, l.requests, m.options.MinHold)
		}
	}
	return ""
}

// level is the windows of one exposure.
type level struct {
	n        int
	windows  []observation // weight is seconds
	variance float64       // of a second's worth of measurement
	freedom  int
}

// levelsOf groups the samples of a kind by exposure.
func levelsOf(samples []Sample, kind Kind) (levels []level, own bool) {
	for i := range samples {
		y, mine, ok := samples[i].of(kind)
		if !ok {
			continue
		}
		own = mine
		at := slices.IndexFunc(levels, func(l level) bool { return l.n == samples[i].Exposed })
		if at < 0 {
			levels = append(levels, level{n: samples[i].Exposed})
			at = len(levels) - 1
		}
		levels[at].windows = append(levels[at].windows, observation{n: float64(samples[i].Exposed), y: y, weight: samples[i].seconds()})
	}
	slices.SortFunc(levels, func(a, b level) int { return cmp.Compare(a.n, b.n) })
	for i := range levels {
		l := &levels[i]
		mean, seconds := 0.0, 0.0
		for _, o := range l.windows {
			mean, seconds = mean+o.y*o.weight, seconds+o.weight
		}
		mean /= seconds
		if l.freedom = len(l.windows) - 1; l.freedom > 0 {
			for _, o := range l.windows {
				l.variance += o.weight * (o.y - mean) * (o.y - mean) / float64(l.freedom)
			}
		}
	}
	return levels, own
}

// variances splits the scatter within steps into the cluster's own and that of each exposed node: nodes are independent, so
// theirs adds up.
func variances(levels []level) (base, each float64) {
	freedom := 0.0
	for _, l := range levels {
		if l.n == 0 {
			base = l.variance
		}
	}
	for _, l := range levels {
		if l.n > 0 && l.freedom > 0 {
			each += float64(l.freedom) * math.Max(0, l.variance-base) / float64(l.n)
			freedom += float64(l.freedom)
		}
	}
	if freedom > 0 {
		each /= freedom
	}
	return base, each
}

// bendShare is the chance that a straight line is called bent: looks are repeated at each step, for each kind.
const bendShare = 0.005

// bendLeast is by how much the cost of a node must have risen over the steps to be called bent: less is what a busier server
// does to any seat.
const bendLeast = 0.15

func fitLine(samples []Sample, kind Kind, modelError float64) *line {
	levels, own := levelsOf(samples, kind)
	if len(levels) == 0 {
		return nil
	}
	l := &line{own: own}
	for _, level := range levels {
		l.levels = append(l.levels, level.n)
		l.windows += len(level.windows)
	}
	if levels[len(levels)-1].n == 0 {
		l.why = "it was measured without the component only"
		return l
	}
	// A component that costs nothing where it does not run, and something fixed as soon as it does (one of many is elected and
	// works), has no use for the line through nothing.
	if own && levels[0].n == 0 && len(levels) >= 3 {
		if b, ok := bendOf(levels, modelError); ok && b.t < -student(1-bendShare, b.freedom) {
			levels = levels[1:]
		}
	}
	if b, ok := bendOf(levels, modelError); ok {
		l.tested = true
		if b.t > student(1-bendShare, b.freedom) && b.rise > bendLeast {
			l.bent = 1 + b.rise
		}
	}
	l.straight(levels)
	return l
}

// weigh makes the observations of a fit.
func weigh(levels []level) (data []observation, base, each float64) {
	base, each = variances(levels)
	if base == 0 && each == 0 { // no scatter at all, or one window a step
		each = 1
	}
	// What a window without the component shows is never certain to the last digit.
	floor := math.Max(base, 0.02*each)
	for _, l := range levels {
		for _, o := range l.windows {
			o.weight /= floor + each*o.n
			o.pins = l.n == 0
			data = append(data, o)
		}
	}
	return data, floor, each
}

// bend is what the term w·n² comes to.
type bend struct {
	// rise is by how much one more node costs more on the highest step than on the first, relative to that.
	rise float64
	// t is the rise over its standard error, that of nodes and hours that differ included.
	t, freedom float64
}

// bendOf fits the term w·n²; ok is false where the steps do not carry it.
func bendOf(levels []level, modelError float64) (b bend, ok bool) {
	if len(levels) < 3 {
		return b, false
	}
	data, _, _ := weigh(levels)
	f, ok := fit(data, 0, 1, 2)
	b.freedom = float64(f.n - 3)
	if levels[0].n == 0 {
		b.freedom++ // the line is held there by what is known without the component
	}
	if !ok || b.freedom < 1 {
		return b, false
	}
	low, high := float64(levels[0].n), float64(levels[len(levels)-1].n)
	if low == 0 {
		low = float64(levels[1].n)
	}
	first := f.b[1] + f.b[2]*(low+1)
	if first <= 0 { // all of it is the bend
		first = math.Abs(f.b[2]) * (low + 1)
	}
	if first == 0 {
		return b, true
	}
	b.rise = f.b[2] * (high - low) / first
	spread := math.Sqrt(f.cov.At(2, 2)*scale(levels, f.chi/b.freedom)) * (high - low) / first
	b.t = b.rise / math.Hypot(spread, math.Sqrt2*modelError)
	return b, true
}

// scale is the variance of weight 1. Weights are in the data's own units, and it is no less than 1: steps that do not lie on a
// line scatter more than their windows do. Where no step shows scatter of its own, all there is is the distance to the line.
func scale(levels []level, found float64) float64 {
	if base, each := variances(levels); base == 0 && each == 0 {
		return found
	}
	return math.Max(1, found)
}

// straight fits Y = a + s·n.
func (l *line) straight(levels []level) {
	data, base, each := weigh(levels)
	if len(levels) == 1 {
		l.alone(levels[0], data, each)
		return
	}
	f, ok := fit(data, 0, 1)
	freedom := float64(f.n - 2)
	if levels[0].n == 0 {
		freedom++
	}
	if !ok || freedom < 1 {
		l.why = "each step was measured once: repeated samples tell what a measurement is worth"
		return
	}
	scale := scale(levels, f.chi/freedom)
	l.a, l.s, l.freedom = f.b[0], f.b[1], freedom
	l.varA, l.varS, l.cov = scale*f.cov.At(0, 0), scale*f.cov.At(1, 1), scale*f.cov.At(0, 1)
	l.base, l.each = scale*base, scale*each
	if l.own {
		l.base = 0
	}
}

// alone is for one step only, as of a workload that runs everywhere already. What is fixed of its cost cannot be told then: it
// is taken for nothing, give or take one node's cost.
func (l *line) alone(only level, data []observation, each float64) {
	f, ok := fit(data, 1)
	switch freedom := float64(f.n - 1); {
	case !l.own:
		l.why = "it was never measured without the component, and cannot be told from what others cost"
	case !ok || freedom < 1:
		l.why = "it was measured once: repeated samples tell what a measurement is worth"
	default:
		scale := scale([]level{only}, f.chi/freedom)
		n := float64(only.n)
		l.s, l.freedom, l.each = f.b[0], freedom, scale*each
		fixed := l.s // its standard deviation
		l.varA = fixed * fixed
		l.varS = scale*f.cov.At(0, 0) + fixed*fixed/(n*n)
		l.cov = -fixed * fixed / n
	}
}

// fitBurst takes what a steady state costs off what was measured while nodes started.
func fitBurst(samples []Sample, kind Kind, l *line) (b burst, ok bool) {
	if l.why != "" || kind == Watches || kind == Memory || kind == CPU || kind == Service {
		return b, false
	}
	type one struct{ cost, starts float64 }
	var all []one
	total := 0.0
	for i := range samples {
		y, own, has := samples[i].of(kind)
		if !has || !own || samples[i].Started == 0 {
			continue
		}
		steady := l.a + l.s*float64(samples[i].Exposed)
		all = append(all, one{(y - steady) * samples[i].seconds(), float64(samples[i].Started)})
		total += float64(samples[i].Started)
	}
	if total == 0 {
		return b, false
	}
	for _, o := range all {
		b.mean += o.cost / total
	}
	for _, o := range all {
		r := o.cost - b.mean*o.starts
		b.variance += r * r / o.starts
	}
	b.freedom, b.starts = float64(len(all)-1), int(total)
	if b.freedom > 0 {
		b.variance = b.variance / b.freedom / total
	}
	b.mean = math.Max(0, b.mean)
	return b, true
}

// size is what the cost of a node may grow with: objects where both say, else nodes.
func (c *cluster) size(objects bool) float64 {
	if objects {
		return c.objects
	}
	return float64(c.nodes)
}

// sizesTell is true when there are enough sizes of clusters and the largest is four times the smallest.
func (m *Model) sizesTell() bool {
	var sizes []float64
	for _, c := range m.clusters {
		sizes = append(sizes, float64(c.nodes))
	}
	slices.Sort(sizes)
	different := 0
	for i, s := range sizes {
		if i == 0 || s > 1.1*sizes[i-1] {
			different++
		}
	}
	return different >= m.options.MinSizes && sizes[len(sizes)-1] >= 4*sizes[0]
}
