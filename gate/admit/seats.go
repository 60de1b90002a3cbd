package admit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/gate/admit/cost"
	"github.com/seakeep/seakeep/gate/admit/ramp"
	"github.com/seakeep/seakeep/gate/flow"
)

// Seats are what an admitted request holds. The zero value holds nothing. Its methods may be called from several goroutines,
// and more than once.
type Seats struct {
	room     *Room
	level    *level
	flow     *flow.Request
	shape    cost.Shape
	estimate cost.Estimate
	seats    int
	arrived  time.Time
	begun    time.Time // when the seats were had
	crowded  bool      // there were many others then

	hold   *hold
	cancel context.CancelFunc // of the wait
	// finished is closed when a request that was let in before its turn has ended; nil for others.
	finished chan struct{}
	asked    *ramp.Ask    // what the ramp is to be told is over
	listing  float64      // predicted bytes that are under way for it
	unread   atomic.Int64 // bytes of an answer that its client does not take
	release  sync.Once
	done     sync.Once
}

// resource is "pods", or "deployments.apps".
func (s *Seats) resource() string {
	return schema.GroupResource{Group: s.shape.Group, Resource: s.shape.Resource}.String()
}

// Held is how many seats the request holds; 1 for one that is not priced.
func (s *Seats) Held() int { return max(1, s.seats) }

// began says that the request goes on.
func (s *Seats) began(now time.Time) {
	s.begun, s.crowded = now, s.room.crowded(s.seats)
	if s.flow.IsList() && s.estimate.Bytes > 0 {
		s.listing = float64(s.estimate.Bytes)
		s.room.window.underWay(s.listing)
	}
}

// Release gives the seats back while the request goes on: a watch has sent what existed, a stream has been opened, and from
// now on it costs little.
func (s *Seats) Release() {
	s.release.Do(func() {
		if s.room != nil {
			s.room.leave(s)
		}
	})
}

// Stalled gives the seats back because the client does not take its answer: that is no work of the API server's, and whoever
// never reads would hold them for as long as he likes. What the API server may keep of the answer stays counted.
func (s *Seats) Stalled() {
	if s.room == nil {
		return
	}
	s.release.Do(func() {
		if s.listing > 0 {
			s.unread.Store(int64(s.listing))
			s.room.stalled.Add(int64(s.listing))
		}
		s.room.leave(s)
	})
}

// leave gives back what a request has, or gives up what it waits for.
func (r *Room) leave(s *Seats) {
	switch {
	case s.hold == nil:
	case s.finished != nil:
		close(s.finished)
	default:
		close(s.hold.released)
		s.cancel()
	}
	if s.listing > 0 {
		r.window.underWay(-s.listing)
	}
	if s.asked != nil {
		r.mu.Lock()
		r.ramp.Done(*s.asked)
		r.mu.Unlock()
	}
}

// Outcome is what became of an admitted request.
type Outcome struct {
	// Code is the status the API server answered; 0 when it did not.
	Code int
	// Upstream is how long the API server worked on it, the client's own slowness left out.
	Upstream time.Duration
	// Bytes is the answer's size, before compression unless Gzip says otherwise; negative when it is not known.
	Bytes int64
	// Gzip is true when Bytes were counted as they were sent, compressed.
	Gzip bool
	// Failed is true when the API server did not answer, or not to the end, and the client is not to blame.
	Failed bool
	// TimedOut is true when it did not answer in time.
	TimedOut bool
}

// Done ends the request and learns from it.
func (s *Seats) Done(o Outcome) {
	s.Release()
	s.done.Do(func() {
		if bytes := s.unread.Load(); bytes > 0 {
			s.room.stalled.Add(-bytes)
		}
		if s.room != nil && !s.begun.IsZero() {
			s.room.observe(s, o)
		}
	})
}

// crowdedRatio is the part of the limit from which what a request takes is not its own: on the API server's processors it waits
// for others. The law tells as much, but only with the next reading.
const crowdedRatio = 0.25

// crowded is whether requests hold so much besides own seats that none of them takes only as long as it would alone.
func (r *Room) crowded(own int) bool {
	held := int64(-own)
	for _, l := range r.levels {
		held += l.inUse.Load()
		if l.waiting.Load() > 0 {
			return true
		}
	}
	return float64(held) > crowdedRatio*float64(r.seats.Load())
}

// congested is whether the law says that what requests take must not be learned from.
func (r *Room) congested() bool {
	d := r.decision.Load()
	return d != nil && d.Congested
}

// observe takes what a finished request says of its like, and of how the API servers are.
func (r *Room) observe(s *Seats, o Outcome) {
	now := time.Now()
	measured := !s.flow.LongRunning || s.flow.InitialEvents
	answered := o.Code >= 200 && o.Code < 300 && !o.Failed
	var ratio, weight float64
	if measured && answered {
		if x, w, ok := r.costs.Ratio(s.shape, o.Upstream); ok {
			ratio, weight = x, w
		}
		r.costs.Observe(now, s.shape, cost.Sample{
			Upstream: o.Upstream, Bytes: o.Bytes, Gzip: o.Gzip, Code: o.Code, Congested: r.congested() || s.crowded || r.crowded(0),
		})
	}
	r.window.add(o, ratio, weight, s.level)
}

// playOut is what would become of a request that was let in at once: it waits its turn and then holds its seats for as long as
// the request itself took. It ends within twice the longest wait after the request.
func (s *Seats) playOut() {
	had := s.hold.wait()
	s.cancel()
	if !had {
		s.room.reject(s, ReasonWaitedTooLong)
		return
	}
	late := time.Since(s.arrived)
	s.room.metrics.waited(s.level, late)
	<-s.finished
	time.AfterFunc(late, func() { close(s.hold.released) })
}
