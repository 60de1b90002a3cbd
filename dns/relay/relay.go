package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

// Options are what a Relay needs. Zero values take their default.
type Options struct {
	// Data is what the keeper serves: the data while nothing is followed, and how old it is.
	Data keeper.Data
	// Kinds are the keeper's.
	Kinds []store.Kind
	// BookmarkEvery is how often watchers are told of a version or a confirmation that no event told. Default 10s.
	// Raising it makes the data of clients look older than it is.
	BookmarkEvery time.Duration
	// WriteFor is how long a client may take to read 16 KB before it is dropped. Default 20s: 0.8 KB/s is too slow.
	WriteFor time.Duration
	// MaxWatches bounds the open watches, MaxRequests all other requests under way. Default 4096 and 64.
	MaxWatches, MaxRequests int
	Version                 string
	Registerer              prometheus.Registerer
	Log                     *slog.Logger
}

// Relay is the data for others. It is safe for concurrent use.
//
// What the followed source says comes in through Tap. While none is followed, the data is the keeper's own: a snapshot,
// a peer's, a static file.
type Relay struct {
	o       Options
	data    keeper.Data
	id      string // of this process's epochs, in tokens
	m       *metrics
	kinds   [store.KindCount]*history
	frames  [store.KindCount]frames
	watches chan struct{}
	others  chan struct{}

	mu       sync.Mutex
	loaded   base
	upstream *asking
	closing  chan struct{}
	closed   bool
}

// base says which handed-over data was loaded.
type base struct {
	source    string
	cluster   string
	confirmed time.Time
	versions  map[string]string
}

func (b base) equal(other base) bool {
	return b.source == other.source && b.cluster == other.cluster && b.confirmed.Equal(other.confirmed) && maps.Equal(b.versions, other.versions)
}

// New returns a relay without data. Give its Tap to the keeper, and its Data is the keeper.
func New(o Options) *Relay {
	if o.BookmarkEvery == 0 {
		o.BookmarkEvery = 10 * time.Second
	}
	if o.WriteFor == 0 {
		o.WriteFor = 20 * time.Second
	}
	if o.MaxWatches == 0 {
		o.MaxWatches = 4096
	}
	if o.MaxRequests == 0 {
		o.MaxRequests = 64
	}
	if len(o.Kinds) == 0 {
		o.Kinds = []store.Kind{store.Namespaces, store.Services, store.EndpointSlices}
	}
	id := make([]byte, 8)
	_, _ = rand.Read(id) // never fails
	r := &Relay{
		o: o, data: o.Data, id: hex.EncodeToString(id), m: newMetrics(o.Registerer), closing: make(chan struct{}),
		watches: make(chan struct{}, o.MaxWatches), others: make(chan struct{}, o.MaxRequests),
	}
	for _, kind := range o.Kinds {
		r.kinds[kind] = newHistory()
	}
	return r
}

// Follow sets the keeper whose data is served, where it could be made only after the relay. It is called before Run.
func (r *Relay) Follow(data keeper.Data) { r.data = data }

// Run takes over what the keeper was handed whole, until ctx ends; then it ends the watches.
func (r *Relay) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		r.load()
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		close(r.closing)
	}
}

// load takes the keeper's data if it was handed over whole and is not what was loaded before. What a source that is
// followed has said since goes on from it.
func (r *Relay) load() {
	r.mu.Lock()
	defer r.mu.Unlock()
	status := r.data.Status()
	if status.State != keeper.Restored {
		return
	}
	now := base{status.Source, status.Cluster, status.Confirmed, status.Versions}
	if r.loaded.equal(now) {
		return
	}
	r.loaded = now
	view := r.data.Store().View()
	incomplete := map[string]bool{}
	for _, name := range status.Incomplete {
		incomplete[name] = true
	}
	for _, kind := range r.o.Kinds {
		if incomplete[kind.String()] {
			continue
		}
		objects := map[store.Key]store.Object{}
		for o := range view.All(kind) {
			objects[o.Key()] = o
		}
		r.kinds[kind].replace(status.Versions[kind.String()], objects)
	}
	r.o.Log.Info("Relaying data that was handed over whole", "source", status.Source, "age", status.Age(time.Now()).Round(time.Second))
}

// reacher is a source that can be asked whether it has come to a version.
type reacher interface {
	Reached(ctx context.Context, version string) error
}

// Tap wraps a source for as long as a keeper follows it.
func (r *Relay) Tap(source keeper.Source) keeper.Source {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.upstream = nil
	if r.loaded.source != "" && r.data.Status().State == keeper.Empty { // what was handed over proved to be another cluster's
		r.loaded = base{}
		for _, kind := range r.o.Kinds {
			r.kinds[kind].forget()
		}
	}
	if upstream, ok := source.(reacher); ok {
		r.upstream = newAsking(upstream)
	}
	return &tap{source, r}
}

type tap struct {
	keeper.Source
	relay *Relay
}

// List implements keeper.Source.
func (t *tap) List(ctx context.Context, kind store.Kind, each func(store.Object) error) (string, error) {
	h := t.relay.kinds[kind]
	list := h.begin()
	version, err := t.Source.List(ctx, kind, func(o store.Object) error {
		if err := each(o); err != nil {
			return err
		}
		list.add(o)
		return nil
	})
	t.note(kind, err)
	if err == nil {
		list.end(version)
	}
	return version, err
}

// Watch implements keeper.Source. What the keeper did not take is not taken either: it will ask for it again.
func (t *tap) Watch(ctx context.Context, kind store.Kind, version string, open func(), each func(keeper.Event) error) error {
	h := t.relay.kinds[kind]
	t.relay.load()
	if !h.at(version) { // the data that version is of is not ours; the list that ends this is the keeper's next
		return keeper.ErrGone
	}
	err := t.Source.Watch(ctx, kind, version, open, func(e keeper.Event) error {
		if err := each(e); err != nil {
			return err
		}
		switch e.Type {
		case keeper.Put:
			h.put(e.Object, e.Version)
		case keeper.Delete:
			h.delete(e.Key, e.Version)
		case keeper.Bookmark:
			h.bookmark(e.Version)
		}
		return nil
	})
	t.note(kind, err)
	return err
}

func (t *tap) note(kind store.Kind, err error) {
	if errors.Is(err, keeper.ErrNoKind) {
		t.relay.kinds[kind].gone()
	}
}

// age is how old the data may be.
func (r *Relay) age() time.Duration { return r.data.Status().Age(time.Now()) }

// reached waits a little for a version that is newer than all we have, and asks the source whether there is such a
// version: its bookmarks come once a minute, so that a client that comes from the API server may well know more. Having
// come from there the client misses nothing: what we tell it begins after its version.
func (r *Relay) reached(ctx context.Context, version uint64) bool {
	if version <= r.newest() {
		return true
	}
	r.mu.Lock()
	upstream := r.upstream
	r.mu.Unlock()
	if upstream != nil && follows(r.data.Status()) {
		asking, cancel := context.WithTimeout(ctx, 4*time.Second)
		defer cancel()
		if upstream.reached(asking, version) == nil {
			return true
		}
	}
	return version <= r.newest()
}

// newest is the newest version of any kind: they count together.
func (r *Relay) newest() uint64 {
	var newest uint64
	for _, h := range r.kinds {
		if h != nil {
			newest = max(newest, h.current())
		}
	}
	return newest
}
