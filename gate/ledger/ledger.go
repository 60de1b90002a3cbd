package ledger

import (
	"hash/maphash"
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/flow"
)

// Memory is how long a live ledger remembers when it decides whom to keep: half of a cost is forgotten in this time.
const Memory = 10 * time.Minute

// Options are what New needs.
type Options struct {
	// MaxClients is the number of entries kept; default 2048.
	MaxClients int
	// Clock defaults to time.Now.
	Clock func() time.Time
	// Registerer takes the metrics; nil registers none.
	Registerer prometheus.Registerer
	// WholeRun makes the ledger forget nothing and rank by totals, not by what happens now: for a file.
	WholeRun bool
}

// Outcome is what became of a request.
type Outcome struct {
	// Code is the HTTP status the client got, 0 when it got none.
	Code int
	// RejectedBy is a Rejected… constant when the gate itself refused the request, "" when it went upstream.
	// What follows a colon ("limit:lists-per-user") is for other readers and ignored.
	RejectedBy string
	// SeatSeconds is the cost: one request executing for one second, times the seats it occupied. For a stream it
	// is the cost of its initial events only; its idle life costs no seat.
	SeatSeconds float64
	// Upstream is the time until the API server's answer was complete; for a stream until its headers.
	Upstream time.Duration
	// Unanswered is true when no answer came from upstream, or it broke off: the API server may have counted the
	// request or not.
	Unanswered bool
	// RequestBytes and ResponseBytes are body bytes.
	RequestBytes, ResponseBytes int64
	// Shared is true for an answer that the gate read once for many: it did not go on to an API server by itself, and its
	// cost is its part of the read's.
	Shared bool
	// Open is true for an interim account of a stream that goes on: its cost is added, no request is counted.
	Open bool
}

// Ledger is safe for concurrent use. Record takes under a microsecond and blocks only on one of several locks.
type Ledger struct {
	opts    Options
	seed    maphash.Seed
	agents  *agentCache
	shards  []shard
	metrics *metrics
	started time.Time
}

