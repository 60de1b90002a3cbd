package ledger

import (
	"math"
	"time"
)

// What one request and one byte add to the cost, in seat-seconds. A rejected request costs no seat, but a client that
// sends ten thousand of them a second is worth a line; so is one that moves 100 MB/s out of the watch cache.
const (
	requestCost = 0.001
	byteCost    = 1e-8
)

// cost is the one number a client is kept or dropped by. Every part of it is a lower bound of the whole, which is what
// makes one error bound serve all.
func cost(o *Outcome, st step) float64 {
	c := o.SeatSeconds + byteCost*float64(o.RequestBytes+o.ResponseBytes)
	if st.begun {
		c += requestCost
	}
	return c
}

// entry is one client's line. cost and missed are in the shard's grown units (see shard.weight).
type entry struct {
	key     Key
	hash    uint64
	cost    float64
	missed  float64
	queued  float64 // cost when last placed in the heap; never more than cost
	index   int
	since   time.Time
	last    time.Time
	open    int32
	tally   tally
	rates   rates
	sources sourceSet
}

// tally is what is counted exactly, from the entry's beginning.
type tally struct {
	requests, rejected int64
	seatSeconds        float64
	upstreamSeconds    float64
	requestBytes       int64
	responseBytes      int64
	codes              [codeClasses]int64
}

func (t *tally) add(o *Outcome, st step) {
	if st.begun {
		t.requests++
	}
	if st.ended {
		t.codes[classOf(o.Code)]++
		if o.RejectedBy != "" {
			t.rejected++
		}
	}
	t.seatSeconds += o.SeatSeconds
	t.upstreamSeconds += max(0, o.Upstream.Seconds())
	t.requestBytes += o.RequestBytes
	t.responseBytes += o.ResponseBytes
}

// Code classes: 429 stands alone, because it is the only one that means "too much".
const (
	class1xx = iota
	class2xx
	class3xx
	class4xx
	class429
	class5xx
	classNone
	codeClasses
)

var classNames = [codeClasses]string{"1xx", "2xx", "3xx", "4xx", "429", "5xx", "none"}

func classOf(code int) int {
	switch {
	case code == 429:
		return class429
	case code >= 100 && code < 200:
		return class1xx
	case code >= 200 && code < 300:
		return class2xx
	case code >= 300 && code < 400:
		return class3xx
	case code >= 400 && code < 500:
		return class4xx
	case code >= 500 && code < 600:
		return class5xx
	}
	return classNone
}

// windows are the rates' time constants.
var windows = [...]time.Duration{10 * time.Second, time.Minute, 10 * time.Minute}

// rates are sums that decay with each window's time constant; divided by the window they are averages per second that
// follow what happens now.
type rates struct {
	first, at time.Time
	sums      [len(windows)]rateSum
}

type rateSum struct{ requests, rejected, seats, bytes float64 }

func (r *rates) add(now time.Time, o *Outcome, st step) {
	if r.first.IsZero() {
		r.first, r.at = now, now
	}
	elapsed := now.Sub(r.at)
	if elapsed > 0 {
		r.at = now
	}
	requests, rejected := 0.0, 0.0
	if st.begun {
		requests = 1
	}
	if st.ended && o.RejectedBy != "" {
		rejected = 1
	}
	bytes := float64(o.RequestBytes + o.ResponseBytes)
	for i := range r.sums {
		s := &r.sums[i]
		if elapsed > 0 {
			s.decay(math.Exp(-float64(elapsed) / float64(windows[i])))
		}
		s.requests += requests
		s.rejected += rejected
		s.seats += o.SeatSeconds
		s.bytes += bytes
	}
}

func (s *rateSum) decay(factor float64) {
	s.requests *= factor
	s.rejected *= factor
	s.seats *= factor
	s.bytes *= factor
}

// perSecond reads one window. A client seen for less than the window is averaged over the time it was seen, at least
// one second, so that a new client is neither hidden nor blown up.
func (r *rates) perSecond(window int, now time.Time) Rate {
	if r.first.IsZero() {
		return Rate{}
	}
	tau := windows[window].Seconds()
	s := r.sums[window]
	if elapsed := now.Sub(r.at); elapsed > 0 {
		s.decay(math.Exp(-elapsed.Seconds() / tau))
	}
	seen := max(1, now.Sub(r.first).Seconds())
	divisor := tau * -math.Expm1(-seen/tau)
	return Rate{
		Requests: s.requests / divisor,
		Rejected: s.rejected / divisor,
		Seats:    s.seats / divisor,
		Bytes:    s.bytes / divisor,
	}
}
