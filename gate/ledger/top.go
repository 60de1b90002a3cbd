package ledger

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"
)

// Order is what Top ranks by.
type Order string

// The orders. A live ledger ranks by the last minute's rate, a WholeRun one by totals.
const (
	BySeats    Order = "seats"
	ByRequests Order = "requests"
	ByBytes    Order = "bytes"
	ByRejected Order = "rejected"
)

// Orders is the closed list of orders.
func Orders() []Order { return []Order{BySeats, ByRequests, ByBytes, ByRejected} }

// ParseOrder refuses an unknown order.
func ParseOrder(s string) (Order, error) {
	if slices.Contains(Orders(), Order(s)) {
		return Order(s), nil
	}
	return "", fmt.Errorf("order must be one of seats, requests, bytes, rejected, got %q", s)
}

// Snapshot is who costs what at one moment: what GET /v1/top answers and `gate top -o json` prints.
type Snapshot struct {
	// Taken is the moment; Since is when counting began. For a file they are its last and first event.
	Taken time.Time `json:"taken"`
	Since time.Time `json:"since"`
	Order Order     `json:"order"`
	// Entries are the first n clients in the order asked for.
	Entries []Entry `json:"entries"`
	// Total is over all requests ever recorded, exact.
	Total Amounts `json:"total"`
	// Rates are over all requests, exact but for the decay; absent for a file.
	Rates Rates `json:"rates,omitzero"`
	// OpenStreams is over all clients.
	OpenStreams int64 `json:"openStreams"`
	// Clients is how many entries are kept, MaxClients how many could be; Evicted is how often one gave way.
	// Nothing is missed while Evicted is 0.
	Clients    int    `json:"clients"`
	MaxClients int    `json:"maxClients"`
	Evicted    uint64 `json:"evicted"`
	// Floor bounds what any client that is not kept can have cost (in a live ledger: decayed, half in 10 minutes).
	Floor Missed `json:"floor"`
}

// Entry is one client. Its amounts are exact since Since; before that at most MaybeMissed was not counted.
type Entry struct {
	Key
	Since       time.Time `json:"since"`
	LastSeen    time.Time `json:"lastSeen"`
	Amounts     `json:",inline"`
	Rates       Rates `json:"rates,omitzero"`
	OpenStreams int   `json:"openStreams"`
	// Sources estimates the distinct source addresses, ±13 %.
	Sources     int    `json:"sources"`
	MaybeMissed Missed `json:"maybeMissed"`
}

// Amounts are counts since a moment.
type Amounts struct {
	// Requests counts a stream when it opens, Codes when it ends; Rejected is what the gate itself refused.
	Requests int64 `json:"requests"`
	Rejected int64 `json:"rejected"`
	// SeatSeconds is the cost at the API server; an idle stream adds none.
	SeatSeconds float64 `json:"seatSeconds"`
	// UpstreamSeconds is the time the API server took, over all requests.
	UpstreamSeconds float64 `json:"upstreamSeconds"`
	RequestBytes    int64   `json:"requestBytes"`
	ResponseBytes   int64   `json:"responseBytes"`
	// Codes counts status codes by class: 1xx, 2xx, 3xx, 4xx (without 429), 429, 5xx, none. Zeros are left out.
	Codes map[string]int64 `json:"codes,omitempty"`
}

// Rates are decaying averages per second over three windows.
type Rates struct {
	TenSeconds Rate `json:"10s"`
	Minute     Rate `json:"1m"`
	TenMinutes Rate `json:"10m"`
}

// Rate is per second. Seats (seat-seconds per second) is the average number of seats held.
type Rate struct {
	Requests float64 `json:"requests"`
	Rejected float64 `json:"rejected"`
	Seats    float64 `json:"seats"`
	Bytes    float64 `json:"bytes"`
}

// Missed bounds what may be missing from a count: each number alone, not their sum.
type Missed struct {
	SeatSeconds float64 `json:"seatSeconds"`
	Requests    int64   `json:"requests"`
	Bytes       int64   `json:"bytes"`
}

// missedBy turns a missed cost into what it can at most have been.
func missedBy(cost float64) Missed {
	return Missed{
		SeatSeconds: cost,
		Requests:    int64(math.Floor(cost/requestCost + 1e-6)),
		Bytes:       int64(math.Floor(cost/byteCost + 1e-6)),
	}
}

