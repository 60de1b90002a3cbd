package choice

import "time"

// Evening decides which servers' watches end so that all servers carry alike. Watches last for minutes or hours, so after
// a restart the server that was away has none and the others have all; and a server without its etcd holds watches that
// tell nothing. It is in no hurry: what it ends is opened again at once, and all at once would be a storm of its own.
type Evening struct {
	// PerSecond is how many watches may be ended; 0: none.
	PerSecond float64

	budget float64
	at     time.Time
}

// Share is one server's part of the streams.
type Share struct {
	// Streams is how many are open there, Movable how many of them may be ended.
	Streams, Movable int
	// Takes is true when it may get more: it is in, in every respect.
	Takes bool
	// OutFor is how long it has been out, in any respect; 0 when it is not.
	OutFor time.Duration
}

const (
	// tolerated differences are not worth a reconnection: a tenth, and four at least.
	toleratedShare = 0.1
	toleratedFew   = 4
	// leaveAfter is how long a server must be out before its watches leave it. An election of etcd's is over sooner.
	leaveAfter = 5 * time.Second
	// leaveCost is less than one: a watch that tells nothing is moved more readily than one that is merely unevenly placed.
	leaveCost = 0.25
)

// Step returns how many watches to end on each server now.
func (e *Evening) Step(now time.Time, shares []Share) []int {
	if !e.at.IsZero() {
		e.budget = min(e.budget+now.Sub(e.at).Seconds()*e.PerSecond, e.PerSecond)
	}
	e.at = now
	end := make([]int, len(shares))
	takers, total := 0, 0
	for _, s := range shares {
		if s.Takes {
			takers++
			total += s.Streams
		}
	}
	if takers == 0 {
		return end
	}
	mean := float64(total) / float64(takers)
	bound := mean + max(toleratedFew, mean*toleratedShare)
	// Those that leave first, then the fullest.
	for i, s := range shares {
		if s.OutFor >= leaveAfter {
			end[i] = e.spend(s.Movable, leaveCost)
		}
	}
	for {
		fullest := -1
		for i, s := range shares {
			if s.Takes && end[i] < s.Movable && float64(s.Streams-end[i]) > bound &&
				(fullest < 0 || s.Streams-end[i] > shares[fullest].Streams-end[fullest]) {
				fullest = i
			}
		}
		if fullest < 0 || e.spend(1, 1) == 0 {
			return end
		}
		end[fullest]++
	}
}

// spend takes up to n from the budget at a cost each, and returns how many it was enough for.
func (e *Evening) spend(n int, cost float64) int {
	n = min(n, int(e.budget/cost))
	e.budget -= float64(n) * cost
	return n
}
