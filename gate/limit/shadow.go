package limit

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// A rule in shadow must say whom it would have turned away and change nothing. Rates and bytes are charged as always. Places
// are another matter: a request that finds them taken waits up to waitForPlace before it is turned away, and a shadow must not
// make it wait. So the wait is played: the request goes on, a ticket stands in the line in its stead, a place that becomes free
// goes to the first ticket, for as long as its request really took, and a ticket whose time is over is a request that would have
// been turned away. What is counted then comes up to a second late.

// ticket is a request's stand in a shadow rule's line.
type ticket struct {
	bucket  *bucket
	arrived time.Time
	// started is when it got its place, zero while it stands in line.
	started time.Time
	// took is how long the request really ran, known when it has ended.
	took  time.Duration
	ended bool
	// void is true for a request that would have been turned away or is not charged any more.
	void atomic.Bool
	late func(at time.Time)
}

// leave gives the place back at a later moment: who started late ends late.
type leave struct{ at time.Time }

// takeShadow charges one request without making it wait. late is called, with the table's lock held, when the request would
// have been turned away after it had waited for a place.
func (t *table) takeShadow(k key, now time.Time, late func(at time.Time)) (*ticket, *refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	limits := t.inForce()
	b := t.bucket(k, &limits, now)
	now = b.advance(&limits, now)
	b.play(now)
	if r := b.debt(&limits); r != nil {
		return nil, r
	}
	c := limits.concurrency
	full := c > 0 && (b.inflight >= c || len(b.line) > 0)
	if full && len(b.line) >= min(maxWaiters, waitersAPlace*c) {
		return nil, &refusal{reason: ReasonConcurrency}
	}
	if b.requests != nil && !b.requests.AllowN(now, 1) {
		return nil, &refusal{reason: ReasonRate}
	}
	k1 := &ticket{bucket: b, arrived: now, late: late}
	b.refs++
	if full {
		b.line = append(b.line, k1)
		return k1, nil
	}
	k1.started = now
	b.inflight++
	return k1, nil
}

// play brings the line to now: places that became free meanwhile, and tickets whose time is over.
func (b *bucket) play(now time.Time) {
	for len(b.leaving) > 0 && !b.leaving[0].at.After(now) {
		at := b.leaving[0].at
		b.leaving = b.leaving[1:]
		b.pass(at)
	}
	b.expire(now)
}

// expire voids the tickets whose wait was over before at.
func (b *bucket) expire(at time.Time) {
	for len(b.line) > 0 {
		first := b.line[0]
		over := first.arrived.Add(waitForPlace)
		if !over.Before(at) {
			return
		}
		b.line = b.line[1:]
		first.void.Store(true)
		first.late(over)
	}
}

// pass hands a place that became free to the first in line.
func (b *bucket) pass(at time.Time) {
	b.expire(at)
	if len(b.line) == 0 {
		b.inflight--
		return
	}
	first := b.line[0]
	b.line = b.line[1:]
	first.started = at
	if first.ended {
		b.leaves(at.Add(first.took))
	}
}

func (b *bucket) leaves(at time.Time) {
	i, _ := slices.BinarySearchFunc(b.leaving, at, func(l leave, at time.Time) int { return l.at.Compare(at) })
	b.leaving = slices.Insert(b.leaving, i, leave{at})
}

// leaveShadow says that the ticket's request ended.
func (t *table) leaveShadow(k *ticket, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := k.bucket
	if now.Before(b.last) {
		now = b.last
	}
	b.play(now)
	if k.void.Load() || k.ended {
		return
	}
	k.ended, k.took = true, max(0, now.Sub(k.arrived))
	switch {
	case k.started.IsZero(): // still in line: it would run when its turn comes
	case k.started.Equal(k.arrived):
		b.pass(now)
	default:
		b.leaves(now.Add(k.started.Sub(k.arrived)))
	}
}

// cancelShadow takes a ticket back as if it had never been.
func (t *table) cancelShadow(k *ticket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := k.bucket
	b.refs--
	switch i := slices.Index(b.line, k); {
	case i >= 0:
		b.line = slices.Delete(b.line, i, i+1)
	case !k.void.Load() && !k.ended:
		b.pass(b.last)
	}
	k.void.Store(true)
}

// playAll brings every line to now.
func (t *table) playAll(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, b := range t.buckets {
		b.play(now)
	}
	if t.overflow != nil {
		t.overflow.play(now)
	}
}

