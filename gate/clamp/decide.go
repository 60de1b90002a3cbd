package clamp

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// What makes a client suspect. Lower figures find more, and more that is harmless.
const (
	// leastSources: from fewer, a Deployment that is scaled up looks like the beginning of a DaemonSet.
	leastSources = 8
	// leastSteps is how many observations must show more sources than any before.
	leastSteps = 3
	// growth is what a client's sources must have grown by, over the least of the last minutes and over what is known of it.
	growth = 1.5
	// growsFor is how long after its last step a client counts as growing.
	growsFor = 15 * time.Second
	// overrunSources and overrunSteps are enough of a client that by itself holds more than all the seats there are: the incident's
	// telemetry came to 300 nodes within two seconds, and three steps and a mean of three seconds were too late for whoever asked
	// in the first.
	overrunSources = 3 * leastSources
	overrunSteps   = 2
	// leastPart of the headroom a client must use already: a forecast from less would be made of noise.
	leastPart = 0.1
	// leastFree is the part of the capacity that counts as free however much the others hold: where they hold all of it, the
	// least that grows is not to blame.
	leastFree = 0.2
	// recent is over which the load of now is averaged: a batch of pods that start in the same second is no load that stays.
	recent = 3 * time.Second
	// manyGrow is how many others may grow at the same time. When more do, it is not this client that is rolled out: a gate or
	// an API server came back, or nodes are being added, and everybody arrives.
	manyGrow = 3
	// knownAfter is how long a number of sources must have stood to be known.
	knownAfter = time.Minute
	// safeShare of the headroom is what a clamped client gets.
	safeShare = 0.25
	// causeStays is for how long after the last sign of it the cause of a clamp persists.
	causeStays = time.Minute
	// liftedStays is for how long what an operator lifted is not clamped again.
	liftedStays = time.Hour
	// suspectStays is how long a suspect stays listed that does not grow any more and is not clamped.
	suspectStays = 10 * time.Minute
	// bytesPerSeat is what is encoded in a seat-second, as in the ledger: answers that are big and quick cost more than their
	// time says.
	bytesPerSeat = 100e6
	// maxTracked bounds the clients with more than one source; maxKnown those remembered.
	maxTracked = 2048
	maxKnown   = 4096
)

// Client is one user in one observation: averages since the observation before.
type Client struct {
	User string
	// Seats are held, SettledSeats of them by sources that are past their start.
	Seats, SettledSeats float64
	// BytesPerSecond are sent to it.
	BytesPerSecond float64
	// Sources are the distinct addresses it comes from, Settled those past their start.
	Sources, Settled int
	// Refused requests were turned away since the observation before.
	Refused int64
}

// Observation is what there is at one moment.
type Observation struct {
	At time.Time
	// Seats are held by everybody together; Capacity is how many there are.
	Seats, Capacity float64
	// Nodes is how many sources a client may come to have.
	Nodes   int
	Clients []Client
}

// Why a suspect is not clamped.
const (
	// SparedSystem: the control plane, nodes, and what pods cannot live without; named only.
	SparedSystem = "system"
	// SparedExempt: the policy's exempt.
	SparedExempt = "exempt"
	// SparedLifted: an operator lifted its clamp less than an hour ago.
	SparedLifted = "lifted"
	// SparedCrowd: many clients grow at once, so something else came back.
	SparedCrowd = "crowd"
)

// Policy says what is made of a suspect.
type Policy struct {
	// HeadroomPercent is the part of what the others leave of the capacity that one client's forecast may take, 1–100.
	HeadroomPercent int
	// Duration is how long a clamp lasts, and by how much it is prolonged.
	Duration time.Duration
	// Spare says why a user is never clamped (a Spared constant), "" for the others; nil spares nobody.
	Spare func(user string) string
}

// Suspect is a client whose cost grows with its sources and would pass the headroom on all of them.
type Suspect struct {
	User string `json:"user"`
	// Named is when it was found, Growing when it was last seen to grow.
	Named   time.Time `json:"named"`
	Growing time.Time `json:"growing"`
	// Sources it came from when it was last seen to grow, of Nodes it may come to.
	Sources int `json:"sources"`
	Nodes   int `json:"nodes"`
	// Seats it held then, and SeatsPerSource one more settled source was found to cost; 0 when that is not known yet.
	Seats          float64 `json:"seats"`
	SeatsPerSource float64 `json:"seatsPerSource"`
	// Forecast is what it would hold on all nodes, Headroom what it may.
	Forecast float64 `json:"forecast"`
	Headroom float64 `json:"headroom"`
	// Spared says why it is not clamped: system, exempt, lifted or crowd.
	Spared string `json:"spared,omitempty"`
	// Concurrency is what the clamp leaves it, or would.
	Concurrency int `json:"concurrency"`
	// Rule is the emergency rule that clamps it and Until its end, while there is one.
	Rule  string     `json:"rule,omitempty"`
	Until *time.Time `json:"until,omitempty"`
}

