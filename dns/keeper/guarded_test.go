package keeper

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/store"
)

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

// After a long outage what is missing is gone: a list is believed.
func TestListAfterALongOutage(t *testing.T) {
	for name, outage := range map[string]time.Duration{"short": 30 * time.Minute, "long": 2 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				c := newCluster("uid")
				c.populate(50, 4)
				a := newServer("a", c)
				k := run(t, Options{Sources: []Source{a}, BaselineAge: time.Hour})
				defer k.stop()
				settle(time.Minute)
				a.stop()
				settle(outage)
				c.lose(store.EndpointSlices, func(key store.Key) bool { return strings.Contains(key.Name, "-1") })
				a.start()
				settle(2 * time.Minute)
				if name == "short" {
					k.wantState(Guarded)
					k.wantReady(50, 200)
				} else {
					k.wantState(Live)
					k.wantReady(39, 156)
				}
			})
		})
	}
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
