// Package cost says what a request will cost the API servers before it is let in: how many of API Priority and Fairness's
// seats it holds, for how long, and how many bytes it makes the API server encode. Requests that cost the same have one Shape;
// what their answers took is learned for each, and a shape that was never seen starts from its like, or from Kubernetes'
// own rules.
//
// It is pure: answers and a clock in, estimates out. A Model is safe for concurrent use.
package cost

import (
	"math"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// enough is how many samples a shape needs before what was learned counts as evidence.
const enough = 20

// mostShapes bounds Config.MaxShapes, so that what Marshal writes is never too big for Restore.
const mostShapes = 8192

// Config is how a Model counts. The zero Config has the defaults.
type Config struct {
	// MaxSeats is the most seats one request can hold; default and at 0: 10, as in Kubernetes until 1.33 (since then a
	// LIST from etcd can have 100 there). Raising it makes big LISTs from etcd wait longer and alone.
	MaxSeats int
	// MaxShapes is how many shapes are remembered, at about 500 bytes each; default and at 0: 4096, at most 8192. The
	// one that was not seen for longest is forgotten first.
	MaxShapes int
}

// Model estimates, and learns from what it is told.
type Model struct {
	config Config

	mu       sync.RWMutex
	table    table
	objects  map[schema.GroupResource]Objects
	watchers map[schema.GroupResource]int
	recorded struct{ all, lists recorded }
}

// New returns a model that has learned nothing.
func New(c Config) *Model {
	if c.MaxSeats < 1 {
		c.MaxSeats = 10
	}
	if c.MaxShapes < 1 {
		c.MaxShapes = 4096
	}
	c.MaxShapes = min(c.MaxShapes, mostShapes)
	return &Model{config: c, table: newTable(c.MaxShapes)}
}

// Estimate is what a request is expected to cost.
type Estimate struct {
	// Seats it holds while it executes: 1 to MaxSeats.
	Seats int
	// Seconds it executes on an unloaded control plane, to the last byte, or to the last initial event of a watch. 0 for
	// a stream.
	Seconds float64
	// Bytes of its answer before compression. 0 for a stream.
	Bytes int64
	// Learned is true when both come from answers to the very shape, and not from its like or from rules.
	Learned bool
	// FinalSeats is how many seats a write holds for FinalSeconds after its answer, while the API server tells the
	// watchers; 0 when they are few. The same as in API Priority and Fairness (FinalSeats, AdditionalLatency).
	FinalSeats   int
	FinalSeconds float64
}

// SetObjects tells what kinds there are, in place of what was told before. A kind whose count is not known (negative) is as
// one left out.
func (m *Model) SetObjects(objects map[schema.GroupResource]Objects) {
	known := make(map[schema.GroupResource]Objects, len(objects))
	for resource, o := range objects {
		if o.Count >= 0 {
			known[resource] = o
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects = known
}

// SetWatchers tells how many watches are open on each kind, in place of what was told before: every write wakes them.
func (m *Model) SetWatchers(watchers map[schema.GroupResource]int) {
	told := make(map[schema.GroupResource]int, len(watchers))
	for resource, n := range watchers {
		if n >= watchesPerSeat { // Kubernetes does not count fewer
			told[resource] = n
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchers = told
}

// Estimate says what a request of the shape is expected to cost. It does not allocate.
func (m *Model) Estimate(s Shape) Estimate {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.estimate(&s)
}

func (m *Model) estimate(s *Shape) Estimate {
	if s.Stream {
		return Estimate{Seats: 1}
	}
	common, f := split(*s)
	k := m.table.kins[common]
	var e *entry
	if k != nil {
		e = k.find(f)
	}
	out := Estimate{Seats: 1}
	switch {
	case e != nil && e.seconds.known() && e.bytes.known():
		out.Seconds, out.Bytes, out.Learned = e.seconds.value, int64(math.Round(e.bytes.value)), true
		if s.Encodes() {
			out.Seats = m.seats(s, e.bytes.value)
		}
	default:
		g := m.prior(s)
		if k != nil {
			g = m.borrow(s, f, k, g)
		}
		out.Seats, out.Seconds, out.Bytes = g.seats, g.seconds, int64(math.Round(g.bytes))
	}
	if s.writes() {
		out.FinalSeats, out.FinalSeconds = m.final(s)
	}
	return out
}

// borrow replaces what it can of a guess by what was learned of the shape itself or its nearest kin.
func (m *Model) borrow(s *Shape, f form, k *kin, g guess) guess {
	if near := k.nearest(f, func(e *entry) bool { return e.bytes.known() }); near != nil {
		bytes := min(near.bytes.value*s.relativeSize()/near.shape.relativeSize(), mostBytes)
		g.seconds = scaled(g.seconds, bytes/max(g.bytes, 1))
		g.bytes = bytes
		if s.Encodes() {
			g.seats = m.seats(s, bytes)
		}
	}
	if near := k.nearest(f, func(e *entry) bool { return e.seconds.known() }); near != nil {
		g.seconds = near.seconds.value
		if s.Encodes() && near.bytes.known() {
			g.seconds = scaled(g.seconds, g.bytes/near.bytes.value)
		}
	}
	return g
}

// final is what a write costs after its answer (mutating_work_estimator.go): each watcher takes a tenth of a seat for 5 ms,
// and where that is more than the most seats, the fewer for longer.
func (m *Model) final(s *Shape) (seats int, seconds float64) {
	if s.Resource == "serviceaccounts" && s.Subresource == "token" {
		return 0, 0 // tells nobody
	}
	watchers := m.watchers[schema.GroupResource{Group: s.Group, Resource: s.Resource}]
	if watchers < watchesPerSeat {
		return 0, 0
	}
	wide := math.Ceil(float64(watchers) / watchesPerSeat)
	narrow := min(wide, float64(m.config.MaxSeats), mostFinalSeats)
	return int(narrow), wide * secondsPerSeat / narrow
}

// Stats is what was learned of a shape.
type Stats struct {
	// Seen is when the last answer was.
	Seen time.Time
	// Samples of its time, and SamplesOfBytes, all that ever were; Confidence is how many of the former still count: at
	// most 100, halved for each day without.
	Samples, SamplesOfBytes int64
	Confidence              int
	// Seconds and Bytes are the medians.
	Seconds, Bytes float64
	// SpreadOfSeconds and SpreadOfBytes are the mean distances from them, in e-folds: 0.1 is about 10 %.
	SpreadOfSeconds, SpreadOfBytes float64
}

// Stats returns what was learned of a shape; ok is false if nothing was.
func (m *Model) Stats(s Shape) (stats Stats, ok bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e := m.entry(&s)
	if e == nil {
		return Stats{}, false
	}
	return Stats{
		Seen:    e.seen,
		Samples: e.seconds.samples, SamplesOfBytes: e.bytes.samples, Confidence: e.seconds.confidence,
		Seconds: e.seconds.value, Bytes: e.bytes.value,
		SpreadOfSeconds: e.seconds.spread, SpreadOfBytes: e.bytes.spread,
	}, true
}

// Len is how many shapes are remembered.
func (m *Model) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.table.recent.Len()
}

func (m *Model) entry(s *Shape) *entry {
	common, f := split(*s)
	k := m.table.kins[common]
	if k == nil {
		return nil
	}
	return k.find(f)
}
