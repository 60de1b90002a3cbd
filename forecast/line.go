package forecast

import (
	"cmp"
	"math"
	"slices"
)

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
	// upper is the upper bound of what the most exposed nodes, the last of levels, were measured to cost; infinite when they were
	// measured once only.
	upper float64
}

// level is the windows of one exposure.
type level struct {
	n        int
	windows  []observation // weight is seconds
	seconds  float64
	mean     float64
	variance float64 // of a second's worth of measurement
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
		for _, o := range l.windows {
			l.mean, l.seconds = l.mean+o.y*o.weight, l.seconds+o.weight
		}
		l.mean /= l.seconds
		if l.freedom = len(l.windows) - 1; l.freedom > 0 {
			for _, o := range l.windows {
				l.variance += o.weight * (o.y - l.mean) * (o.y - l.mean) / float64(l.freedom)
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
	l.upper = l.measured(levels[len(levels)-1], modelError)
	return l
}

// measured is the upper bound of what the nodes of a step cost, beyond what there was without them.
func (l *line) measured(at level, modelError float64) float64 {
	y, variance := at.mean, at.variance/at.seconds
	if !l.own {
		y -= l.a
		variance += l.varA
	}
	t := student(0.975, float64(at.freedom))
	if math.IsInf(t, 0) {
		return math.Inf(1)
	}
	return math.Max(0, y+math.Hypot(t*math.Sqrt(variance), normal*modelError*y))
}

// most is how many nodes were exposed at once.
func (l *line) most() float64 { return float64(l.levels[len(l.levels)-1]) }

// steepest is the power of the nodes by which a component's cost can grow: each node reads, whenever one of them writes, as much as
// all of them have written.
const steepest = 3

// atMost is what a line that bends comes to on n nodes if what was measured last grows as steeply as can be from there on.
func (l *line) atMost(n float64) float64 {
	return l.upper * math.Pow(math.Max(1, n/l.most()), steepest)
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
