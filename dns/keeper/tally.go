package keeper

import (
	"github.com/seakeep/seakeep/dns/guard"
	"github.com/seakeep/seakeep/dns/store"
)

// tally counts what the guard judges against, kept up to date change by change.
type tally struct {
	endpoints  int            // ready
	services   int            // with a ready endpoint
	nodes      map[string]int // ready endpoints
	namespaces map[string]int // services
}

func newTally() tally { return tally{nodes: map[string]int{}, namespaces: map[string]int{}} }

func (t *tally) totals() guard.Totals {
	nodes := len(t.nodes)
	if t.nodes[""] > 0 {
		nodes--
	}
	return guard.Totals{Services: t.services, Endpoints: t.endpoints, Nodes: nodes}
}

// slice counts a slice in (+1) or out (-1), node by node.
func (t *tally) slice(s *store.EndpointSlice, sign int) {
	t.endpoints += sign * int(s.Ready)
	for e := range s.Endpoints() {
		if !e.Ready {
			continue
		}
		n, known := t.nodes[e.NodeName]
		switch {
		case n+sign == 0:
			delete(t.nodes, e.NodeName)
		case known:
			t.nodes[e.NodeName] = n + sign
		default:
			// The name points into the slice, which must not be kept alive by it.
			t.nodes[store.Intern(e.NodeName)] = sign
		}
	}
}

func (t *tally) service(namespace string, sign int) {
	if t.namespaces[namespace] += sign; t.namespaces[namespace] <= 0 {
		delete(t.namespaces, namespace)
	}
}

// recount counts everything: after a swap.
func (k *Keeper) recount() {
	k.tally = newTally()
	v := k.target().View()
	ready := map[guard.Service]bool{}
	for s := range v.EndpointSlices() {
		k.tally.slice(s, 1)
		if s.Ready > 0 && s.Service != "" {
			ready[guard.Service{Namespace: s.Namespace, Name: s.Service}] = true
		}
	}
	k.tally.services = len(ready)
	for s := range v.Services() {
		k.tally.service(s.Namespace, 1)
	}
}

// readyOf counts a service's ready endpoints.
func (k *Keeper) readyOf(namespace, service string) int {
	n := 0
	for s := range k.target().View().SlicesOf(namespace, service) {
		n += int(s.Ready)
	}
	return n
}

// putObject and deleteObject are the only ways data changes: they keep the tally.
func (k *Keeper) putObject(o store.Object) bool {
	old := k.target().View().Get(o.Kind(), o.Key())
	return k.change(old, o, func() bool { return k.target().Put(o) })
}

func (k *Keeper) deleteObject(kind store.Kind, key store.Key) bool {
	old := k.target().View().Get(kind, key)
	return k.change(old, nil, func() bool { return k.target().Delete(kind, key) })
}

func (k *Keeper) change(before, after store.Object, apply func() bool) bool {
	touched := servicesOf(before, after)
	was := make([]int, len(touched))
	for i, s := range touched {
		was[i] = k.readyOf(s.Namespace, s.Name)
	}
	if !apply() {
		return false
	}
	k.saving.dirty = true
	for i, s := range touched {
		switch is := k.readyOf(s.Namespace, s.Name); {
		case was[i] == 0 && is > 0:
			k.tally.services++
		case was[i] > 0 && is == 0:
			k.tally.services--
		}
	}
	if s, ok := before.(*store.EndpointSlice); ok {
		k.tally.slice(s, -1)
	}
	if s, ok := after.(*store.EndpointSlice); ok {
		k.tally.slice(s, 1)
	}
	if s, ok := before.(*store.Service); ok && after == nil {
		k.tally.service(s.Namespace, -1)
	}
	if s, ok := after.(*store.Service); ok && before == nil {
		k.tally.service(s.Namespace, 1)
	}
	return true
}

// servicesOf are the services whose endpoints two states of a slice are: one, or two if its label changed.
func servicesOf(before, after store.Object) []guard.Service {
	var services []guard.Service
	for _, o := range []store.Object{before, after} {
		s, ok := o.(*store.EndpointSlice)
		if !ok || s.Service == "" {
			continue
		}
		service := guard.Service{Namespace: s.Namespace, Name: s.Service}
		if len(services) == 0 || services[0] != service {
			services = append(services, service)
		}
	}
	return services
}
