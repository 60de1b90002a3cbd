package breakglass

import (
	"container/list"
	"net"
	"sync"
)

// listener bounds the connections of the lane. Everyone who reaches the port can open connections, but only engineers
// get through the handshake: when all places are taken, the oldest connection that has not authenticated gives way to
// the newcomer. So a flood of strangers costs an engineer at most a retry.
type listener struct {
	net.Listener
	max     int
	metrics *metrics

	mu      sync.Mutex
	open    int
	pending *list.List // of *conn: not authenticated yet, oldest first
}

func newListener(inner net.Listener, max int, m *metrics) *listener {
	return &listener{Listener: inner, max: max, metrics: m, pending: list.New()}
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		inner, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := l.admit(inner); c != nil {
			return c, nil
		}
		l.metrics.connectionsClosed.WithLabelValues(closedFull).Inc()
		inner.Close()
	}
}

func (l *listener) admit(inner net.Conn) *conn {
	l.mu.Lock()
	var victim *conn
	if l.open >= l.max {
		oldest := l.pending.Front()
		if oldest == nil {
			l.mu.Unlock()
			return nil
		}
		victim = oldest.Value.(*conn)
		l.forget(victim)
	}
	c := &conn{Conn: inner, of: l}
	c.place = l.pending.PushBack(c)
	c.counted = true
	l.open++
	l.metrics.connections.Set(float64(l.open))
	l.mu.Unlock()
	if victim != nil {
		l.metrics.connectionsClosed.WithLabelValues(closedStranger).Inc()
		victim.Conn.Close()
	}
	return c
}

// forget frees a connection's place. It is called with the lock held.
func (l *listener) forget(c *conn) {
	if c.place != nil {
		l.pending.Remove(c.place)
		c.place = nil
	}
	if c.counted {
		c.counted = false
		l.open--
		l.metrics.connections.Set(float64(l.open))
	}
}

// conn is one connection and its place; place and counted are the listener's, under its lock.
type conn struct {
	net.Conn
	of      *listener
	place   *list.Element
	counted bool
}

// authenticated says the handshake succeeded: the connection does not give way any more.
func (c *conn) authenticated() {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if c.place != nil {
		c.of.pending.Remove(c.place)
		c.place = nil
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.of.mu.Lock()
	c.of.forget(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
