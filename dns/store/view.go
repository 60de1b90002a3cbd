package store

import (
	"hash/maphash"
	"iter"
	"net/netip"
	"slices"
)

// View is a set of data to look things up in. Its methods are safe for concurrent use, take no lock and never wait.
// What they return must not be changed. A query takes one View from Store.View and uses it to its end.
//
// Single changes appear in a View as they come, one object at a time; a lookup sees an object as it was or as it is,
// never neither. Names are matched exactly: lower-case them first, as DNS names are.
type View struct {
	namespaces      table[Namespace]
	services        table[Service]
	servicesByIP    table[Service]
	servicesByExt   table[Service]
	slices          table[EndpointSlice]
	slicesByService table[EndpointSlice]
	slicesByImport  table[EndpointSlice]
	slicesByAddr    table[EndpointSlice]
	imports         table[ServiceImport]
	pods            table[Pod]
	podsByIP        table[Pod]
}

func newView() *View {
	v := &View{}
	v.namespaces.init()
	v.services.init()
	v.servicesByIP.init()
	v.servicesByExt.init()
	v.slices.init()
	v.slicesByService.init()
	v.slicesByImport.init()
	v.slicesByAddr.init()
	v.imports.init()
	v.pods.init()
	v.podsByIP.init()
	return v
}

func (v *View) fork() *View {
	f := &View{}
	v.namespaces.fork(&f.namespaces)
	v.services.fork(&f.services)
	v.servicesByIP.fork(&f.servicesByIP)
	v.servicesByExt.fork(&f.servicesByExt)
	v.slices.fork(&f.slices)
	v.slicesByService.fork(&f.slicesByService)
	v.slicesByImport.fork(&f.slicesByImport)
	v.slicesByAddr.fork(&f.slicesByAddr)
	v.imports.fork(&f.imports)
	v.pods.fork(&f.pods)
	v.podsByIP.fork(&f.podsByIP)
	return f
}

// Namespace returns a namespace, nil when there is none of that name.
func (v *View) Namespace(name string) *Namespace {
	for o := range v.namespaces.at(hashKey("", name)) {
		if o.Name == name {
			return o
		}
	}
	return nil
}

// Service returns a service, or nil.
func (v *View) Service(namespace, name string) *Service {
	for o := range v.services.at(hashKey(namespace, name)) {
		if o.Name == name && o.Namespace == namespace {
			return o
		}
	}
	return nil
}

// ServicesByClusterIP yields the services that have this cluster IP.
func (v *View) ServicesByClusterIP(ip netip.Addr) iter.Seq[*Service] {
	return filter(v.servicesByIP.at(hashAddr(ip)), func(o *Service) bool { return slices.Contains(o.ClusterIPs, ip) })
}

// ServicesByExternalIP yields the services that have this external IP or load balancer name.
func (v *View) ServicesByExternalIP(ip string) iter.Seq[*Service] {
	return filter(v.servicesByExt.at(hashText(ip)), func(o *Service) bool { return slices.Contains(o.ExternalIPs, ip) })
}

// EndpointSlice returns a slice by its own name, or nil.
func (v *View) EndpointSlice(namespace, name string) *EndpointSlice {
	for o := range v.slices.at(hashKey(namespace, name)) {
		if o.Name == name && o.Namespace == namespace {
			return o
		}
	}
	return nil
}

// SlicesOf yields the endpoint slices of a service, in no order.
func (v *View) SlicesOf(namespace, service string) iter.Seq[*EndpointSlice] {
	return filter(v.slicesByService.at(hashKey(namespace, service)), func(o *EndpointSlice) bool {
		return o.Service == service && o.Namespace == namespace
	})
}

// SlicesOfImport yields the endpoint slices of a service import, in no order.
func (v *View) SlicesOfImport(namespace, name string) iter.Seq[*EndpointSlice] {
	return filter(v.slicesByImport.at(hashKey(namespace, name)), func(o *EndpointSlice) bool {
		return o.Import == name && o.Namespace == namespace
	})
}

