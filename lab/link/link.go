// Package link is a TCP connection between two parts of a lab that can be cut: an API server and its etcd, a gate and an
// API server. A process that is stopped or killed is one fault; a network that swallows what is sent is another, and the
// one in which everything seems to be there.
package link

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"
)

// Link listens on loopback and carries every connection to its target, until it is cut. Its methods may be called from
// any goroutine.
type Link struct {
	listener net.Listener
	target   string
	owned    sync.WaitGroup

	mu    sync.Mutex
	state state
	moved chan struct{} // closed and replaced when state changes
	conns map[net.Conn]struct{}
}

type state int

const (
	whole state = iota
	silent
	refusing
	closed
)

// To opens a link to host:port.
func To(target string) (*Link, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("opening a link to %s: %w", target, err)
	}
	l := &Link{listener: listener, target: target, moved: make(chan struct{}), conns: map[net.Conn]struct{}{}}
	l.owned.Go(l.accept)
	return l, nil
}

// Address is where the link listens, host:port.
func (l *Link) Address() string { return l.listener.Addr().String() }

// Silence swallows what is sent from now on, both ways. Connections stay, and new ones are taken: nobody is told.
func (l *Link) Silence() { l.move(silent) }

// Refuse resets all connections, and every new one.
func (l *Link) Refuse() { l.move(refusing) }

// Restore carries new connections again. Those that were there when it was silenced are reset, as the network's ends do
// when they find out.
func (l *Link) Restore() { l.move(whole) }

// Close ends the link and all its connections, and waits for that.
func (l *Link) Close() {
	l.move(closed)
	_ = l.listener.Close()
	l.owned.Wait()
}

func (l *Link) move(to state) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == to || l.state == closed {
		return
	}
	l.state = to
	close(l.moved)
	l.moved = make(chan struct{})
	if to != silent {
		for c := range l.conns {
			reset(c)
		}
	}
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = c.Close()
}

// keep registers a connection; false means that there is no place for it.
func (l *Link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == refusing || l.state == closed {
		reset(c)
		return false
	}
	l.conns[c] = struct{}{}
	return true
}

func (l *Link) drop(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	_ = c.Close()
}

func (l *Link) accept() {
	for {
		c, err := l.listener.Accept()
		if err != nil {
			return
		}
		if l.keep(c) {
			l.owned.Go(func() { l.carry(c) })
		}
	}
}

func (l *Link) carry(client net.Conn) {
	defer l.drop(client)
	if !l.pass() {
		return
	}
	server, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(context.Background(), "tcp", l.target)
	if err != nil {
		reset(client)
		return
	}
	if !l.keep(server) {
		return
	}
	defer l.drop(server)
	var back sync.WaitGroup
	back.Go(func() { l.copy(client, server) })
	l.copy(server, client)
	back.Wait()
}

// copy carries one direction to its end, and then ends both.
func (l *Link) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	p := make([]byte, 32<<10)
	for {
		n, err := from.Read(p)
		if n > 0 {
			if !l.pass() {
				return
			}
			if _, err := to.Write(p[:n]); err != nil {
				return
			}
		}
		if err != nil {
			l.pass() // an end is swallowed like anything else
			return
		}
	}
}

// pass waits while the link is silent. It is false when the connection does not survive that.
func (l *Link) pass() bool {
	for waited := false; ; waited = true {
		l.mu.Lock()
		now, moved := l.state, l.moved
		l.mu.Unlock()
		if now != silent {
			return now == whole && !waited
		}
		<-moved
	}
}
