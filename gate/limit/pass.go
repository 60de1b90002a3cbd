package limit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// Pass is an admitted request's hold on its buckets. Its methods may be called from several goroutines.
type Pass struct {
	engine *Engine
	flow   *flow.Request
	cancel context.CancelCauseFunc

	holds  []hold
	inline [3]hold // most requests touch one bucket, and none should cost an allocation

	freed, done, ended atomic.Bool

	seatMu sync.Mutex
	seat   seat

	shard      *shard
	prev, next *Pass
	// shared requests are answered from what the gate reads for many.
	shared bool
}

// hold is what a pass has of one bucket.
type hold struct {
	table  *table
	bucket *bucket
	ticket *ticket // of a rule in shadow
}

// release gives the hold's place back.
func (h *hold) release(now time.Time) {
	if h.ticket != nil {
		h.table.leaveShadow(h.ticket, now)
		return
	}
	h.table.release(h.bucket)
}

// Wrote charges n response bytes. The response is not slowed: the bucket goes into debt.
func (p *Pass) Wrote(n int64) {
	for _, h := range p.holds {
		if h.table.limits.bytesPerSecond > 0 && (h.ticket == nil || !h.ticket.void.Load()) {
			h.bucket.written.Add(n)
		}
	}
	if p.seat.live.Load() {
		p.seat.account.bytes.Add(n)
	}
}

// Seated says that the request goes to the API server now, and how many seats it holds there. Until then it costs its account
// nothing: who waits in a queue, or is answered from shared reads, takes nothing from anybody.
func (p *Pass) Seated(seats int) {
	if !costs(p.flow) {
		return
	}
	p.seatMu.Lock()
	defer p.seatMu.Unlock()
	if !p.freed.Load() {
		p.seat.begin(p.engine.clock(), seats)
	}
}

// InitialEventsDone gives the places back while the request goes on: a watch has sent what existed, and from now on
// costs little.
func (p *Pass) InitialEventsDone() {
	if !p.freed.CompareAndSwap(false, true) {
		return
	}
	now := p.engine.clock()
	p.seatMu.Lock()
	p.seat.end(now)
	p.seatMu.Unlock()
	for i := range p.holds {
		p.holds[i].release(now)
	}
}

// Done ends the pass. It must be called once the response is finished; further calls do nothing.
func (p *Pass) Done() {
	if !p.done.CompareAndSwap(false, true) {
		return
	}
	p.engine.open.remove(p)
	p.InitialEventsDone()
	for _, h := range p.holds {
		h.table.forget(h.bucket)
	}
}

// drop gives back what a pass that is not handed out holds, so that another decision may start.
func (p *Pass) drop() {
	for _, h := range p.holds {
		if h.ticket != nil {
			h.table.cancelShadow(h.ticket)
			continue
		}
		h.table.release(h.bucket)
		h.table.forget(h.bucket)
	}
	p.seat.end(p.engine.clock())
	p.holds = p.inline[:0]
}

// end cancels the request, once.
func (p *Pass) end(cause error) bool {
	if p.done.Load() || p.cancel == nil || !p.ended.CompareAndSwap(false, true) {
		return false
	}
	p.cancel(cause)
	return true
}

// openShards spreads the open requests over as many locks, so that admission does not queue at one.
const openShards = 16

// openRequests are the passes that are not done, so that an emergency rule finds whom it must end.
type openRequests struct {
	turn   atomic.Uint32
	shards [openShards]shard
}

type shard struct {
	mu     sync.Mutex
	anchor Pass
	_      [64]byte // its own cache line
}

func (o *openRequests) init() {
	for i := range o.shards {
		a := &o.shards[i].anchor
		a.prev, a.next = a, a
	}
}

func (o *openRequests) add(p *Pass) {
	s := &o.shards[o.turn.Add(1)%openShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	a := &s.anchor
	p.shard, p.prev, p.next = s, a, a.next
	p.next.prev, a.next = p, p
}

func (o *openRequests) remove(p *Pass) {
	s := p.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}

// endMatching ends every open request that cause wants ended; cause returns nil for those to be left alone. The
// requests are cancelled outside the locks: what a cancellation runs is not ours.
func (o *openRequests) endMatching(cause func(*Pass) error) int {
	ended := 0
	for i := range o.shards {
		s := &o.shards[i]
		type ending struct {
			pass  *Pass
			cause error
		}
		var endings []ending
		s.mu.Lock()
		for p := s.anchor.next; p != &s.anchor; p = p.next {
			if err := cause(p); err != nil {
				endings = append(endings, ending{p, err})
			}
		}
		s.mu.Unlock()
		for _, e := range endings {
			if e.pass.end(e.cause) {
				ended++
			}
		}
	}
	return ended
}

// each calls what is given for each open request, with their lock held.
func (o *openRequests) each(do func(*Pass)) {
	for i := range o.shards {
		s := &o.shards[i]
		s.mu.Lock()
		for p := s.anchor.next; p != &s.anchor; p = p.next {
			do(p)
		}
		s.mu.Unlock()
	}
}

// count is how many requests are open.
func (o *openRequests) count() (n int) {
	o.each(func(*Pass) { n++ })
	return n
}
