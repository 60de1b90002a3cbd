package keeper

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

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
