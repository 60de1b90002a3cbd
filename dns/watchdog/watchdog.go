package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/dns/watchdog/decision"
)

// Options are what a Watchdog needs.
type Options struct {
	// Config was loaded, defaulted and validated.
	Config *v1alpha1.DNSWatchdog
	// Switch moves clients; nil: the configured one.
	Switch     Switch
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer
	Log        *slog.Logger
}

// Watchdog watches one node's DNS.
type Watchdog struct {
	o       Options
	c       *v1alpha1.DNSWatchdog
	log     *slog.Logger
	m       *metrics
	prober  prober
	decider *decision.Decider
	moves   Switch
	unbound *unbound // nil: somebody else runs the backup
	state   atomic.Pointer[State]

	// Of Run's goroutine.
	engaged bool
	since   time.Time

	files map[string]os.FileInfo // as the backup was last told of them; of followFiles's goroutine
}

// State is what /state answers.
type State struct {
	// Serving is "primary" or "backup", Reason why.
	Serving string          `json:"serving"`
	Reason  decision.Reason `json:"reason"`
	Since   time.Time       `json:"since"`
	Primary ServerState     `json:"primary"`
	Backup  ServerState     `json:"backup"`
}

// ServerState is what the last round of questions to one server found.
type ServerState struct {
	Good bool `json:"good"`
	// Silent: nothing was answered at all.
	Silent bool `json:"silent,omitempty"`
	// Confirmed is when its data was last known to be current.
	Confirmed time.Time `json:"confirmed,omitzero"`
	// Why it is not good: the question and what came of it.
	Why string `json:"why,omitempty"`
}

// New returns a watchdog. Nothing is asked or changed before Run.
func New(o Options) *Watchdog {
	c := o.Config
	w := &Watchdog{
		o: o, c: c, log: o.Log, m: newMetrics(o.Registerer), moves: o.Switch, files: map[string]os.FileInfo{},
		prober: prober{zone: c.Zone, questions: questionsOf(c), timeout: c.Timeout.Duration},
		decider: decision.New(decision.Config{
			FailAfter: c.FailAfter, RecoverAfter: c.RecoverAfter, MinimumHold: c.MinimumHold.Duration, AllowedLag: c.AllowedLag.Duration,
		}),
	}
	if w.moves == nil {
		w.moves = switchOf(c)
	}
	if u := c.Backup.Unbound; u != nil {
		w.unbound = &unbound{c: c, o: u, log: o.Log, started: w.m.starts.Inc}
	}
	w.state.Store(&State{Serving: targetPrimary, Reason: decision.Fine})
	return w
}

// Run watches until ctx ends. Then clients are at the primary again, and what was started has ended.
func (w *Watchdog) Run(ctx context.Context) error {
	// What a watchdog that was killed left behind would send this one's questions, and everybody's, to a backup that may
	// have gone with it.
	if err := w.moves.Release(ctx); err != nil {
		return fmt.Errorf("sending clients to the primary, to begin with: %w", err)
	}
	stop, err := w.serve()
	if err != nil {
		return err
	}
	defer stop()
	inner, end := context.WithCancel(ctx)
	var running sync.WaitGroup
	if w.unbound != nil {
		running.Go(func() { w.unbound.run(inner) })
	}
	if len(w.c.Backup.ZoneFiles) > 0 && (w.unbound != nil || len(w.c.Backup.Reload) > 0) {
		running.Go(func() { w.followFiles(inner) })
	}
	w.since = time.Now()
	w.log.Info("Watching", "primary", w.c.Primary.Address, "backup", w.c.Backup.Address)
	for ctx.Err() == nil {
		w.round(ctx)
		select {
		case <-ctx.Done():
		case <-time.After(w.pause()):
		}
	}
	// First the clients, then the backup they are at.
	err = w.leave()
	end()
	running.Wait()
	return err
}

// pause is the interval, give or take a tenth: the watchdogs of a thousand nodes that were started together must not go on
// asking together what all of them share.
func (w *Watchdog) pause() time.Duration {
	return time.Duration(float64(w.c.Interval.Duration) * (0.9 + 0.2*rand.Float64()))
}

// leave moves clients back at the end, with a context of its own because Run's has ended.
func (w *Watchdog) leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := w.moves.Release(ctx); err != nil {
		return fmt.Errorf("sending clients back to the primary, to end with: %w", err)
	}
	if w.engaged {
		w.log.Warn("Ending, clients are sent back to the primary")
	}
	w.m.engaged.Set(0)
	return nil
}

