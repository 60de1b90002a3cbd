package keeper

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
)

func TestFollow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(10, 3)
		a := newServer("a", c)
		a.stop()
		k := run(t, Options{Sources: []Source{a}})
		defer k.stop()
		settle(time.Minute)
		if got := k.Status(); got.State != Empty || got.Ready() {
			t.Errorf("before anything is known: %+v", got)
		}
		a.start()
		settle(3 * time.Second)
		k.wantState(Live)
		k.wantReady(10, 30)

		c.put(slice(3, 0, 3, 1), &store.Service{Namespace: "shop", Name: "new"})
		c.delete(store.Services, store.Key{Namespace: "shop", Name: svc(4)})
		c.delete(store.EndpointSlices, slice(4, 0, 0, 0).Key())
		settle(0)
		k.wantReady(9, 25)
		if k.Store().View().Service("shop", "new") == nil || k.Store().View().Service("shop", svc(4)) != nil {
			t.Error("what was made is not there, or what was deleted is")
		}
		settle(10 * time.Minute)
		k.wantState(Live)
		if age := k.Status().Age(time.Now()); age > time.Minute+time.Second {
			t.Errorf("followed data is %v old, with a bookmark every minute", age)
		}
		if s := k.Status(); s.Source != "a" || s.Class != API || s.Cluster != "uid" || s.Counts["services"] != 10 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestStale(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(10, 3)
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a}})
		defer k.stop()
		settle(time.Second)
		a.stop()
		settle(20 * time.Second)
		k.wantState(Live) // half a minute is an ordinary re-connection
		settle(20 * time.Second)
		k.wantState(Stale)
		settle(time.Hour)
		k.wantReady(10, 30)
		if s := k.Status(); !s.Stale || s.Age(time.Now()) < time.Hour {
			t.Errorf("after an hour: %+v", s)
		}
		a.start()
		settle(time.Minute)
		k.wantState(Live)
		if lists := a.listed(); len(lists) != 3 {
			t.Errorf("lists %v: watching on from the last version needs none", lists)
		}
		a.mu.Lock()
		a.silent = true
		a.mu.Unlock()
		settle(5 * time.Minute)
		k.wantState(Stale)
	})
}

// The restart that took service discovery down: with the API server away. The snapshot answers, and when the API server
// is back nobody lists.
func TestRestartWhileTheAPIServerIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(50, 4)
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		serial := k.Store().Modified(store.Internal)
		c.put(slice(7, 0, 4, 2)) // written at shutdown
		settle(0)
		a.stop()
		k.stop()

		k = run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		k.wantState(Restored)
		k.wantReady(50, 198)
		if k.Store().Modified(store.Internal) < serial {
			t.Error("the serial ran backwards")
		}
		settle(time.Hour)
		k.wantState(Restored)
		if s := k.Status(); !s.Stale || s.Class != Disk || !s.Ready() || s.Age(time.Now()) < time.Hour {
			t.Errorf("status %+v", s)
		}
		c.put(slice(8, 0, 4, 1))
		a.start()
		settle(5 * time.Second)
		k.wantState(Live)
		k.wantReady(50, 195)
		if lists := a.listed(); len(lists) != 3 {
			t.Errorf("listed %v; the first start needs three, the second none", lists)
		}
	})
}

