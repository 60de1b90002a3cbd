package choice

import "time"

// State is where a circuit stands.
type State int

// The states of a circuit.
const (
	In State = iota
	HalfOpen
	Out
)

// String implements fmt.Stringer.
func (s State) String() string { return [...]string{"in", "half-open", "out"}[s] }

// Ability is what a circuit is about.
type Ability int

// The two circuits of a server.
const (
	// Serving is whether it answers at all.
	Serving Ability = iota
	// Quorum is whether it can write to its etcd, and read from it what is most recent.
	Quorum
)

// String implements fmt.Stringer.
func (a Ability) String() string { return [...]string{"serving", "quorum"}[a] }

// Reason is why a circuit went out.
type Reason string

// The reasons; they are label values.
const (
	Unreachable Reason = "unreachable" // no connection, or no handshake
	Broken      Reason = "broken"      // requests were sent and never answered
	NotReady    Reason = "not_ready"   // it says so itself
	Silent      Reason = "silent"      // a probe got no answer in time, and nobody else did either
	Errors      Reason = "errors"      // one error after the other, while other servers answer
	StoreErrors Reason = "etcd_errors" // answers that name etcd
	Hanging     Reason = "hanging"     // requests that need etcd wait, while other servers answer theirs
)

// Reasons are all reasons.
var Reasons = []Reason{Unreachable, Broken, NotReady, Silent, Errors, StoreErrors, Hanging}

// circuit is one ability of one server. The table's lock guards it.
type circuit struct {
	state State
	why   Reason
	since time.Time
	// relapses counts how often it went out again while half open; each doubles what it takes to be tried again.
	relapses int
	// wellSince is since when all probes have found it well, zero when the last did not. probed is when one last said
	// anything about it.
	wellSince, probed time.Time

	// Of a half-open circuit: how many canaries may be under way, how many are, how many came back well. life tells
	// requests of this half-open time from those of before, which may hang for a minute yet.
	window, trials, passed int
	life                   int

	out map[Reason]int // how often it went out, for metrics
}

const (
	// readmitAfter is how many canaries must come back. The window doubles with each, so that they take five rounds.
	readmitAfter = 16
	maxWindow    = 32
	maxRelapses  = 5
	// stale is how old the last probe's word may be before time decides instead.
	stale = 5 * time.Second
)

func (c *circuit) goOut(now time.Time, why Reason) {
	c.wellSince = time.Time{}
	if c.state == Out {
		return
	}
	if c.state == HalfOpen {
		c.relapses = min(c.relapses+1, maxRelapses)
	}
	c.state, c.why, c.since = Out, why, now
	if c.out == nil {
		c.out = map[Reason]int{}
	}
	c.out[why]++
}

func (c *circuit) halfOpen(now time.Time) {
	c.state, c.since = HalfOpen, now
	c.window, c.trials, c.passed = 1, 0, 0
	c.life++
}

// try takes a canary's place; life is 0 when the request is none.
func (c *circuit) try() (life int) {
	if c.state != HalfOpen {
		return 0
	}
	c.trials++
	return c.life
}

// tried gives a canary's place back.
func (c *circuit) tried(life int) {
	if c.state == HalfOpen && life == c.life {
		c.trials--
	}
}

// passedWell is to be called for every request that went well; only a canary's counts.
func (c *circuit) passedWell(now time.Time, life int) {
	if c.state != HalfOpen || life != c.life {
		return
	}
	c.passed++
	c.window = min(2*c.window, maxWindow)
	if c.passed >= readmitAfter {
		c.state, c.why, c.since, c.relapses = In, "", now, 0
	}
}

// admits says whether a request may go there: any when it is in, canaries when it is half open.
func (c *circuit) admits() bool { return c.state == In || c.state == HalfOpen && c.trials < c.window }

// found is a probe's word. need is how long it must have been well without a break before it is tried again.
func (c *circuit) found(now time.Time, well bool, need time.Duration) {
	c.probed = now
	if !well {
		c.wellSince = time.Time{}
		return
	}
	if c.wellSince.IsZero() {
		c.wellSince = now
	}
	if c.state == Out && now.Sub(c.wellSince) >= need<<c.relapses {
		c.halfOpen(now)
	}
}

// wait tries a circuit again after a time when no probe says anything about it.
func (c *circuit) wait(now time.Time, need time.Duration) {
	if c.state == Out && now.Sub(c.probed) > stale && now.Sub(c.since) >= need<<c.relapses {
		c.halfOpen(now)
	}
}
