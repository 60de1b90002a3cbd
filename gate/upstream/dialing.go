package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// dialing opens a pool's connections one at a time. An HTTP/2 connection carries 100 requests and more, but net/http
// opens one for every request that finds no place: when an API server gets slow and a hundred requests wait, each
// further one would cost it a handshake, which is more than most requests do.
type dialing struct {
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	mu      sync.Mutex
	current *dialed
	// single is true when the server speaks HTTP/1.1 only: each connection is then for one request at a time, and
	// nobody can share.
	single bool
}

// dialed is one connection being opened; err is read after done.
type dialed struct {
	done chan struct{}
	err  error
}

// errShared says that a connection was opened while the request waited to open one: it is to be sent again.
var errShared = errors.New("another request's connection is ready")

// sharedWithin is how long net/http gets to hand a new connection to those who wait; after that they ask again.
const sharedWithin = 10 * time.Millisecond

// open opens a connection, or waits for the one being opened.
func (d *dialing) open(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	other := d.current
	switch {
	case d.single:
		d.mu.Unlock()
		return d.dial(ctx, network, address)
	case other != nil:
		d.mu.Unlock()
		return nil, other.await(ctx)
	}
	mine := &dialed{done: make(chan struct{})}
	d.current = mine
	d.mu.Unlock()

	conn, err := d.dial(ctx, network, address)
	d.mu.Lock()
	d.current = nil
	if secure, ok := conn.(*tls.Conn); ok {
		d.single = secure.ConnectionState().NegotiatedProtocol != "h2"
	}
	d.mu.Unlock()
	mine.err = err
	close(mine.done)
	return conn, err
}

// await returns why the other connection could not be opened, or errShared.
func (o *dialed) await(ctx context.Context) error {
	select {
	case <-o.done:
	case <-ctx.Done():
		return &errUnreachable{context.Cause(ctx)}
	}
	if o.err != nil {
		return o.err
	}
	timer := time.NewTimer(sharedWithin)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return &errUnreachable{errShared}
}

// maxShared bounds how often a request waits for others' connections before it is turned away. Each of them has places
// for a hundred.
const maxShared = 100

// shared sends a request over a pool, again for as long as others' connections become ready. Nothing of it was sent
// before that, so its body is whole.
func shared(transport *http.Transport, r *http.Request) (response *http.Response, err error) {
	for range maxShared {
		response, err = transport.RoundTrip(r)
		if !errors.Is(err, errShared) || r.Context().Err() != nil {
			break
		}
	}
	return response, err
}