// A restarted API server answers 410 to every version it did not see itself: restored data stays, whole, until the last
// kind has been listed, which happens one kind at a time and after a random part of the spread.
func TestRestoredIsSwappedWhole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(20, 2)
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.stop()
		c.put(&store.Service{Namespace: "shop", Name: "new"}, slice(3, 1, 3, 3))
		c.forget()

		k = run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		before := k.Store().View()
		swaps := 0
		cancel := k.Store().Subscribe(func(changes store.Changes) {
			swaps++
			view := k.Store().View()
			if view == before || view.Service("shop", "new") == nil || view.EndpointSlice("shop", svc(3)+"-abcde").Ready != 2 {
				t.Error("a change was published before all of it was there")
			}
			if len(changes.List) != 2 {
				t.Errorf("changes %+v, want the two objects that differ", changes)
			}
		})
		defer cancel()
		settle(29 * time.Second)
		k.wantState(Restored)
		if lists := a.listed()[3:]; len(lists) > 0 {
			t.Errorf("listed %v at once, want half of the spread waited", lists)
		}
		settle(3 * time.Second)
		k.wantState(Live)
		if swaps != 1 {
			t.Errorf("%d changes were published, want one swap", swaps)
		}
		if lists := a.listed()[3:]; len(lists) != 3 {
			t.Errorf("listed %v, want each kind once", lists)
		}
	})
}

// A source that dies in the middle of the first lists leaves what was restored.
func TestDraftIsThrownAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(20, 2)
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.stop()
		c.forget()
		c.put(&store.Service{Namespace: "shop", Name: "new"})
		a.absent = nil
		a.hide = func(o store.Object) bool {
			if o.Kind() == store.EndpointSlices {
				a.mu.Lock()
				if !a.down {
					a.down = true
					close(a.cut)
				}
				a.mu.Unlock()
			}
			return false
		}
		k = run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		settle(5 * time.Minute)
		k.wantState(Restored)
		k.wantReady(20, 40)
		if k.Store().View().Service("shop", "new") != nil {
			t.Error("half of a source's data is served")
		}
		a.mu.Lock()
		a.hide = nil
		a.mu.Unlock()
		a.start()
		settle(2 * time.Minute)
		k.wantState(Live)
		if k.Store().View().Service("shop", "new") == nil {
			t.Error("what is new is not there")
		}
	})
}

func TestAPIServerComesBackWithLess(t *testing.T) {
	third := func(key store.Key) bool {
		return strings.HasSuffix(strings.TrimSuffix(key.Name, "-abcde"), "3") || strings.Contains(key.Name, "-1")
	}
	everything := func(store.Key) bool { return true }
	tests := map[string]struct {
		lose  func(c *cluster)
		state State
		// right after, and when what was held has been released
		services, endpoints int
		after, afterwards   int
	}{
		"a third of the slices": {func(c *cluster) { c.lose(store.EndpointSlices, third) }, Guarded, 50, 200, 35, 140},
		"no slices":             {func(c *cluster) { c.lose(store.EndpointSlices, everything) }, Guarded, 50, 200, 0, 0},
		"no services":           {func(c *cluster) { c.lose(store.Services, everything) }, Guarded, 50, 200, 0, 0},
		"nothing at all": {func(c *cluster) {
			for kind := range store.Kind(store.KindCount) {
				c.lose(kind, everything)
			}
		}, Guarded, 50, 200, 0, 0},
		"three slices": {func(c *cluster) {
			c.lose(store.EndpointSlices, func(key store.Key) bool {
				return slices.Contains([]string{"svc-2-abcde", "svc-4-abcde", "svc-9-abcde"}, key.Name)
			})
		}, Live, 47, 188, 47, 188},
		"other endpoints": {func(c *cluster) {
			c.forget()
			for i := range 50 {
				c.put(slice(i, 100, 104, 104))
			}
			c.forget()
		}, Live, 50, 200, 50, 200},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				dir := t.TempDir()
				c := newCluster("uid")
				c.populate(50, 4)
				a := newServer("a", c)
				k := run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
				defer k.stop()
				settle(time.Minute)
				a.stop()
				settle(time.Minute)
				tc.lose(c)
				a.start()
				settle(2 * time.Minute)
				k.wantState(tc.state)
				k.wantReady(tc.services, tc.endpoints)
				if tc.state == Guarded {
					// What is doubtful must not be what a restart believes.
					loaded, _ := snapshotOf(t, dir)
					if n := loaded.Kinds["endpointslices"].Count; n != 50 || k.Status().Held == 0 {
						t.Errorf("the snapshot has %d slices, and %d are held", n, k.Status().Held)
					}
				}
				settle(11 * time.Minute)
				k.wantState(Live)
				k.wantReady(tc.after, tc.afterwards)
			})
		})
	}
}

