package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
)

// cluster is a control plane in memory: objects, versions, and the events since the oldest version it can still be
// watched from. The real one's behaviour is what dns/source is tested against; here time is under control.
type cluster struct {
	uid string

	mu      sync.Mutex
	version uint64
	floor   uint64 // versions below are gone
	objects [store.KindCount]map[store.Key]store.Object
	events  [store.KindCount][]Event
	changed chan struct{} // closed with every change
}

func newCluster(uid string) *cluster {
	c := &cluster{uid: uid, version: 100, floor: 100, changed: make(chan struct{})}
	for k := range c.objects {
		c.objects[k] = map[store.Key]store.Object{}
	}
	return c
}

func (c *cluster) wake() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *cluster) put(objects ...store.Object) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, o := range objects {
		c.version++
		c.objects[o.Kind()][o.Key()] = o
		c.events[o.Kind()] = append(c.events[o.Kind()], Event{Put, o.Key(), o, strconv.FormatUint(c.version, 10)})
	}
	c.wake()
}

func (c *cluster) delete(kind store.Kind, key store.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	delete(c.objects[kind], key)
	c.events[kind] = append(c.events[kind], Event{Type: Delete, Key: key, Version: strconv.FormatUint(c.version, 10)})
	c.wake()
}

// lose makes objects vanish without an event, and the history with them: a restart that comes back with less.
func (c *cluster) lose(kind store.Kind, lost func(store.Key) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.objects[kind] {
		if lost(key) {
			delete(c.objects[kind], key)
		}
	}
	c.compact()
}

// compact forgets the history: every version watched from is gone.
func (c *cluster) compact() {
	c.version += 10
	c.floor = c.version
	for k := range c.events {
		c.events[k] = nil
	}
}

func (c *cluster) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.compact()
}

// server is one API server of a cluster.
type server struct {
	name  string
	class Class
	c     *cluster

	mu     sync.Mutex
	down   bool
	silent bool          // accepts watches and sends nothing
	cut    chan struct{} // closed when it goes down
	hide   func(store.Object) bool
	lists  []string
	absent map[store.Kind]bool
	refuse bool // answers who it is and nothing else
	probes int
}

func newServer(name string, c *cluster) *server {
	return &server{name: name, class: API, c: c, cut: make(chan struct{})}
}

var errDown = errors.New("connection refused")

func (s *server) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = true
	close(s.cut)
}

func (s *server) start() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down, s.cut = false, make(chan struct{})
}

func (s *server) up() (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down {
		return nil, errDown
	}
	return s.cut, nil
}

func (s *server) listed() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.lists...)
}

func (s *server) Name() string { return s.name }
func (s *server) Class() Class { return s.class }

func (s *server) Cluster(context.Context) (string, error) {
	s.mu.Lock()
	s.probes++
	s.mu.Unlock()
	if _, err := s.up(); err != nil {
		return "", err
	}
	return s.c.uid, nil
}

func (s *server) List(ctx context.Context, kind store.Kind, each func(store.Object) error) (string, error) {
	if _, err := s.up(); err != nil {
		return "", err
	}
	s.mu.Lock()
	absent, hide, refuse := s.absent[kind], s.hide, s.refuse
	s.lists = append(s.lists, kind.String())
	s.mu.Unlock()
	if refuse {
		return "", errDown
	}
	if absent {
		return "", ErrNoKind
	}
	s.c.mu.Lock()
	version := strconv.FormatUint(s.c.version, 10)
	var objects []store.Object
	for _, o := range s.c.objects[kind] {
		if hide == nil || !hide(o) {
			objects = append(objects, o)
		}
	}
	s.c.mu.Unlock()
	for _, o := range objects {
		if err := each(o); err != nil {
			return "", err
		}
		if _, err := s.up(); err != nil {
			return "", err
		}
	}
	return version, ctx.Err()
}

