package upstream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream/choice"
	"github.com/seakeep/seakeep/internal/statefile"
)

// Keeper keeps the API servers of a process: what is known of each, and its connections, survive a change of the
// configuration that leaves it as it is. It probes them, evens out their watches, and closes what is no longer used.
// It is safe for concurrent use.
type Keeper struct {
	log     *slog.Logger
	metrics *keeperMetrics
	table   *choice.Table
	changed chan struct{} // has room for one

	resolver *net.Resolver
	self     string // host:port

	mu      sync.Mutex
	file    *statefile.File // nil: nothing is kept
	kept    map[string]places
	current *Group
	headers *identity.Headers
	evening choice.Evening
	retired []*Server
	loads   bool // whether servers are asked for their load
}

// NewKeeper registers its metrics with the registerer, if there is one. Servers come with Prepare and Use.
func NewKeeper(registerer prometheus.Registerer, log *slog.Logger) *Keeper {
	k := &Keeper{
		log: log, table: &choice.Table{}, changed: make(chan struct{}, 1),
		resolver: net.DefaultResolver, kept: map[string]places{},
	}
	k.metrics = newKeeperMetrics(registerer, k)
	return k
}

// Prepare makes the group of a configuration. Servers that are the same as some in use are those; nothing else changes
// before Use.
func (k *Keeper) Prepare(options []Options) (*Group, error) {
	g := &Group{table: k.table}
	for i := range options {
		e := &entry{options: options[i]}
		g.entries = append(g.entries, e)
		all := []Options{options[i]}
		if options[i].Discovery != nil {
			e.places = k.remembered(&options[i])
			all = e.places.options(&e.options)
		}
		for _, o := range all {
			s, err := New(o)
			if err != nil {
				return nil, &OptionsError{Index: i, Err: err}
			}
			e.servers = append(e.servers, k.known(s))
		}
	}
	g.gather()
	return g, nil
}

// gather makes what the entries have the group's members.
func (g *Group) gather() {
	var servers []*Server
	for _, e := range g.entries {
		servers = append(servers, e.servers...)
	}
	g.set(servers)
}

// OptionsError says which of several servers cannot be made.
type OptionsError struct {
	Index int
	Err   error
}

// Error implements error.
func (e *OptionsError) Error() string { return e.Err.Error() }

// Unwrap lets errors.As find the cause.
func (e *OptionsError) Unwrap() error { return e.Err }

func (k *Keeper) known(s *Server) *Server {
	for _, other := range k.Servers() {
		if other.same == s.same {
			return other
		}
	}
	return s
}

// Servers are those in use.
func (k *Keeper) Servers() []*Server {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return nil
	}
	return k.current.Servers()
}

// Use puts a group in force: it is probed as headers say who asks, and moves at most watchesPerSecond watches. Servers that
// are not in it carry their requests to the end.
func (k *Keeper) Use(g *Group, headers *identity.Headers, watchesPerSecond float64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current != nil {
		k.retire(k.current.Servers(), g.Servers())
	}
	k.current, k.headers, k.evening.PerSecond = g, headers, watchesPerSecond
	k.signal()
}

// retire takes those out of use that are not in next. The caller holds mu.
func (k *Keeper) retire(before, next []*Server) {
	for _, s := range before {
		if !slices.Contains(next, s) {
			k.retired = append(k.retired, s)
			s.Close()
		}
	}
}

func (k *Keeper) signal() {
	select {
	case k.changed <- struct{}{}:
	default:
	}
}

// tick is how often watches are evened out and connections of servers no longer in use are looked at.
const tick = time.Second

// Run probes, asks for the load and evens out until the context ends. Close follows it.
func (k *Keeper) Run(ctx context.Context) {
	probed := map[*Server]func(){}
	var looking lookers
	reading := loadReaders{}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for {
		k.probe(ctx, probed)
		looking.follow(ctx, k)
		reading.follow(ctx, k)
		select {
		case <-ctx.Done():
			for _, stop := range probed {
				stop()
			}
			looking.stop()
			reading.stop()
			return
		case <-k.changed:
		case now := <-ticker.C:
			k.evenOut(now)
			k.closeRetired()
		}
	}
}

// probe sees to it that all servers in use are probed, and no others. A server alone is not: there is nothing to choose.
func (k *Keeper) probe(ctx context.Context, probed map[*Server]func()) {
	k.mu.Lock()
	var wanted []*Server
	if k.current != nil {
		wanted = k.current.Servers()
	}
	k.mu.Unlock()
	if len(wanted) < 2 {
		wanted = nil
	}
	for s, stop := range probed {
		if !slices.Contains(wanted, s) {
			stop()
			delete(probed, s)
		}
	}
	for _, s := range wanted {
		if probed[s] != nil {
			continue
		}
		probing, cancel := context.WithCancel(ctx)
		var both sync.WaitGroup
		for _, a := range []choice.Ability{choice.Serving, choice.Quorum} {
			p := &prober{server: s, ability: a, headers: k.identity, found: k.found}
			both.Go(func() { p.run(probing) })
		}
		probed[s] = func() { cancel(); both.Wait() }
	}
}

// identity is who asks now.
func (k *Keeper) identity() *identity.Headers {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.headers
}

// found hands a finding on, and says so when it changes something.
func (k *Keeper) found(began, now time.Time, s *choice.Server, a choice.Ability, f choice.Finding, why error) {
	k.mu.Lock()
	states := k.current.members.Load().states
	k.mu.Unlock()
	before := k.table.View(now, s)
	k.table.Probed(began, now, states, s, a, f)
	after := k.table.View(now, s)
	if before.States[a] == after.States[a] {
		return
	}
	attrs := []any{"upstream", s.Name, "ability", a.String(), "state", after.States[a].String(), "reason", string(after.Why[a])}
	if why != nil {
		attrs = append(attrs, "error", why)
	}
	if after.States[a] == choice.Out {
		k.log.Warn("API server is out", attrs...)
		return
	}
	k.log.Info("API server is tried again", attrs...)
}

var errEvenedOut = errors.New("watches are spread over the API servers; open it again")

// evenOut ends a few watches where there are too many.
func (k *Keeper) evenOut(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.current == nil {
		return
	}
	servers := k.current.Servers()
	if len(servers) < 2 {
		return
	}
	shares := make([]choice.Share, len(servers))
	for i, s := range servers {
		v := k.table.View(now, s.state)
		shares[i] = choice.Share{
			Streams: v.Streams, Movable: s.watches.count(), OutFor: v.OutFor,
			Takes: v.States[choice.Serving] == choice.In && v.States[choice.Quorum] == choice.In,
		}
	}
	for i, n := range k.evening.Step(now, shares) {
		if n == 0 {
			continue
		}
		ended := servers[i].watches.oldest(n, now)
		for _, watch := range ended {
			watch.end(fmt.Errorf("%w: %w", ErrEndStream, errEvenedOut))
		}
		k.metrics.moved.Add(float64(len(ended)))
	}
}

func (k *Keeper) closeRetired() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retired = slices.DeleteFunc(k.retired, func(s *Server) bool {
		busy := s.Busy() // before: what is idle now is closed now
		s.Close()
		return !busy
	})
}

// Close ends idle connections, those of servers no longer in use as well.
func (k *Keeper) Close() {
	for _, s := range k.Servers() {
		s.Close()
	}
	k.closeRetired()
}
