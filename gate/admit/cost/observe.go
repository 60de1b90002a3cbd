package cost

import (
	"math"
	"time"
)

// Sample is what an answer took.
type Sample struct {
	// Upstream is how long the API server took, from the request to the last byte, or to the last initial event of a
	// watch. 0 when that is not known: when the client was slow to read, it is not the API server's time.
	Upstream time.Duration
	// Bytes of the body, before compression where that is known. Negative when it is not known at all.
	Bytes int64
	// Gzip is true when Bytes were counted as they were sent, compressed.
	Gzip bool
	// Code is the answer's status. Only 2xx teaches: what a refusal takes is not what the work takes.
	Code int
	// Congested is true when the control plane was busy at the time, so that Upstream is more than the request's own.
	Congested bool
}

// quietTime is the time below which scheduling and the network are as much of a measurement as the API server is.
const quietTime = 0.002

// A time outside of these is taken for one of them, in seconds.
const (
	leastSeconds = 1e-5
	leastBytes   = 1
)

// Observe learns from an answer. Time is learned from answers without congestion; under congestion only what is quicker than
// expected is believed, since no load makes an answer quicker, so the expectation cannot creep up with the load. Bytes are
// learned always, and a collection that grew is expected to take longer in proportion even if nothing but congestion is seen
// from then on. A shape is remembered from its first answer on.
func (m *Model) Observe(now time.Time, s Shape, sample Sample) {
	if s.Stream || sample.Code < 200 || sample.Code > 299 {
		return
	}
	bytes := sample.uncompressed()
	seconds := max(leastSeconds, min(sample.Upstream.Seconds(), mostSeconds))
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entry(&s)
	if e == nil {
		e = m.table.add(s)
	} else {
		e.age(now)
	}
	e.seen = now
	m.table.recent.MoveToFront(e.recency)
	if !sample.Congested {
		m.record(e, sample, seconds, bytes)
	}
	if sample.Bytes >= 0 {
		e.learnBytes(bytes, sample.Congested || sample.Upstream <= 0)
	}
	if sample.Upstream > 0 {
		e.learnSeconds(seconds, sample.Congested)
	}
}

// uncompressed is the size of the answer before compression, as well as it is known.
func (s *Sample) uncompressed() float64 {
	bytes := float64(s.Bytes)
	if s.Gzip {
		bytes *= gzipRatio
	}
	return max(leastBytes, min(bytes, mostBytes))
}

// age lets go of what was learned whole days before now, once for each. A clock that goes backwards changes nothing.
func (e *entry) age(now time.Time) {
	const day = 24 * time.Hour
	if days := now.Sub(e.seen) / day; days > 0 {
		e.seconds.age(int(days))
		e.bytes.age(int(days))
		e.seen = e.seen.Add(days * day)
	}
}

// learnBytes follows the size of the answers. When the time of this one says nothing, the expected time grows with the size:
// otherwise a kind that grew during congestion would look congested for ever.
func (e *entry) learnBytes(bytes float64, timeless bool) {
	before, known := e.bytes.value, e.bytes.known()
	e.bytes.learn(bytes)
	if !timeless || !known || !e.seconds.known() || !e.shape.Encodes() {
		return
	}
	mean := e.seconds.mean
	e.seconds.scale(scaled(e.seconds.value, e.bytes.value/before) / e.seconds.value)
	e.calm += e.seconds.mean - mean
}

func (e *entry) learnSeconds(seconds float64, congested bool) {
	if congested != e.congested {
		e.congested, e.seconds.run = congested, 0
	}
	if !congested {
		e.seconds.learn(seconds)
		e.calm = e.seconds.mean
		return
	}
	if e.seconds.known() {
		e.seconds.lower(seconds, e.calm)
	}
}

// Ratio is what a request took over what its like takes on an unloaded control plane: evidence of congestion, 0.01 to 100.
// weight, 0 to 1, is how much it tells: a time of 2 ms has half of what a long one has, and a shape whose times vary e-fold
// half of what one has whose times do not. ok is false for a shape that was seen less than 20 times lately.
func (m *Model) Ratio(s Shape, upstream time.Duration) (ratio, weight float64, ok bool) {
	if s.Stream || upstream <= 0 {
		return 0, 0, false
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	e := m.entry(&s)
	if e == nil || e.seconds.confidence < enough {
		return 0, 0, false
	}
	expected := e.seconds.value
	ratio = max(0.01, min(upstream.Seconds()/expected, 100))
	return ratio, expected / (expected + quietTime) / (1 + max(0, e.seconds.spread)), true
}

// Errors is how wrong estimates were lately, of shapes seen 20 times or more and without congestion: the median of what was
// estimated beside what came, |estimated − actual| / actual. 0.1 is 10 %.
type Errors struct {
	// All requests, and Lists only: what has more than one seat.
	All, Lists Error
}

// Error is how wrong estimates were.
type Error struct {
	// Seconds and Bytes are medians, to 5 % of themselves.
	Seconds, Bytes float64
	// Samples is how many estimates were compared.
	Samples int64
}

// Errors returns how wrong estimates were.
func (m *Model) Errors() Errors {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return Errors{All: m.recorded.all.error(), Lists: m.recorded.lists.error()}
}

// recorded is how wrong one sort of estimates was.
type recorded struct {
	seconds, bytes errorMedian
	samples        int64
}

func (r *recorded) error() Error {
	return Error{Seconds: r.seconds.value(), Bytes: r.bytes.value(), Samples: r.samples}
}

// record compares a sample with the estimate before it is learned.
func (m *Model) record(e *entry, sample Sample, seconds, bytes float64) {
	if sample.Upstream > 0 && e.seconds.confidence >= enough {
		err := math.Abs(e.seconds.value-seconds) / seconds
		m.each(e, func(r *recorded) {
			r.seconds.add(err)
			r.samples++
		})
	}
	if sample.Bytes >= 0 && e.bytes.confidence >= enough {
		err := math.Abs(e.bytes.value-bytes) / bytes
		m.each(e, func(r *recorded) { r.bytes.add(err) })
	}
}

func (m *Model) each(e *entry, f func(*recorded)) {
	f(&m.recorded.all)
	if e.shape.Encodes() {
		f(&m.recorded.lists)
	}
}
