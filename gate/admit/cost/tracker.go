package cost

import "math"

// How a tracker follows. Times of requests are skewed, with rare values of many times the usual one; their logarithm is
// near enough symmetric, and its mean is the median of the values.
const (
	// steady is the weight of a new value once there are enough: 1/20, so that a value is forgotten after some tens.
	steady = 0.05
	// changed is its weight while values stay on one side of what is expected for so long that something changed.
	changed = 0.3
	// changedAfter is how many in a row say so: by chance that is one in 500.
	changedAfter = 4
	// clampAt is how many spreads from the expected a value counts as, at most: further out it is an outlier, and moves
	// no more than an ordinary one.
	clampAt = 3
	// leastClamp is the least such distance, in e-folds: what never varied may change as well.
	leastClamp = 0.2
	// firstSpread is assumed before there is one to see, in e-folds: a third more or less.
	firstSpread = 0.3
	// mostConfidence bounds how much of what was learned long ago counts.
	mostConfidence = 100
	// mostSamples is more than anybody counts, and every JSON number can be.
	mostSamples = 1 << 53
)

// tracker follows the median of a positive quantity. The zero tracker knows nothing.
type tracker struct {
	// value is the median, mean its natural logarithm, spread the mean absolute distance of the logarithms from it.
	value, mean, spread float64
	// samples were learned in all; confidence is how many of them still count, at most mostConfidence.
	samples    int64
	confidence int
	// run is how many values in a row were more than a spread above (+) or below (−) what was expected.
	run int
}

func (t *tracker) known() bool { return t.confidence > 0 }

// learn takes a value > 0.
func (t *tracker) learn(value float64) {
	x := math.Log(value)
	if !t.known() {
		t.spread = firstSpread
		t.set(x)
	} else {
		d := t.distance(x)
		t.set(t.mean + t.weight()*d)
		t.spread += t.memory() * (math.Abs(d) - t.spread)
	}
	t.samples = min(t.samples+1, mostSamples)
	t.confidence = min(t.confidence+1, mostConfidence)
}

// lower takes a value > 0 that is an upper bound of what is followed: it was measured under a load. Values below what is
// expected are believed. Those above only keep single low ones from dragging it down; past ceiling, where it was without
// load, they never get. Neither counts as a sample, and both weigh half: the ceiling makes chance drag one way only.
func (t *tracker) lower(value, ceiling float64) {
	d := t.distance(math.Log(value))
	t.set(min(t.mean+t.weight()/2*d, ceiling))
}

// scale says that what is followed became ratio times what it was, for a reason found elsewhere.
func (t *tracker) scale(ratio float64) { t.set(t.mean + math.Log(ratio)) }

func (t *tracker) set(mean float64) { t.mean, t.value = mean, math.Exp(mean) }

// distance is how far x is from what is expected, clamped, and counts the run.
func (t *tracker) distance(x float64) float64 {
	d := x - t.mean
	switch {
	case d > max(t.spread, 0.01):
		t.run = max(t.run, 0) + 1
	case d < -max(t.spread, 0.01):
		t.run = min(t.run, 0) - 1
	default:
		t.run = 0
	}
	most := max(clampAt*t.spread, leastClamp)
	return max(-most, min(d, most))
}

func (t *tracker) weight() float64 {
	if max(t.run, -t.run) >= changedAfter {
		return max(changed, t.memory())
	}
	return t.memory()
}

func (t *tracker) memory() float64 { return max(steady, 1/float64(t.confidence+1)) }

// age forgets half of what was learned for each day nothing was, so that what was learned a week ago gives way to the first
// few samples.
func (t *tracker) age(days int) {
	if t.known() && days > 0 {
		t.confidence = max(1, t.confidence>>min(days, 30))
		t.run = 0
	}
}
