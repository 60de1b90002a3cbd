// Package gate is the standard lane in front of the API servers: one corridor that every request walks, room by room
// (corridor.go), and what keeps the corridor going: its listeners, its configuration, its end.
//
// The gate needs no API server to start, to be configured or to stop. Its configuration is a file; a file that cannot
// be used leaves the running one in force.
package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admin"
	"github.com/seakeep/seakeep/gate/admit"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/internal/config"
)

// Options are what a gate is made of.
type Options struct {
	// Load reads and checks the configuration; it is called at the start and whenever a file changes.
	Load func() (*v1alpha1.GateConfiguration, *config.Document, error)
	// ConfigFile is watched, and so is every file the configuration names.
	ConfigFile string
	// Version is shown to operators.
	Version string
	// Gatherer and Registerer serve and take the gate's metrics.
	Gatherer   prometheus.Gatherer
	Registerer prometheus.Registerer
	// Stdout is where an access log goes that is configured to standard output; nil: nowhere.
	Stdout io.Writer
	Log    *slog.Logger
}

// Gate is one gate process's standard lane.
type Gate struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics

	limits  *limit.Engine
	policy  *policing
	ledger  *ledger.Ledger
	streams *streams
	bodies  *upstream.Bodies
	// upstreams are the API servers, over all reloads.
	upstreams *upstream.Keeper

	rooms     atomic.Pointer[rooms]
	observers atomic.Pointer[observers]
	relaying  atomic.Pointer[relaying]
	// admission lets requests into the API servers, over all reloads.
	admission *admit.Room
	config    *v1alpha1.GateConfiguration // as of the start; listeners do not move

	// files are watched by watched; both belong to New and then to followFiles.
	files   []string
	watched *config.Watcher

	admin    *admin.Server
	peers    *peering
	behind   *behind
	standard net.Listener
	places   *places      // the standard listener's; nil until it is open
	side     net.Listener // metrics and health; may be nil
	draining atomic.Bool
}