func snapshotOf(t *testing.T, dir string) (snapshot.Loaded, []store.Object) {
	t.Helper()
	f := onDisk(t, dir)
	defer f.Close()
	var objects []store.Object
	loaded, err := f.Load("", func() func(store.Object) error {
		objects = nil
		return func(o store.Object) error {
			objects = append(objects, o)
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return loaded, objects
}

// kubernetes/kubernetes#77864, over the watch.
func TestEverythingBecomesNotReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(50, 4)
		k := run(t, Options{Sources: []Source{newServer("a", c)}})
		defer k.stop()
		settle(time.Second)
		for i := range 50 {
			c.put(slice(i, 0, 4, 0))
			settle(20 * time.Millisecond)
		}
		settle(time.Second)
		k.wantState(Guarded)
		k.wantReady(50, 200)
		holds, err := k.Held(t.Context())
		if err != nil || len(holds) != 50 {
			t.Fatalf("%d items are held, %v; want 50", len(holds), err)
		}
		// Nodes report again, and one pod is another one.
		for i := range 40 {
			c.put(slice(i, 0, 4, 4))
		}
		c.put(slice(40, 100, 101, 101))
		settle(time.Second)
		k.wantReady(50, 40*4+1+9*4)
		if s := k.Store().View().EndpointSlice("shop", svc(40)+"-abcde"); s.Total != 1 {
			t.Errorf("the service that was replaced still has %d endpoints", s.Total)
		}
		released, err := k.Release(t.Context(), func(h guard.Hold) bool { return h.Name == svc(45)+"-abcde" })
		if err != nil || released != 1 {
			t.Errorf("released %d, %v", released, err)
		}
		k.wantReady(49, 40*4+1+8*4)
		// A service that is deleted takes what is held of it along.
		c.delete(store.Services, store.Key{Namespace: "shop", Name: svc(46)})
		settle(time.Second)
		k.wantReady(48, 40*4+1+7*4)
		settle(11 * time.Minute)
		k.wantState(Live)
		k.wantReady(41, 40*4+1)
		for s := range k.Store().View().EndpointSlices() {
			if !store.Equal(s, c.objects[store.EndpointSlices][s.Key()]) {
				t.Errorf("%s is not what the cluster has, after everything was released", s.Key())
			}
		}
	})
}

// One service, to zero and back, is news.
func TestOneServiceScaled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(50, 1)
		k := run(t, Options{Sources: []Source{newServer("a", c)}})
		defer k.stop()
		settle(time.Second)
		for range 5 {
			c.put(slice(1, 0, 0, 0))
			settle(0)
			k.wantReady(49, 49)
			c.put(slice(1, 5, 6, 6))
			settle(0)
			k.wantReady(50, 50)
		}
		k.wantState(Live)
	})
}

// etcd restored from last night's backup: versions start again below those already seen.
func TestVersionsRunBackwards(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(50, 1)
		c.version = 9000
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a, newServer("b", c)}})
		defer k.stop()
		settle(time.Second)
		a.stop()
		c.mu.Lock()
		c.version, c.floor = 500, 500
		clear(c.events[:])
		delete(c.objects[store.Services], store.Key{Namespace: "shop", Name: svc(7)})
		c.mu.Unlock()
		a.start()
		settle(3 * time.Minute)
		k.wantState(Guarded)
		if k.Store().View().Service("shop", svc(7)) == nil {
			t.Error("the service made since the backup is gone")
		}
		settle(12 * time.Minute) // the other API server of the same etcd corroborates nothing
		k.wantState(Live)
		if k.Store().View().Service("shop", svc(7)) != nil {
			t.Error("it is held for ever")
		}
	})
}

