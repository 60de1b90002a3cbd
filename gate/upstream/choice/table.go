package choice

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// Class is what a request needs of a server.
type Class int

const (
	// Recent needs etcd: writes, reads of the most recent state, and watches, which would stay open and tell nothing.
	Recent Class = iota
	// Memory is answered from what an API server holds: resourceVersion=0, discovery, reviews.
	Memory
)

// Request is what is to be known of a request to choose for it.
type Request struct {
	Class Class
	// Stream is true for what has no end of its own; it takes no seat.
	Stream bool
	// Seats is what the request costs, ≥ 0; 0 means one seat.
	Seats float64
	// Proves says that a good answer to it cannot come without etcd.
	Proves bool
	// Insistent requests are the break-glass lane's: no window holds them up, they are no canaries, and where servers
	// are alike the first of the list is taken.
	Insistent bool
}

func (r *Request) seats() float64 {
	if r.Seats > 0 {
		return r.Seats
	}
	return 1
}

// Outcome is what became of a request.
type Outcome int

// The outcomes. Unreached and Gone end a request that was not answered.
const (
	// Answered well, or with an error that is the client's: below 500, and not 429.
	Answered Outcome = iota
	// Refused is 429: it is busy, or says so.
	Refused
	// Erred is 500 and above.
	Erred
	// Broke is a request that was sent and not answered: the connection ended, or the time.
	Broke
	// Unreached is a request of which nothing was sent.
	Unreached
	// Gone says nothing: the client left.
	Gone
)

// Finding is what a probe found.
type Finding int

// The findings.
const (
	Well Finding = iota
	Ill
	// Mute: no answer in time.
	Mute
	// Absent: no connection.
	Absent
	// Unsaid: it answers, and does not tell (401, 403, 404).
	Unsaid
)

// ErrAllOut is returned when every server is out and enough requests are trying already.
var ErrAllOut = errors.New("every API server is out, and enough requests are finding out which of them comes back")

// panicWindow is how many requests may try each server when all are out. It grows with each that is answered, so
// that a wrong verdict on all servers costs little, and it keeps what is dead from collecting everyone's requests:
// the break-glass lane's find room.
const panicWindow = 32

// Table is all servers' state under one lock. It is safe for concurrent use.
type Table struct {
	mu     sync.Mutex
	chosen uint64 // how many were; the order of choices

	panicked, refused int // requests sent in panic, and refused in it
}

// Ticket is one request on one server.
type Ticket struct {
	table  *Table
	server *Server
	r      Request
	sent   time.Time

	lives      [2]int // of the circuits it is a canary of
	panic      bool
	answered   bool
	closed     bool
	listed     bool
	prev, next *Ticket
}

// NewServer is a server that is in until something speaks against it. It belongs to one table.
func NewServer(name string) *Server { return &Server{Name: name} }

// Server is the one chosen.
func (t *Ticket) Server() *Server { return t.server }

// Begin chooses one of all servers for a request, leaving out those already tried. The ticket must be told Answered, if
// ever, and then Closed. It returns ErrAllOut when nobody is left or nobody may be tried.
func (t *Table) Begin(now time.Time, all, tried []*Server, r Request) (*Ticket, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh(now, all)
	var best *Server
	bestRank, bestLoad := dark+1, 0.0
	for _, s := range all {
		if slices.Contains(tried, s) {
			continue
		}
		rank, load := s.rank(&r), s.load(now, r.Stream)
		if rank >= answering && !r.Insistent && len(all) > 1 && s.panicBusy >= max(panicWindow, s.panicWindow) {
			continue
		}
		switch {
		case best == nil || rank < bestRank:
		case rank > bestRank || load > bestLoad:
			continue
		case load == bestLoad && (r.Insistent || s.chosen >= best.chosen):
			continue // the one that was chosen longest ago, of those alike
		}
		best, bestRank, bestLoad = s, rank, load
	}
	if best == nil {
		t.refused++
		return nil, ErrAllOut
	}
	t.chosen++
	best.chosen = t.chosen
	ticket := &Ticket{table: t, server: best, r: r, sent: now}
	if r.Stream {
		best.streams++
	} else {
		best.busy += r.seats()
	}
	switch {
	case bestRank >= answering:
		ticket.panic = true
		best.panicBusy++
		t.panicked++
	case !r.Insistent:
		ticket.lives[Serving] = best.circuits[Serving].try()
		if r.Class == Recent {
			best.panicWindow = 0
			ticket.lives[Quorum] = best.circuits[Quorum].try()
		}
	}
	if r.Class == Recent && r.Proves && !r.Stream {
		best.enlist(ticket)
	}
	return ticket, nil
}

