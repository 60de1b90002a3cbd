package verdict

import (
	"cmp"
	"math"
	"slices"
)

// Tail is which way a difference is looked for.
type Tail int

// The tails.
const (
	Either Tail = iota
	Greater
	Less
)

// exactUpTo is how many values in all are counted out exactly; beyond it the normal approximation is good to three digits.
const exactUpTo = 40

// MannWhitney tells how likely it is, were both groups of the same kind, that a differs from b by as much as it does: that its
// values tend to be greater, less, or either. It looks at ranks only, so it needs no particular distribution, and one wild
// value is one wild value. Up to 40 values in all it counts every way to deal the ranks, ties included; beyond, it takes the
// normal approximation with corrections for ties and continuity. It returns the statistic U of a and the probability, 1 when
// a group is empty. NaN must have been taken out before.
func MannWhitney(a, b []float64, tail Tail) (u, p float64) {
	if len(a) == 0 || len(b) == 0 {
		return 0, 1
	}
	ranks, ties := doubledRanks(a, b)
	sum := 0
	for _, r := range ranks[:len(a)] {
		sum += r
	}
	n, m := float64(len(a)), float64(len(b))
	u = float64(sum)/2 - n*(n+1)/2
	if len(ranks) <= exactUpTo {
		return u, exactly(ranks, len(a), sum, tail)
	}
	all := n + m
	variance := n * m / 12 * (all + 1 - ties/(all*(all-1)))
	if variance <= 0 { // all values are the same
		return u, 1
	}
	above := u - n*m/2
	switch tail {
	case Greater:
		p = normalTail((above - 0.5) / math.Sqrt(variance))
	case Less:
		p = normalTail((-above - 0.5) / math.Sqrt(variance))
	default:
		p = 2 * normalTail((math.Abs(above)-0.5)/math.Sqrt(variance))
	}
	return u, min(p, 1)
}

// doubledRanks are twice the ranks of a's values and then b's among all, so that the middle rank of ties is a whole number, and
// the sum of t³−t over the ties.
func doubledRanks(a, b []float64) (ranks []int, ties float64) {
	all := slices.Concat(a, b)
	order := make([]int, len(all))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int { return cmp.Compare(all[i], all[j]) })
	ranks = make([]int, len(all))
	for i := 0; i < len(order); {
		j := i
		for j < len(order) && all[order[j]] == all[order[i]] {
			j++
		}
		for _, at := range order[i:j] {
			ranks[at] = i + 1 + j
		}
		t := float64(j - i)
		ties += t*t*t - t
		i = j
	}
	return ranks, ties
}

// exactly counts, of all ways to pick n of the ranks, those whose sum is as extreme as this one.
func exactly(ranks []int, n, sum int, tail Tail) float64 {
	total := 0
	for _, r := range ranks {
		total += r
	}
	// ways[k][s] is how many ways there are to pick k of the ranks so far with the sum s.
	ways := make([][]float64, n+1)
	for k := range ways {
		ways[k] = make([]float64, total+1)
	}
	ways[0][0] = 1
	for _, r := range ranks {
		for k := n; k >= 1; k-- {
			for s := total; s >= r; s-- {
				ways[k][s] += ways[k-1][s-r]
			}
		}
	}
	var atLeast, atMost, all float64
	for s, w := range ways[n] {
		all += w
		if s >= sum {
			atLeast += w
		}
		if s <= sum {
			atMost += w
		}
	}
	switch tail {
	case Greater:
		return atLeast / all
	case Less:
		return atMost / all
	}
	return min(1, 2*min(atLeast, atMost)/all)
}

func normalTail(z float64) float64 { return math.Erfc(z/math.Sqrt2) / 2 }

// LeastP is the smallest probability that MannWhitney can find with groups of these sizes. When it is not below what is asked
// for, no difference however great can be told from chance yet.
func LeastP(n, m int, tail Tail) float64 {
	if n == 0 || m == 0 {
		return 1
	}
	p := 1.0
	for i := 1; i <= min(n, m); i++ {
		p *= float64(i) / float64(max(n, m)+i)
	}
	if tail == Either {
		p *= 2
	}
	return min(p, 1)
}

func mean(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	var sum float64
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// quantile is the value below which the share q lies; 0 of nothing.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	low := int(at)
	if low+1 == len(sorted) {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