// Kind is what a decision is about.
type Kind string

// The kinds.
const (
	// Name: a client became suspect.
	Name Kind = "name"
	// Clamp: it is to be clamped.
	Clamp Kind = "clamp"
	// Renew: its clamp is to be prolonged by Policy.Duration from now on, because its cause persists.
	Renew Kind = "renew"
)

// Decision is something to do.
type Decision struct {
	Kind    Kind
	Suspect Suspect
}

// Decider remembers what it observed. It is not safe for concurrent use.
type Decider struct {
	policy Policy
	tracks map[string]*track
	known  map[string]int
	first  bool // no observation yet
}

// track is one client over time.
type track struct {
	points  []point
	steady  time.Time // since when its sources have not grown
	suspect *Suspect
	cause   time.Time // last sign that a clamp is needed
	lifted  time.Time
}

// New returns a Decider that knows from how many sources clients came before, as Known returned it.
func New(policy Policy, known map[string]int) *Decider {
	d := &Decider{policy: policy, tracks: map[string]*track{}, known: map[string]int{}, first: true}
	maps.Copy(d.known, known)
	return d
}

// SetPolicy replaces the policy; what was observed stays.
func (d *Decider) SetPolicy(policy Policy) { d.policy = policy }

// Known is from how many sources each client is known to come without harm, to be kept over a restart. When a gate starts,
// everybody arrives at once: those who come back are no rollout.
func (d *Decider) Known() map[string]int { return maps.Clone(d.known) }

// Observe takes an observation and returns what to do, by user.
func (d *Decider) Observe(o Observation) []Decision {
	d.track(&o)
	growing := 0
	for user, t := range d.tracks {
		if d.grows(user, t, &o, leastSteps) {
			growing++
		}
	}
	var decisions []Decision
	for _, c := range o.Clients {
		if t := d.tracks[c.User]; t != nil {
			decisions = d.decide(decisions, &c, t, &o, growing)
		}
	}
	slices.SortStableFunc(decisions, func(a, b Decision) int { return cmp.Compare(a.Suspect.User, b.Suspect.User) })
	d.first = false
	return decisions
}

// track adds the observation to the clients' tracks.
func (d *Decider) track(o *Observation) {
	seen := make(map[string]bool, len(o.Clients))
	for i := range o.Clients {
		c := &o.Clients[i]
		seen[c.User] = true
		t := d.tracks[c.User]
		if t == nil {
			if c.Sources < 2 || len(d.tracks) >= maxTracked {
				continue
			}
			t = &track{steady: o.At}
			d.tracks[c.User] = t
			if !d.first { // it was not there a moment ago
				t.points = append(t.points, point{at: o.At, others: o.Seats * slowed(o), weight: 1})
			}
		}
		p := point{
			at: o.At, sources: float64(c.Sources), settled: float64(c.Settled),
			load: max(c.Seats*slowed(o), c.BytesPerSecond/bytesPerSeat), steady: c.SettledSeats * slowed(o),
			others: max(0, o.Seats-c.Seats) * slowed(o),
		}
		if n := len(t.points); n > 0 && p.sources > t.points[n-1].sources {
			t.steady = o.At
		}
		t.points = appendPoint(t.points, p)
		if o.At.Sub(t.steady) >= knownAfter && t.suspect == nil && c.Sources > d.known[c.User] && (len(d.known) < maxKnown || d.known[c.User] > 0) {
			d.known[c.User] = c.Sources
		}
	}
	for user, t := range d.tracks {
		if !seen[user] && (t.suspect == nil || t.suspect.Rule == "") {
			delete(d.tracks, user)
		}
	}
}

// grows is true for a client that is being rolled out: its sources rose so many times.
func (d *Decider) grows(user string, t *track, o *Observation, least int) bool {
	now := t.points[len(t.points)-1]
	if now.sources < leastSources {
		return false
	}
	n, last := steps(t.points)
	// Who shrank with its cluster is not known for what it was.
	known := min(d.known[user], max(o.Nodes, 0))
	return n >= least && o.At.Sub(last) <= growsFor && now.sources >= growth*max(fewest(t.points), float64(known))
}

// overruns is true for a client that nothing need be forecast of: it grows, and holds more than all the seats there are already.
// What it holds counts in full, though each seat gets less done: whoever comes next waits behind all of them.
func (d *Decider) overruns(c *Client, t *track, o *Observation) bool {
	return c.Sources >= overrunSources && c.Seats > o.Capacity && d.grows(c.User, t, o, overrunSteps)
}

