package clamp

import (
	"math"
	"slices"
	"time"
)

// point is one observation of one client.
type point struct {
	at      time.Time
	sources float64
	settled float64 // sources past their start
	load    float64 // seats held
	steady  float64 // seats held by settled sources
	others  float64 // seats held by everybody else
	weight  float64 // how many observations it is the mean of
}

// Points are kept for horizon, and at most maxPoints of them: when there are more, each two become one.
const (
	horizon   = 10 * time.Minute
	maxPoints = 120
)

func appendPoint(points []point, p point) []point {
	for len(points) > 0 && p.at.Sub(points[0].at) > horizon {
		points = points[1:]
	}
	p.weight = 1
	if points = append(points, p); len(points) <= maxPoints {
		return points
	}
	// The newest stay as they are: growth is found in them.
	fresh := maxPoints / 2
	old := points[:len(points)-fresh]
	merged := make([]point, 0, maxPoints)
	for i := 0; i+1 < len(old); i += 2 {
		merged = append(merged, mean(old[i], old[i+1]))
	}
	if len(old)%2 == 1 {
		merged = append(merged, old[len(old)-1])
	}
	return append(merged, points[len(points)-fresh:]...)
}

func mean(a, b point) point {
	w := a.weight + b.weight
	of := func(x, y float64) float64 { return (x*a.weight + y*b.weight) / w }
	return point{
		at: b.at, weight: w, sources: of(a.sources, b.sources), settled: of(a.settled, b.settled),
		load: of(a.load, b.load), steady: of(a.steady, b.steady), others: of(a.others, b.others),
	}
}

// slope is what one more settled source costs in seats, at least; 0 is also for points that are too few to tell.
//
// Only settled sources are fitted. What sources cost at their start is paid once each, and in a rollout that gathers speed it
// looks just like a cost that stays. And it must go on rising: sources that do their work and go, as a CronJob's, cost more at
// first and then no more, however many came.
func slope(points []point) (seats float64) {
	points = bins(points)
	if len(points) < leastBins {
		return 0
	}
	return max(0, min(slopeAt(points, 0.25), slopeAt(points[len(points)/2:], 0.5)))
}

// slopeAt draws slopes between any two points that lie well apart, after Theil and Sen, and returns the one that the given part
// of them does not exceed. The middle one may be wrong for a third of the points and still be right. A client that costs the
// same however many sources it has, in fits and starts, has as many slopes below nothing as above, so a lower one finds nothing.
func slopeAt(points []point, part float64) float64 {
	low, high := math.Inf(1), 0.0
	for _, p := range points {
		low, high = min(low, p.settled), max(high, p.settled)
	}
	if high-low < leastSources {
		return 0
	}
	apart := (high - low) / 3
	var slopes []float64
	for i, p := range points {
		for _, q := range points[:i] {
			if d := p.settled - q.settled; d >= apart || d <= -apart {
				slopes = append(slopes, (p.steady-q.steady)/d)
			}
		}
	}
	slices.Sort(slopes)
	return slopes[int(part*float64(len(slopes)))]
}

// A request of half a second every second makes every other observation a full seat and the one between none. Slopes are drawn
// through means of binLength, at least leastBins of them.
const (
	binLength = 2500 * time.Millisecond
	leastBins = 6
)

// bins are the means of whole bins of points with settled sources.
func bins(points []point) []point {
	var list []point
	var current point
	var began time.Time
	for i, p := range points {
		if p.settled <= 0 {
			continue
		}
		if current.weight == 0 {
			current = p
			if began = p.at; i > 0 {
				began = points[i-1].at
			}
		} else {
			current = mean(current, p)
		}
		if p.at.Sub(began) >= binLength {
			list = append(list, current)
			current = point{}
		}
	}
	return list
}

// steps is how often the number of sources rose above all it was before, since it was at its least; last is when it did last.
func steps(points []point) (n int, last time.Time) {
	if len(points) == 0 {
		return 0, time.Time{}
	}
	at := 0
	for i, p := range points {
		if p.sources <= points[at].sources {
			at = i
		}
	}
	most := points[at].sources
	for _, p := range points[at+1:] {
		if p.sources > most {
			most, last = p.sources, p.at
			n++
		}
	}
	return n, last
}

// usual is what the others usually hold: what they do for a moment, when nodes are added for one, leaves no less to a client.
func usual(points []point) float64 {
	var all []float64
	for _, p := range points {
		all = append(all, p.others)
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func fewest(points []point) float64 {
	if len(points) == 0 {
		return 0
	}
	return slices.MinFunc(points, func(a, b point) int {
		switch {
		case a.sources < b.sources:
			return -1
		case a.sources > b.sources:
			return 1
		}
		return 0
	}).sources
}