// chargeShadow is charge for a rule in shadow.
func (r *rule) chargeShadow(e *Engine, p *Pass, emergency bool, now time.Time) *refusal {
	keys, n := keysOf(r.per, p.flow)
	first := len(p.holds)
	late := func(at time.Time) {
		e.shadowed.add(shadowKey(r.name, ReasonConcurrency, emergency, p.flow), at)
		e.metrics.shadowed[ReasonConcurrency].Inc()
	}
	for _, k := range keys[:n] {
		got, refused := r.table.takeShadow(k, now, late)
		if refused != nil {
			for _, h := range p.holds[first:] {
				r.table.cancelShadow(h.ticket)
			}
			p.holds = p.holds[:first]
			return refused
		}
		p.holds = append(p.holds, hold{table: r.table, bucket: got.bucket, ticket: got})
	}
	return nil
}

// shadow asks a rule that acts in shadow, and says whether it would have turned the request away. One that would first have
// waited for a place is counted later.
func (e *Engine) shadow(r *rule, reason Reason, emergency bool, p *Pass, now time.Time) (refuses bool) {
	r.matched.Add(1)
	if r.action == v1alpha1.LimitThrottle {
		refused := r.chargeShadow(e, p, emergency, now)
		if refused == nil {
			return false
		}
		reason = refused.reason
	}
	e.shadowed.add(shadowKey(r.name, reason, emergency, p.flow), now)
	e.metrics.shadowed[reason].Inc()
	return true
}

// Shadowed returns whom rules in shadow would have turned away since the engine was made, most often first.
func (e *Engine) Shadowed() []v1alpha1.ShadowedClient {
	now := e.clock()
	for _, r := range e.rules.Load().rules {
		if r.table != nil && (r.shadow || e.judging) {
			r.table.playAll(now)
		}
	}
	for _, r := range e.emergency.Load().rules {
		if r.table != nil && r.shadow {
			r.table.playAll(now)
		}
	}
	return e.shadowed.list()
}

// RuleMatches is how many requests a rule was asked about that it matched, while it was in shadow.
type RuleMatches struct {
	Rule    string
	Matched int64
}

// Matches returns the rules in shadow in their order; all rules of an engine that only judges.
func (e *Engine) Matches() []RuleMatches {
	list := []RuleMatches{}
	for _, r := range e.rules.Load().rules {
		if r.shadow || e.judging {
			list = append(list, RuleMatches{Rule: r.name, Matched: r.matched.Load()})
		}
	}
	return list
}

// shadowedKey is whom a rule in shadow would have turned away, and why.
type shadowedKey struct {
	rule, user, agent string
	reason            Reason
	emergency         bool
}

func shadowKey(rule string, reason Reason, emergency bool, f *flow.Request) shadowedKey {
	return shadowedKey{rule: rule, reason: reason, emergency: emergency, user: shorten(f.Caller.User), agent: shorten(f.UserAgent)}
}

type shadowedCount struct {
	count       int64
	first, last time.Time
}

// defaultShadowed bounds the lines kept; what does not fit is counted as one client called others, so the sums are right.
const defaultShadowed = 1024

// wouldHave counts rejections that did not happen.
type wouldHave struct {
	mu   sync.Mutex
	most int
	all  map[shadowedKey]*shadowedCount
}

func (w *wouldHave) add(k shadowedKey, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[shadowedKey]*shadowedCount{}
	}
	c := w.all[k]
	if c == nil && len(w.all) >= cmp.Or(w.most, defaultShadowed) {
		k.user, k.agent = others, others
		c = w.all[k] // one more per rule and reason: bounded by the configuration
	}
	if c == nil {
		c = &shadowedCount{first: at}
		w.all[k] = c
	}
	c.count++
	if c.last.Before(at) {
		c.last = at
	}
	if at.Before(c.first) {
		c.first = at
	}
}

func (w *wouldHave) list() []v1alpha1.ShadowedClient {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]v1alpha1.ShadowedClient, 0, len(w.all))
	for k, c := range w.all {
		list = append(list, v1alpha1.ShadowedClient{Rule: k.rule, Reason: string(k.reason), Emergency: k.emergency, User: k.user, UserAgent: k.agent,
			Count: c.count, First: metav1.NewTime(c.first), Last: metav1.NewTime(c.last)})
	}
	slices.SortFunc(list, func(a, b v1alpha1.ShadowedClient) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.User, b.User),
			cmp.Compare(a.UserAgent, b.UserAgent), cmp.Compare(a.Reason, b.Reason))
	})
	return list
}