// One API server with a broken list: the other one either has what is missing, or corroborates.
func TestCorroboration(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(50, 1)
		a, b := newServer("a", c), newServer("b", c)
		k := run(t, Options{Sources: []Source{a, b}})
		defer k.stop()
		settle(time.Second)
		c.lose(store.EndpointSlices, func(key store.Key) bool { return strings.Contains(key.Name, "-1") }) // true for both
		a.hide = func(o store.Object) bool { return strings.Contains(o.Key().Name, "-2") }                 // a's fault
		a.stop()
		settle(time.Second)
		a.start()
		settle(3 * time.Minute)
		v := k.Store().View()
		if v.EndpointSlice("shop", svc(11)+"-abcde") != nil {
			t.Error("what both API servers lack is still held")
		}
		if v.EndpointSlice("shop", svc(22)+"-abcde") == nil || v.Service("shop", svc(22)) == nil {
			t.Error("what the second API server has was dropped")
		}
		k.wantState(Guarded)
	})
}

func TestSourcesInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(10, 2)
		a, b := newServer("a", c), newServer("b", c)
		b.class = Relay
		foreign := newServer("c", newCluster("another"))
		k := run(t, Options{Sources: []Source{a, foreign, b}})
		defer k.stop()
		settle(time.Second)
		if got := k.Status().Source; got != "a" {
			t.Fatalf("follows %s", got)
		}
		a.stop()
		settle(time.Minute)
		if s := k.Status(); s.Source != "b" || s.Class != Relay || s.State != Live {
			t.Errorf("with a down it follows %s and is %s", s.Source, s.State)
		}
		k.wantReady(10, 20)
		c.put(slice(1, 0, 2, 1))
		settle(0)
		k.wantReady(10, 19)
		a.start()
		settle(90 * time.Second)
		if got := k.Status().Source; got != "a" {
			t.Errorf("with a back it follows %s", got)
		}
		if n := len(a.listed()) + len(b.listed()); n != 3 {
			t.Errorf("%d lists, want the three of the start", n)
		}
		if len(foreign.listed()) > 0 {
			t.Error("it listed another cluster")
		}
	})
}

// A source may answer and be of no use: its watches fail. It must not keep a better one from being followed.
func TestSourceThatCannotBeFollowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(10, 2)
		a, b := newServer("a", c), newServer("b", c)
		a.refuse = true
		k := run(t, Options{Sources: []Source{a, b}})
		defer k.stop()
		settle(time.Minute)
		k.wantState(Live)
		settle(time.Hour)
		if s := k.Status(); s.State != Live || s.Source != "b" {
			t.Errorf("follows %s and is %s", s.Source, s.State)
		}
		if n := a.probes; n > 150 {
			t.Errorf("the source was asked %d times in an hour", n)
		}
		a.mu.Lock()
		a.refuse = false
		a.mu.Unlock()
		settle(time.Hour)
		if s := k.Status(); s.State != Live || s.Source != "a" {
			t.Errorf("follows %s and is %s, with the better source back", s.Source, s.State)
		}
	})
}

// Two clusters' state folders swapped, or a disk cloned.
func TestForeignSnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		theirs := newCluster("theirs")
		theirs.populate(5, 1)
		k := run(t, Options{Sources: []Source{newServer("a", theirs)}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.stop()

		ours := newCluster("ours")
		ours.populate(7, 1)
		b := newServer("b", ours)
		b.stop()
		k = run(t, Options{Sources: []Source{b}, Snapshot: onDisk(t, dir), Cluster: "ours"})
		defer k.stop()
		settle(time.Minute)
		k.wantState(Empty) // refused
		b.start()
		settle(3 * time.Second)
		k.wantState(Live)
		k.wantReady(7, 7)
	})
}