// SlicesByAddr yields the endpoint slices in which this address is ready.
func (v *View) SlicesByAddr(addr netip.Addr) iter.Seq[*EndpointSlice] {
	return filter(v.slicesByAddr.at(hashAddr(addr)), func(o *EndpointSlice) bool { return o.ready(addr) })
}

// ServiceImport returns a service import, or nil.
func (v *View) ServiceImport(namespace, name string) *ServiceImport {
	for o := range v.imports.at(hashKey(namespace, name)) {
		if o.Name == name && o.Namespace == namespace {
			return o
		}
	}
	return nil
}

// Pod returns a pod, or nil.
func (v *View) Pod(namespace, name string) *Pod {
	for o := range v.pods.at(hashKey(namespace, name)) {
		if o.Name == name && o.Namespace == namespace {
			return o
		}
	}
	return nil
}

// PodsByIP yields the pods that have this address.
func (v *View) PodsByIP(ip netip.Addr) iter.Seq[*Pod] {
	return filter(v.podsByIP.at(hashAddr(ip)), func(o *Pod) bool { return slices.Contains(o.IPs, ip) })
}

// Namespaces yields every namespace, in no order. This and its like may or may not show a change made meanwhile.
func (v *View) Namespaces() iter.Seq[*Namespace] { return v.namespaces.all() }

// Services yields every service.
func (v *View) Services() iter.Seq[*Service] { return v.services.all() }

// EndpointSlices yields every endpoint slice.
func (v *View) EndpointSlices() iter.Seq[*EndpointSlice] { return v.slices.all() }

// ServiceImports yields every service import.
func (v *View) ServiceImports() iter.Seq[*ServiceImport] { return v.imports.all() }

// Pods yields every pod.
func (v *View) Pods() iter.Seq[*Pod] { return v.pods.all() }

// Get returns the object of a kind and key, or nil.
func (v *View) Get(kind Kind, key Key) Object {
	switch kind {
	case Namespaces:
		return object(v.Namespace(key.Name))
	case Services:
		return object(v.Service(key.Namespace, key.Name))
	case EndpointSlices:
		return object(v.EndpointSlice(key.Namespace, key.Name))
	case ServiceImports:
		return object(v.ServiceImport(key.Namespace, key.Name))
	case Pods:
		return object(v.Pod(key.Namespace, key.Name))
	}
	return nil
}

// All yields every object of a kind.
func (v *View) All(kind Kind) iter.Seq[Object] {
	switch kind {
	case Namespaces:
		return objects(v.Namespaces())
	case Services:
		return objects(v.Services())
	case EndpointSlices:
		return objects(v.EndpointSlices())
	case ServiceImports:
		return objects(v.ServiceImports())
	case Pods:
		return objects(v.Pods())
	}
	return func(func(Object) bool) {}
}

// ready is true when the address is a ready endpoint of the slice.
func (o *EndpointSlice) ready(addr netip.Addr) bool {
	for e := range o.Endpoints() {
		if e.Addr == addr && e.Ready {
			return true
		}
	}
	return false
}

func filter[T any](items iter.Seq[*T], keep func(*T) bool) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		for o := range items {
			if keep(o) && !yield(o) {
				return
			}
		}
	}
}

// object keeps a nil pointer from becoming an Object that is not nil.
func object[P interface {
	*T
	Object
}, T any](o P) Object {
	if o == nil {
		return nil
	}
	return o
}

func objects[P interface {
	*T
	Object
}, T any](all iter.Seq[P]) iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for o := range all {
			if !yield(o) {
				return
			}
		}
	}
}

func hashAddr(addr netip.Addr) uint64 {
	b := addr.As16()
	return maphash.Bytes(seed, b[:])
}

func hashText(text string) uint64 { return maphash.String(seed, text) }
