package endpoints

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// What the Service stands for.
const (
	StateUnknown    = "unknown"     // no API server has answered yet
	StateGates      = "gates"       // gates are live
	StateAnswering  = "answering"   // no gate renews its Lease, but some answer: the API servers are slow
	StateAPIServers = "api-servers" // no gate is live
)

// WatchdogOptions are what a Watchdog needs.
type WatchdogOptions struct {
	// APIServers are their own addresses, which the Service gets when no gate is live.
	APIServers []netip.AddrPort
	// Stores speak to an API server each, directly; they are tried in turn.
	Stores []*Store
	// Answers says whether a gate answers at its address. A gate that does is not dead, whatever its Lease says.
	Answers  func(ctx context.Context, g Gate) bool
	Interval time.Duration
	// Changed is told of each new state; may be nil.
	Changed func(Status)
	Clock   func() time.Time
	Log     *slog.Logger
}

// Status is what a watchdog sees.
type Status struct {
	Time  time.Time `json:"time"`
	State string    `json:"state"`
	// Live are the gates that renew their Leases, Silent those that do not and did not stop.
	Live   []string `json:"live"`
	Silent []string `json:"silent,omitempty"`
	// Addresses are what the Service is kept to.
	Addresses []string `json:"addresses,omitempty"`
	// Changed is true when they had to be written just now.
	Changed bool `json:"changed,omitempty"`
	DryRun  bool `json:"dryRun,omitempty"`
	// Problem is what did not work.
	Problem string `json:"problem,omitempty"`
}

// Watchdog stands outside the gates and gives the Service back to the API servers when no gate is live.
type Watchdog struct {
	opts      WatchdogOptions
	own       Backends
	sightings Sightings
	turn      int
	last      Status
}

// NewWatchdog does nothing until Round or Run. ok is false when the API servers' addresses cannot be endpoints of one
// Service: of one port and family, not loopback.
func NewWatchdog(opts WatchdogOptions) (w *Watchdog, ok bool) {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	own, ok := Of(opts.APIServers)
	return &Watchdog{opts: opts, own: own, last: Status{State: StateUnknown}}, ok && len(opts.Stores) > 0
}

// Run looks until the context ends.
func (w *Watchdog) Run(ctx context.Context) {
	ticker := time.NewTicker(w.opts.Interval)
	defer ticker.Stop()
	for {
		before := w.last
		s := w.Round(ctx)
		if ctx.Err() != nil {
			return
		}
		if w.opts.Changed != nil && (s.State != before.State || s.Changed || s.Problem != before.Problem || !slices.Equal(s.Live, before.Live)) {
			w.opts.Changed(s)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Round looks once. Gates are dead only when an API server has shown twice, as far apart as their Leases last, that they did
// not renew, and when they do not answer at their addresses either: API servers that are slow, or not there, make no gate
// dead, and giving them everybody's load would be the worst that could be done to them.
func (w *Watchdog) Round(ctx context.Context) Status {
	asked := w.opts.Clock()
	s := Status{Time: asked, State: w.last.State, Live: []string{}}
	store, gates, err := w.ask(ctx)
	if err != nil {
		s.Live, s.Silent, s.Addresses, s.Problem = w.last.Live, w.last.Silent, w.last.Addresses, err.Error()
		w.last = s
		return s
	}
	s.DryRun = store.dryRun != nil
	w.sightings.See(gates, asked)
	live, silent := w.sightings.Live(), w.sightings.Silent()
	s.Live, s.Silent = namesOf(live), namesOf(silent)
	target, by := w.own, ByWatchdog
	switch {
	case len(live) > 0 && !w.sightings.Proven(): // just started: they may be dead, or not
		w.last = s
		return s
	case len(live) > 0:
		s.State, by = StateGates, ByGates
		target, _ = Choose(live)
	case w.anyAnswers(ctx, silent):
		s.State = StateAnswering
		w.last = s
		return s
	default:
		s.State = StateAPIServers
	}
	s.Changed, err = store.Keep(ctx, target, by)
	if err != nil {
		s.Problem = err.Error()
		w.turn++ // perhaps another API server can
	}
	s.Addresses = target.strings()
	w.last = s
	return s
}

func (w *Watchdog) ask(ctx context.Context) (*Store, []Gate, error) {
	var err error
	for range w.opts.Stores {
		store := w.opts.Stores[w.turn%len(w.opts.Stores)]
		var gates []Gate
		if gates, err = store.Gates(ctx); err == nil {
			return store, gates, nil
		}
		w.turn++
	}
	return nil, nil, err
}

func (w *Watchdog) anyAnswers(ctx context.Context, gates []Gate) bool {
	var asking sync.WaitGroup
	answers := make([]bool, len(gates))
	for i, g := range gates {
		asking.Go(func() { answers[i] = w.opts.Answers(ctx, g) })
	}
	asking.Wait()
	return slices.Contains(answers, true)
}

func namesOf(gates []Gate) []string {
	all := []string{}
	for _, g := range gates {
		all = append(all, g.Name)
	}
	return all
}