// New loads the configuration and opens the listeners, so that a configuration or an address that cannot be used fails
// here. Run serves.
func New(opts Options) (*Gate, error) {
	g := &Gate{
		opts:    opts,
		log:     opts.Log,
		metrics: newMetrics(opts.Registerer),
		streams: newStreams(),
		bodies:  upstream.NewBodies(opts.Registerer),

		upstreams: upstream.NewKeeper(opts.Registerer, opts.Log),
	}
	if opts.Registerer != nil {
		opts.Registerer.MustRegister(relayMetrics{g})
	}
	cfg, doc, err := g.load()
	if err != nil {
		return nil, err
	}
	g.config = cfg
	g.upstreams.Remember(cfg.StateDir, cfg.Listen.Address)
	if g.admission, err = admit.New(admit.Options{StateDir: cfg.StateDir, Readings: g.readings, Stored: g.stored, Registerer: opts.Registerer, Log: opts.Log}); err != nil {
		return nil, err
	}
	g.limits = limit.New(limit.Options{Registerer: opts.Registerer, Log: opts.Log})
	g.ledger = ledger.New(ledger.Options{MaxClients: cfg.Ledger.MaxClients, Clock: time.Now, Registerer: opts.Registerer})
	g.policy = newPolicing(g, cfg)
	if err := g.use(cfg, doc); err != nil {
		return nil, err
	}
	// The admin endpoint first: the emergency rules of before a restart are in force before the first request.
	if err := g.openAdmin(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	if g.standard, err = listen(cfg.Listen.Address); err != nil {
		return nil, errors.Join(doc.Errorf(field.NewPath("listen", "address"), cfg.Listen.Address, err.Error()), g.close())
	}
	if g.behind, err = g.newBehind(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	g.places = newPlaces(g.standard, cfg.Listen.Connections, g.log, g.metrics)
	g.standard = g.places
	if cfg.Listen.MetricsAddress != "" {
		if g.side, err = listen(cfg.Listen.MetricsAddress); err != nil {
			return nil, errors.Join(doc.Errorf(field.NewPath("listen", "metricsAddress"), cfg.Listen.MetricsAddress, err.Error()), g.close())
		}
	}
	return g, nil
}

func (g *Gate) openAdmin() error {
	// A disk that is broken or read-only does not keep the gate from starting: the admin endpoint then says in every
	// answer what is not kept.
	if err := os.MkdirAll(g.config.StateDir, 0o700); err != nil {
		g.log.Error("Serving without a state directory: emergency rules will not survive a restart", "reason", err)
	}
	var err error
	if g.peers, err = g.newPeering(); err != nil {
		return err
	}
	g.admin, err = admin.New(admin.Options{
		Gate:       g.peers.name(g.config),
		Decided:    g.peers.decided(),
		Peers:      g.peers.status,
		Warnings:   g.peers.warnings,
		Config:     g.config.Admin,
		StateDir:   g.config.StateDir,
		Engine:     g.limits,
		Top:        g.top,
		Totals:     g.totals,
		Relay:      g.relayStatus,
		Overload:   func() any { return g.admission.Status() },
		Clamp:      g.policy.clampStatus,
		Shadow:     g.policy.shadowStatus,
		Budgets:    g.policy.budgetStatus,
		Version:    g.opts.Version,
		Registerer: g.opts.Registerer,
		Log:        g.log,
	})
	return err
}

// top answers the admin endpoint's question who costs what.
func (g *Gate) top(n int, order string) (any, error) {
	by, err := ledger.ParseOrder(cmp.Or(order, string(ledger.BySeats)))
	if err != nil {
		return nil, err
	}
	return g.ledger.Top(n, by), nil
}

// totals answers the admin endpoint's question what was forwarded, for a comparison with the API servers' counts.
func (g *Gate) totals() any {
	totals := g.ledger.Totals()
	totals.AuditMark = upstream.AuditMark()
	return totals
}

func listen(address string) (net.Listener, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("cannot be listened on: %w", err)
	}
	return listener, nil
}

// Address is where the standard lane listens.
func (g *Gate) Address() net.Addr { return g.standard.Addr() }

// Run serves until the context ends, then drains: it stops accepting, ends watches cleanly, and waits for requests in
// flight at most as long as the configuration says.
func (g *Gate) Run(ctx context.Context) error {
	lane := g.standardServer()
	side := g.sideServer()

	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var owned sync.WaitGroup
	serve := func(name string, f func() error) {
		owned.Go(func() {
			if err := f(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				stop(fmt.Errorf("serving %s: %w", name, err))
			}
		})
	}
	owned.Go(func() { g.peers.run(running) })
	g.peers.meet(running)
	serve("the standard lane", func() error { return lane.ServeTLS(g.standard, "", "") })
	serve("the admin endpoint", func() error { return g.admin.Run(running) })
	if side != nil {
		serve("metrics", func() error { return side.Serve(g.side) })
	}
	owned.Go(func() { g.behind.run(running) })
	owned.Go(func() { g.followFiles(running) })
	owned.Go(func() { g.upstreams.Run(running) })
	owned.Go(func() { g.admission.Run(running) })
	owned.Go(func() { g.policy.run(running) })
	g.log.Info("Gate open", "address", g.standard.Addr().String(), "upstreams", len(g.upstreams.Servers()))

	<-running.Done()
	g.drain(lane)
	stop(nil)
	var err error
	if side != nil {
		err = side.Close()
	}
	owned.Wait()
	g.relaying.Load().close(nil)
	g.rooms.Load().stop()
	g.upstreams.Close()
	g.observers.Load().close(nil)
	if cause := context.Cause(running); !errors.Is(cause, context.Canceled) {
		err = errors.Join(cause, err)
	}
	return err
}

// close undoes New when Run will not be called.
func (g *Gate) close() error {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	var errs []error
	if g.admin != nil {
		errs = append(errs, g.admin.Run(over))
	}
	for _, l := range []net.Listener{g.standard, g.side} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	g.relaying.Load().close(nil)
	g.rooms.Load().stop()
	g.upstreams.Close()
	g.observers.Load().close(nil)
	return errors.Join(errs...)
}

// drain lets requests in flight finish. Shutdown sends GOAWAY, so that clients open their next connection elsewhere;
// the watches, which would never finish, are ended as the API server ends them.
func (g *Gate) drain(lane *http.Server) {
	g.draining.Store(true)
	timeout := g.rooms.Load().config.DrainTimeout.Duration
	g.log.Info("Draining", "timeout", timeout)
	g.behind.leave()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	// Streams end a moment after GOAWAY, or their clients would reopen them on the same connection.
	ended := time.AfterFunc(100*time.Millisecond, func() { g.streams.endAll(errDraining) })
	defer ended.Stop()
	if err := lane.Shutdown(ctx); err != nil {
		g.log.Warn("Cutting off what did not finish in time", "reason", err)
		if err := lane.Close(); err != nil {
			g.log.Warn("Closing connections", "reason", err)
		}
	}
}

var errDraining = errors.New("the gate is stopping")