func TestDiskThatCannotBeWritten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		c := newCluster("uid")
		c.populate(10, 1)
		k := run(t, Options{Sources: []Source{newServer("a", c)}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		k.wantState(Live)
		k.wantReady(10, 10)
		if k.Status().SnapshotError == "" {
			t.Error("nobody is told that nothing is written")
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if s := k.Status(); s.SnapshotError != "" || s.SnapshotSaved.IsZero() {
			t.Errorf("with the disk back: %+v", s)
		}
	})
}

// A snapshot is not written with every change, and says without one that it is still true.
func TestSnapshotIsDebounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(10, 3)
		k := run(t, Options{Sources: []Source{newServer("a", c)}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		settle(15 * time.Second)
		first, _ := snapshotOf(t, dir)
		for i := range 60 {
			c.put(slice(1, 0, 3, 1+i%3))
			settle(time.Second)
		}
		busy, _ := snapshotOf(t, dir)
		if n := busy.Generation - first.Generation; n < 4 || n > 7 {
			t.Errorf("%d snapshots in a minute of changes, want one every ten seconds", n)
		}
		settle(10 * time.Minute)
		quiet, _ := snapshotOf(t, dir)
		if quiet.Generation > busy.Generation+1 {
			t.Errorf("%d snapshots while nothing changed", quiet.Generation-busy.Generation)
		}
		if age := time.Since(quiet.Confirmed); age > 2*time.Minute {
			t.Errorf("the data on disk was confirmed %v ago", age)
		}
		if quiet.Kinds["services"].Version == "" || quiet.Kinds["services"].Count != 10 {
			t.Errorf("kinds %+v", quiet.Kinds)
		}
	})
}

// ServiceImports without their CRD are none, and no reason not to be live.
func TestKindThatTheSourceLacks(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(10, 1)
		a := newServer("a", c)
		a.absent = map[store.Kind]bool{store.ServiceImports: true}
		k := run(t, Options{Sources: []Source{a}, Kinds: []store.Kind{store.Namespaces, store.Services, store.EndpointSlices, store.ServiceImports}})
		defer k.stop()
		settle(time.Second)
		k.wantState(Live)
		settle(time.Hour)
		k.wantState(Live)
		a.mu.Lock()
		a.absent = nil
		a.mu.Unlock()
		c.put(&store.ServiceImport{Namespace: "shop", Name: "db"})
		settle(10 * time.Minute)
		if k.Store().View().ServiceImport("shop", "db") == nil {
			t.Error("the CRD came, its objects did not")
		}
	})
}

func TestNamespaces(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		for _, name := range []string{"a", "b", "c", "d", "e", "empty"} {
			c.put(&store.Namespace{Name: name})
			if name != "empty" {
				c.put(&store.Service{Namespace: name, Name: "web"})
			}
		}
		k := run(t, Options{Sources: []Source{newServer("a", c)}})
		defer k.stop()
		settle(time.Second)
		c.delete(store.Namespaces, store.Key{Name: "empty"})
		for _, name := range []string{"a", "b", "c", "d"} {
			c.delete(store.Namespaces, store.Key{Name: name})
			settle(0)
		}
		settle(time.Second)
		v := k.Store().View()
		k.wantState(Guarded)
		if v.Namespace("empty") != nil || v.Namespace("a") == nil || v.Namespace("d") == nil {
			t.Error("want the empty one gone and the others held, the first of them put back")
		}
		// Its services went after all: so it was a deletion.
		c.delete(store.Services, store.Key{Namespace: "a", Name: "web"})
		settle(time.Second)
		if v.Namespace("a") != nil || v.Namespace("b") == nil {
			t.Error("want a gone, as its services are, and b held")
		}
		c.put(&store.Namespace{Name: "b"}, &store.Namespace{Name: "c"}, &store.Namespace{Name: "d"})
		settle(2 * time.Minute)
		k.wantState(Live)
	})
}

// peer hands over whole data.
type peer struct {
	mu      sync.Mutex
	class   Class
	objects []store.Object
	origin  Origin
	err     error
}

