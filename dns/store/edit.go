package store

import (
	"net/netip"
	"slices"
)

// put changes one object and the indices that name it.
func (v *View) put(o Object) (Change, bool) {
	old := v.Get(o.Kind(), o.Key())
	if old != nil && old.sameData(o) {
		return Change{}, false
	}
	v.replace(old, o)
	return Change{Kind: o.Kind(), Key: o.Key(), Old: old, New: o}, true
}

func (v *View) delete(kind Kind, key Key) (Change, bool) {
	old := v.Get(kind, key)
	if old == nil {
		return Change{}, false
	}
	v.replace(old, nil)
	return Change{Kind: kind, Key: key, Old: old}, true
}

// replace puts new in the place of old; either may be nil, and both have one kind and key.
func (v *View) replace(before, after Object) {
	kind := kindOf(before, after)
	switch kind {
	case Namespaces:
		before, after := as[*Namespace](before), as[*Namespace](after)
		index(&v.namespaces, before, after, func(o *Namespace) []uint64 { return []uint64{hashKey("", o.Name)} })
	case Services:
		before, after := as[*Service](before), as[*Service](after)
		index(&v.services, before, after, func(o *Service) []uint64 { return []uint64{hashKey(o.Namespace, o.Name)} })
		index(&v.servicesByIP, before, after, func(o *Service) []uint64 { return hashAddrs(o.ClusterIPs) })
		index(&v.servicesByExt, before, after, func(o *Service) []uint64 {
			var hashes []uint64
			for _, ip := range o.ExternalIPs {
				hashes = append(hashes, hashText(ip))
			}
			return hashes
		})
	case EndpointSlices:
		before, after := as[*EndpointSlice](before), as[*EndpointSlice](after)
		index(&v.slices, before, after, func(o *EndpointSlice) []uint64 { return []uint64{hashKey(o.Namespace, o.Name)} })
		index(&v.slicesByService, before, after, func(o *EndpointSlice) []uint64 { return []uint64{hashKey(o.Namespace, o.Service)} })
		index(&v.slicesByImport, before, after, func(o *EndpointSlice) []uint64 {
			if o.Import == "" {
				return nil
			}
			return []uint64{hashKey(o.Namespace, o.Import)}
		})
		index(&v.slicesByAddr, before, after, func(o *EndpointSlice) []uint64 {
			hashes := make([]uint64, 0, o.Ready)
			for e := range o.Endpoints() {
				if e.Ready && e.Addr.IsValid() {
					hashes = append(hashes, hashAddr(e.Addr))
				}
			}
			return hashes
		})
	case ServiceImports:
		before, after := as[*ServiceImport](before), as[*ServiceImport](after)
		index(&v.imports, before, after, func(o *ServiceImport) []uint64 { return []uint64{hashKey(o.Namespace, o.Name)} })
	case Pods:
		before, after := as[*Pod](before), as[*Pod](after)
		index(&v.pods, before, after, func(o *Pod) []uint64 { return []uint64{hashKey(o.Namespace, o.Name)} })
		index(&v.podsByIP, before, after, func(o *Pod) []uint64 { return hashAddrs(o.IPs) })
	}
}

// index brings a table from before to after: hashes both have are swapped, so that no reader misses an object that was
// there all the time; an item is in the table once for each hash.
func index[T any](t *table[T], before, after *T, hashes func(*T) []uint64) {
	var old, now []uint64
	if before != nil {
		old = unique64(hashes(before))
	}
	if after != nil {
		now = unique64(hashes(after))
	}
	for _, h := range now {
		if i, found := slices.BinarySearch(old, h); found {
			t.swap(old[i], before, after)
		} else {
			t.add(h, after)
		}
	}
	for _, h := range old {
		if _, found := slices.BinarySearch(now, h); !found {
			t.remove(h, before)
		}
	}
}

func unique64(hashes []uint64) []uint64 {
	slices.Sort(hashes)
	return slices.Compact(hashes)
}

func hashAddrs(addrs []netip.Addr) []uint64 {
	hashes := make([]uint64, 0, len(addrs))
	for _, a := range addrs {
		hashes = append(hashes, hashAddr(a))
	}
	return hashes
}

func kindOf(before, after Object) Kind {
	if after != nil {
		return after.Kind()
	}
	return before.Kind()
}

func as[T Object](o Object) T {
	t, _ := o.(T)
	return t
}

// touchedZones says which zones' records changed. It follows CoreDNS's serial numbers (plugin/kubernetes/controller.go)
// where those are right, and goes beyond them where a service with external IPs comes or goes: CoreDNS leaves
// the external zone's serial as it was then.
func touchedZones(changes Changes) (touched [ZoneCount]bool) {
	if changes.Whole {
		return [ZoneCount]bool{true, true, true}
	}
	for _, c := range changes.List {
		switch c.Kind {
		case Services:
			touched[Internal] = true
			before, after := as[*Service](c.Old), as[*Service](c.New)
			touched[External] = touched[External] || external(before) || external(after)
		case EndpointSlices:
			before, after := as[*EndpointSlice](c.Old), as[*EndpointSlice](c.New)
			touched[Internal] = true
			touched[ClusterSet] = touched[ClusterSet] || imported(before) || imported(after)
		case ServiceImports:
			touched[ClusterSet] = true
		case Namespaces, Pods:
			// A namespace hides or shows what is in it; a pod is a record where pods are verified.
			touched[Internal] = true
		}
	}
	return touched
}

func external(s *Service) bool { return s != nil && len(s.ExternalIPs) > 0 }

func imported(s *EndpointSlice) bool { return s != nil && s.Import != "" }
