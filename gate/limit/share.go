package limit

import (
	"math"
	"sync/atomic"
)

// share is the part of every throttle's budget that this gate may hand out, when several gates share them: 1 is all of it,
// and what it is until it is set. A nil share is 1.
type share struct{ bits atomic.Uint64 }

func (s *share) load() float64 {
	if s == nil {
		return 1
	}
	if bits := s.bits.Load(); bits != 0 {
		return math.Float64frombits(bits)
	}
	return 1
}

// SetShare says which part of every throttle's budget this gate may hand out from now on, from 0 to 1; what is outside is
// taken for the nearer of the two. Rates, bursts and bytes are scaled as they are. Places and bursts are rounded down, but
// never to none. What was admitted before goes on. The squeeze is this gate's own and is not shared.
func (e *Engine) SetShare(part float64) {
	if math.IsNaN(part) {
		part = 0
	}
	e.share.bits.Store(math.Float64bits(min(max(part, least), 1)))
}

// Share is what SetShare set, 1 at first.
func (e *Engine) Share() float64 { return e.share.load() }
