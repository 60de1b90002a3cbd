package source

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"

	"github.com/seakeep/seakeep/dns/store"
)

// convert returns our form of an object of the API, nil for one that DNS must not show: a pod that is finished or
// terminating.
func convert(object any) store.Object {
	switch o := object.(type) {
	case *corev1.Namespace:
		return &store.Namespace{Name: o.Name, Version: version(o)}
	case *corev1.Service:
		return service(o)
	case *discoveryv1.EndpointSlice:
		return slice(o)
	case *mcsv1alpha1.ServiceImport:
		return serviceImport(o)
	case *corev1.Pod:
		return pod(o)
	}
	return nil
}

// version is the object's resource version as a number (KEP-5504); 0 when it is none.
func version(o metav1.Object) uint64 {
	v, err := strconv.ParseUint(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func service(o *corev1.Service) *store.Service {
	s := &store.Service{
		Namespace: store.Intern(o.Namespace), Name: o.Name, Version: version(o), ExternalName: o.Spec.ExternalName,
		Headless: o.Spec.ClusterIP == corev1.ClusterIPNone,
	}
	switch o.Spec.Type {
	case corev1.ServiceTypeNodePort:
		s.Type = store.NodePort
	case corev1.ServiceTypeLoadBalancer:
		s.Type = store.LoadBalancer
	case corev1.ServiceTypeExternalName:
		s.Type = store.ExternalName
	}
	ips := o.Spec.ClusterIPs
	if len(ips) == 0 && o.Spec.ClusterIP != "" {
		ips = []string{o.Spec.ClusterIP}
	}
	if !s.Headless {
		s.ClusterIPs = addresses(ips)
	}
	s.ExternalIPs = append(s.ExternalIPs, o.Spec.ExternalIPs...)
	for _, ingress := range o.Status.LoadBalancer.Ingress {
		s.ExternalIPs = append(s.ExternalIPs, cmp.Or(ingress.IP, ingress.Hostname))
	}
	for _, p := range o.Spec.Ports {
		s.Ports = append(s.Ports, store.Port{Name: store.Intern(p.Name), Protocol: store.Intern(string(p.Protocol)), Number: p.Port})
	}
	return s
}

func slice(o *discoveryv1.EndpointSlice) *store.EndpointSlice {
	meta := store.SliceMeta{
		Namespace: store.Intern(o.Namespace), Name: o.Name, Version: version(o),
		Service: o.Labels[discoveryv1.LabelServiceName],
		Import:  o.Labels[mcsv1alpha1.LabelServiceName], Cluster: store.Intern(o.Labels[mcsv1alpha1.LabelSourceCluster]),
	}
	switch o.AddressType {
	case discoveryv1.AddressTypeIPv6:
		meta.AddressType = store.IPv6
	case discoveryv1.AddressTypeFQDN:
		meta.AddressType = store.FQDN
	}
	for _, p := range o.Ports {
		port := store.Port{Number: -1}
		if p.Port != nil {
			port.Number = *p.Port
		}
		if p.Name != nil {
			port.Name = store.Intern(*p.Name)
		}
		if p.Protocol != nil {
			port.Protocol = store.Intern(string(*p.Protocol))
		}
		meta.Ports = append(meta.Ports, port)
	}
	var endpoints []store.Endpoint
	for i := range o.Endpoints {
		endpoints = appendEndpoints(endpoints, &o.Endpoints[i])
	}
	return store.NewEndpointSlice(meta, endpoints)
}

// appendEndpoints appends one endpoint for each address. An unknown condition defaults as the API says: ready is true,
// serving is as ready, terminating is false.
func appendEndpoints(to []store.Endpoint, o *discoveryv1.Endpoint) []store.Endpoint {
	value := func(p *bool, otherwise bool) bool {
		if p == nil {
			return otherwise
		}
		return *p
	}
	text := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	e := store.Endpoint{Hostname: text(o.Hostname), NodeName: text(o.NodeName), Zone: text(o.Zone)}
	e.Ready = value(o.Conditions.Ready, true)
	e.Serving = value(o.Conditions.Serving, e.Ready)
	e.Terminating = value(o.Conditions.Terminating, false)
	if o.TargetRef != nil {
		e.TargetName, e.TargetUID = o.TargetRef.Name, store.ParseUID(string(o.TargetRef.UID))
	}
	for _, address := range o.Addresses {
		e.Addr, e.Host = netip.Addr{}, ""
		if addr, err := netip.ParseAddr(address); err == nil && addr.String() == address {
			e.Addr = addr
		} else {
			e.Host = address
		}
		to = append(to, e)
	}
	return to
}

func serviceImport(o *mcsv1alpha1.ServiceImport) *store.ServiceImport {
	s := &store.ServiceImport{Namespace: store.Intern(o.Namespace), Name: o.Name, Version: version(o), IPs: addresses(o.Spec.IPs)}
	if o.Spec.Type == mcsv1alpha1.Headless {
		s.Type = store.HeadlessImport
	}
	for _, p := range o.Spec.Ports {
		s.Ports = append(s.Ports, store.Port{Name: store.Intern(p.Name), Protocol: store.Intern(string(p.Protocol)), Number: p.Port})
	}
	return s
}

func pod(o *corev1.Pod) store.Object {
	if o.DeletionTimestamp != nil || o.Status.Phase == corev1.PodSucceeded || o.Status.Phase == corev1.PodFailed {
		return nil
	}
	p := &store.Pod{Namespace: store.Intern(o.Namespace), Name: o.Name, Version: version(o)}
	for _, ip := range o.Status.PodIPs {
		p.IPs = append(p.IPs, addresses([]string{ip.IP})...)
	}
	for key, value := range o.Labels {
		p.Labels = append(p.Labels, store.Label{Key: store.Intern(key), Value: value})
	}
	slices.SortFunc(p.Labels, func(a, b store.Label) int { return cmp.Compare(a.Key, b.Key) })
	return p
}

// addresses parses what the API server has already checked; what is no address is left out.
func addresses(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			out = append(out, addr)
		}
	}
	return out
}
