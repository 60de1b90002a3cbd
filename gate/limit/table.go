package limit

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// maxBuckets bounds one rule's memory: buckets × about 400 bytes, 6.5 MB at the default of 16384. Lower means that
// more callers share the overflow bucket in a storm of names; it should exceed the number of nodes, each of which is
// a user.
const maxBuckets = 16384

// idle is how long a settled bucket is kept for nothing; a full balance is worth nothing to remember.
const idle = time.Minute

// key says whose bucket it is.
type key struct {
	name   string
	source netip.Prefix
	agent  bool // name is a user agent
}

// userKey is the caller's own bucket. A caller nobody verified chose its name; its address it did not choose.
func userKey(f *flow.Request) key {
	if f.Caller.Certainty == flow.Unverified {
		return sourceKey(f)
	}
	return key{name: shorten(f.Caller.User)}
}

// sourceKey is the client's address, for IPv6 its /64: one host is usually given all of that, and could take another
// address for every request.
func sourceKey(f *flow.Request) key {
	bits := f.Source.BitLen()
	if f.Source.Is6() {
		bits = 64
	}
	prefix, _ := f.Source.Prefix(bits) // the zero Prefix for the zero Addr: callers without an address share
	return key{source: prefix}
}

// shorten bounds what a key holds of a string the client chose.
func shorten(s string) string {
	const most = 256
	if len(s) <= most {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return s[:64] + hex.EncodeToString(sum[:])
}

// keysOf are the buckets a request is charged to, all of which must admit it.
//
// A bucket per user agent alone would be a gift to whoever changes it with every request. So each caller has a bucket
// of the same size besides: all who show one user agent share, and nobody gets more by showing many.
func keysOf(per v1alpha1.LimitKey, f *flow.Request) (keys [2]key, n int) {
	switch per {
	case v1alpha1.PerUserAgent:
		return [2]key{userKey(f), {name: shorten(f.UserAgent), agent: true}}, 2
	case v1alpha1.PerSource:
		return [2]key{sourceKey(f)}, 1
	case v1alpha1.PerRule:
		return [2]key{}, 1
	default:
		return [2]key{userKey(f)}, 1
	}
}

// table holds one rule's buckets in bounded memory. When it is full, only a settled bucket gives way; while there is
// none, newcomers share one overflow bucket. So a flood of names evicts nobody's debt, and gains one bucket.
type table struct {
	limits bounds
	max    int
	share  *share // of the limits, that is this gate's; nil: all

	mu       sync.Mutex
	buckets  map[key]*bucket
	recent   bucket // the list's anchor: next is the most recently used, prev the least
	overflow *bucket
	shared   uint64 // how often the overflow bucket was used
}

func newTable(limits bounds, most int, share *share) *table {
	t := &table{limits: limits, max: most, share: share, buckets: make(map[key]*bucket)}
	t.recent.prev, t.recent.next = &t.recent, &t.recent
	return t
}

// inForce are the bounds in force: this gate's part.
func (t *table) inForce() bounds { return t.limits.of(t.share.load()) }

// take charges one request to the bucket of the key. When only the places are taken it waits for one, as the
// constants above say.
func (t *table) take(k key, clock func() time.Time) (*bucket, *refusal) {
	t.mu.Lock()
	now := clock()
	limits := t.inForce()
	b := t.bucket(k, &limits, now)
	r := b.take(&limits, now)
	if r == nil {
		b.refs++
		t.mu.Unlock()
		return b, nil
	}
	if r.reason != ReasonConcurrency || len(b.waiters) >= min(maxWaiters, waitersAPlace*limits.concurrency) {
		t.mu.Unlock()
		return nil, r
	}
	w := &waiter{ready: make(chan struct{})}
	b.waiters = append(b.waiters, w)
	t.mu.Unlock()

	timer := time.NewTimer(waitForPlace)
	defer timer.Stop()
	select {
	case <-w.ready:
	case <-timer.C:
	}
	return t.resume(b, w, clock, r)
}

// resume decides what became of a waiter. Its place is never lost: who was given one and may not use it hands it on.
func (t *table) resume(b *bucket, w *waiter, clock func() time.Time, late *refusal) (*bucket, *refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(b.waiters, w); i >= 0 {
		b.waiters = slices.Delete(b.waiters, i, i+1)
		return nil, late // nobody gave it a place in time
	}
	limits := t.inForce()
	now := b.advance(&limits, clock())
	// What ran meanwhile may have put the bucket into debt.
	refused := b.debt(&limits)
	if refused == nil && b.requests != nil && !b.requests.AllowN(now, 1) {
		refused = &refusal{reason: ReasonRate, wait: seconds((1 - b.requests.TokensAt(now)) / float64(limits.perSecond))}
	}
	if refused != nil {
		t.free(b)
		return nil, b.refuse(refused)
	}
	b.refs++
	b.admit(now)
	return b, nil
}

// release gives a place back: the work is done or a watch has sent its initial events.
func (t *table) release(b *bucket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.free(b)
}

func (t *table) free(b *bucket) {
	if limits := t.inForce(); len(b.waiters) == 0 || limits.concurrency > 0 && b.inflight > limits.concurrency {
		b.inflight-- // nobody waits, or the share was larger when this place was given
		return
	}
	next := b.waiters[0]
	b.waiters = slices.Delete(b.waiters, 0, 1)
	close(next.ready) // its place is this one: inflight stays
}

// forget ends a pass's hold on the bucket; the bucket may be evicted when it is settled.
func (t *table) forget(b *bucket) {
	t.mu.Lock()
	defer t.mu.Unlock()
	b.refs--
}

// bucket finds or makes the key's bucket.
func (t *table) bucket(k key, limits *bounds, now time.Time) *bucket {
	if b, ok := t.buckets[k]; ok {
		t.unlink(b)
		t.link(b)
		return b
	}
	t.sweep(limits, now)
	if len(t.buckets) >= t.max && !t.evict(limits, now) {
		if t.overflow == nil {
			t.overflow = newBucket(key{}, limits, now)
		}
		t.shared++
		return t.overflow
	}
	b := newBucket(k, limits, now)
	t.buckets[k] = b
	t.link(b)
	return b
}

// sweep forgets up to two settled buckets nobody used for a while, so that memory follows who is there.
func (t *table) sweep(limits *bounds, now time.Time) {
	for range 2 {
		oldest := t.recent.prev
		if oldest == &t.recent || now.Sub(oldest.last) < idle || !oldest.settled(limits, now) {
			return
		}
		t.drop(oldest)
	}
}

// evict makes room by dropping a settled bucket among the least recently used.
func (t *table) evict(limits *bounds, now time.Time) bool {
	b := t.recent.prev
	for range 8 {
		if b == &t.recent {
			return false
		}
		if b.settled(limits, now) {
			t.drop(b)
			return true
		}
		b = b.prev
	}
	return false
}

func (t *table) drop(b *bucket) {
	t.unlink(b)
	delete(t.buckets, b.key)
}

func (t *table) unlink(b *bucket) {
	b.prev.next, b.next.prev = b.next, b.prev
}

func (t *table) link(b *bucket) {
	b.prev, b.next = &t.recent, t.recent.next
	b.next.prev, t.recent.next = b, b
}

// size is how many buckets the table holds and how often newcomers had to share.
func (t *table) size() (buckets int, shared uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.buckets), t.shared
}
