package choice

import (
	"math"
	"time"
)

// Server is what is known of one API server. It is made by NewServer and used through a table only.
type Server struct {
	Name string

	chosen  uint64  // when it last was, counted in choices
	busy    float64 // seats of requests under way
	streams int
	// penalty stands for requests that failed fast: each keeps its seat for about a second, so that a server is not
	// picked because it is quick to refuse. It halves every penaltyHalf; as of penaltyAt.
	penalty   float64
	penaltyAt time.Time

	circuits [2]circuit
	// failures of each kind in a row, until an answer without one.
	errors, storeErrors, broken int
	// answered is when it last answered anything, stored when it last answered what proves that etcd did.
	answered, stored time.Time
	// first and last are the requests that wait for etcd, in the order in which they were sent.
	first, last *Ticket

	// Of panic: how many of its requests may be under way here, and how many are.
	panicWindow, panicBusy int
}

const (
	penaltyHalf = time.Second
	// forgiven is so little of a seat that it decides nothing any more: on a quiet day one failure would keep a server
	// without requests for long.
	forgiven = 0.25
	// errorsInRow are too many to be the requests' fault, when other servers answer.
	errorsInRow = 8
	// storeErrorsInRow is two, because one may be an election of etcd's, which all servers see.
	storeErrorsInRow = 2
	// brokenInRow is more than one connection's end does by chance.
	brokenInRow = 3
	// hangAfter is how long requests for etcd may wait before they say something, and hangCount how many must. Writes
	// take milliseconds; one alone may wait for a slow webhook.
	hangAfter = time.Second
	hangCount = 2
	// othersWithin is how recent another server's success must be for this one's failures to be its own.
	othersWithin = 5 * time.Second

	// What it takes to be tried again. An API server answers the question for its etcd from memory for up to half its
	// --etcd-readycheck-timeout (2 s): two answers that are that far apart cannot both be old.
	servingNeed = 0
	errorsNeed  = 2 * time.Second
	quorumNeed  = 2500 * time.Millisecond
	// Without a probe's word, time alone.
	unprobedNeed = 2 * time.Second
)

func (s *Server) penaltyNow(now time.Time) float64 {
	if s.penalty == 0 {
		return 0
	}
	p := s.penalty * math.Exp2(-now.Sub(s.penaltyAt).Seconds()/penaltyHalf.Seconds())
	if p < forgiven {
		return 0
	}
	return p
}

func (s *Server) punish(now time.Time, seats float64) {
	s.penalty, s.penaltyAt = s.penaltyNow(now)+seats, now
}

// load is what servers are compared by. Streams are compared by streams: a thousand idle watches take no seat, and a
// server without any should get the next.
func (s *Server) load(now time.Time, stream bool) float64 {
	if stream {
		return float64(s.streams) + s.penaltyNow(now)
	}
	return s.busy + s.penaltyNow(now)
}

// ranks of a server for a request; the lowest wins, and load decides within one.
const (
	eligible   = iota // well enough for the request
	fromMemory        // without quorum, and the request needs none
	answering         // without quorum, or half open with all its canaries under way
	dark              // not answering, as far as is known
)

func (s *Server) rank(r *Request) int {
	serving, quorum := &s.circuits[Serving], &s.circuits[Quorum]
	switch {
	case serving.state == Out:
		return dark
	case r.Insistent && serving.state == HalfOpen, !serving.admits():
		return answering
	case quorum.state == In:
		return eligible
	case r.Class == Memory && quorum.state == Out:
		return fromMemory
	case r.Class == Memory:
		return eligible
	case r.Insistent || !quorum.admits():
		return answering
	}
	return eligible
}

// hanging says whether its requests for etcd wait and none is answered.
func (s *Server) hanging(now time.Time) bool {
	if now.Sub(s.stored) < hangAfter {
		return false
	}
	late := 0
	for t := s.first; t != nil && now.Sub(t.sent) >= hangAfter; t = t.next {
		if late++; late == hangCount {
			return true
		}
	}
	return false
}

func (s *Server) enlist(t *Ticket) {
	t.listed, t.prev = true, s.last
	if s.last == nil {
		s.first = t
	} else {
		s.last.next = t
	}
	s.last = t
}

func (s *Server) delist(t *Ticket) {
	if !t.listed {
		return
	}
	if t.prev == nil {
		s.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		s.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.listed, t.prev, t.next = false, nil, nil
}
