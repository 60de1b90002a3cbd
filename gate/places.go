package gate

import (
	"container/list"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// places is the lane's listener, and hands out the places that connections take. A place costs memory and a descriptor
// before anybody has said who they are, so it is counted by address. A source that has its share gets no more; what the
// shares of others leave is the reserve. When all places are taken all the same, the source with the most gives one up
// to a newcomer that has fewer, a connection that carries nothing, oldest first: so a crowd of hosts that open
// connections and say nothing cannot keep a kubelet out, and a kubelet's watch is never closed for a newcomer.
type places struct {
	net.Listener
	log     *slog.Logger
	metrics *metrics

	mu             sync.Mutex
	max, perSource int
	open           int
	sources        map[string]*source
	// ranks holds the sources by how many connections they have, and most the highest of those numbers: they change by
	// one at a time, so the source with the most is found without looking at all of them.
	ranks map[int]map[*source]struct{}
	most  int
	said  map[string]time.Time // when a refusal was last logged, by reason
}

// source is one address, or in IPv6 one /64, and its connections.
type source struct {
	name  string
	count int
	idle  *list.List // of *place: carrying no request, oldest first
}

// place is one connection and what it takes. idle is where it stands among its source's connections that carry nothing,
// nil when it carries something or is closed; from is nil when it is closed. Both are under the lock of places.
type place struct {
	net.Conn
	of   *places
	from *source
	idle *list.Element
}

// Why a connection was closed by the gate.
const (
	closedSource = "source" // its address has its share
	closedFull   = "full"   // all places are taken, and no other source has more than this one
	closedGaveUp = "gave_up"
)

func newPlaces(inner net.Listener, c v1alpha1.GateConnections, log *slog.Logger, m *metrics) *places {
	p := &places{Listener: inner, log: log, metrics: m, sources: map[string]*source{}, ranks: map[int]map[*source]struct{}{}, said: map[string]time.Time{}}
	p.configure(c)
	return p
}

// configure takes new bounds. Connections beyond them stay until they end.
func (p *places) configure(c v1alpha1.GateConnections) {
	bound, descriptors := c.Max, descriptorLimit()
	if share := descriptors / 4 * 3; share > 0 && share < bound {
		bound = share
		p.log.Warn("The limit of descriptors allows fewer connections than listen.connections.max", "descriptors", descriptors, "configured", c.Max, "used", bound)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.max, p.perSource = bound, min(c.MaxPerSource, bound)
	p.metrics.connectionsMax.Set(float64(p.max))
}

// descriptorLimit is how many descriptors this process may have, 0 when that is not known. The Go runtime has raised
// the soft limit to the hard one when the process started.
func descriptorLimit() int {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil || limit.Cur > 1<<30 {
		return 0
	}
	return int(limit.Cur)
}

// Accept implements net.Listener.
func (p *places) Accept() (net.Conn, error) {
	for {
		inner, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c := p.admit(inner); c != nil {
			return c, nil
		}
		_ = inner.Close()
	}
}

func originOf(c net.Conn) string {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return flow.Origin(ap.Addr().Unmap())
}

func (p *places) admit(inner net.Conn) *place {
	name := originOf(inner)
	p.mu.Lock()
	from, known := p.sources[name]
	if !known {
		from = &source{name: name, idle: list.New()}
	}
	var victim *place
	switch {
	case from.count >= p.perSource:
		p.refused(closedSource, from)
		p.mu.Unlock()
		return nil
	case p.open >= p.max:
		if victim = p.victim(from); victim == nil {
			p.refused(closedFull, from)
			p.mu.Unlock()
			return nil
		}
		p.refused(closedGaveUp, victim.from)
		p.forget(victim)
	}
	c := &place{Conn: inner, of: p, from: from}
	c.idle = from.idle.PushBack(c)
	p.sources[name] = from
	p.open++
	p.recount(from, +1)
	p.metrics.connections.Set(float64(p.open))
	p.mu.Unlock()
	if victim != nil {
		_ = victim.Conn.Close()
	}
	return c
}

// victim is the connection that gives way to one more of the source, nil when none must. It is called with the lock held.
func (p *places) victim(newcomer *source) *place {
	if p.most <= newcomer.count+1 {
		return nil // giving it a place would only turn the two round
	}
	looked := 0
	for heaviest := range p.ranks[p.most] {
		if looked++; looked > 16 {
			break // many have as many, and none of those looked at has one to spare
		}
		if oldest := heaviest.idle.Front(); oldest != nil {
			return oldest.Value.(*place)
		}
	}
	return nil
}

// recount moves a source to its new number of connections. It is called with the lock held.
func (p *places) recount(s *source, by int) {
	if rank := p.ranks[s.count]; rank != nil {
		if delete(rank, s); len(rank) == 0 {
			delete(p.ranks, s.count)
		}
	}
	s.count += by
	if s.count > 0 {
		if p.ranks[s.count] == nil {
			p.ranks[s.count] = map[*source]struct{}{}
		}
		p.ranks[s.count][s] = struct{}{}
	} else {
		delete(p.sources, s.name)
	}
	p.most = max(p.most, s.count)
	for p.most > 0 && p.ranks[p.most] == nil {
		p.most--
	}
}

// forget frees a connection's place. It is called with the lock held.
func (p *places) forget(c *place) {
	if c.from == nil {
		return
	}
	c.rest(false)
	p.open--
	p.recount(c.from, -1)
	c.from = nil
	p.metrics.connections.Set(float64(p.open))
}

// rest notes whether the connection carries nothing. It is called with the lock held.
func (c *place) rest(idle bool) {
	switch {
	case c.from == nil || idle == (c.idle != nil):
	case idle:
		c.idle = c.from.idle.PushBack(c)
	default:
		c.from.idle.Remove(c.idle)
		c.idle = nil
	}
}

// refused counts a connection that the gate closes, and says so now and then. It is called with the lock held.
func (p *places) refused(why string, from *source) {
	p.metrics.connectionsClosed.WithLabelValues(why).Inc()
	now := time.Now()
	if now.Sub(p.said[why]) < 10*time.Second {
		return
	}
	p.said[why] = now
	p.log.Warn("Closing a connection to keep places free; more of the same within 10s are counted only",
		"reason", why, "source", from.name, "connectionsOfSource", from.count, "connections", p.open, "max", p.max, "maxPerSource", p.perSource)
}

// Close implements net.Conn.
func (c *place) Close() error {
	c.of.mu.Lock()
	c.of.forget(c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

// follow notes which connections carry requests; it is the server's ConnState.
func (p *places) follow(c net.Conn, state http.ConnState) {
	secured, ok := c.(*tls.Conn)
	if !ok {
		return
	}
	at, ok := secured.NetConn().(*place)
	if !ok {
		return
	}
	switch state {
	case http.StateActive, http.StateIdle, http.StateHijacked:
		p.mu.Lock()
		defer p.mu.Unlock()
		at.rest(state == http.StateIdle)
	}
}
