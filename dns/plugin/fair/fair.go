// Package fair shares a server among its clients when there is more to do than it can do.
//
// While the server keeps up nobody is limited. When it does not, whoever asks most is limited first: the limit of
// requests per client falls until the rest can be done, so only those above it lose anything, and a client that asks
// little never does. That is what max-min fairness is, found by trial as TCP finds the rate of a link. What is dropped
// costs a fraction of what is answered, so one client at twice the capacity leaves room for all others.
//
// The package decides and does nothing else; it takes a clock.
package fair

import (
	"hash/maphash"
	"math"
	"net/netip"
	"time"
)

// Options of a limiter.
type Options struct {
	// Window over which requests are counted, default 100 ms. A client may spend its share of a window at once.
	Window time.Duration
	// Floor is the share of a window that a client always has, default 20 requests.
	Floor int
	// Standing is how long the queue may stay long before the server counts as behind, default 20 ms. A burst that is
	// worked off is no overload; a queue that does not get shorter is (CoDel's criterion, RFC 8289).
	Standing time.Duration
}

// Limiter counts requests by client. One goroutine uses it.
type Limiter struct {
	options Options
	seed    maphash.Seed
	start   time.Time
	limit   float64   // requests per client and window; +Inf while the server keeps up
	long    time.Time // since when the queue is long; zero while it is not
	behind  bool      // in this window
	// counts is a count-min sketch: a client's count is at most too high, and only when it shares a cell with a heavy client
	// in both rows, which happens to one in a million.
	counts [2][cells]uint32
	most   uint32
}

const cells = 1 << 10

// New returns a limiter that limits nobody.
func New(o Options) *Limiter {
	if o.Window <= 0 {
		o.Window = 100 * time.Millisecond
	}
	if o.Floor <= 0 {
		o.Floor = 20
	}
	if o.Standing <= 0 {
		o.Standing = 20 * time.Millisecond
	}
	return &Limiter{options: o, seed: maphash.MakeSeed(), limit: math.Inf(1)}
}

// Batch says that requests were taken in, and whether the queue behind them is long: so long that what comes may be lost.
func (l *Limiter) Batch(long bool, now time.Time) {
	if now.Sub(l.start) >= l.options.Window {
		l.turn(now)
	}
	switch {
	case !long:
		l.long = time.Time{}
	case l.long.IsZero():
		l.long = now
	case now.Sub(l.long) >= l.options.Standing:
		l.behind = true
	}
}

// turn ends a window.
func (l *Limiter) turn(now time.Time) {
	switch {
	case l.behind && math.IsInf(l.limit, 1):
		l.limit = float64(l.most) / 2
	case l.behind:
		l.limit *= 0.7
	case !math.IsInf(l.limit, 1):
		if l.limit *= 1.1; l.limit > 2*float64(l.most) {
			l.limit = math.Inf(1)
		}
	}
	l.limit = max(l.limit, float64(l.options.Floor))
	l.start, l.behind, l.most = now, false, 0
	clear(l.counts[0][:])
	clear(l.counts[1][:])
}

// Allow counts one request of the client, and says whether it is within its share.
func (l *Limiter) Allow(client netip.Addr) bool {
	a := client.As16()
	hash := maphash.Bytes(l.seed, a[:])
	first, second := &l.counts[0][hash%cells], &l.counts[1][hash>>32%cells]
	*first++
	*second++
	n := min(*first, *second)
	l.most = max(l.most, n)
	return float64(n) <= l.limit
}
