package limit

import (
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// SettledAfter is when a source has its start behind it: what it asks for later is what it will go on asking for. A program's
// first LISTs are over by then, and a DaemonSet of 300 nodes that is being rolled out has settled sources within seconds.
const SettledAfter = 5 * time.Second

const (
	// sourceStays is how long a source counts that sends nothing; longer than the period of what is worth watching.
	sourceStays = time.Minute
	// maxAccounts bounds the users that are told apart, maxSources the addresses of one: 5,000 nodes is the most that
	// Kubernetes is made for. About 100 bytes each.
	maxAccounts = 4096
	maxSources  = 8192
	// accountStays is how long an account is kept that nobody uses.
	accountStays = 10 * time.Minute
)

// account is what one verified user holds of the API servers now. Seats held over time are known while requests run: one
// that takes ten seconds would otherwise be seen when it is too late.
type account struct {
	mu   sync.Mutex
	user string
	at   time.Time // how far the sums go

	held, settledHeld int
	seats, settled    float64 // seat-seconds, not taken by Usage yet
	bytes             atomic.Int64
	refused           int64
	sources           map[netip.Addr]*sourceSeen
	used              time.Time

	allowance allowance
}

// sourceSeen is one address of a user.
type sourceSeen struct{ first, last time.Time }

// accounts are those of all users. The zero key is of everybody who is not told apart.
type accounts struct {
	mu    sync.RWMutex
	users map[string]*account
	rest  account
	nodes map[string]time.Time // kubelets by name, and when they were last seen
}

func (a *accounts) init() {
	a.users = map[string]*account{}
	a.nodes = map[string]time.Time{}
}

// of finds or makes the account of a request's caller. Who could not be verified has a name of its own making.
func (a *accounts) of(f *flow.Request) *account {
	if f.Caller.Certainty == flow.Unverified || f.Lane == flow.BreakGlass {
		return &a.rest
	}
	name := shorten(f.Caller.User)
	a.mu.RLock()
	acc := a.users[name]
	a.mu.RUnlock()
	if acc != nil {
		return acc
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if acc = a.users[name]; acc != nil {
		return acc
	}
	if len(a.users) >= maxAccounts {
		return &a.rest
	}
	acc = &account{user: strings.Clone(name)}
	a.users[acc.user] = acc
	return acc
}

// arrives notes a request's source, whatever becomes of the request, and says whether the source is settled.
func (acc *account) arrives(f *flow.Request, now time.Time) (settled bool) {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.used = now
	if acc.user == "" || !f.Source.IsValid() {
		return false
	}
	s := acc.sources[f.Source]
	if s == nil {
		if acc.sources == nil {
			acc.sources = map[netip.Addr]*sourceSeen{}
		}
		if len(acc.sources) >= maxSources {
			return false
		}
		s = &sourceSeen{first: now}
		acc.sources[f.Source] = s
	}
	s.last = now
	return now.Sub(s.first) >= SettledAfter
}

// advance brings the sums to now.
func (acc *account) advance(now time.Time) {
	elapsed := now.Sub(acc.at).Seconds()
	if acc.at.IsZero() || elapsed < 0 {
		elapsed = 0
	}
	acc.at = now
	acc.seats += elapsed * float64(acc.held)
	acc.settled += elapsed * float64(acc.settledHeld)
	acc.allowance.advance(elapsed)
}

// hold changes how many seats are held; settled by a source past its start, charged to the account's budget.
func (acc *account) hold(now time.Time, seats int, settled, charged bool) {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.advance(now)
	acc.held += seats
	if settled {
		acc.settledHeld += seats
	}
	if charged {
		acc.allowance.seats += seats
	}
}

// uncharge ends a request that was charged to the account's budget; took are the seat-seconds it had, 0 for one that did not run.
func (acc *account) uncharge(now time.Time, took float64) {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.advance(now)
	acc.allowance.end(took)
}

func (acc *account) refuse() {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.refused++
}

// node notes a kubelet: it says how many sources a DaemonSet may come to have.
func (a *accounts) node(name string, now time.Time) {
	a.mu.RLock()
	last, ok := a.nodes[name]
	a.mu.RUnlock()
	if ok && now.Sub(last) < sourceStays {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if ok || len(a.nodes) < maxSources {
		a.nodes[strings.Clone(name)] = now
	}
}

// Usage is what the API servers were used for since Usage was last taken.
type Usage struct {
	// At is the moment; SeatSeconds is of everybody together, those who are not told apart too.
	At          time.Time
	SeatSeconds float64
	// Nodes is how many kubelets were seen in the last ten minutes.
	Nodes int
	// Clients are the verified users, in no order. A user agent makes nobody another client.
	Clients []ClientUsage
}

// ClientUsage is one user's part.
type ClientUsage struct {
	User string
	// SeatSeconds were held; SettledSeatSeconds of them by sources that are there for longer than SettledAfter.
	SeatSeconds, SettledSeatSeconds float64
	// Bytes were written to it.
	Bytes int64
	// Sources are the distinct addresses heard of in the last minute, Settled those of them past their start.
	Sources, Settled int
	// Refused requests were turned away by a rule.
	Refused int64
}

// TakeUsage returns what was used since it was last called. It is for one caller.
func (e *Engine) TakeUsage() Usage {
	now := e.clock()
	a := &e.accounts
	a.mu.Lock()
	defer a.mu.Unlock()
	u := Usage{At: now, Clients: make([]ClientUsage, 0, len(a.users))}
	for name, last := range a.nodes {
		if now.Sub(last) > accountStays {
			delete(a.nodes, name)
		}
	}
	u.Nodes = len(a.nodes)
	for name, acc := range a.users {
		c, idle := acc.take(now)
		u.SeatSeconds += c.SeatSeconds
		if idle {
			delete(a.users, name)
			continue
		}
		u.Clients = append(u.Clients, c)
	}
	rest, _ := a.rest.take(now)
	u.SeatSeconds += rest.SeatSeconds
	return u
}

func (acc *account) take(now time.Time) (c ClientUsage, idle bool) {
	acc.mu.Lock()
	defer acc.mu.Unlock()
	acc.advance(now)
	c = ClientUsage{User: acc.user, SeatSeconds: acc.seats, SettledSeatSeconds: acc.settled, Bytes: acc.bytes.Swap(0), Refused: acc.refused}
	acc.seats, acc.settled, acc.refused = 0, 0, 0
	for address, s := range acc.sources {
		if now.Sub(s.last) > sourceStays {
			delete(acc.sources, address)
			continue
		}
		c.Sources++
		if now.Sub(s.first) >= SettledAfter {
			c.Settled++
		}
	}
	return c, acc.held == 0 && acc.allowance.settled() && now.Sub(acc.used) > accountStays
}

// seat is a request's part of its caller's account.
type seat struct {
	account *account
	began   time.Time
	settled bool        // of a source past its start
	charged bool        // to the account's budget
	held    int         // seats
	live    atomic.Bool // held, for who writes
}

// begin takes the seats, once.
func (s *seat) begin(now time.Time, seats int) {
	if s.held > 0 || s.account == nil {
		return
	}
	s.held, s.began = max(1, seats), now
	s.live.Store(true)
	s.account.hold(now, s.held, s.settled, s.charged)
}

// end gives them back, and the place in the account's budget.
func (s *seat) end(now time.Time) {
	took := 0.0
	if s.held > 0 {
		took = float64(s.held) * now.Sub(s.began).Seconds()
		s.live.Store(false)
		s.account.hold(now, -s.held, s.settled, s.charged)
		s.held = 0
	}
	if s.charged {
		s.charged = false
		s.account.uncharge(now, took)
	}
}

// costs is true for a request that occupies the API server while it runs: a stream costs while it sends what exists.
func costs(f *flow.Request) bool { return !f.LongRunning || f.InitialEvents }