func (s *server) Watch(ctx context.Context, kind store.Kind, version string, open func(), each func(Event) error) error {
	cut, err := s.up()
	if err != nil {
		return err
	}
	s.mu.Lock()
	refuse := s.refuse
	s.mu.Unlock()
	if refuse {
		return errDown
	}
	from, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return err
	}
	s.c.mu.Lock()
	floor, newest := s.c.floor, s.c.version
	s.c.mu.Unlock()
	switch {
	case from < floor:
		return ErrGone
	case from > newest:
		return ErrTooNew
	}
	open()
	bookmark := time.NewTicker(time.Minute)
	defer bookmark.Stop()
	sent := 0
	for {
		s.c.mu.Lock()
		events, changed, now := s.c.events[kind], s.c.changed, s.c.version
		s.c.mu.Unlock()
		for _, e := range events[min(sent, len(events)):] {
			if number(e.Version) > from {
				if err := each(e); err != nil {
					return err
				}
			}
		}
		sent = len(events)
		select {
		case <-changed:
		case <-bookmark.C:
			s.mu.Lock()
			silent := s.silent
			s.mu.Unlock()
			if silent {
				continue
			}
			if err := each(Event{Type: Bookmark, Version: strconv.FormatUint(now, 10)}); err != nil {
				return err
			}
		case <-cut:
			return errDown
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// populate makes services svc-0… in the namespace shop, each with one slice of that many ready endpoints.
func (c *cluster) populate(services, endpoints int) {
	c.put(&store.Namespace{Name: "shop"}, &store.Namespace{Name: "kube-system"})
	for i := range services {
		c.put(&store.Service{Namespace: "shop", Name: svc(i), Headless: true}, slice(i, 0, endpoints, endpoints))
	}
}

func svc(i int) string { return "svc-" + strconv.Itoa(i) }

// slice is the slice of a service: endpoints from first to total, of which those below ready are ready.
func slice(i, first, total, ready int) *store.EndpointSlice {
	var endpoints []store.Endpoint
	for e := first; e < total; e++ {
		addr := netip.AddrFrom4([4]byte{10, byte(i / 250), byte(i % 250), byte(e + 1)})
		endpoints = append(endpoints, store.Endpoint{Addr: addr, Ready: e < ready, NodeName: fmt.Sprintf("node-%d", (i+e)%20)})
	}
	return store.NewEndpointSlice(store.SliceMeta{Namespace: "shop", Name: svc(i) + "-abcde", Service: svc(i)}, endpoints)
}

// rig is a keeper that runs.
type rig struct {
	*Keeper
	t    *testing.T
	stop func()
}

// run starts a keeper in the current bubble; it is stopped at the end of the test, or by stop.
func run(t *testing.T, o Options) *rig {
	t.Helper()
	o.Store = store.New(time.Now)
	o.Random = func() float64 { return 0.5 }
	o.Registerer = prometheus.NewRegistry()
	o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	if testing.Verbose() {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	k, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Restore(); err != nil {
		t.Logf("not restored: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	r := &rig{Keeper: k, t: t}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// settle lets time pass until nothing happens any more at that moment.
func settle(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (r *rig) wantState(want State) {
	r.t.Helper()
	if got := r.Status(); got.State != want {
		r.t.Fatalf("state %s, want %s: %+v", got.State, want, got)
	}
}

// ready counts what is served: the services with a ready endpoint, and the endpoints.
func (r *rig) ready() (services, endpoints int) {
	v := r.Store().View()
	for s := range v.Services() {
		n := 0
		for slice := range v.SlicesOf(s.Namespace, s.Name) {
			for e := range slice.Endpoints() {
				if e.Ready {
					n++
				}
			}
		}
		if endpoints += n; n > 0 {
			services++
		}
	}
	return services, endpoints
}

func (r *rig) wantReady(services, endpoints int) {
	r.t.Helper()
	if s, e := r.ready(); s != services || e != endpoints {
		r.t.Fatalf("served are %d services with %d endpoints, want %d with %d", s, e, services, endpoints)
	}
}

func onDisk(t *testing.T, dir string) *snapshot.File {
	t.Helper()
	f, err := snapshot.Open(snapshot.Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// bubble runs a test with a clock of its own.
func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }
