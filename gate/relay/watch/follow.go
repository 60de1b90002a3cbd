package watch

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/frame"
)

// Subscriber says what one follower of a watch wants. Who it is and whether it may was decided before.
type Subscriber struct {
	// Bookmarks: allowWatchBookmarks.
	Bookmarks bool
	// Timeout: timeoutSeconds; 0 is 30 to 60 minutes, as the API server has it.
	Timeout time.Duration
	// Begun: the answer has begun (the initial events of a WatchList were written); the stream goes on from there.
	Begun bool
	// Filter allows one watch of the whole resource for subscribers with different selectors.
	Filter bool
	// Recheck, if set, is asked each minute, in the subscriber's own goroutine, whether the watch may go on. An error
	// keeps it open: the API server does not ask again at all.
	Recheck func(ctx context.Context) (allowed bool, err error)
}

const (
	// batchFrames and batchBytes bound what a subscriber takes out of the ring at once: what it still writes when it is
	// let go from the ring is held besides.
	batchFrames, batchBytes = 32, 64 << 10
	// fresh is how long a subscriber is too new to be too slow: it goes back to a watch of its own rather than end. A client-go
	// reflector whose watch ends within a second and without an event lists again.
	fresh = 2 * time.Second
	// recheckTimeout is how long the answer to whether a watch may go on is waited for.
	recheckTimeout = 5 * time.Second
)

// follower is one subscriber on its way.
type follower struct {
	hub  *Hub
	key  key
	o    Subscriber
	w    http.ResponseWriter
	rc   *http.ResponseController
	ctx  context.Context
	pick *selection // nil: everything

	begun   bool
	version uint64    // everything up to it is known
	until   time.Time // the subscriber's timeout
	recheck time.Time
	timer   *time.Timer
	batch   [][]byte
	joined  time.Time // when it began to read the ring
	// failures are the attempts to get a watch of one's own since the last event, and since when.
	failures int
	failing  time.Time
}

// verdict of a part of a subscriber's way.
type verdict int

const (
	over  verdict = iota // the stream is to end, cleanly
	again                // attach anew, and go on from the version
)

// Follow streams to the subscriber what happens after the version, until its timeout, its client or the watch ends, and
// returns nil then. Nothing was written when it returns a NotSharedError, and the request is to be forwarded; any other error is the
// client's connection. It uses no goroutine but the caller's.
func (h *Hub) Follow(w http.ResponseWriter, r *http.Request, f *flow.Request, from uint64, o Subscriber) error {
	x := &follower{hub: h, key: keyOf(r, f), o: o, w: w, rc: http.NewResponseController(w), ctx: r.Context(), begun: o.Begun, version: from}
	if AsTable(x.key.accept) {
		return x.orClean(&NotSharedError{Reason: ReasonTable})
	}
	if o.Filter {
		x.pick = selectionOf(&x.key, f)
	}
	now := time.Now()
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = 30*time.Minute + rand.N(30*time.Minute)
	}
	x.until = now.Add(timeout)
	x.recheck = now.Add(x.untilRecheck())
	x.timer = time.NewTimer(time.Until(x.next()))
	defer x.timer.Stop()
	h.metrics.subscribers.Inc()
	defer h.metrics.subscribers.Dec()

	for {
		s, err := h.attach(x.sharedKey(), x.version)
		if err != nil && x.pick != nil {
			x.pick = nil // the whole resource is not to be had: this subscriber's part of it may be
			continue
		}
		if err != nil {
			return x.orClean(err)
		}
		v, err := x.follow(s)
		s.leave()
		if err != nil || v == over {
			return err
		}
	}
}

// orClean is nil once something was written: then a clean end is all there is to say.
func (x *follower) orClean(err error) error {
	if x.begun {
		return nil
	}
	return err
}

// sharedKey is the source that is shared: of the whole resource while the hub filters.
func (x *follower) sharedKey() key {
	if x.pick == nil {
		return x.key
	}
	k := x.key
	k.what = what{path: x.pick.path, filtered: true}
	return k
}

func (x *follower) untilRecheck() time.Duration {
	every := x.hub.o.Recheck
	return every*4/5 + rand.N(every*2/5)
}

// next is when the subscriber's own clock wants something.
func (x *follower) next() time.Time {
	if x.o.Recheck != nil && x.recheck.Before(x.until) {
		return x.recheck
	}
	return x.until
}

// tick does what is due; it is false when the subscriber's time is over.
func (x *follower) tick() bool {
	now := time.Now()
	if !now.Before(x.until) {
		return false
	}
	if x.o.Recheck != nil && !now.Before(x.recheck) {
		ctx, cancel := context.WithTimeout(x.ctx, recheckTimeout)
		allowed, err := x.o.Recheck(ctx)
		cancel()
		switch {
		case err != nil:
			x.hub.metrics.rechecks.WithLabelValues(recheckFailed).Inc()
		case !allowed:
			x.hub.metrics.rechecks.WithLabelValues(recheckDenied).Inc()
			return false
		default:
			x.hub.metrics.rechecks.WithLabelValues(recheckAllowed).Inc()
		}
		x.recheck = time.Now().Add(x.untilRecheck())
	}
	x.timer.Reset(time.Until(x.next()))
	return true
}

// wait waits for the channel, and does meanwhile what the clock wants. It is false when the stream is to end.
func (x *follower) wait(news <-chan struct{}) bool {
	for {
		select {
		case <-news:
			return true
		case <-x.ctx.Done():
			return false
		case <-x.hub.ctx.Done():
			return false
		case <-x.timer.C:
			if !x.tick() {
				return false
			}
		}
	}
}

