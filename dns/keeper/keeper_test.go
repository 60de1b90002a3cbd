package keeper

import (
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/guard"
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
