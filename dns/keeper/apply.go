package keeper

import (
	"time"

	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/store"
)

// recentLoss is what a slice lost within the guard's window.
type recentLoss struct {
	at        time.Time
	endpoints []store.Endpoint
}

func itemOf(kind store.Kind, key store.Key) guard.Item {
	return guard.Item{Kind: kind.String(), Namespace: key.Namespace, Name: key.Name}
}

// put takes an object a source has.
func (k *Keeper) put(o store.Object) {
	item := itemOf(o.Kind(), o.Key())
	if k.missing[item] { // it came back
		delete(k.missing, item)
		k.guard.Forget(item)
	}
	if s, ok := o.(*store.EndpointSlice); ok {
		k.putSlice(s)
		return
	}
	k.putObject(o)
}

// delete takes an object that a source saw to be deleted. That is no doubt but a fact, except for a namespace whose
// services are still there, which is not how namespaces end.
func (k *Keeper) delete(kind store.Kind, key store.Key) {
	item := itemOf(kind, key)
	now := time.Now()
	if kind == store.Namespaces && k.target().View().Namespace(key.Name) != nil {
		decision := k.guard.NamespaceGone(now, key.Name, k.tally.namespaces[key.Name], k.target().Count(kind))
		if len(decision.Hold) > 0 {
			k.missing[item] = true
			k.decided(decision)
			for _, back := range decision.PutBack {
				k.missing[back] = true
				k.putObject(&store.Namespace{Name: back.Name})
			}
			return
		}
	}
	k.forget(item)
	k.deleteObject(kind, key)
	if kind != store.Services {
		return
	}
	// What was held of a service that was deleted was right after all.
	k.guard.Deleted(guard.Service(key))
	k.dropHeld(guard.Service(key))
	namespace := itemOf(store.Namespaces, store.Key{Name: key.Namespace})
	if k.missing[namespace] && k.tally.namespaces[key.Namespace] == 0 {
		k.forget(namespace)
		k.deleteObject(store.Namespaces, store.Key{Name: key.Namespace})
	}
}

func (k *Keeper) forget(item guard.Item) {
	k.guard.Forget(item)
	delete(k.missing, item)
	delete(k.recent, item)
}

// putSlice takes a slice as a source has it. Endpoints that stop being ready are lost only if the guard lets them go.
func (k *Keeper) putSlice(truth *store.EndpointSlice) {
	service := guard.Service{Namespace: truth.Namespace, Name: truth.Service}
	item := itemOf(store.EndpointSlices, truth.Key())
	served := k.target().View().EndpointSlice(truth.Namespace, truth.Name)
	if served == nil || served.Service != truth.Service {
		k.forget(item)
		if truth.Ready > 0 {
			k.dropHeld(service)
		}
		k.putObject(truth)
		k.guard.Regained(service, k.readyOf(service.Namespace, service.Name))
		return
	}
	if store.Equal(served, truth) {
		return // most updates change nothing DNS shows
	}
	fresh, kept := k.losses(served, truth)
	added := store.Added(served, truth)
	if added > 0 {
		kept = nil
		k.dropHeld(service)
	}
	var decision guard.Decision
	if len(fresh) > 0 && truth.Service != "" {
		before := k.readyOf(service.Namespace, service.Name)
		decision = k.guard.Loss(time.Now(), guard.Loss{
			Item: item, Service: service, Before: before, After: before - len(fresh), Added: added, Lost: nodesOf(fresh),
		}, k.tally.totals())
		if len(decision.Hold) > 0 {
			kept = append(kept, fresh...)
		} else if added == 0 {
			k.recent[item] = recentLoss{time.Now(), append(k.recent[item].endpoints, fresh...)}
		}
	}
	k.putObject(store.WithHeld(truth, kept))
	if len(decision.Hold) == 0 {
		k.guard.Remaining(item, len(kept))
	} else {
		k.decided(decision)
		for _, back := range decision.PutBack {
			k.putBack(back)
		}
	}
	if len(fresh) == 0 {
		k.guard.Regained(service, k.readyOf(service.Namespace, service.Name))
	}
}

// losses splits what served has and truth has not into what is lost now and what was held already.
func (k *Keeper) losses(served, truth *store.EndpointSlice) (fresh, kept []store.Endpoint) {
	for _, e := range store.Lost(served, truth) {
		if e.Held {
			kept = append(kept, e)
		} else {
			fresh = append(fresh, e)
		}
	}
	return fresh, kept
}

// dropHeld ends what is held of a service: it was deleted, or got ready endpoints that it did not have. Such a service
// is being replaced, and what is held of it could be a primary that is no longer one (cilium/cilium#48050).
func (k *Keeper) dropHeld(service guard.Service) {
	if k.guard.Count() == 0 {
		return
	}
	var items []guard.Item
	for s := range k.target().View().SlicesOf(service.Namespace, service.Name) {
		if item := itemOf(store.EndpointSlices, s.Key()); k.guard.Held(item) {
			k.guard.Forget(item)
			items = append(items, item)
		}
	}
	k.release(items, "replaced")
}

// putBack serves again what an item lost before the guard saw that it was part of something larger.
func (k *Keeper) putBack(item guard.Item) {
	served := k.target().View().EndpointSlice(item.Namespace, item.Name)
	lost := k.recent[item].endpoints
	delete(k.recent, item)
	if served == nil || len(lost) == 0 {
		k.guard.Forget(item)
		return
	}
	k.putObject(store.WithHeld(served, lost))
}

// release applies removals that are not held any more.
func (k *Keeper) release(items []guard.Item, why string) {
	for _, item := range items {
		kind, err := store.ParseKind(item.Kind)
		if err != nil {
			panic("BUG: the guard holds " + item.Kind)
		}
		key := store.Key{Namespace: item.Namespace, Name: item.Name}
		if k.missing[item] {
			delete(k.missing, item)
			k.deleteObject(kind, key)
			continue
		}
		if served := k.target().View().EndpointSlice(key.Namespace, key.Name); kind == store.EndpointSlices && served != nil {
			k.putObject(store.WithoutHeld(served))
		}
	}
	if len(items) > 0 {
		k.m.released.WithLabelValues(why).Add(float64(len(items)))
		k.log.Info("Applied removals that were held", "items", len(items), "reason", why)
	}
}

// decided counts and tells what the guard held.
func (k *Keeper) decided(d guard.Decision) {
	k.m.held.WithLabelValues(string(d.Reason)).Add(float64(len(d.Hold) + len(d.PutBack)))
	if len(d.PutBack) > 0 || len(d.Hold) > 1 {
		k.log.Warn("Holding removals: they look like a fault of the control plane, not like news", "reason", d.Reason,
			"items", len(d.Hold)+len(d.PutBack), "until", time.Now().Add(k.o.Guard.MaxHold))
	}
}

func nodesOf(endpoints []store.Endpoint) []string {
	nodes := make([]string, 0, len(endpoints))
	for _, e := range endpoints {
		nodes = append(nodes, store.Intern(e.NodeName))
	}
	return nodes
}
