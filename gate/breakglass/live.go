package breakglass

import (
	"context"
	"crypto/x509"
	"sync"

	"github.com/seakeep/seakeep/gate/upstream"
)

// live is the requests in flight, so that those of a certificate that is not heard any more can be ended: an exec
// opened before the laptop was stolen must not go on after the serial is denied.
type live struct {
	mu       sync.Mutex
	requests map[*liveRequest]struct{}
	idle     chan struct{} // closed when the last request has ended and someone waits
}

type liveRequest struct {
	chain  []*x509.Certificate
	stream bool
	cancel context.CancelCauseFunc
}

func newLive() *live { return &live{requests: make(map[*liveRequest]struct{})} }

// begin registers a request; ended is to be called when it is over.
func (l *live) begin(ctx context.Context, chain []*x509.Certificate, stream bool) (_ context.Context, ended func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &liveRequest{chain: chain, stream: stream, cancel: cancel}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.requests[r] = struct{}{}
	return ctx, func() {
		cancel(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.requests, r)
		if len(l.requests) == 0 && l.idle != nil {
			close(l.idle)
			l.idle = nil
		}
	}
}

// end cuts off every request whose chain does not pass the check.
func (l *live) end(check func([]*x509.Certificate) error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.requests {
		if err := check(r.chain); err != nil {
			r.cancel(err)
		}
	}
}

// endStreams ends streams as the API server would, so that watches are opened again elsewhere.
func (l *live) endStreams() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for r := range l.requests {
		if r.stream {
			r.cancel(upstream.ErrEndStream)
		}
	}
}

// wait returns when no request is in flight or the context has ended. http.Server's Shutdown does not wait for
// connections that were taken over, and their last record must be written.
func (l *live) wait(ctx context.Context) {
	l.mu.Lock()
	if len(l.requests) == 0 {
		l.mu.Unlock()
		return
	}
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	idle := l.idle
	l.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
}
