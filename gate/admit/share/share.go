// Package share divides the seats of a control plane over levels: each has a part that is its own whenever it wants it, and
// what a level does not want goes to the others, the higher first. It is pure.
package share

import "math"

// Level is what is to be known of one level.
type Level struct {
	// Share is the level's own part of the limit, 0–1.
	Share float64
	// Kept is the part of its own that is never lent, 0–1: whoever comes to an idle level finds that much free at once and
	// does not wait until somebody else's LIST ends.
	Kept float64
	// Demand are the seats in use and those waited for.
	Demand float64
}

// Divide returns how many seats each level may use, at least one each; levels are given highest first. Their sum is limit, or
// the number of levels if that is more, and what an idle level lacks to its one seat, until it wants it: ten idle levels would
// else take half of a limit of twenty from a LIST of nine that could run beside another.
func Divide(limit int, levels []Level) []int {
	seats := make([]float64, len(levels))
	rest := float64(limit)
	idle := make([]float64, len(levels)) // what they lack to one seat
	for i, l := range levels {
		own := float64(limit) * l.Share
		seats[i] = max(own*l.Kept, min(own, l.Demand))
		if lacks := 1 - seats[i]; lacks > 0 && l.Demand == 0 {
			idle[i] = lacks
		} else {
			seats[i] = max(1, seats[i])
		}
		rest -= seats[i]
	}
	for i, l := range levels {
		more := max(0, min(rest, l.Demand-seats[i]))
		seats[i] += more
		rest -= more
	}
	// What nobody wants now somebody may want before the next division.
	total := 0.0
	for _, l := range levels {
		total += l.Share
	}
	if rest > 0 && total > 0 {
		for i, l := range levels {
			seats[i] += rest * l.Share / total
		}
	} else if rest < 0 { // small limits, where one seat each is more than the shares come to
		over := -rest
		for i := len(seats) - 1; i >= 0 && over > 0; i-- {
			less := max(0, min(over, seats[i]-1))
			seats[i] -= less
			over -= less
		}
	}
	for i := range seats {
		if idle[i] > 0 {
			seats[i] = max(1, seats[i])
		}
	}
	return whole(seats)
}

// whole rounds down and gives what that leaves to the highest.
func whole(seats []float64) []int {
	rounded := make([]int, len(seats))
	left := 0.0
	for i, s := range seats {
		down := math.Floor(s + 1e-9)
		rounded[i] = int(down)
		left += s - down
	}
	for i := 0; left > 1-1e-6 && len(rounded) > 0; i = (i + 1) % len(rounded) {
		rounded[i]++
		left--
	}
	return rounded
}
