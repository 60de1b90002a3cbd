// Package ramp lets clients back to a control plane that has just come up: by priority and by budget, and not by time. All
// of them come at once, because all of them lost the same API server, and each LISTs before it watches; 5,000 nodes have kept
// a control plane from recovering by that alone (kubernetes/kubernetes#65954). A ramp over time does not help, since they all
// return at its beginning and again at its end: so there is a budget for LISTs and one for opening watches, each grows only
// while the control plane is well, and the higher level takes from it before the lower.
//
// It is pure: the time is an input, and nothing waits in here.
package ramp

import (
	"math"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Kind is what a request does to a control plane that comes back.
type Kind int

// The kinds. A watch that asks for its initial state (sendInitialEvents) is a List.
const (
	List Kind = iota
	Watch
)

// Ask is one request.
type Ask struct {
	Kind Kind
	// Resource is "pods", or "deployments.apps".
	Resource string
	Level    v1alpha1.LevelName
	// Bytes is the predicted size of a LIST's answer.
	Bytes float64
	// Again is true for one that was held and has not gone away since: it is asked for as often as one likes.
	Again bool
	// Behind is what waits for seats already where the request would go, in limits. From one on it stays here: in a queue it
	// would be turned away sooner.
	Behind float64
}

// A seat for each 100 KB of an answer, at most ten: as in API Priority and Fairness.
const (
	seatBytes = 100_000
	mostSeats = 10
)

// cost is what the ask takes from its budget.
func (a *Ask) cost() float64 {
	if a.Kind == Watch || !(a.Bytes > 0) {
		return 1
	}
	return min(max(1, a.Bytes/seatBytes), mostSeats)
}

const (
	// listsPerSeat a second, to begin with: in seats, all of the limit four times a second. At the 40 seats a gate begins with,
	// 16 LISTs of a megabyte or more. How many run at once is bounded by the seats themselves; once a second left an API server
	// that was back at a third of its processor for six seconds.
	listsPerSeat = 4.0
	// watchesPerSeat a second, to begin with: opening one costs an API server about a millisecond.
	watchesPerSeat = 5.0
	growth         = 2.0 // times more each second while the control plane is well and somebody is held
	shrink         = 0.5 // times, each second while it is not
	leastRate      = 0.25
	mostRate       = 1e6
	// together is the part of the limit that LISTs of one resource may hold at once, to begin with: they copy the same
	// objects out of one cache, and hold its lock.
	together = 0.5

	waitLeast = 250 * time.Millisecond
	waitMost  = 30 * time.Second
	// calm is how long nobody was held when it is over. It is longer than the longest a client was told to wait.
	calm   = 5 * time.Second
	maxGap = time.Second
)

// Ramp is the way back of one control plane. It is not safe for concurrent use.
type Ramp struct {
	active  bool
	ticked  time.Time
	held    time.Time // when somebody was held last, or will come again at the latest
	budgets [2]budget
	seats   float64
	cap     float64            // seats that LISTs of one resource may hold
	lists   map[string]float64 // seats they hold
}

// budget is what may begin.
type budget struct {
	first, rate, tokens float64
	wanted              [levels]wanted
	held                bool // since the last tick
}

const levels = 5

// wanted is what of one level was held lately: this window's and the one before.
type wanted struct{ now, before float64 }

func (w *wanted) cost() float64 { return max(w.now, w.before) }

// window is how long what was held counts before it has come again.
const window = 2 * time.Second

// New is a ramp that is not active: everything may begin.
func New() *Ramp { return &Ramp{lists: map[string]float64{}} }

// Active is whether anybody may be held.
func (r *Ramp) Active() bool { return r.active }

// Begin is called when the control plane comes back: an API server started, all circuits were out, or the gate itself
// started before it. seats is the limit of the law. Called again it begins anew.
func (r *Ramp) Begin(now time.Time, seats float64) {
	if !(seats > 1) {
		seats = 1
	}
	seats = min(seats, mostRate)
	r.active, r.ticked, r.held, r.seats = true, now, now, seats
	r.cap = max(2*mostSeats, seats*together)
	for kind, perSeat := range [...]float64{List: listsPerSeat, Watch: watchesPerSeat} {
		first := max(1, seats*perSeat)
		r.budgets[kind] = budget{first: first, rate: first, tokens: max(first/4, mostSeats)}
	}
}

// State is how the control plane is.
type State int

// The states. While it is Well the budgets grow, while it is Busy (processors are short, and nothing else) they stay: more would
// only wait elsewhere, and less would leave it idle. Otherwise they shrink.
const (
	Unwell State = iota
	Busy
	Well
)

// Tick is called about four times a second.
func (r *Ramp) Tick(now time.Time, state State) {
	elapsed := now.Sub(r.ticked)
	if !r.active || elapsed <= 0 {
		if elapsed < -maxGap { // the clock went back
			r.ticked, r.held = now, now
		}
		return
	}
	turned := now.UnixNano()/int64(window) != r.ticked.UnixNano()/int64(window)
	r.ticked = now
	seconds := min(elapsed, maxGap).Seconds()
	for i := range r.budgets {
		b := &r.budgets[i]
		switch {
		case state == Unwell:
			b.rate = max(b.rate*math.Pow(shrink, seconds), b.first*leastRate)
			b.tokens = min(b.tokens, mostSeats) // what was saved up while it was well
		case state == Well && b.held:
			b.rate = min(b.rate*math.Pow(growth, seconds), mostRate)
		}
		b.held = false
		b.tokens = min(b.tokens+b.rate*seconds, max(b.rate, mostSeats))
		if turned {
			for l := range b.wanted {
				b.wanted[l].before, b.wanted[l].now = b.wanted[l].now, 0
			}
		}
	}
	// LISTs of one resource: as many more as there may be of all.
	r.cap = max(2*mostSeats, r.seats*together) * max(1, r.budgets[List].rate/r.budgets[List].first)
	if now.Sub(r.held) > calm {
		r.active = false
	}
}

// Admit is whether the request may begin now; when it may not, after how long to ask again, at the earliest. What began must
// be told Done, whether the ramp is active or not.
func (r *Ramp) Admit(now time.Time, a Ask) (ok bool, retryAfter time.Duration) {
	cost := a.cost()
	if r.active {
		if wait, held := r.wait(a, cost); held {
			if until := now.Add(wait); until.After(r.held) {
				r.held = until
			}
			return false, wait
		}
	}
	if a.Kind == List {
		r.lists[a.Resource] += cost
	}
	return true, 0
}

// wait is how long the request has to wait, and whether it has to.
func (r *Ramp) wait(a Ask, cost float64) (time.Duration, bool) {
	b := &r.budgets[a.Kind&1]
	level := rank(a.Level)
	above := 0.0 // what higher levels will come again for
	for l := range level {
		above += b.wanted[l].cost()
	}
	full := r.Full(a)
	if a.Behind >= 1 {
		if !a.Again {
			b.wanted[level].now += cost
		}
		return waitLeast, true // the budget is not what is short, and has no reason to grow
	}
	if !full && b.tokens >= cost+min(above, max(b.rate, mostSeats)) {
		b.tokens -= cost
		b.wanted[level].now = max(0, b.wanted[level].now-cost)
		b.wanted[level].before = max(0, b.wanted[level].before-cost)
		return 0, false
	}
	ahead := above + b.wanted[level].cost()
	if !a.Again {
		b.wanted[level].now += cost
	}
	b.held = true
	// By then the budget has grown, if all goes well: this is the time in which it comes to what is ahead.
	seconds := math.Log1p(max(0, ahead+cost-b.tokens)*math.Log(growth)/b.rate) / math.Log(growth)
	return min(max(time.Duration(min(seconds, 3600)*float64(time.Second)), waitLeast), r.longest()), true
}

// Full is whether LISTs of the resource hold so much already that another has to wait, whatever the budget is.
func (r *Ramp) Full(a Ask) bool {
	return r.active && a.Kind == List && r.lists[a.Resource] > 0 && r.lists[a.Resource]+a.cost() > r.cap
}

// longest is how long anybody waits: little, since the budget doubles in little more than a second.
func (r *Ramp) longest() time.Duration {
	if r.budgets[List].rate < r.budgets[List].first {
		return waitMost
	}
	return calm - time.Second
}

// Done is called when a request that was admitted ends: a LIST with its last byte.
func (r *Ramp) Done(a Ask) {
	if a.Kind != List {
		return
	}
	if left := r.lists[a.Resource] - a.cost(); left > 1e-6 {
		r.lists[a.Resource] = left
	} else {
		delete(r.lists, a.Resource)
	}
}

// Rates are how many seats of LISTs, and how many watches, may begin in a second now; 0 when the ramp is not active.
func (r *Ramp) Rates() (lists, watches float64) {
	if !r.active {
		return 0, 0
	}
	return r.budgets[List].rate, r.budgets[Watch].rate
}

// rank is a level's place, 0 the highest; one that is not known is the lowest.
func rank(l v1alpha1.LevelName) int {
	if i := slices.Index(v1alpha1.LevelNames, l); i >= 0 {
		return min(i, levels-1)
	}
	return levels - 1
}
