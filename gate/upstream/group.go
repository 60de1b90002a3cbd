package upstream

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/upstream/choice"
)

// Group are the API servers of one configuration. It is safe for concurrent use. Which they are may change while
// requests are under way: each request goes by those it began with.
type Group struct {
	table   *choice.Table
	members atomic.Pointer[members]
	// entries are what the configuration says, in its order; the Keeper's lock guards what changes of them.
	entries []*entry
}

// entry is one entry of the configuration: a server, or several that are looked for.
type entry struct {
	options Options
	places  places // of those that are looked for
	servers []*Server
}

type members struct {
	servers []*Server
	states  []*choice.Server // of the servers, in their order
}

// Fixed are servers that stay what they are and that nobody probes.
func Fixed(servers ...*Server) *Group {
	g := &Group{table: &choice.Table{}}
	g.set(servers)
	return g
}

func (g *Group) set(servers []*Server) {
	m := &members{servers: servers}
	for _, s := range servers {
		m.states = append(m.states, s.state)
	}
	g.members.Store(m)
}

// Servers are the members now.
func (g *Group) Servers() []*Server { return slices.Clone(g.members.Load().servers) }

// call is one request on its way to the servers of a group, one after the other until one can be reached.
type call struct {
	group *Group
	*members
	want   choice.Request
	tried  []*choice.Server
	server *Server
	ticket *choice.Ticket
}

func (g *Group) call(want choice.Request) *call {
	return &call{group: g, members: g.members.Load(), want: want}
}

// next chooses a server that was not tried yet. Its answer is to be told with answered, or that there is none with failed.
func (c *call) next() error {
	ticket, err := c.group.table.Begin(time.Now(), c.states, c.tried, c.want)
	if err != nil {
		return &errUnreachable{err}
	}
	c.ticket = ticket
	c.server = c.servers[slices.Index(c.states, ticket.Server())]
	c.server.inFlight.Add(1)
	return nil
}

// failed takes why no answer came.
func (c *call) failed(o choice.Outcome) {
	c.tried = append(c.tried, c.server.state)
	c.ticket.Answered(time.Now(), c.states, o, false)
	c.ticket.Closed()
	c.server.inFlight.Add(-1)
}

// answered takes an answer that has begun; then is called, once, when its body is closed.
func (c *call) answered(response *http.Response, query string, then func()) {
	outcome, proves := outcomeOf(response.StatusCode)
	c.ticket.Answered(time.Now(), c.states, outcome, proves)
	if outcome == choice.Erred && c.want.Class == choice.Recent && !c.want.Stream && patient(query) {
		ticket, states := c.ticket, c.states
		response.Body = &sniffing{ReadCloser: response.Body, found: func() { ticket.StoreErred(time.Now(), states) }}
	}
	ticket, server := c.ticket, c.server
	response.Body = &releasingBody{ReadCloser: response.Body, release: sync.OnceFunc(func() {
		ticket.Closed()
		server.inFlight.Add(-1)
		then()
	})}
}

// outcomeOfError is what an error of a transport says about the server. ctx is the request's.
func outcomeOfError(ctx context.Context, err error, clientAtFault bool) choice.Outcome {
	switch cause := context.Cause(ctx); {
	case clientAtFault, errors.Is(err, errNotTaken):
		return choice.Gone
	case cause != nil && errors.Is(cause, ErrNoAnswer):
		return choice.Broke
	case cause != nil, errors.Is(err, errShared):
		return choice.Gone
	case neverSent(err):
		return choice.Unreached
	}
	return choice.Broke
}

// watches are the open watches of one server that may be ended so that they are opened again elsewhere.
type watches struct {
	mu   sync.Mutex
	open map[*openWatch]struct{}
}

// openWatch is one of them. end ends it; the one who reads it sees the end that an API server's own would be.
type openWatch struct {
	end   context.CancelCauseFunc
	since time.Time
}

// add keeps a watch until what it returns is called.
func (w *watches) add(end context.CancelCauseFunc, now time.Time) (remove func()) {
	o := &openWatch{end: end, since: now}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.open == nil {
		w.open = map[*openWatch]struct{}{}
	}
	w.open[o] = struct{}{}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.open, o)
	}
}

// oldest are the watches that are open longest, at most n, and none that is younger than minWatch.
func (w *watches) oldest(n int, now time.Time) []*openWatch {
	w.mu.Lock()
	var old []*openWatch
	for o := range w.open {
		if now.Sub(o.since) >= minWatch {
			old = append(old, o)
		}
	}
	w.mu.Unlock()
	slices.SortFunc(old, func(a, b *openWatch) int { return a.since.Compare(b.since) })
	return old[:min(n, len(old))]
}

func (w *watches) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open)
}

// minWatch is how old a watch is before it may be ended. A client takes one that ends within a second for broken.
const minWatch = 10 * time.Second
