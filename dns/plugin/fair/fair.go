// Package fair shares a server among its clients when there is more to do than it can do.
//
// While the server keeps up nobody is limited. When it does not, whoever asks most is limited first: the rate that one
// client may have falls until the rest can be done, so only those above it lose anything, and a client that asks
// little never does. That is what max-min fairness is, found by trial as TCP finds the rate of a link.
//
// To take a request in and drop it costs a good part of what it costs to answer, and what a client sends at several times the
// capacity fills every queue before it is looked at. So those who are over their share are also named, with the part of
// their requests that may pass, for somebody nearer to the source to drop the rest.
//
// The package decides and does nothing else; it takes a clock.
package fair

import (
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"time"
)

// Options of a limiter.
type Options struct {
	// Window over which requests are counted, default 100 ms.
	Window time.Duration
	// Floor is what a client may always ask in a window, and at once, default 20 requests.
	Floor int
	// Standing is how long the queue may stay long before the server counts as behind, default 5 ms. A burst that is
	// worked off is no overload; a queue that does not get shorter is (CoDel's criterion, RFC 8289).
	Standing time.Duration
	// Named is how many clients over their share are named, default 16.
	Named int
}

const (
	// reaction is how long a cut is given to take effect before the next.
	reaction = 20 * time.Millisecond
	// slack is the part of its rate that a client may spend at once, in time. All of a window's would be a burst that fills
	// the queue in the first half of every window.
	slack = 5 * time.Millisecond
	// heavy is how many times what the others ask on average a client asks that makes them wait. Where all ask alike, a
	// queue is nobody's fault: to drop some of it would make everyone ask again.
	heavy = 4
	// cells of a row of the sketch.
	cells = 1 << 10
)

// Share is what may pass of a client's requests, before they are counted here.
type Share struct {
	Client netip.Addr
	Pass   float64 // > 0, < 1
	Asks   float64 // requests per second, those that did not pass included
}

// Limiter counts requests by client. One goroutine uses it.
type Limiter struct {
	options Options
	seed    maphash.Seed
	start   time.Time // of the window
	limit   float64   // requests per client and second; +Inf while the server keeps up
	allowed float64   // requests of one client since start
	long    time.Time // since when the queue is long; zero while it is not
	behind  bool      // in this window
	cut     bool      // the last window ended with a cut
	known   float64   // a limit that should do: a cut below the last one that did
	queue   float64   // as Batch was told last
	before  float64   // and when the window began
	longest float64   // in this window
	// counts is a count-min sketch: a client's count is at most too high, and only when it shares a cell with a heavy client
	// in both rows, which happens to one in a million.
	counts  [2][cells]count
	most    uint32 // that one client asked
	total   uint32
	clients uint32 // that asked, but for those that share cells
	uneven  bool   // in the window before
	over    []over
	last    int // index in over of the client that was over its share last
}

// count is of the requests of those who share a cell.
type count struct{ asked, allowed uint32 }

// over is a client that was over its share.
type over struct {
	client netip.Addr
	pass   float64 // of its requests, as the last Shares said; 1: all
	asks   float64 // requests per second, those that did not pass included
}

// New returns a limiter that limits nobody.
func New(o Options) *Limiter {
	if o.Window <= 0 {
		o.Window = 100 * time.Millisecond
	}
	if o.Floor <= 0 {
		o.Floor = 20
	}
	if o.Standing <= 0 {
		o.Standing = 5 * time.Millisecond
	}
	if o.Named <= 0 {
		o.Named = 16
	}
	return &Limiter{options: o, seed: maphash.MakeSeed(), limit: math.Inf(1), allowed: math.Inf(1)}
}

// Queue is what waits behind a batch.
type Queue struct {
	// Late is how long it takes: more than 1 is a good part of the time that a client should wait for its answer.
	Late float64
	// Full is how much of the queue's memory it takes: more than 1 is so much that what comes may soon be lost.
	Full float64
}

// Batch says that requests were taken in, and what waits behind them. It returns whether a window has ended, and with
// it the shares may be others.
func (l *Limiter) Batch(queue Queue, now time.Time) (ended bool) {
	l.queue = max(queue.Late, queue.Full)
	l.longest = max(l.longest, l.queue)
	since := now.Sub(l.start)
	long := queue.Full > 1 || queue.Late > 1 && (l.uneven || since >= reaction && l.isUneven())
	switch {
	case !long:
		l.long = time.Time{}
	case l.long.IsZero():
		l.long = now
	case now.Sub(l.long) >= l.options.Standing:
		l.behind = true
	}
	if since >= l.options.Window || l.behind && since >= reaction {
		l.turn(now, since.Seconds())
		since, ended = 0, true
	}
	l.allowed = max(float64(l.options.Floor), l.limit*(since+slack).Seconds())
	return ended
}

