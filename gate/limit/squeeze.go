package limit

import (
	"cmp"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// While it is squeezed, the standard lane carries this much at once: of everybody together, and of one caller. What is
// carried is kept small and shared out, not shut off: an engineer on this lane may be repairing too, and his small LIST
// finds a place because the storm's user holds one only. Raising these takes from the break-glass lane, whose latency is
// why there is a squeeze; a LIST may keep one CPU of the API server busy while it runs.
var (
	squeezedShort = squeezeBounds{all: bounds{concurrency: 16}, each: bounds{concurrency: 4}}
	squeezedLists = squeezeBounds{all: bounds{concurrency: 4}, each: bounds{concurrency: 1}}
)

type squeezeBounds struct{ all, each bounds }

// squeeze is the standard lane making room for the break-glass lane.
type squeeze struct {
	until        atomic.Int64 // Unix nanoseconds
	short, lists squeezeTables
	exempt       []*matcher // who is never delayed: the same for every configuration
}

type squeezeTables struct{ all, each *table }

func (b squeezeBounds) tables() squeezeTables {
	return squeezeTables{all: newTable(b.all, 1, nil), each: newTable(b.each, maxBuckets, nil)}
}

func (q *squeeze) init() {
	q.short, q.lists = squeezedShort.tables(), squeezedLists.tables()
	for _, spec := range Shipped() {
		if !neverDelayed(spec.Name) {
			continue
		}
		m, err := compileMatch(&spec.Match)
		if err != nil {
			panic("BUG: shipped rule does not compile: " + err.Error())
		}
		q.exempt = append(q.exempt, m)
	}
}

func (q *squeeze) active(now time.Time) bool { return now.UnixNano() < q.until.Load() }

func (q *squeeze) exempts(s *subject) bool {
	return slices.ContainsFunc(q.exempt, func(m *matcher) bool { return m.match(s) })
}

// squeezeRule is the name in rejections.
const squeezeRule = "break-glass"

// Squeeze makes room for the break-glass lane until the given time. When it begins, the LISTs in flight and the initial
// events of watches are ended, but for those of callers who have few; while it lasts, the never-delayed requests are admitted,
// and of the others a few at once,
// and no new stream. Open watches stay: to open them again would cost more than they do. A later call prolongs the
// squeeze, or ends it earlier, and ends no request. What is answered from shared reads is none of its business: there is one
// read at a time, however many get it.
func (e *Engine) Squeeze(until time.Time) (ended int) {
	now := e.clock()
	wasActive := e.squeeze.active(now)
	e.squeeze.until.Store(until.UnixNano())
	if wasActive || !e.squeeze.active(now) {
		return 0
	}
	e.epoch.Add(1)
	if e.emergency.Load().passthrough(now) {
		return 0
	}
	reading := map[key]int{}
	e.open.each(func(p *Pass) {
		if e.squeezes(p) {
			reading[userKey(p.flow)]++
		}
	})
	spared := sparedBySqueeze(reading)
	ended = e.endMatching(func(p *Pass) error {
		if !e.squeezes(p) || spared[userKey(p.flow)] {
			return nil
		}
		return &EndedError{Rule: squeezeRule, Why: reasonText[ReasonSqueezed]}
	})
	e.log.Warn("The break-glass lane is slow: squeezing the standard lane", "until", until, "endedLists", ended)
	return ended
}

// squeezes is true for what a squeeze may end.
func (e *Engine) squeezes(p *Pass) bool {
	// A watch that is still sending what exists costs what a LIST costs.
	reading := p.flow.Verb == "list" || p.flow.InitialEvents && !p.freed.Load()
	if !reading || p.shared {
		return false
	}
	s := newSubject(p.flow)
	return s.Lane != flow.BreakGlass && !e.squeeze.exempts(&s)
}

// Whoever reads this little when a squeeze begins is not who made the break-glass lane slow, and may be the engineer whom it is
// made for: his LISTs go on, those of the callers with the fewest first, as long as they are few together.
const (
	sparedEach = 4
	sparedAll  = 16
)

// sparedBySqueeze is whose LISTs go on, by how many each has.
func sparedBySqueeze(reading map[key]int) map[key]bool {
	callers := slices.SortedFunc(maps.Keys(reading), func(a, b key) int { return cmp.Compare(reading[a], reading[b]) })
	spared, all := map[key]bool{}, 0
	for _, caller := range callers {
		if all += reading[caller]; reading[caller] > sparedEach || all > sparedAll {
			break
		}
		spared[caller] = true
	}
	return spared
}

// SqueezedUntil is when the squeeze ends, or the zero time when there is none.
func (e *Engine) SqueezedUntil() time.Time {
	if !e.squeeze.active(e.clock()) {
		return time.Time{}
	}
	return time.Unix(0, e.squeeze.until.Load())
}

func (e *Engine) decideSqueezed(p *Pass, s *subject, now time.Time) *Rejection {
	if s.Lane == flow.BreakGlass || e.squeeze.exempts(s) {
		return nil
	}
	refused := &refusal{reason: ReasonSqueezed, wait: min(maxWait, time.Unix(0, e.squeeze.until.Load()).Sub(now))}
	tables := e.squeeze.short
	switch {
	case s.IsList():
		tables = e.squeeze.lists
	case s.LongRunning:
		return e.throttle(squeezeRule, refused, denials{emergency: true})
	}
	// The caller's own place first: a caller that waits for a second one must not hold one of everybody's.
	for _, take := range []struct {
		table *table
		key   key
	}{{tables.each, userKey(s.Request)}, {tables.all, key{}}} {
		b, full := take.table.take(take.key, e.clock)
		if full != nil {
			return e.throttle(squeezeRule, refused, denials{emergency: true})
		}
		p.holds = append(p.holds, hold{table: take.table, bucket: b})
	}
	return nil
}