func (d *Decider) decide(decisions []Decision, c *Client, t *track, o *Observation, growing int) []Decision {
	if s := t.suspect; s != nil && s.Rule != "" {
		if c.Refused > 0 || t.now(o.At) > float64(s.Concurrency) {
			t.cause = o.At
		}
		if s.Until.Sub(o.At) < d.policy.Duration/2 && o.At.Sub(t.cause) < causeStays {
			return append(decisions, Decision{Renew, *s})
		}
		return decisions
	}
	if t.suspect != nil && o.At.Sub(t.suspect.Growing) > suspectStays {
		t.suspect = nil
	}
	overrun := d.overruns(c, t, o)
	if !overrun && !d.grows(c.User, t, o, leastSteps) {
		return decisions
	}
	load := t.now(o.At)
	if overrun {
		load = c.Seats
	}
	headroom := max(leastFree*o.Capacity, o.Capacity-usual(t.points)) * float64(d.policy.HeadroomPercent) / 100
	perSource := slope(t.points)
	forecast := load + perSource*max(0, float64(o.Nodes-c.Sources))
	if forecast <= headroom || load < leastPart*headroom {
		return decisions
	}
	s := t.suspect
	fresh := s == nil
	if fresh {
		s = &Suspect{User: c.User, Named: o.At}
		t.suspect = s
	}
	s.Growing, s.Sources, s.Nodes = o.At, c.Sources, max(o.Nodes, c.Sources)
	s.Seats, s.SeatsPerSource, s.Forecast, s.Headroom = load, perSource, forecast, headroom
	s.Concurrency = int(max(1, math.Floor(min(load, safeShare*headroom))))
	s.Spared = d.spared(c.User, t, o, growing)
	if fresh {
		decisions = append(decisions, Decision{Name, *s})
	}
	if s.Spared == "" {
		decisions = append(decisions, Decision{Clamp, *s})
	}
	return decisions
}

func (d *Decider) spared(user string, t *track, o *Observation, growing int) string {
	if d.policy.Spare != nil {
		if why := d.policy.Spare(user); why != "" {
			return why
		}
	}
	switch {
	case !t.lifted.IsZero() && o.At.Sub(t.lifted) < liftedStays:
		return SparedLifted
	case growing > manyGrow+1: // itself is one of them
		return SparedCrowd
	}
	return ""
}

// slowed is what a seat is worth that is held now. When more are held than there are, each gets less done, and a client whose
// requests take longer because of others does not cost more.
func slowed(o *Observation) float64 {
	if o.Seats <= o.Capacity {
		return 1
	}
	return o.Capacity / o.Seats
}

// now is the client's load, averaged over the last moments.
func (t *track) now(at time.Time) float64 {
	sum := 0.0
	for i := len(t.points) - 1; i > 0; i-- {
		p, before := &t.points[i], t.points[i-1].at
		if from := at.Add(-recent); before.Before(from) {
			before = from
		}
		if !p.at.After(before) {
			break
		}
		sum += p.load * p.at.Sub(before).Seconds()
	}
	return sum / recent.Seconds()
}

// Clamped says that a rule made at a time clamps the user until another: one that a Clamp asked for, one that was prolonged, or
// one of before a restart.
func (d *Decider) Clamped(user, rule string, made, until time.Time, concurrency int) {
	t := d.tracks[user]
	if t == nil {
		t = &track{points: []point{{weight: 1}}}
		d.tracks[user] = t
	}
	if t.suspect == nil {
		t.suspect = &Suspect{User: user, Named: made, Growing: made}
	}
	t.suspect.Rule, t.suspect.Until, t.suspect.Concurrency = rule, &until, concurrency
}

// Ended says that the user's clamp is over; lifted, that an operator ended it.
func (d *Decider) Ended(user string, at time.Time, lifted bool) {
	t := d.tracks[user]
	if t == nil || t.suspect == nil {
		return
	}
	t.suspect.Rule, t.suspect.Until = "", nil
	if lifted {
		t.lifted = at
		t.suspect.Spared = SparedLifted
		t.suspect.Growing = at
	}
}

// Suspects returns the suspects of now, the latest first.
func (d *Decider) Suspects() []Suspect {
	list := []Suspect{}
	for _, t := range d.tracks {
		if t.suspect != nil {
			list = append(list, *t.suspect)
		}
	}
	slices.SortFunc(list, func(a, b Suspect) int { return cmp.Or(b.Named.Compare(a.Named), cmp.Compare(a.User, b.User)) })
	return list
}