// New returns an empty ledger.
func New(opts Options) *Ledger {
	if opts.MaxClients <= 0 {
		opts.MaxClients = 2048
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	l := &Ledger{
		opts:    opts,
		seed:    maphash.MakeSeed(),
		agents:  newAgentCache(),
		metrics: newMetrics(opts.Registerer),
	}
	// Each shard is a summary of its own with its own error, so a small table is not cut up; and a file is read by
	// one goroutine.
	count := 1
	for !opts.WholeRun && count < 16 && opts.MaxClients/(count*2) >= 64 {
		count *= 2
	}
	l.shards = make([]shard, count)
	for i := range l.shards {
		l.shards[i].init((opts.MaxClients+i)/count, opts.WholeRun)
	}
	l.started = opts.Clock()
	return l
}

// Key is what a client is.
type Key struct {
	User      string `json:"user,omitempty"`
	UserAgent string `json:"userAgent,omitempty"`
	Verb      string `json:"verb,omitempty"`
	// Resource is resource or resource/subresource, or /segment for a non-resource path.
	Resource string `json:"resource,omitempty"`
}

// Bounds on the parts of a key: all are chosen by clients.
const (
	maxUser     = 256
	maxVerb     = 24
	maxResource = 128
)

func (l *Ledger) keyOf(f *flow.Request) Key {
	return Key{
		User:      bound(f.Caller.User, maxUser),
		UserAgent: l.agents.normalise(f.UserAgent),
		Verb:      bound(f.Verb, maxVerb),
		Resource:  bound(f.ResourcePath(), maxResource),
	}
}

func bound(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return strings.ToValidUTF8(s[:limit-3], "") + "…"
}

// Record accounts for one request that has ended, or with Open for a part of a stream.
func (l *Ledger) Record(f *flow.Request, o Outcome) {
	if o.Open {
		l.add(f, &o, step{})
		return
	}
	l.add(f, &o, step{begun: true, ended: true})
}

// Opened counts a stream (watch, exec, …) as a request and as open. Each Opened needs its Closed. A stream the gate
// itself refused is recorded with Record instead.
func (l *Ledger) Opened(f *flow.Request) {
	l.metrics.streams.Inc()
	l.add(f, &Outcome{}, step{begun: true, streams: +1})
}

// OpenedShared is Opened for a stream that the gate feeds from what it reads for many.
func (l *Ledger) OpenedShared(f *flow.Request) {
	l.metrics.streams.Inc()
	l.add(f, &Outcome{Shared: true}, step{begun: true, streams: +1})
}

// Closed ends a stream: it adds its code and the cost that is not accounted for yet.
func (l *Ledger) Closed(f *flow.Request, o Outcome) {
	l.metrics.streams.Dec()
	l.add(f, &o, step{ended: true, streams: -1})
}

// step is what happens to a request: most begin and end in one; a stream begins, may be accounted for in parts, ends.
type step struct {
	begun, ended bool
	streams      int32
}

// Started and Finished bracket every request the gate handles, for the gauge of requests in flight.
func (l *Ledger) Started() { l.metrics.inFlight.Inc() }

// Finished is Started's counterpart.
func (l *Ledger) Finished() { l.metrics.inFlight.Dec() }

func (l *Ledger) add(f *flow.Request, o *Outcome, st step) {
	if !(o.SeatSeconds >= 0) || math.IsInf(o.SeatSeconds, 1) {
		o.SeatSeconds = 0 // NaN too: one bad number must not stick to the totals
	}
	o.RequestBytes, o.ResponseBytes = max(0, o.RequestBytes), max(0, o.ResponseBytes)
	l.metrics.record(f.Verb, o, st)
	l.addKey(l.keyOf(f), f.Source, o, st)
}

func (l *Ledger) addKey(key Key, from netip.Addr, o *Outcome, st step) {
	hash := maphash.Comparable(l.seed, key)
	source := uint64(0)
	if from.IsValid() {
		source = maphash.Comparable(l.seed, from)
	}
	s := &l.shards[hash%uint64(len(l.shards))]
	now := l.opts.Clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(key, hash, source, now, o, st)
}

// shard is one Space-Saving summary.
type shard struct {
	mu      sync.Mutex
	entries map[Key]*entry
	heap    costHeap
	size    int
	whole   bool // nothing decays
	total   tally
	rates   rates
	evicted uint64
	// parked are the open streams of clients that lost their entry, by the key's hash, so that their number is right
	// when they come back or end.
	parked   map[uint64]int32
	untraced int64
	// forwarded is exact and by verb and resource only; see Totals.
	forwarded forwarded
	// epoch and its weight turn the decay round: instead of all old costs shrinking, new ones grow.
	epoch time.Time
	_     [64]byte // keeps the locks of neighbours on different cache lines
}

func (s *shard) init(size int, whole bool) {
	s.size, s.whole = max(1, size), whole
	s.entries = make(map[Key]*entry, s.size)
	s.parked = map[uint64]int32{}
	s.forwarded = forwarded{}
}

func (s *shard) add(key Key, hash, source uint64, now time.Time, o *Outcome, st step) {
	e, ok := s.entries[key]
	if !ok {
		if st.streams < 0 && s.closeParked(hash) {
			st.streams = 0
		}
		e = s.admit(key, hash, now)
	}
	e.cost += s.weight(now) * cost(o, st)
	e.tally.add(o, st)
	s.total.add(o, st)
	if !s.whole {
		e.rates.add(now, o, st)
		s.rates.add(now, o, st)
		s.forwarded.add(key, o, st)
	}
	e.open = max(0, e.open+st.streams)
	e.sources.add(source)
	if e.last.Before(now) {
		e.last = now
	}
}

// weight is 2^(age of the shard / Memory). Before it loses precision everything is scaled down once.
func (s *shard) weight(now time.Time) float64 {
	if s.whole {
		return 1
	}
	if s.epoch.IsZero() {
		s.epoch = now
	}
	age := now.Sub(s.epoch)
	if age > 64*Memory {
		scale := math.Exp2(-float64(age) / float64(Memory))
		for _, e := range s.heap {
			e.cost *= scale
			e.missed *= scale
			e.queued *= scale
		}
		s.epoch, age = now, 0
	}
	return math.Exp2(float64(age) / float64(Memory))
}

// admit makes an entry, in the place of the cheapest when the table is full.
func (s *shard) admit(key Key, hash uint64, now time.Time) *entry {
	// The strings are parts of the request's; an entry must not keep a whole URL alive. The user agent was made anew.
	key = Key{strings.Clone(key.User), key.UserAgent, strings.Clone(key.Verb), strings.Clone(key.Resource)}
	e := &entry{}
	full := len(s.heap) == s.size
	missed := 0.0
	if full {
		e = s.heap.takeCheapest()
		missed = e.cost
		s.evict(e)
	}
	*e = entry{key: key, hash: hash, since: now, cost: missed, missed: missed, queued: missed, index: e.index}
	if open, ok := s.parked[hash]; ok {
		e.open = open
		delete(s.parked, hash)
	}
	if !full {
		s.heap.push(e)
	}
	s.entries[key] = e
	return e
}

func (s *shard) evict(old *entry) {
	delete(s.entries, old.key)
	s.evicted++
	if old.open == 0 {
		return
	}
	if len(s.parked) < 4*s.size {
		s.parked[old.hash] = old.open
	} else {
		s.untraced += int64(old.open)
	}
}

// closeParked ends one stream of a client without an entry.
func (s *shard) closeParked(hash uint64) bool {
	open, ok := s.parked[hash]
	if !ok {
		s.untraced = max(0, s.untraced-1)
		return false
	}
	if open > 1 {
		s.parked[hash] = open - 1
	} else {
		delete(s.parked, hash)
	}
	return true
}
