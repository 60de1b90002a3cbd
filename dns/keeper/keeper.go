package keeper

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
)

// Options are what a Keeper needs. Durations that are zero take their default.
type Options struct {
	// Store receives the data. Nobody else may write to it.
	Store *store.Store
	// Sources are what can be followed, in the order of preference.
	Sources []Source
	// Tap, if not nil, wraps a source for as long as it is followed: what the wrapper sees is what the data is made of,
	// before the guard. A relay passes that on.
	Tap func(Source) Source
	// Fetchers are asked while no source answers, in this order.
	Fetchers []Fetcher
	// Kinds are what is kept; namespaces, services and endpoint slices if empty.
	Kinds []store.Kind
	// Snapshot is the data on disk; nil keeps none. The keeper closes it.
	Snapshot *snapshot.File
	// Cluster, if not empty, is the only cluster accepted. If it is empty, the snapshot's is, else that of the first
	// source that answers.
	Cluster string
	// Guard says what losses are held; guard.Defaults() if it is zero.
	Guard guard.Config
	// Version of the program, written into snapshots.
	Version string

	// StaleAfter is how long a kind may be without an open watch before the data is called stale. Default 30s: an
	// ordinary re-connection takes a second or two.
	StaleAfter time.Duration
	// SilentAfter is how long an open watch may be silent before the data is called stale. Default 3m: API servers
	// send a bookmark about every minute.
	SilentAfter time.Duration
	// SwitchAfter is how long a source may be without any open watch before the next one is tried. Default 15s.
	SwitchAfter time.Duration
	// PreferAfter is how often a better source than the one followed is asked whether it is back. Default 1m.
	PreferAfter time.Duration
	// RelistSpread is the time over which all the instances together spread the lists that an API server's 410 asks
	// for. Default 75s, in which the lists of many instances, at random moments, take at least a minute. Raising it spares the
	// API server and leaves the data old for longer.
	RelistSpread time.Duration
	// SaveAfter is the least time between two snapshots. Default 10s.
	SaveAfter time.Duration
	// BaselineAge is how long ago the data may have been confirmed for the guard to hold a list against it. Default
	// 24h: what has gone missing over a longer time is more likely gone.
	BaselineAge time.Duration

	// Random is in [0, 1); it must be safe for concurrent use, as rand.Float64 is, which is the default.
	Random     func() float64
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

func (o *Options) setDefaults() {
	for _, d := range []struct {
		value *time.Duration
		to    time.Duration
	}{
		{&o.StaleAfter, 30 * time.Second}, {&o.SilentAfter, 3 * time.Minute}, {&o.SwitchAfter, 15 * time.Second},
		{&o.PreferAfter, time.Minute}, {&o.RelistSpread, 75 * time.Second}, {&o.SaveAfter, 10 * time.Second},
		{&o.BaselineAge, 24 * time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.to
		}
	}
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if len(o.Kinds) == 0 {
		o.Kinds = []store.Kind{store.Namespaces, store.Services, store.EndpointSlices}
	}
	if o.Guard == (guard.Config{}) {
		o.Guard = guard.Defaults()
	}
}

// Keeper keeps a store's data. See the package comment. Store, Status, Held and Release are safe for concurrent use;
// Restore and Run are called once each, in this order.
type Keeper struct {
	o      Options
	log    *slog.Logger
	m      *metrics
	status atomic.Pointer[Status]
	calls  chan func()
	done   chan struct{}

	// Below: of the goroutine in Run, and of Restore before it.

	guard *guard.Guard
	kinds [store.KindCount]kindState
	tally tally
	// draft is what sources write to until every kind is complete; nil when they write to the store.
	draft *store.Draft
	// missing are objects that are served and that the source does not have.
	missing map[guard.Item]bool
	// recent are the endpoints that were lost within the guard's window, should they have to be put back.
	recent map[guard.Item]recentLoss

	cluster   string
	following Source // nil when none
	source    string // of the data served
	class     Class
	confirmed time.Time // of data that is not followed
	state     State
	since     time.Time

	saving saving
	corrob corroboration
}

// kindState is what is known of a kind.
type kindState struct {
	wanted bool
	// version is what to watch from; highest the largest ever seen.
	version string
	highest uint64
	// restored is the version of the data that was handed over whole.
	restored string
	// connected is true while a watch is open; silent since confirmed.
	connected    bool
	disconnected time.Time
	confirmed    time.Time
	// complete is true when the target holds everything of the kind.
	complete bool
	// lacking is true when the data served was handed over without the kind.
	lacking bool
	// absent is true when the source does not have the kind.
	absent  bool
	listing *listing
}

// New returns a keeper that holds nothing yet.
func New(o Options) (*Keeper, error) {
	o.setDefaults()
	if err := o.Guard.Validate(); err != nil {
		return nil, err
	}
	if len(o.Sources)+len(o.Fetchers) == 0 && o.Snapshot == nil {
		return nil, errors.New("there is nowhere to take data from: no source, no peer, no snapshot")
	}
	k := &Keeper{
		o: o, log: o.Log, m: newMetrics(o.Registerer), calls: make(chan func()), done: make(chan struct{}),
		guard: guard.New(o.Guard), missing: map[guard.Item]bool{}, recent: map[guard.Item]recentLoss{},
		cluster: o.Cluster, state: Empty, since: time.Now(), tally: newTally(),
	}
	for _, kind := range o.Kinds {
		k.kinds[kind].wanted = true
	}
	k.publishStatus()
	return k, nil
}

// Store implements Data.
func (k *Keeper) Store() *store.Store { return k.o.Store }

// Status implements Data.
func (k *Keeper) Status() Status { return *k.status.Load() }

// Held lists what the guard holds. It waits for the keeper's goroutine, and returns ctx's error if that ends first.
func (k *Keeper) Held(ctx context.Context) (holds []guard.Hold, err error) {
	err = k.ask(ctx, func() { holds = k.guard.Holds() })
	return holds, err
}

// Release applies the held removals that match, and returns how many there were.
func (k *Keeper) Release(ctx context.Context, match func(guard.Hold) bool) (n int, err error) {
	err = k.ask(ctx, func() {
		items := k.guard.Release(match)
		n = len(items)
		k.release(items, "operator")
	})
	return n, err
}

// Run follows sources until ctx ends, then writes a last snapshot and returns. Everything it started has ended then.
func (k *Keeper) Run(ctx context.Context) error {
	defer close(k.done)
	supervised := make(chan struct{})
	inner, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		defer close(supervised)
		k.supervise(inner)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for running := true; running; {
		select {
		case call := <-k.calls:
			call()
		case <-tick.C:
			k.tick(inner)
		case <-ctx.Done():
			running = false
		}
	}
	savable := k.savable(time.Now()) // before watches end
	stop()
	<-supervised
	k.corrob.wait()
	k.lastSave(savable)
	if k.o.Snapshot != nil {
		return k.o.Snapshot.Close()
	}
	return nil
}

// call runs f on the keeper's goroutine and does not wait until it ran; it is false when ctx ended first. It waits
// until the keeper takes it, so that a source cannot run ahead.
func (k *Keeper) call(ctx context.Context, f func()) bool {
	select {
	case k.calls <- f:
		return true
	case <-ctx.Done():
		return false
	}
}

// ask runs f on the keeper's goroutine and waits until it ran.
func (k *Keeper) ask(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	call := func() {
		f()
		close(ran)
	}
	select {
	case k.calls <- call:
		<-ran
		return nil
	case <-k.done:
		return errors.New("the keeper has ended")
	case <-ctx.Done():
		return ctx.Err()
	}
}

// target is what sources write to.
type target interface {
	View() *store.View
	Put(store.Object) bool
	Delete(store.Kind, store.Key) bool
	Count(store.Kind) int
}

func (k *Keeper) target() target {
	if k.draft != nil {
		return k.draft
	}
	return k.o.Store
}

// tick does what time alone brings.
func (k *Keeper) tick(ctx context.Context) {
	now := time.Now()
	k.release(k.guard.Due(now), "time")
	for i, r := range k.recent {
		if now.Sub(r.at) > k.o.Guard.Window {
			delete(k.recent, i)
		}
	}
	k.corroborate(ctx, now)
	k.save(ctx, now)
	k.publishStatus()
}