func (p *peer) Name() string { return "peer" }
func (p *peer) Class() Class { return p.class }
func (p *peer) Fetch(_ context.Context, each func(store.Object) error) (Origin, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.objects {
		if err := each(o); err != nil {
			return Origin{}, err
		}
	}
	return p.origin, p.err
}

func TestFetchers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(10, 1)
		a := newServer("a", c)
		a.stop()
		objects := []store.Object{&store.Namespace{Name: "shop"}, &store.Service{Namespace: "shop", Name: "from-peer"}}
		broken := &peer{class: Peer, objects: objects[:1], err: errors.New("torn")}
		other := &peer{class: Peer, objects: objects, origin: Origin{Cluster: "another", Confirmed: time.Now()}}
		good := &peer{class: Peer, objects: objects, origin: Origin{Cluster: "uid", Confirmed: time.Now().Add(-time.Hour)}}
		static := &peer{class: Static, objects: objects[:1], origin: Origin{Confirmed: time.Now()}}
		k := run(t, Options{Sources: []Source{a}, Fetchers: []Fetcher{broken, other, good, static}, Cluster: "uid"})
		defer k.stop()
		settle(time.Second)
		k.wantState(Restored)
		if s := k.Status(); s.Class != Peer || k.Store().View().Service("shop", "from-peer") == nil {
			t.Errorf("status %+v", s)
		}
		// Newer data from the same peer is taken, older is not.
		good.mu.Lock()
		good.objects = append(good.objects, &store.Service{Namespace: "shop", Name: "newer"})
		good.mu.Unlock()
		settle(time.Minute)
		if k.Store().View().Service("shop", "newer") != nil {
			t.Error("data that is no newer was taken")
		}
		good.mu.Lock()
		good.origin.Confirmed = time.Now()
		good.mu.Unlock()
		settle(time.Minute)
		if k.Store().View().Service("shop", "newer") == nil {
			t.Error("newer data was not taken")
		}
		// The API server has none of the peer's services: all of them gone is for the guard.
		a.start()
		settle(time.Minute)
		k.wantState(Guarded)
		k.wantReady(10, 10)
		settle(11 * time.Minute)
		k.wantState(Live)
		if k.Store().Count(store.Services) != 10 {
			t.Errorf("%d services, want the API server's", k.Store().Count(store.Services))
		}
	})
}

func TestNewRefuses(t *testing.T) {
	tests := map[string]struct {
		o    Options
		want string
	}{
		"nowhere to take data from": {Options{}, "nowhere"},
		"a guard that holds all":    {Options{Fetchers: []Fetcher{&peer{}}, Guard: guard.Config{Window: time.Second}}, "maxHold"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := New(tc.o); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
		})
	}
}

// The tally that the guard judges against is what is served.
func TestTally(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newCluster("uid")
		c.populate(30, 3)
		k := run(t, Options{Sources: []Source{newServer("a", c)}})
		defer k.stop()
		settle(time.Second)
		for i := range 300 {
			switch i % 4 {
			case 0:
				c.put(slice(i%30, 0, 3, i%4))
			case 1:
				c.put(slice((i*7)%30, i%50, i%50+2, i%50+2))
			case 2:
				c.delete(store.EndpointSlices, slice(i%30, 0, 0, 0).Key())
			case 3:
				c.delete(store.Services, store.Key{Namespace: "shop", Name: svc(i % 40)})
				c.put(&store.Service{Namespace: "shop", Name: svc((i + 3) % 40)})
			}
			if i%20 == 0 {
				settle(7 * time.Second)
			}
		}
		settle(time.Second)
		var kept, counted tally
		if err := k.ask(t.Context(), func() {
			kept = k.tally
			k.recount()
			counted = k.tally
		}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(counted, kept, cmp.AllowUnexported(tally{})); diff != "" {
			t.Errorf("(-counted +kept):\n%s", diff)
		}
	})
}
