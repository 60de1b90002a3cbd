package endpoints

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ByGates and ByWatchdog are the values of AnnotationBy: whom the endpoints are for.
const (
	ByGates    = "gates"
	ByWatchdog = "api-servers"
)

// KeeperOptions are what a gate's Keeper needs.
type KeeperOptions struct {
	// Gate is this one; its Holder must be of this process alone.
	Gate Gate
	// Interval is how often the Lease is renewed and the endpoints are looked at.
	Interval time.Duration
	Store    *Store
	// Ready says why this gate must not be sent anybody now, such as a certificate that lacks a name; nil: it may.
	Ready      func(ctx context.Context) error
	Clock      func() time.Time
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

// Keeper is a gate's part.
type Keeper struct {
	opts    KeeperOptions
	log     *slog.Logger
	metrics *keeperMetrics

	mu        sync.Mutex
	sightings Sightings
	renewed   time.Time // when the last renewal that worked began
	problem   string
	now       Backends
}

// NewKeeper does nothing until Run.
func NewKeeper(opts KeeperOptions) *Keeper {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	return &Keeper{opts: opts, log: opts.Log, metrics: newKeeperMetrics(opts.Registerer)}
}

// Run renews and keeps until the context ends; Leave should follow. A request that is slow delays the next round, no more.
func (k *Keeper) Run(ctx context.Context) {
	ticker := time.NewTicker(k.opts.Interval)
	defer ticker.Stop()
	for {
		k.round(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (k *Keeper) round(ctx context.Context) {
	err := k.opts.Ready(ctx)
	if err == nil {
		err = k.renew(ctx)
	}
	if err == nil {
		err = k.keep(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	problem, result := "", "ok"
	if err != nil {
		problem, result = err.Error(), "failed"
	}
	k.metrics.rounds.WithLabelValues(result).Inc()
	if problem != k.problem && problem != "" {
		k.log.Warn("Keeping the Service of the API servers", "problem", problem)
	}
	k.problem = problem
}

func (k *Keeper) renew(ctx context.Context) error {
	began := k.opts.Clock()
	g := k.opts.Gate
	g.Renewed = began
	k.mu.Lock()
	// Only a holder that has been silent for its time is replaced: a gate of before that was killed, not one that is there.
	mayTake := slices.ContainsFunc(k.sightings.Silent(), func(s Gate) bool { return s.Name == g.Name })
	k.mu.Unlock()
	err := k.opts.Store.Renew(ctx, g, mayTake)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.renewed = began
		return nil
	}
	if errors.Is(err, ErrHeld) { // see who it is, so that it can be found silent
		k.mu.Unlock()
		err = errors.Join(err, k.look(ctx))
		k.mu.Lock()
	}
	return err
}

func (k *Keeper) look(ctx context.Context) error {
	asked := k.opts.Clock()
	gates, err := k.opts.Store.Gates(ctx)
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.sightings.See(gates, asked)
	return nil
}

// keep keeps the endpoints, as long as the own Lease is fresh: a gate that is cut off must not decide for those that are not.
func (k *Keeper) keep(ctx context.Context) error {
	if err := k.look(ctx); err != nil {
		return err
	}
	k.mu.Lock()
	live := k.sightings.Live()
	stale := k.opts.Clock().Sub(k.renewed) > k.opts.Gate.Lifetime
	k.mu.Unlock()
	own := slices.ContainsFunc(live, func(g Gate) bool { return g.Name == k.opts.Gate.Name && g.Holder == k.opts.Gate.Holder })
	if stale || !own {
		return errors.New("the own lease is not fresh: leaving the endpoints to others")
	}
	return k.write(ctx, live)
}

func (k *Keeper) write(ctx context.Context, live []Gate) error {
	b, left := Choose(live)
	changed, err := k.opts.Store.Keep(ctx, b, ByGates)
	if changed {
		k.metrics.writes.Inc()
		k.log.Info("The Service of the API servers stands for the gates", "addresses", b.strings(), "port", b.Port)
	}
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.now = b
	k.mu.Unlock()
	k.metrics.addresses.Set(float64(len(b.Addresses)))
	if len(left) > 0 {
		return fmt.Errorf("%d gates are left out, %s among them: all must have one port and one address family", len(left), left[0].Name)
	}
	return nil
}

// Leave gives the Lease up and takes this gate out of the endpoints, before it stops to serve. The last one stays in them:
// the watchdog gives the Service back to the API servers.
func (k *Keeper) Leave(ctx context.Context) {
	g := k.opts.Gate
	g.Renewed = k.opts.Clock()
	err := k.opts.Store.Release(ctx, g)
	if err == nil {
		err = k.look(ctx)
	}
	k.mu.Lock()
	others := slices.DeleteFunc(k.sightings.Live(), func(o Gate) bool { return o.Name == g.Name })
	k.mu.Unlock()
	switch {
	case err != nil:
	case len(others) == 0:
		k.log.Warn("The last gate stops: the Service stands for it until the watchdog gives it back to the API servers")
	default:
		err = k.write(ctx, others)
	}
	if err != nil {
		k.log.Warn("Leaving the Service of the API servers", "reason", err)
	}
}

type keeperMetrics struct {
	rounds    *prometheus.CounterVec
	writes    prometheus.Counter
	addresses prometheus.Gauge
}

func newKeeperMetrics(reg prometheus.Registerer) *keeperMetrics {
	m := &keeperMetrics{
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "seakeep_endpoints_rounds_total",
			Help: "Renewals of this gate's Lease and looks at the Service's endpoints, by result (ok, failed).",
		}, []string{"result"}),
		writes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "seakeep_endpoints_writes_total",
			Help: "Times this gate changed the endpoints of default/kubernetes. Growing steadily: somebody else writes them too.",
		}),
		addresses: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "seakeep_endpoints_addresses",
			Help: "Gates among the endpoints of default/kubernetes, as this gate last kept them.",
		}),
	}
	for _, result := range []string{"ok", "failed"} {
		m.rounds.WithLabelValues(result)
	}
	if reg != nil {
		reg.MustRegister(m.rounds, m.writes, m.addresses)
	}
	return m
}
