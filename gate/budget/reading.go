package budget

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/internal/statefile"
)

const (
	stateName = "api-budgets.json"
	// schemaVersion of the state: 1 is a Cluster.
	schemaVersion = 1
	// retry is how soon a reading that failed is tried again.
	retry = 15 * time.Second
	// askProcessors is how often an API server is asked how many processors it has; its metrics are long.
	askProcessors = time.Hour
)

// Options are what New needs.
type Options struct {
	// Upstream is the gate's own way to the API servers.
	Upstream http.RoundTripper
	// StateDir keeps what was read last.
	StateDir string
	// Settings are asked for before every reading.
	Settings func() Settings
	// Changed is called with what was read, from Run's goroutine and, with what was kept, from New; it must not block.
	Changed    func(*Cluster)
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

// Settings may change while a Reading runs.
type Settings struct {
	// Refresh is how often the cluster is read; 0: it is not.
	Refresh time.Duration
	// Declarations and Callees are false to read the cluster's size only.
	Declarations, Callees bool
}

// Reading reads the cluster again and again. Its methods are safe for concurrent use.
type Reading struct {
	opts    Options
	reader  reader
	file    *statefile.File
	metrics *metrics

	mu      sync.Mutex
	cluster Cluster
	failed  error
}

// New takes what was kept into force.
func New(opts Options) *Reading {
	r := &Reading{opts: opts, reader: reader{opts.Upstream}, file: statefile.New(opts.StateDir, stateName, schemaVersion), metrics: newMetrics(opts.Registerer)}
	if _, err := r.file.Load(&r.cluster); err != nil && !errors.Is(err, statefile.ErrNone) {
		opts.Log.Warn("Beginning without what was read of the cluster last", "reason", err)
		r.cluster = Cluster{}
	}
	r.use()
	return r
}

// Now is what is in force, and why it could not be read again; nil when it could.
func (r *Reading) Now() (Cluster, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.cluster, r.failed
}

// Run reads until the context ends.
func (r *Reading) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		settings := r.opts.Settings()
		wait := settings.Refresh
		if wait == 0 {
			timer.Reset(retry)
			continue
		}
		if err := r.read(ctx, settings); err != nil && ctx.Err() == nil {
			var refused *RefusedError
			if !errors.As(err, &refused) { // who may not read now may not in a moment either
				wait = min(wait, retry)
			}
		}
		timer.Reset(wait)
	}
}

// read reads everything; what could be read is in force, whatever else could not.
func (r *Reading) read(ctx context.Context, settings Settings) error {
	next, before := r.Now()
	now := time.Now()
	var errs []error
	if nodes, err := r.reader.nodes(ctx); err != nil {
		errs = append(errs, err)
	} else {
		next.Nodes = nodes
	}
	if next.Processors == 0 || now.Sub(next.Sized) >= askProcessors {
		processors, err := r.reader.processors(ctx)
		if err != nil {
			errs = append(errs, err)
		} else {
			next.Processors, next.Sized = processors, now
		}
	}
	if settings.Declarations {
		found, err := r.reader.declarations(ctx)
		if err != nil {
			errs = append(errs, err)
		} else {
			next.Declarations, next.Read = found, now
		}
	}
	if settings.Callees {
		found, err := r.reader.callees(ctx)
		if err != nil {
			errs = append(errs, err)
		} else {
			next.Callees = found
		}
	}
	err := errors.Join(errs...)
	if ctx.Err() != nil {
		return err
	}
	r.metrics.read(err)
	r.say(before, err)
	r.mu.Lock()
	r.cluster, r.failed = next, err
	r.mu.Unlock()
	r.use()
	if saved := r.file.Save(next); saved != nil {
		r.opts.Log.Error("What was read of the cluster last will not survive a restart", "reason", saved)
	}
	return err
}

func (r *Reading) say(before, err error) {
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		r.opts.Log.Warn("Keeping what was last read of API budgets, of the cluster's size and of whom API servers call", "reason", err)
	case err == nil && before != nil:
		r.opts.Log.Info("API budgets, the cluster's size and whom API servers call can be read again")
	}
}

func (r *Reading) use() {
	cluster, _ := r.Now()
	invalid := 0
	for _, d := range cluster.Declarations {
		if d.Error != "" {
			invalid++
		}
	}
	r.metrics.declarations.WithLabelValues("used").Set(float64(len(cluster.Declarations) - invalid))
	r.metrics.declarations.WithLabelValues("invalid").Set(float64(invalid))
	r.metrics.nodes.Set(float64(cluster.Nodes))
	r.opts.Changed(&cluster)
}