// follow streams from one source.
func (x *follower) follow(s *source) (verdict, error) {
	if !x.wait(s.opened) {
		return over, x.orClean(&NotSharedError{Reason: ReasonUpstream, Err: context.Cause(x.ctx)})
	}
	s.mu.Lock()
	header, ended, starved := s.header, s.ended, s.starved
	p, reached := s.ring.seek(x.version)
	s.mu.Unlock()
	switch {
	case header == nil:
		return x.refused(s, ended)
	case starved && !x.begun:
		return over, &NotSharedError{Reason: ReasonMemory}
	case !reached:
		return x.catchUp(s)
	}
	if err := x.begin(header); err != nil {
		return over, err
	}
	return x.stream(s, p)
}

// begin writes the header, if it was not yet.
func (x *follower) begin(header http.Header) error {
	if x.begun {
		return nil
	}
	x.begun = true
	for _, name := range passed {
		if values := header[name]; values != nil {
			x.w.Header()[name] = slices.Clone(values)
		}
	}
	x.w.WriteHeader(http.StatusOK)
	return x.flush()
}

// passed are the headers of the shared answer that say something to each who gets it.
var passed = []string{"Content-Type", "Cache-Control", "Warning", "Vary", "Audit-Id"}

// refused is the way on when the API server did not give the source its watch.
func (x *follower) refused(s *source, e *ending) (verdict, error) {
	if s.key.filtered {
		x.pick = nil
		return again, nil
	}
	var notShared *NotSharedError
	switch {
	case e.refusal != nil && e.refusal.status == http.StatusGone:
		if x.version > s.from {
			return again, nil // another's version is too old, not this one's
		}
		return over, x.pass(e.refusal)
	case errors.As(e.err, &notShared):
		return over, x.orClean(notShared)
	}
	return over, x.orClean(&NotSharedError{Reason: ReasonUpstream, Err: e.err})
}

// pass writes the API server's own refusal, if there is still place for one.
func (x *follower) pass(r *refusal) error {
	if x.begun {
		return nil
	}
	maps.Copy(x.w.Header(), r.header)
	x.w.Header().Del("Content-Length")
	x.begun = true
	x.w.WriteHeader(r.status)
	_, err := x.w.Write(r.body)
	return wrote(err)
}

// stream writes what the ring holds and will hold.
func (x *follower) stream(s *source, p position) (verdict, error) {
	dirty := false
	x.joined = time.Now()
	for {
		next := x.take(s, &p)
		if err := x.write(s); err != nil {
			return over, err
		}
		x.version = p.version
		dirty = dirty || len(x.batch) > 0
		if next.more {
			continue
		}
		if dirty {
			if err := x.flush(); err != nil {
				return over, err
			}
			dirty = false
		}
		if next.news == nil {
			if next.delay > 0 {
				x.wait(after(next.delay))
			}
			return next.verdict, nil
		}
		if !x.wait(next.news) {
			return over, nil
		}
	}
}

func after(d time.Duration) <-chan struct{} {
	done := make(chan struct{})
	time.AfterFunc(d, func() { close(done) })
	return done
}

// write writes the batch, which is of the source, and lets go of it.
func (x *follower) write(s *source) error {
	for i, b := range x.batch {
		if _, err := x.w.Write(b); err != nil {
			return wrote(err)
		}
		x.batch[i] = nil
	}
	x.hub.metrics.delivered.Add(float64(len(x.batch)))
	s.delivered.Add(int64(len(x.batch)))
	return nil
}

// next is how a stream goes on after a batch.
type next struct {
	more    bool            // there is more at once
	news    <-chan struct{} // what to wait for; nil: the stream from this source is over
	verdict verdict
	delay   time.Duration // before its end
}

// take fills the batch from the ring.
func (x *follower) take(s *source, p *position) next {
	x.batch = x.batch[:0]
	s.mu.Lock()
	defer s.mu.Unlock()
	for size := 0; len(x.batch) < batchFrames && size < batchBytes; {
		e, turn := s.ring.next(p, x.o.Bookmarks)
		switch turn {
		case lost:
			if time.Since(x.joined) < fresh {
				return next{verdict: again}
			}
			x.hub.metrics.dropped.Inc()
			s.dropped.Add(1)
			return next{}
		case elsewhere:
			return next{verdict: again}
		case nothing:
			if s.ended != nil {
				return x.after(s.ended, p.version)
			}
			s.waiting = true
			return next{news: s.news}
		}
		b := e.frame
		if x.pick != nil {
			b = x.pick.bytes(s, e)
		}
		if b != nil {
			x.batch = append(x.batch, b)
			size += len(b)
		}
		if e.kind == frame.Error {
			return next{}
		}
	}
	return next{more: true}
}

// after is how the stream of a subscriber that has had everything goes on when its source has ended.
func (x *follower) after(e *ending, version uint64) next {
	switch e.cause {
	case endError:
		if version > e.version {
			return next{verdict: again} // it was about a version older than what is known here
		}
	case endStarved:
		x.pick = nil
		return next{verdict: again}
	case endOutage:
		return next{delay: rand.N(x.hub.o.Spread)}
	}
	return next{}
}

func (x *follower) flush() error { return wrote(x.rc.Flush()) }

func wrote(err error) error {
	if err != nil {
		return fmt.Errorf("writing to a watcher: %w", err)
	}
	return nil
}
