package keeper

import (
	"context"
	"sync"
	"time"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/store"
)

// corroborateEvery is how often a second source is asked about what is held. It lists a kind, which costs it as much
// as a restart of ours.
const corroborateEvery = time.Minute

// corroboration is a second source being asked.
type corroboration struct {
	asked   time.Time
	running sync.WaitGroup
	busy    bool
}

func (c *corroboration) wait() { c.running.Wait() }

// corroborate asks another source than the one followed about held removals that it can confirm.
func (k *Keeper) corroborate(ctx context.Context, now time.Time) {
	c := &k.corrob
	if c.busy || now.Sub(c.asked) < corroborateEvery || len(k.o.Sources) < 2 {
		return
	}
	doubts := map[store.Kind]map[store.Key]bool{}
	for _, h := range k.guard.Holds() {
		if !h.Corroborable() {
			continue
		}
		kind, err := store.ParseKind(h.Kind)
		if err != nil {
			panic("BUG: the guard holds " + h.Kind)
		}
		if doubts[kind] == nil {
			doubts[kind] = map[store.Key]bool{}
		}
		doubts[kind][store.Key{Namespace: h.Namespace, Name: h.Name}] = true
	}
	if len(doubts) == 0 {
		return
	}
	c.asked, c.busy = now, true
	following := k.following
	c.running.Go(func() {
		for kind, keys := range doubts {
			k.askAnother(ctx, following, kind, keys)
		}
		k.call(ctx, func() { c.busy = false })
	})
}

// askAnother lists a kind from a second source, the first that answers, and releases what that one lacks too.
func (k *Keeper) askAnother(ctx context.Context, following Source, kind store.Kind, keys map[store.Key]bool) {
	for _, source := range k.o.Sources {
		if source == following || k.probe(ctx, source) != nil {
			continue
		}
		has := map[store.Key]store.Object{}
		_, err := source.List(ctx, kind, func(o store.Object) error {
			if keys[o.Key()] {
				has[o.Key()] = o
			}
			return nil
		})
		if err != nil {
			continue
		}
		k.call(ctx, func() { k.corroborated(kind, keys, has) })
		return
	}
}

func (k *Keeper) corroborated(kind store.Kind, keys map[store.Key]bool, has map[store.Key]store.Object) {
	lacks := func(item guard.Item) bool {
		key := store.Key{Namespace: item.Namespace, Name: item.Name}
		if item.Kind != kind.String() || !keys[key] {
			return false
		}
		theirs, there := has[key]
		if !there || k.missing[item] {
			return !there
		}
		served := k.target().View().EndpointSlice(key.Namespace, key.Name)
		truth, ok := theirs.(*store.EndpointSlice)
		if served == nil || !ok {
			return false
		}
		return sameLost(served, truth)
	}
	k.release(k.guard.Release(func(h guard.Hold) bool { return h.Corroborable() && lacks(h.Item) }), "corroborated")
}

// sameLost is true when the second source calls none of the held endpoints ready.
func sameLost(served, theirs *store.EndpointSlice) bool {
	held := 0
	for e := range served.Endpoints() {
		if e.Held {
			held++
		}
	}
	for _, e := range store.Lost(served, theirs) {
		if e.Held {
			held--
		}
	}
	return held == 0
}
