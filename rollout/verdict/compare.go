package verdict

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Sample is one value of one node, or cluster, in one period. A node's values within a period are its mean: samples taken
// seconds apart say the same thing again, and would make chance look like certainty.
type Sample struct {
	// Unit is the node's or the cluster's name.
	Unit string
	// Period numbers the periods; units are compared over periods that both groups have.
	Period int
	Value  float64
}

// Groups are the samples of those with the change and those without, at the same time: what all of them suffer is no harm
// of the change.
type Groups struct {
	Exposed, Control []Sample
	// At is when the newest was taken.
	At time.Time
}

// suggestive is the probability below which a large difference that is not significant holds a Pass back.
const suggestive = 0.2

// Compare says whether those with the change differ from those without. A difference must be both large and certain to
// fail: with many nodes a certain one may be tiny, with few a large one may be chance. Too few to tell is Unknown.
func Compare(check string, g Groups, c v1alpha1.RolloutMetricCompare) Finding {
	f := Finding{Check: check, At: g.At, Fresh: true}
	exposed, control := periods(g, c.NaNStrategy)
	tail := Either
	switch c.Direction {
	case v1alpha1.DirectionIncrease:
		tail = Greater
	case v1alpha1.DirectionDecrease:
		tail = Less
	}
	noData := Unknown
	if c.MustHaveData {
		noData = Fail
	}
	switch {
	case len(exposed) == 0 && len(control) == 0:
		return f.say(noData, "there is no data")
	case len(exposed) == 0:
		return f.say(noData, "there is no data of those with the change")
	case len(control) == 0:
		return f.say(Unknown, "there is nothing to compare with: no data of those without the change")
	}
	a, b := mean(exposed), mean(control)
	ratio := ratioOf(a, b)
	_, p := MannWhitney(exposed, control, tail)
	f.Figures = []Figure{
		{Name: "mean with the change", Value: a},
		{Name: "mean without", Value: b},
		{Name: "probability of chance", Value: p, Bound: c.Significance, Unit: "ratio"},
	}
	if !math.IsInf(ratio, 0) {
		f.Figures = append(f.Figures, Figure{Name: "ratio", Value: ratio, Bound: c.EffectSize.AllowedIncrease, Unit: "ratio"})
	}
	e := c.EffectSize
	up := tail != Less && ratio > e.AllowedIncrease
	down := tail != Greater && ratio < e.AllowedDecrease
	figures := fmt.Sprintf("%s with the change, %s without (%d and %d node-periods, probability of chance %s)", short(a), short(b), len(exposed), len(control), short(p))
	if c.By == v1alpha1.CompareClusters {
		figures = strings.Replace(figures, "node-periods", "cluster-periods", 1)
	}
	switch {
	case (up || down) && p <= c.Significance:
		f.Attributed = true
		f.Critical = c.Critical || up && e.CriticalIncrease > 0 && ratio > e.CriticalIncrease || down && e.CriticalDecrease > 0 && ratio < e.CriticalDecrease
		return f.say(Fail, figures)
	case LeastP(len(exposed), len(control), tail) > c.Significance:
		return f.say(Unknown, figures+": too few to tell a difference from chance")
	case (up || down) && p < suggestive:
		return f.say(Unknown, figures+": a large difference that may be chance yet")
	}
	return f.say(Pass, figures)
}

// say completes a finding.
func (f Finding) say(v Verdict, reason string) Finding {
	f.Verdict, f.Reason = v, reason
	return f
}

// ratioOf is 1 for two zeros, and infinite when something came of nothing.
func ratioOf(a, b float64) float64 {
	switch {
	case a == b:
		return 1
	case b == 0:
		return math.Inf(int(math.Copysign(1, a)))
	}
	return a / b
}

// periods averages each unit over each period, and keeps the periods that both groups have.
func periods(g Groups, nan v1alpha1.NaNStrategy) (exposed, control []float64) {
	type key struct {
		period int
		unit   string
	}
	fold := func(samples []Sample) (map[key][]float64, map[int]bool) {
		values, seen := map[key][]float64{}, map[int]bool{}
		for _, s := range samples {
			switch {
			case !math.IsNaN(s.Value) && !math.IsInf(s.Value, 0):
			case nan == v1alpha1.NaNReplace:
				s.Value = 0
			default:
				continue
			}
			values[key{s.Period, s.Unit}] = append(values[key{s.Period, s.Unit}], s.Value)
			seen[s.Period] = true
		}
		return values, seen
	}
	with, withPeriods := fold(g.Exposed)
	without, withoutPeriods := fold(g.Control)
	if len(with) > 0 && len(without) > 0 {
		drop := func(values map[key][]float64, other map[int]bool) {
			for k := range values {
				if !other[k.period] {
					delete(values, k)
				}
			}
		}
		drop(with, withoutPeriods)
		drop(without, withPeriods)
	}
	means := func(values map[key][]float64) []float64 {
		out := make([]float64, 0, len(values))
		for _, v := range values {
			out = append(out, mean(v))
		}
		slices.Sort(out) // the same sums whatever the map's order
		return out
	}
	return means(with), means(without)
}

// short is a number with three digits.
func short(f float64) string {
	if f != 0 && math.Abs(f) >= 1000 && math.Abs(f) < 1e15 {
		return fmt.Sprintf("%.0f", f)
	}
	return fmt.Sprintf("%.3g", f)
}
