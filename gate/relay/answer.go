package relay

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/relay/commit"
	"github.com/seakeep/seakeep/gate/relay/held"
)

// batch is one read of the API server and the requests that share it.
type batch = commit.Batch[*answer]

// answer is what a read brings: a LIST to its end, or a WatchList to the end of its initial events. What comes before
// headed is written by the read and not changed after headed is closed.
type answer struct {
	body *held.Body

	// headed is closed when the header is there, and for a LIST its version if it can be seen, or when the read failed.
	headed chan struct{}
	code   int
	header http.Header
	// failed is why there is no header.
	failed error

	// cancel ends the read; nil while it waits. Under the relay's lock.
	cancel context.CancelCauseFunc
	// took is how long the API server worked on it, in nanoseconds; 0 while it does.
	took atomic.Int64
	// began is when the read did.
	began time.Time
	// highest is the rank of the highest who wait for it, plus one; 0: nobody has one.
	highest atomic.Int32
}

// raise takes a request's rank. It is called with the relay's lock held.
func (a *answer) raise(rank int) {
	if now := a.highest.Load(); now == 0 || int32(rank) < now-1 { //nolint:gosec // a handful of ranks
		a.highest.Store(int32(rank) + 1) //nolint:gosec // as above
	}
}

// ok is true for an answer that is what was asked for.
func (a *answer) ok() bool { return a.failed == nil && a.code == http.StatusOK }

// refusesUs is true when the API server refused the gate's own identity: the clients' own may be better.
func (a *answer) refusesUs() bool {
	return a.failed == nil && (a.code == http.StatusUnauthorized || a.code == http.StatusForbidden)
}

// share is what one of n requests costs of the API server's time.
func (a *answer) share(n int) time.Duration {
	took := time.Duration(a.took.Load())
	if took == 0 && !a.began.IsZero() {
		took = time.Since(a.began)
	}
	return took / time.Duration(max(1, n))
}

var (
	// errAbandoned ends a read that nobody waits for any more.
	errAbandoned = errors.New("nobody waits for the answer")
	// errClosed ends reads when the gate stops.
	errClosed = errors.New("the gate is stopping")
	// errCutOff says that an answer ended before its end.
	errCutOff = errors.New("the API server broke off in the middle of its answer")
)

// hopByHop are the headers of one connection; everything else of a shared answer passes as it came.
var hopByHop = [...]string{"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// headerOf copies what of an API server's header is for clients.
func headerOf(h http.Header) http.Header {
	h = h.Clone()
	for _, name := range hopByHop {
		delete(h, name)
	}
	return h
}

// copyHeader puts the answer's header into a client's, where each client has values of its own.
func copyHeader(into, from http.Header) {
	for name, values := range from {
		into[name] = append([]string(nil), values...)
	}
}
