package limit

import (
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Reason is why a request was turned away: the label of the rejection counter and a field of the ledger, so a closed
// set.
type Reason string

// The reasons.
const (
	ReasonRate        Reason = "rate"        // more requests per second than the bucket's
	ReasonConcurrency Reason = "concurrency" // more at once than the bucket's
	ReasonBytes       Reason = "bytes"       // earlier responses took more than the bucket's bytes
	ReasonDenied      Reason = "denied"      // a rule with action Deny
	ReasonBlocked     Reason = "blocked"     // an emergency Block
	ReasonLockdown    Reason = "lockdown"    // an emergency Lockdown
	ReasonSqueezed    Reason = "squeezed"    // the standard lane makes room for break-glass
	ReasonBudget      Reason = "budget"      // the account's API budget is spent
)

// A request that finds only the places taken waits this long for one, and this many may wait at a bucket for each
// place. Retry-After counts whole seconds, so without a wait a controller that starts with 80 small LISTs at once
// would come back 80 at once, ten times, and give up; with it they pass through two places in under a second. The
// bound keeps a storm from parking its goroutines here.
const (
	waitForPlace   = time.Second
	waitersAPlace  = 50
	maxWaiters     = 500
	maxWait        = 15 * time.Second // before jitter, which at most doubles it
	minWait        = time.Second
	firstInterval  = 100 * time.Millisecond
	intervalWeight = 0.2 // of the newest interval in the moving average
)

// bounds are a compiled Throttle; a zero does not bind.
type bounds struct {
	perSecond      rate.Limit
	burst          int
	concurrency    int
	bytesPerSecond float64
	burstBytes     float64
}

func compileBounds(t *v1alpha1.Throttle) bounds {
	var b bounds
	if t.RequestsPerSecond != nil {
		b.perSecond = rate.Limit(*t.RequestsPerSecond)
		b.burst = max(1, int(math.Ceil(*t.RequestsPerSecond)))
		if t.Burst != nil {
			b.burst = *t.Burst
		}
	}
	if t.Concurrency != nil {
		b.concurrency = *t.Concurrency
	}
	if t.BytesPerSecond != nil {
		b.bytesPerSecond = t.BytesPerSecond.AsApproximateFloat64()
		b.burstBytes = b.bytesPerSecond
		if t.BurstBytes != nil {
			b.burstBytes = t.BurstBytes.AsApproximateFloat64()
		}
	}
	return b
}

// of is the part of the bounds that one of several gates may hand out. Concurrency and burst stay at least 1: a rule that
// lets two through must not shut the third gate.
func (b bounds) of(share float64) bounds {
	if share >= 1 {
		return b
	}
	b.perSecond *= rate.Limit(share)
	b.burst = partOf(b.burst, share)
	b.concurrency = partOf(b.concurrency, share)
	b.bytesPerSecond *= share
	b.burstBytes *= share
	return b
}

func partOf(n int, share float64) int {
	if n == 0 {
		return 0
	}
	return max(1, int(float64(n)*share))
}

// least is the smallest share anything is scaled by: a rate of nothing would be none, and none means unlimited.
const least = 1e-6

// bucket is one balance. All but debt is guarded by its table's mutex: the sections are short, and taking must be
// one step with looking up, or a bucket could be evicted between the two.
type bucket struct {
	key        key
	prev, next *bucket // in the table's list, the most recently used first

	requests *rate.Limiter // nil without a rate
	inflight int
	waiters  []*waiter
	balance  float64 // bytes; negative is debt
	// written are response bytes not yet taken from the balance; writers only add.
	written atomic.Int64
	// refs counts the open passes that may still write: a bucket with any must not be evicted, or its debt were lost.
	refs int
	last time.Time // when the balance was advanced; time never runs backwards in a bucket

	// Of a rule in shadow: who stands in line for a place, and when places that are taken become free, the earliest first.
	line    []*ticket
	leaving []leave

	// The virtual queue, for Retry-After: how many are likely to come back, and how far apart this bucket admits.
	queue     float64
	told      time.Duration // the wait last told, which is how fast the queue comes back
	admitted  time.Time     // the last admission
	interval  time.Duration // moving average between admissions while anyone queues
	intervals bool
}

// waiter is one request waiting for a place. ready is closed when it was given one.
type waiter struct{ ready chan struct{} }

func newBucket(k key, b *bounds, now time.Time) *bucket {
	n := &bucket{key: k, balance: b.burstBytes, last: now}
	if b.perSecond > 0 {
		n.requests = rate.NewLimiter(b.perSecond, b.burst)
	}
	return n
}

// advance brings the balance to now and returns now, or the bucket's own time when the clock ran backwards. What the
// bounds were before, because the share was another, no longer counts.
func (b *bucket) advance(limits *bounds, now time.Time) time.Time {
	if now.Before(b.last) {
		now = b.last
	}
	if b.requests != nil && (b.requests.Limit() != limits.perSecond || b.requests.Burst() != limits.burst) {
		b.requests.SetLimitAt(now, limits.perSecond)
		b.requests.SetBurstAt(now, limits.burst)
	}
	elapsed := now.Sub(b.last)
	b.last = now
	if limits.bytesPerSecond > 0 {
		b.balance = min(limits.burstBytes, b.balance+limits.bytesPerSecond*elapsed.Seconds())
		b.balance -= float64(b.written.Swap(0))
	}
	if b.queue > 0 && elapsed > 0 {
		// Who was told to wait comes back within that time, and is counted again if it is turned away again. With N
		// clients that all come back, the queue settles at N, and each is told N × interval.
		b.queue *= math.Exp(-elapsed.Seconds() / max(b.told, minWait).Seconds())
		if b.queue < 0.01 {
			b.queue = 0
		}
	}
	return now
}

// refusal is why a bucket does not admit now.
type refusal struct {
	reason Reason
	wait   time.Duration // until it may; jittered and bounded by the caller
}

// take admits one request or says why not. It takes nothing when it refuses. A free place is taken only when nobody
// waits for it.
func (b *bucket) take(limits *bounds, now time.Time) *refusal {
	now = b.advance(limits, now)
	if r := b.debt(limits); r != nil {
		return b.refuse(r)
	}
	if limits.concurrency > 0 && (b.inflight >= limits.concurrency || len(b.waiters) > 0) {
		return b.refuse(&refusal{reason: ReasonConcurrency})
	}
	if b.requests != nil && !b.requests.AllowN(now, 1) {
		missing := 1 - b.requests.TokensAt(now)
		return b.refuse(&refusal{reason: ReasonRate, wait: seconds(missing / float64(limits.perSecond))})
	}
	b.inflight++
	b.admit(now)
	return nil
}

func (b *bucket) debt(limits *bounds) *refusal {
	if limits.bytesPerSecond > 0 && b.balance < 0 {
		return &refusal{reason: ReasonBytes, wait: seconds(-b.balance / limits.bytesPerSecond)}
	}
	return nil
}

func (b *bucket) admit(now time.Time) {
	if b.queue > 0 && !b.admitted.IsZero() {
		since := now.Sub(b.admitted)
		if !b.intervals {
			b.interval, b.intervals = since, true
		} else {
			b.interval += time.Duration(intervalWeight * float64(since-b.interval))
		}
	}
	b.admitted = now
	b.queue = max(0, b.queue-1)
}

// refuse counts the request into the virtual queue and lets the wait grow with it.
func (b *bucket) refuse(r *refusal) *refusal {
	b.queue++
	interval := b.interval
	if !b.intervals {
		interval = firstInterval
	}
	r.wait = max(r.wait, time.Duration(min(b.queue*float64(interval), float64(maxWait))))
	r.wait = min(max(r.wait, minWait), maxWait)
	b.told = r.wait
	return r
}

// settled is true when forgetting the bucket would give nobody anything: a new one would be the same.
func (b *bucket) settled(limits *bounds, now time.Time) bool {
	now = b.advance(limits, now)
	b.play(now)
	if b.refs > 0 || b.inflight > 0 || len(b.waiters) > 0 || len(b.line) > 0 {
		return false
	}
	return b.balance >= limits.burstBytes && b.queue == 0 &&
		(b.requests == nil || b.requests.TokensAt(now) >= float64(limits.burst))
}

func seconds(s float64) time.Duration {
	if s > maxWait.Seconds() {
		return maxWait
	}
	return time.Duration(s * float64(time.Second))
}