// Top returns the first n clients in an order; n ≤ 0 returns all. It costs about a millisecond at the default size and
// holds up Record for a fraction of that at a time.
func (l *Ledger) Top(n int, by Order) Snapshot {
	now := l.opts.Clock()
	snap := Snapshot{Taken: now, Since: l.started, Order: by, MaxClients: l.opts.MaxClients, Entries: []Entry{}}
	var total tally
	floor := 0.0
	for i := range l.shards {
		floor = max(floor, l.shards[i].collect(now, &snap, &total))
	}
	snap.Total = total.amounts()
	snap.Clients = len(snap.Entries)
	snap.Floor = missedBy(floor)
	slices.SortFunc(snap.Entries, func(a, b Entry) int {
		return cmp.Or(
			cmp.Compare(l.value(&b, by), l.value(&a, by)),
			cmp.Compare(b.SeatSeconds, a.SeatSeconds),
			cmp.Compare(b.Requests, a.Requests),
			compareKeys(a.Key, b.Key),
		)
	})
	if n > 0 && n < len(snap.Entries) {
		snap.Entries = slices.Clip(snap.Entries[:n])
	}
	return snap
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.User, b.User), cmp.Compare(a.UserAgent, b.UserAgent),
		cmp.Compare(a.Verb, b.Verb), cmp.Compare(a.Resource, b.Resource))
}

func (l *Ledger) value(e *Entry, by Order) float64 {
	minute := e.Rates.Minute
	if l.opts.WholeRun {
		minute = Rate{
			Requests: float64(e.Requests), Rejected: float64(e.Rejected),
			Seats: e.SeatSeconds, Bytes: float64(e.RequestBytes + e.ResponseBytes),
		}
	}
	switch by {
	case ByRequests:
		return minute.Requests
	case ByBytes:
		return minute.Bytes
	case ByRejected:
		return minute.Rejected
	default:
		return minute.Seats
	}
}

// collect adds the shard's entries to the snapshot and returns the cost no client outside can exceed.
func (s *shard) collect(now time.Time, snap *Snapshot, total *tally) (floor float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	scale := 1 / s.weight(now)
	snap.Entries = slices.Grow(snap.Entries, len(s.heap))
	for _, e := range s.heap {
		snap.Entries = append(snap.Entries, Entry{
			Key: e.key, Since: e.since, LastSeen: e.last,
			Amounts: e.tally.amounts(), Rates: e.rates.read(now),
			OpenStreams: int(e.open), Sources: e.sources.count(),
			MaybeMissed: missedBy(e.missed * scale),
		})
		snap.OpenStreams += int64(e.open)
	}
	for _, open := range s.parked {
		snap.OpenStreams += int64(open)
	}
	snap.OpenStreams += s.untraced
	snap.Evicted += s.evicted
	total.merge(&s.total)
	snap.Rates.add(s.rates.read(now))
	if len(s.heap) == s.size && s.evicted > 0 {
		floor = s.heap.cheapest() * scale
	}
	return floor
}

func (t *tally) merge(o *tally) {
	t.requests += o.requests
	t.rejected += o.rejected
	t.seatSeconds += o.seatSeconds
	t.upstreamSeconds += o.upstreamSeconds
	t.requestBytes += o.requestBytes
	t.responseBytes += o.responseBytes
	for i := range t.codes {
		t.codes[i] += o.codes[i]
	}
}

func (t *tally) amounts() Amounts {
	a := Amounts{
		Requests: t.requests, Rejected: t.rejected,
		SeatSeconds: t.seatSeconds, UpstreamSeconds: t.upstreamSeconds,
		RequestBytes: t.requestBytes, ResponseBytes: t.responseBytes,
	}
	for class, n := range t.codes {
		if n > 0 {
			if a.Codes == nil {
				a.Codes = map[string]int64{}
			}
			a.Codes[classNames[class]] = n
		}
	}
	return a
}

func (r *rates) read(now time.Time) Rates {
	return Rates{TenSeconds: r.perSecond(0, now), Minute: r.perSecond(1, now), TenMinutes: r.perSecond(2, now)}
}

func (r *Rates) add(o Rates) {
	r.TenSeconds.add(o.TenSeconds)
	r.Minute.add(o.Minute)
	r.TenMinutes.add(o.TenMinutes)
}

func (r *Rate) add(o Rate) {
	r.Requests += o.Requests
	r.Rejected += o.Rejected
	r.Seats += o.Seats
	r.Bytes += o.Bytes
}