// refresh applies what time alone brings.
func (t *Table) refresh(now time.Time, all []*Server) {
	for _, s := range all {
		s.circuits[Serving].wait(now, unprobedNeed)
		s.circuits[Quorum].wait(now, unprobedNeed)
		if s.circuits[Quorum].state != Out && s.hanging(now) && someoneElse(all, s, func(other *Server) bool {
			return other.circuits[Quorum].state == In && now.Sub(other.stored) < hangAfter
		}) {
			s.circuits[Quorum].goOut(now, Hanging)
		}
	}
}

func someoneElse(all []*Server, s *Server, is func(*Server) bool) bool {
	return slices.ContainsFunc(all, func(other *Server) bool {
		return other != s && other.circuits[Serving].state != Out && is(other)
	})
}

// Answered says what became of the request: when the answer began, or that none will. all are the servers it was chosen
// from. Only the first call counts.
func (t *Ticket) Answered(now time.Time, all []*Server, o Outcome, proves bool) {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	if t.answered {
		return
	}
	t.over()
	s := t.server
	serving := &s.circuits[Serving]
	switch o {
	case Gone:
	case Unreached:
		serving.goOut(now, Unreachable)
	case Broke:
		s.punish(now, t.r.seats())
		if s.broken++; s.broken >= brokenInRow || serving.state == HalfOpen {
			serving.goOut(now, Broken)
		}
	case Refused:
		s.answered, s.broken = now, 0
		s.punish(now, t.r.seats())
	case Erred:
		s.answered, s.broken = now, 0
		s.punish(now, t.r.seats())
		t.erred(now, all)
	case Answered:
		s.answered, s.broken, s.errors = now, 0, 0
		serving.passedWell(now, t.lives[Serving])
		if t.panic {
			s.panicWindow = max(panicWindow, s.panicWindow) + 1
		}
		if t.r.Proves && proves {
			s.stored, s.storeErrors = now, 0
			s.circuits[Quorum].passedWell(now, t.lives[Quorum])
		}
	}
}

// StoreErred says that the error the request was answered with names etcd, which is found only when its body has come.
func (t *Ticket) StoreErred(now time.Time, all []*Server) {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	s := t.server
	s.storeErrors++
	if (s.storeErrors >= storeErrorsInRow || s.circuits[Quorum].state == HalfOpen) &&
		someoneElse(all, s, func(other *Server) bool { return other.circuits[Quorum].state == In }) {
		s.circuits[Quorum].goOut(now, StoreErrors)
	}
}

func (t *Ticket) erred(now time.Time, all []*Server) {
	s := t.server
	if s.errors++; s.errors >= errorsInRow && someoneElse(all, s, func(other *Server) bool {
		return other.circuits[Serving].state == In && other.errors == 0 && now.Sub(other.answered) < othersWithin
	}) {
		s.circuits[Serving].goOut(now, Errors)
	}
}

// Closed gives the request's place back. Only the first call counts.
func (t *Ticket) Closed() {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	s := t.server
	if t.r.Stream {
		s.streams--
	} else {
		s.busy = max(0, s.busy-t.r.seats())
	}
	if !t.answered {
		t.over()
	}
}

// over ends the wait for an answer.
func (t *Ticket) over() {
	t.answered = true
	t.server.delist(t)
	for a := range t.lives {
		t.server.circuits[a].tried(t.lives[a])
	}
	if t.panic {
		t.server.panicBusy--
	}
}

// Probed takes a probe's finding about one ability. began is when it was sent, all are the servers in use.
func (t *Table) Probed(began, now time.Time, all []*Server, s *Server, a Ability, f Finding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refresh(now, all)
	c := &s.circuits[a]
	need := time.Duration(servingNeed)
	switch {
	case a == Quorum:
		need = quorumNeed
	case c.why == Errors:
		need = errorsNeed // it answers probes well; requests are what it fails
	case c.relapses > 0:
		need = time.Second / 2
	}
	switch f {
	case Well:
		c.found(now, true, need)
	case Unsaid:
		if a == Serving {
			s.answered = now
			c.found(now, true, need)
		}
	case Ill:
		c.found(now, false, 0)
		c.goOut(now, NotReady)
	case Mute:
		c.found(now, false, 0)
		if last := [...]time.Time{s.answered, s.stored}[a]; last.Before(began) {
			c.goOut(now, Silent)
		}
	case Absent:
		if a == Serving {
			c.found(now, false, 0)
			c.goOut(now, Unreachable)
		}
	}
}
