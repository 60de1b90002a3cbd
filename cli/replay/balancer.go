package replay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// balancer is the TCP load balancer that stands in front of API servers in real clusters. It knows connections and not
// requests, so that API servers which are added get new connections only: what is open stays where it is.
type balancer struct {
	listener net.Listener

	mu        sync.Mutex
	upstreams []string
	next      int
	open      map[net.Conn]struct{}
	closed    bool
	running   sync.WaitGroup
}

const dialTimeout = 3 * time.Second

// newBalancer listens on a loopback address and serves until close.
func newBalancer(upstreams ...string) (*balancer, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &balancer{listener: listener, upstreams: upstreams, open: map[net.Conn]struct{}{}}
	b.running.Go(b.serve)
	return b, nil
}

func (b *balancer) address() string { return b.listener.Addr().String() }

// add puts one more API server behind the balancer.
func (b *balancer) add(upstream string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.upstreams = append(b.upstreams, upstream)
}

// close ends the listener and every connection, and waits for them.
func (b *balancer) close() {
	_ = b.listener.Close()
	b.mu.Lock()
	b.closed = true
	for conn := range b.open {
		_ = conn.Close()
	}
	b.mu.Unlock()
	b.running.Wait()
}

func (b *balancer) serve() {
	for {
		client, err := b.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // out of descriptors: the next may go better
		}
		b.running.Go(func() { b.forward(client) })
	}
}

func (b *balancer) forward(client net.Conn) {
	defer client.Close()
	upstream := b.dial()
	if upstream == nil {
		return // no API server answers: the client sees its connection closed
	}
	defer upstream.Close()
	if !b.track(client, upstream) {
		return // closed meanwhile
	}
	defer b.forget(client, upstream)
	var both sync.WaitGroup
	both.Go(func() { pour(upstream, client) })
	both.Go(func() { pour(client, upstream) })
	both.Wait()
}

// dial tries each API server once, beginning with the one whose turn it is.
func (b *balancer) dial() net.Conn {
	b.mu.Lock()
	b.next++
	first, upstreams := b.next, b.upstreams
	b.mu.Unlock()
	for i := range upstreams {
		ctx, cancel := context.WithTimeout(context.Background(), dialTimeout)
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", upstreams[(first+i)%len(upstreams)])
		cancel()
		if err == nil {
			return conn
		}
	}
	return nil
}

func (b *balancer) track(conns ...net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	for _, conn := range conns {
		b.open[conn] = struct{}{}
	}
	return true
}

func (b *balancer) forget(conns ...net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, conn := range conns {
		delete(b.open, conn)
	}
}

// pour copies one direction, in the kernel where it can, and passes the end on.
func pour(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok {
		_ = half.CloseWrite()
	}
	if half, ok := from.(*net.TCPConn); ok {
		_ = half.CloseRead()
	}
}