// round looks at both servers, decides, and does it.
func (w *Watchdog) round(ctx context.Context) {
	redirected := w.c.Switch.NFTables != nil
	backupAddr := w.c.Backup.Address
	if redirected && w.engaged {
		// While packets are rewritten, the backup's own port does not answer; and this is the way the clients go.
		backupAddr = w.c.Primary.Address
	}
	var primary, backup verdict
	var asking sync.WaitGroup
	asking.Go(func() {
		primary = w.prober.probe(ctx, w.c.Primary.Address, redirected, false)
		if primary.Good {
			primary.Confirmed = w.served(ctx)
		}
	})
	asking.Go(func() { backup = w.prober.probe(ctx, backupAddr, false, true) })
	asking.Wait()
	if ctx.Err() != nil {
		return // the questions ended with it, and say nothing of the servers
	}
	now := time.Now()
	w.m.saw(targetPrimary, primary)
	w.m.saw(targetBackup, backup)
	w.m.aged(backup.Confirmed, now)
	d := w.decider.Decide(decision.Round{At: now, Primary: primary.Answer, Backup: backup.Answer, Random: rand.Float64()})
	if d.Backup != w.engaged {
		w.change(ctx, d, primary, backup)
	}
	serving := targetPrimary
	if w.engaged {
		serving = targetBackup
	}
	w.state.Store(&State{Serving: serving, Reason: d.Reason, Since: w.since, Primary: primary.state(), Backup: backup.state()})
}

func (v verdict) state() ServerState {
	return ServerState{Good: v.Good, Silent: v.Silent, Confirmed: v.Confirmed, Why: v.why}
}

func (w *Watchdog) change(ctx context.Context, d decision.Decision, primary, backup verdict) {
	target, do := targetPrimary, w.moves.Release
	if d.Backup {
		target, do = targetBackup, w.moves.Engage
	}
	if err := do(ctx); err != nil {
		w.decider.Undo()
		w.m.failed.WithLabelValues(target).Inc()
		w.log.Error("Switching failed, trying again with the next round", "to", target, "why", d.Reason, "reason", err)
		return
	}
	w.engaged, w.since = d.Backup, time.Now()
	w.m.switches.WithLabelValues(string(d.Reason)).Inc()
	w.m.engaged.Set(0)
	if d.Backup {
		w.m.engaged.Set(1)
	}
	w.log.Warn("Clients are switched", "to", target, "why", d.Reason, "primary", primary.why, "backup", backup.why)
}

// served asks the primary how old its data is; zero if it does not say.
func (w *Watchdog) served(ctx context.Context) time.Time {
	if w.c.Primary.StateAddress == "" {
		return time.Time{}
	}
	ctx, cancel := context.WithTimeout(ctx, w.c.Timeout.Duration)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.c.Primary.StateAddress+"/state", nil)
	if err != nil {
		return time.Time{}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Do(request)
	if err != nil {
		return time.Time{}
	}
	defer answer.Body.Close()
	var state struct{ Confirmed time.Time }
	if err := json.NewDecoder(http.MaxBytesReader(nil, answer.Body, 64<<10)).Decode(&state); err != nil {
		return time.Time{}
	}
	return state.Confirmed
}

// reloadTimeout bounds one reload: unbound reads a zone of 100,000 records in less than a second.
const reloadTimeout = 10 * time.Second

// followFiles tells the backup when a zone file was replaced.
func (w *Watchdog) followFiles(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		for _, z := range w.c.Backup.ZoneFiles {
			info, err := os.Stat(z.File)
			if err != nil {
				continue // not written yet
			}
			old := w.files[z.File]
			if old != nil && os.SameFile(old, info) && old.ModTime().Equal(info.ModTime()) {
				continue
			}
			args := w.c.Backup.Reload
			if w.unbound != nil {
				args = w.unbound.control("auth_zone_reload", z.Zone)
			}
			if err := run(ctx, reloadTimeout, "", args); err != nil {
				if ctx.Err() != nil {
					return
				}
				w.m.reloads.WithLabelValues(resultFailed).Inc()
				w.log.Warn("The backup could not be told of a new zone file, trying again", "file", z.File, "reason", err)
				continue
			}
			w.m.reloads.WithLabelValues(resultOK).Inc()
			w.files[z.File] = info
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// serve opens the listener for metrics and state; stop closes it.
func (w *Watchdog) serve() (stop func(), err error) {
	if w.c.ListenAddress == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", w.c.ListenAddress)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	s := &http.Server{Handler: w.Handler(), ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			w.log.Error("Serving metrics ended", "reason", err)
		}
	})
	return func() { _ = s.Close(); serving.Wait() }, nil
}

// Handler answers GET /metrics, /state and /healthz.
func (w *Watchdog) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.o.Gatherer, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /state", func(out http.ResponseWriter, _ *http.Request) {
		out.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(out).Encode(w.state.Load())
	})
	mux.HandleFunc("GET /healthz", func(out http.ResponseWriter, _ *http.Request) { fmt.Fprintln(out, "ok") })
	return mux
}
