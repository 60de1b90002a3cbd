package result

import (
	"fmt"
	"maps"
	"slices"
)

// Runs are one metric's values, a list for each contender. Run i of one contender is paired with run i of another:
// both were taken within seconds of each other, so that what else the machine did is in both.
type Runs map[string][]float64

// Add appends a contender's next run.
func (r Runs) Add(contender string, value float64) { r[contender] = append(r[contender], value) }

// Case sums the runs up: medians, and the lowest and the highest of each contender.
func (r Runs) Case(name, metric, unit, subject string) Case {
	c := Case{Case: name, Metric: metric, Unit: unit, Baselines: map[string]float64{}, Spread: map[string]Range{}, Runs: len(r[subject])}
	for _, contender := range slices.Sorted(maps.Keys(r)) {
		values := r[contender]
		if len(values) == 0 {
			continue
		}
		c.Spread[contender] = Range{Min: slices.Min(values), Max: slices.Max(values)}
		if contender == subject {
			c.Value = Median(values)
		} else {
			c.Baselines[contender] = Median(values)
		}
	}
	return c
}

// Paired applies f to each pair of runs of two contenders, in their order. A run without a partner is left out.
func (r Runs) Paired(a, b string, f func(a, b float64) float64) []float64 {
	n := min(len(r[a]), len(r[b]))
	values := make([]float64, n)
	for i := range n {
		values[i] = f(r[a][i], r[b][i])
	}
	return values
}

// Median is the middle value, or the mean of the two in the middle; 0 of none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// AtMost holds the value itself to a bound.
func (c *Case) AtMost(bound float64) {
	c.judge(fmt.Sprintf("≤ %s %s", Number(bound), c.Unit), c.Value <= bound)
}

// AtMostAbove holds the median of the paired differences to a baseline to a bound.
func (c *Case) AtMostAbove(runs Runs, subject, baseline string, bound float64) {
	over := Median(runs.Paired(subject, baseline, func(a, b float64) float64 { return a - b }))
	c.Judged = &over
	c.judge(fmt.Sprintf("≤ %s + %s %s", baseline, Number(bound), c.Unit), over <= bound)
}

// WithinNoise holds the subject to a baseline where more is better: the ranges of their runs overlap, or its median is
// at least the share of the baseline's.
func (c *Case) WithinNoise(runs Runs, subject, baseline string, share float64) {
	ratio := Median(runs.Paired(subject, baseline, ratio))
	c.Judged = &ratio
	c.judge(fmt.Sprintf("runs overlap with %s's, or ≥ %s of it", baseline, Number(share)),
		c.Spread[subject].Max >= c.Spread[baseline].Min || ratio >= share)
}

// AtMostTimes holds the median of the paired ratios to a baseline to a bound.
func (c *Case) AtMostTimes(runs Runs, subject, baseline string, bound float64) {
	ratio := Median(runs.Paired(subject, baseline, ratio))
	c.Judged = &ratio
	c.judge(fmt.Sprintf("≤ %s × %s", Number(bound), baseline), ratio <= bound)
}

// AtLeastTimes is AtMostTimes where more is better.
func (c *Case) AtLeastTimes(runs Runs, subject, baseline string, bound float64) {
	ratio := Median(runs.Paired(subject, baseline, ratio))
	c.Judged = &ratio
	c.judge(fmt.Sprintf("≥ %s × %s", Number(bound), baseline), ratio >= bound)
}

// ratio of nothing to nothing, and of anything to nothing, is taken for 0: JSON has no infinity.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (c *Case) judge(target string, met bool) {
	c.Target, c.Met = target, &met
}
