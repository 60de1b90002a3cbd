package store

import "slices"

// Equal is true when two objects are of the same kind and key and say the same; versions are left out, because what
// most updates change (annotations, conditions) is nothing DNS shows.
func Equal(a, b Object) bool {
	return a.Kind() == b.Kind() && a.Key() == b.Key() && a.sameData(b)
}

func (o *Namespace) sameData(Object) bool { return true }

func (o *Service) sameData(other Object) bool {
	p := other.(*Service)
	return o.Type == p.Type && o.Headless == p.Headless && o.ExternalName == p.ExternalName &&
		slices.Equal(o.ClusterIPs, p.ClusterIPs) && slices.Equal(o.ExternalIPs, p.ExternalIPs) && slices.Equal(o.Ports, p.Ports)
}

func (o *EndpointSlice) sameData(other Object) bool {
	p := other.(*EndpointSlice)
	return o.Service == p.Service && o.Import == p.Import && o.Cluster == p.Cluster && o.AddressType == p.AddressType &&
		o.packed == p.packed && slices.Equal(o.Ports, p.Ports)
}

func (o *ServiceImport) sameData(other Object) bool {
	p := other.(*ServiceImport)
	return o.Type == p.Type && slices.Equal(o.IPs, p.IPs) && slices.Equal(o.Ports, p.Ports)
}

func (o *Pod) sameData(other Object) bool {
	p := other.(*Pod)
	return slices.Equal(o.IPs, p.IPs) && slices.Equal(o.Labels, p.Labels)
}
