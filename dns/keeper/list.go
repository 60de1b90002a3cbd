package keeper

import (
	"hash/maphash"
	"strconv"
	"time"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/store"
)

// listing is a list of one kind that is being read. What it adds is applied as it comes; what it lacks is known only at
// the end. It holds a hash for each object, and the slices that lost endpoints: the memory of a re-list.
type listing struct {
	known  int
	seen   map[uint64]struct{}
	shrunk []*store.EndpointSlice
	added  map[guard.Service]int
}

var seed = maphash.MakeSeed()

func hashKey(k store.Key) uint64 { return maphash.Comparable(seed, k) }

func (k *Keeper) listBegin(kind store.Kind) {
	k.kinds[kind].listing = &listing{
		known: k.target().Count(kind), seen: make(map[uint64]struct{}, k.target().Count(kind)), added: map[guard.Service]int{},
	}
}

// listAbort ends a list that failed in the middle: what it added is true, what it lacked means nothing.
func (k *Keeper) listAbort(kind store.Kind) { k.kinds[kind].listing = nil }

func (k *Keeper) listObject(o store.Object) {
	l := k.kinds[o.Kind()].listing
	if l == nil {
		return
	}
	l.seen[hashKey(o.Key())] = struct{}{}
	truth, ok := o.(*store.EndpointSlice)
	if !ok {
		k.put(o)
		return
	}
	service := guard.Service{Namespace: truth.Namespace, Name: truth.Service}
	served := k.target().View().EndpointSlice(truth.Namespace, truth.Name)
	if served == nil || served.Service != truth.Service {
		l.added[service] += int(truth.Ready)
		k.put(o)
		return
	}
	if store.Equal(served, truth) {
		return
	}
	l.added[service] += store.Added(served, truth)
	if fresh, _ := k.losses(served, truth); len(fresh) > 0 {
		l.shrunk = append(l.shrunk, truth)
		return
	}
	k.put(o)
}

// listEnd judges what the list lacks, all of it together.
func (k *Keeper) listEnd(kind store.Kind, version string) {
	state := &k.kinds[kind]
	l := state.listing
	if l == nil {
		return
	}
	state.listing = nil
	list := guard.List{Kind: kind.String(), Known: l.known, Backwards: older(version, state.highest)}
	list.Removals = append(k.absentFrom(l, kind), k.shrunkIn(l)...)
	k.markEmptied(list.Removals)
	held := map[guard.Item]bool{}
	// What nobody has confirmed for a day is nothing to hold a list against.
	if time.Since(later(state.confirmed, k.confirmed)) <= k.o.BaselineAge {
		decision := k.guard.List(time.Now(), list, k.tally.totals())
		for _, item := range decision.Hold {
			held[item] = true
		}
		if len(decision.Hold) > 0 {
			k.decided(decision)
		}
	}
	for _, r := range list.Removals {
		switch {
		case !r.Whole: // below
		case held[r.Item]:
			k.missing[r.Item] = true
		default:
			k.forget(r.Item)
			k.deleteObject(kind, store.Key{Namespace: r.Item.Namespace, Name: r.Item.Name})
		}
	}
	for _, truth := range l.shrunk {
		k.putShrunk(truth, held[itemOf(kind, truth.Key())], l.added[guard.Service{Namespace: truth.Namespace, Name: truth.Service}] > 0)
	}
	state.version, state.highest = version, number(version)
	state.confirmed = k.confirmedBy(kind)
	if !state.connected {
		state.disconnected = time.Now() // the watch comes next
	}
	k.completed(kind)
}

// absentFrom are the objects that are served and were not in the list. A namespace without services is not doubted:
// nothing is lost with it.
func (k *Keeper) absentFrom(l *listing, kind store.Kind) []guard.Removal {
	var removals []guard.Removal
	var bare []store.Key
	for o := range k.target().View().All(kind) {
		key := o.Key()
		item := itemOf(kind, key)
		if _, seen := l.seen[hashKey(key)]; seen || k.missing[item] {
			continue
		}
		r := guard.Removal{Item: item, Service: guard.Service(key), Whole: true}
		switch o := o.(type) {
		case *store.EndpointSlice:
			r.Service.Name, r.Endpoints = o.Service, int(o.Ready)
			r.Added = l.added[r.Service]
		case *store.Namespace:
			if k.tally.namespaces[o.Name] == 0 {
				bare = append(bare, key)
				continue
			}
		}
		removals = append(removals, r)
	}
	for _, key := range bare {
		k.deleteObject(kind, key)
	}
	return removals
}

func (k *Keeper) shrunkIn(l *listing) []guard.Removal {
	var removals []guard.Removal
	for _, truth := range l.shrunk {
		served := k.target().View().EndpointSlice(truth.Namespace, truth.Name)
		if served == nil {
			continue
		}
		fresh, _ := k.losses(served, truth)
		service := guard.Service{Namespace: truth.Namespace, Name: truth.Service}
		removals = append(removals, guard.Removal{
			Item: itemOf(store.EndpointSlices, truth.Key()), Service: service, Endpoints: len(fresh), Added: l.added[service],
		})
	}
	return removals
}

// markEmptied marks the removals of services that would have no ready endpoint left.
func (k *Keeper) markEmptied(removals []guard.Removal) {
	lost := map[guard.Service]int{}
	for _, r := range removals {
		if r.Endpoints > 0 {
			lost[r.Service] += r.Endpoints
		}
	}
	for i := range removals {
		r := &removals[i]
		n, ok := lost[r.Service]
		r.Emptied = ok && n >= k.readyOf(r.Service.Namespace, r.Service.Name)
	}
}

// putShrunk applies a listed slice that lacks endpoints, which are held or not.
func (k *Keeper) putShrunk(truth *store.EndpointSlice, hold, replaced bool) {
	item := itemOf(store.EndpointSlices, truth.Key())
	served := k.target().View().EndpointSlice(truth.Namespace, truth.Name)
	if served == nil {
		k.putObject(truth)
		return
	}
	fresh, kept := k.losses(served, truth)
	switch {
	case hold:
		kept = append(kept, fresh...)
	case replaced:
		kept = nil
	}
	k.putObject(store.WithHeld(truth, kept))
	k.guard.Remaining(item, len(kept))
}

// number reads a version; 0 for none, and for those of sources that do not count.
func number(version string) uint64 {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func older(version string, highest uint64) bool {
	n := number(version)
	return n > 0 && n < highest
}
