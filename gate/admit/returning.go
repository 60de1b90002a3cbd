package admit

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit/ramp"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/limit"
)

const (
	// mostReturning is how many requests wait at once for a control plane that comes back; the rest is told to come again.
	mostReturning = 2000
	// patience is how long each of them waits at most: an informer has no time limit of its own, and once it is turned away its
	// own pause, up to a minute, is what a recovery takes longest for.
	patience = 40 * time.Second
	// rampLook is how often it is looked who may go on.
	rampLook = 10 * time.Millisecond
)

// returning is a request that waits for the ramp.
type returning struct {
	seats *Seats
	ask   ramp.Ask
	ready chan struct{} // closed when it may go on
}

// rampQueue is who waits, by kind and level, the first to come at the front.
type rampQueue [2][]returningLevel

type returningLevel []*returning

func (q *rampQueue) of(kind ramp.Kind, level int) *returningLevel {
	if q[kind] == nil {
		q[kind] = make([]returningLevel, len(v1alpha1.LevelNames))
	}
	return &q[kind][level]
}

// ahead is whether somebody waits who goes before a newcomer.
func (q *rampQueue) ahead(kind ramp.Kind, level int) bool {
	return slices.ContainsFunc(q[kind][:min(level+1, len(q[kind]))], func(l returningLevel) bool { return len(l) > 0 })
}

func (q *rampQueue) len() (n int) {
	for _, levels := range q {
		for _, l := range levels {
			n += len(l)
		}
	}
	return n
}

// isRead is true for what the ramp bounds.
func isRead(f *flow.Request) bool { return f.IsList() || f.Verb == "watch" }

// rampAsk is what a request asks of the ramp.
func (s *Seats) rampAsk(level int) ramp.Ask {
	ask := ramp.Ask{Kind: ramp.Watch, Resource: s.resource(), Level: v1alpha1.LevelNames[level]}
	if s.flow.IsList() {
		ask.Kind, ask.Bytes = ramp.List, float64(s.estimate.Bytes)
	}
	return ask
}

// admitReturning asks the ramp; r.mu is held.
func (r *Room) admitReturning(now time.Time, s *Seats, ask ramp.Ask) (ok bool, after time.Duration) {
	ask.Behind = float64(s.level.waiting.Load()+s.level.entering.Load()) / float64(max(1, r.seats.Load()))
	if ok, after = r.ramp.Admit(now, ask); ok {
		s.asked = &ask
	}
	return ok, after
}

// mayReturn is whether a LIST or a watch may begin at once.
func (r *Room) mayReturn(s *Seats, level int) bool {
	if !isRead(s.flow) {
		return true
	}
	r.mu.Lock()
	ok, after := r.admitReturning(time.Now(), s, s.rampAsk(level))
	r.mu.Unlock()
	if !ok {
		r.holdBack(s, after)
	}
	return ok
}

// holdBack turns a request away that would have to wait for the ramp for longer than may be.
func (r *Room) holdBack(s *Seats, after time.Duration) *Rejection {
	rejection := r.reject(s, ReasonRamp)
	rejection.RetryAfter = limit.Jittered(after, rand.Float64)
	return rejection
}

// ramped waits until a LIST or a watch may begin, while a control plane comes back. Without a rejection its client has gone.
func (r *Room) ramped(ctx context.Context, s *Seats, level int) (bool, *Rejection) {
	if !isRead(s.flow) {
		return true, nil
	}
	w := &returning{seats: s, ask: s.rampAsk(level)}
	now := time.Now()
	var ok bool
	var after time.Duration
	r.mu.Lock()
	// Who comes later may not go first, though what he asks may be small enough.
	if !r.queue.ahead(w.ask.Kind, level) {
		ok, after = r.admitReturning(now, s, w.ask)
	}
	waits := !ok && after <= patience && r.queue.len() < mostReturning
	if waits {
		w.ask.Again = true
		w.ready = make(chan struct{})
		queue := r.queue.of(w.ask.Kind, level)
		*queue = append(*queue, w)
	}
	r.mu.Unlock()
	switch {
	case ok:
		return true, nil
	case !waits:
		return false, r.holdBack(s, max(after, time.Second))
	}
	select {
	case r.returning <- struct{}{}:
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-w.ready:
	case <-timer.C:
	case <-ctx.Done():
	}
	if !r.giveUp(w, level) {
		s.level.entering.Add(-int64(s.seats))
		return true, nil
	}
	if ctx.Err() != nil {
		s.level.metrics.gone.Inc()
		return false, nil
	}
	return false, r.holdBack(s, time.Second)
}

// giveUp takes a request out of the queue, and is false when it is not there any more because it may go on.
func (r *Room) giveUp(w *returning, level int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	queue := r.queue.of(w.ask.Kind, level)
	i := slices.Index(*queue, w)
	if i < 0 {
		return false
	}
	*queue = slices.Delete(*queue, i, i+1)
	return true
}

// letIn lets those go on for whom there is room, the higher levels first, and is true while somebody waits.
func (r *Room) letIn(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for kind := range r.queue {
		for level := range r.queue[kind] {
			r.letInOf(now, r.queue.of(ramp.Kind(kind), level))
			if len(r.queue[kind][level]) > 0 {
				break // lower levels wait for this one
			}
		}
	}
	return r.queue.len() > 0
}

// letInOf lets in whom it may of one queue, in its order. Only who waits for LISTs of his own resource to end is passed.
func (r *Room) letInOf(now time.Time, queue *returningLevel) {
	full := map[string]bool{}
	kept := (*queue)[:0]
	for i, w := range *queue {
		if !full[w.ask.Resource] {
			ok, _ := r.admitReturning(now, w.seats, w.ask)
			if ok {
				w.seats.level.entering.Add(int64(w.seats.seats))
				close(w.ready)
				continue
			}
			if full[w.ask.Resource] = true; len(full) > 3 || !r.ramp.Full(w.ask) {
				kept = append(kept, (*queue)[i:]...)
				break
			}
		}
		kept = append(kept, w)
	}
	clear((*queue)[len(kept):])
	*queue = kept
}
