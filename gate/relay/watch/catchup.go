package watch

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/seakeep/seakeep/gate/relay/frame"
)

// catchUp gives the subscriber a watch of its own, read in its own goroutine, until it knows of everything that was let
// go from the source's ring; then it goes over to that. A quiet resource's next bookmark, within about a minute, takes
// it there.
func (x *follower) catchUp(s *source) (verdict, error) {
	x.hub.metrics.catchUps.Inc()
	s.catching(1)
	catching := true
	defer func() {
		if catching {
			s.catching(-1)
		}
	}()
	ctx, cancel := context.WithDeadline(x.ctx, x.next())
	defer cancel()
	defer context.AfterFunc(x.hub.ctx, cancel)()

	u, err := x.hub.open(ctx, x.key, x.version, false, ownBuffer)
	if err != nil {
		return x.notOpened(err)
	}
	defer u.close()
	if err := x.begin(u.header); err != nil {
		return over, err
	}
	own := &ownWatch{x: x, s: s}
	for {
		readErr := u.read(own.found)
		if own.err == nil && own.dirty {
			own.err = x.flush()
			own.dirty = false
		}
		switch {
		case own.err != nil, own.over:
			return over, own.err
		case own.moved:
			u.close()
			s.catching(-1)
			catching = false
			x.hub.metrics.moved.Inc()
			return x.stream(s, own.position)
		case errors.Is(readErr, errEnough):
			return again, nil
		case readErr != nil:
			return x.broken(readErr)
		}
	}
}

// ownWatch is what the reading of a subscriber's own watch finds.
type ownWatch struct {
	x        *follower
	s        *source
	position position
	// moved: the ring goes on from the position; over: the stream ends.
	moved, over, dirty bool
	err                error
}

// found writes one frame and looks whether the ring reaches back to it.
func (o *ownWatch) found(f frame.Frame) bool {
	x := o.x
	if f.Type != frame.Error && (f.Version < x.version || f.Version == x.version && f.Type != frame.Bookmark) {
		o.over = true // no order that could be gone on with
		return false
	}
	if f.Type != frame.Bookmark || x.o.Bookmarks {
		if _, err := x.w.Write(f.Bytes); err != nil {
			o.err = wrote(err)
			return false
		}
		o.dirty = true
		x.hub.metrics.delivered.Inc()
	}
	if f.Type == frame.Error {
		o.over = true
		return false
	}
	x.version = f.Version
	x.failures = 0
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if o.s.ended != nil || f.Type == frame.Bookmark && o.s.retire(f.Version) || o.s.retired {
		return false
	}
	o.position, o.moved = o.s.ring.seek(x.version)
	return !o.moved
}

// notOpened is the way on when the API server gave no watch.
func (x *follower) notOpened(err error) (verdict, error) {
	var refused *refusal
	var notShared *NotSharedError
	switch {
	case !x.begun && errors.As(err, &refused) && refused.status == http.StatusGone:
		return over, x.pass(refused)
	case !x.begun && errors.As(err, &notShared):
		return over, notShared
	case !x.begun:
		return over, &NotSharedError{Reason: ReasonUpstream, Err: err}
	case errors.As(err, &refused) && refused.status != http.StatusTooManyRequests && refused.status < http.StatusInternalServerError:
		return over, nil
	}
	return x.broken(err)
}

// broken is the way on when the subscriber's own watch ended: it is taken up again, as a source's is.
func (x *follower) broken(err error) (verdict, error) {
	var garbled errGarbled
	switch {
	case x.ctx.Err() != nil, x.hub.ctx.Err() != nil, errors.As(err, &garbled):
		return over, nil
	case !time.Now().Before(x.next()):
		if !x.tick() {
			return over, nil
		}
		return again, nil
	}
	if x.failures == 0 {
		x.failing = time.Now()
	}
	if !errors.Is(err, io.EOF) && time.Since(x.failing) > x.hub.o.Patience {
		x.wait(after(rand.N(x.hub.o.Spread)))
		return over, nil
	}
	x.failures++
	if !x.wait(after(backoff(x.failures, err))) {
		return over, nil
	}
	return again, nil
}