// isUneven compares the client that asks most with the mean of the others.
func (l *Limiter) isUneven() bool {
	return l.clients > 1 && uint64(l.most)*uint64(l.clients-1) > heavy*uint64(l.total-l.most)
}

// turn ends a window of so many seconds.
func (l *Limiter) turn(now time.Time, seconds float64) {
	most := float64(l.most) / seconds
	for i := range l.over {
		o := &l.over[i]
		first, second := l.cell(o.client)
		o.asks = float64(min(first.asked, second.asked)) / o.pass / seconds
		most = max(most, o.asks)
	}
	l.adjust(most, seconds)
	l.limit = max(l.limit, float64(l.options.Floor)/l.options.Window.Seconds())
	l.over = slices.DeleteFunc(l.over, func(o over) bool { return o.asks <= l.limit })
	l.uneven = l.isUneven()
	l.start, l.behind, l.long, l.before, l.longest = now, false, time.Time{}, l.queue, 0
	l.most, l.total, l.clients, l.last = 0, 0, 0, 0
	clear(l.counts[0][:])
	clear(l.counts[1][:])
}

// adjust sets the limit for the next window, after one of so many seconds in which one client asked at most so much in a
// second.
func (l *Limiter) adjust(most, seconds float64) {
	cut := false
	switch {
	case l.behind && math.IsInf(l.limit, 1):
		l.limit, l.known = most/2, 0
		cut = true
	case l.behind && l.queue < 0.95*l.before: // the last cut was enough, and the queue is being worked off
		cut = l.cut
	case l.behind:
		if !l.cut {
			l.known = 0.7 * l.limit
		}
		l.limit *= 0.7
		cut = true
	case math.IsInf(l.limit, 1):
	case l.limit < l.known:
		// One cut after the other is not because of a client but because the processor was gone. To come back from there by
		// tenths would take seconds, in which everybody is over the limit.
		l.limit = min(4*l.limit, l.known)
	case l.longest > 0.5: // close to too much
	default:
		// A window without any request may be long.
		l.limit *= math.Pow(1.1, min(seconds/l.options.Window.Seconds(), 100))
	}
	l.cut = cut
	if !l.behind && l.limit > 2*most {
		l.limit = math.Inf(1)
	}
}

// Allow counts one request of the client, and says whether it is within its share.
func (l *Limiter) Allow(client netip.Addr) bool {
	first, second := l.cell(client)
	if min(first.asked, second.asked) == 0 {
		l.clients++
	}
	first.asked++
	second.asked++
	l.total++
	l.most = max(l.most, min(first.asked, second.asked))
	if float64(min(first.allowed, second.allowed)) >= l.allowed {
		l.note(client)
		return false
	}
	first.allowed++
	second.allowed++
	return true
}

func (l *Limiter) cell(client netip.Addr) (first, second *count) {
	a := client.As16()
	hash := maphash.Bytes(l.seed, a[:])
	return &l.counts[0][hash%cells], &l.counts[1][hash>>32%cells]
}

// note remembers a client that is over its share, if there is a place.
func (l *Limiter) note(client netip.Addr) {
	if l.last < len(l.over) && l.over[l.last].client == client {
		return // it mostly is the same one
	}
	l.last = slices.IndexFunc(l.over, func(o over) bool { return o.client == client })
	if l.last < 0 {
		l.last = 0
		if len(l.over) < l.options.Named {
			l.last = len(l.over)
			l.over = append(l.over, over{client: client, pass: 1})
		}
	}
}

// Shares are the clients that asked for more than their share in the window that ended last, and what may pass of each.
// Whoever calls it sees to it that no more does until the next call: the limiter takes what arrives for that part of what
// was sent. A client that is to drop less than a tenth is not worth naming.
func (l *Limiter) Shares() []Share {
	var shares []Share
	for i := range l.over {
		o := &l.over[i]
		o.pass = 1
		if pass := l.limit / o.asks; pass < 0.9 {
			o.pass = pass
			shares = append(shares, Share{Client: o.client, Pass: pass, Asks: o.asks})
		}
	}
	return shares
}

// Whole takes the last Shares back: everything passes.
func (l *Limiter) Whole() {
	for i := range l.over {
		l.over[i].pass = 1
	}
}
