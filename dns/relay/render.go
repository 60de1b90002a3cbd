package relay

import (
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	mcsv1alpha1 "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"

	"github.com/seakeep/seakeep/dns/store"
)

// resource is how a kind is called in the API.
type resource struct {
	group, version  string
	kind, singular  string
	namespaced, pb  bool
	shortNames      []string
	newList         func(metav1.ListMeta) runtime.Object
	empty           func() object
	selectableLabel map[string]func(store.Object) string
}

// object is what is served.
type object interface {
	runtime.Object
	metav1.Object
}

func (r *resource) typeMeta() metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: r.groupVersion(), Kind: r.kind}
}

func (r *resource) groupVersion() string {
	if r.group == "" {
		return r.version
	}
	return r.group + "/" + r.version
}

func (r *resource) path() string {
	if r.group == "" {
		return "/api/" + r.version
	}
	return "/apis/" + r.groupVersion()
}

// resources are the kinds. Labels that are not in selectableLabel are not in our data, and cannot be selected by.
var resources = [store.KindCount]resource{
	store.Namespaces: {
		version: "v1", kind: "Namespace", singular: "namespace", pb: true, shortNames: []string{"ns"},
		newList: func(m metav1.ListMeta) runtime.Object { return &corev1.NamespaceList{ListMeta: m} },
		empty:   func() object { return &corev1.Namespace{} },
		selectableLabel: map[string]func(store.Object) string{
			corev1.LabelMetadataName: func(o store.Object) string { return o.Key().Name },
		},
	},
	store.Services: {
		version: "v1", kind: "Service", singular: "service", namespaced: true, pb: true, shortNames: []string{"svc"},
		newList: func(m metav1.ListMeta) runtime.Object { return &corev1.ServiceList{ListMeta: m} },
		empty:   func() object { return &corev1.Service{} },
	},
	store.EndpointSlices: {
		group: discoveryv1.GroupName, version: "v1", kind: "EndpointSlice", singular: "endpointslice", namespaced: true, pb: true,
		newList: func(m metav1.ListMeta) runtime.Object { return &discoveryv1.EndpointSliceList{ListMeta: m} },
		empty:   func() object { return &discoveryv1.EndpointSlice{} },
		selectableLabel: map[string]func(store.Object) string{
			discoveryv1.LabelServiceName:   func(o store.Object) string { return o.(*store.EndpointSlice).Service },
			mcsv1alpha1.LabelServiceName:   func(o store.Object) string { return o.(*store.EndpointSlice).Import },
			mcsv1alpha1.LabelSourceCluster: func(o store.Object) string { return o.(*store.EndpointSlice).Cluster },
		},
	},
	store.ServiceImports: {
		group: mcsv1alpha1.GroupVersion.Group, version: mcsv1alpha1.GroupVersion.Version, kind: "ServiceImport", singular: "serviceimport", namespaced: true,
		newList: func(m metav1.ListMeta) runtime.Object { return &mcsv1alpha1.ServiceImportList{ListMeta: m} },
		empty:   func() object { return &mcsv1alpha1.ServiceImport{} },
	},
	store.Pods: {
		version: "v1", kind: "Pod", singular: "pod", namespaced: true, pb: true, shortNames: []string{"po"},
		newList: func(m metav1.ListMeta) runtime.Object { return &corev1.PodList{ListMeta: m} },
		empty:   func() object { return &corev1.Pod{} },
	},
}

// render makes the API's form of an object. It has what DNS shows and no more: no labels but those above, no
// annotations, no UID but the one of the namespace kube-system, which is the cluster's identity.
func render(o store.Object, version uint64, cluster string) object {
	var out object
	switch o := o.(type) {
	case *store.Namespace:
		ns := &corev1.Namespace{Status: corev1.NamespaceStatus{Phase: corev1.NamespaceActive}}
		ns.Labels = map[string]string{corev1.LabelMetadataName: o.Name}
		if o.Name == metav1.NamespaceSystem {
			ns.UID = types.UID(cluster)
		}
		out = ns
	case *store.Service:
		out = renderService(o)
	case *store.EndpointSlice:
		out = renderSlice(o)
	case *store.ServiceImport:
		out = renderImport(o)
	case *store.Pod:
		out = renderPod(o)
	default:
		panic("BUG: an object of no kind")
	}
	key := o.Key()
	out.SetNamespace(key.Namespace)
	out.SetName(key.Name)
	out.SetResourceVersion(strconv.FormatUint(max(version, 1), 10))
	return out
}

func renderService(o *store.Service) *corev1.Service {
	s := &corev1.Service{}
	s.Spec.Type = [...]corev1.ServiceType{
		store.ClusterIP: corev1.ServiceTypeClusterIP, store.NodePort: corev1.ServiceTypeNodePort,
		store.LoadBalancer: corev1.ServiceTypeLoadBalancer, store.ExternalName: corev1.ServiceTypeExternalName,
	}[o.Type]
	s.Spec.ExternalName = o.ExternalName
	for _, ip := range o.ClusterIPs {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, ip.String())
	}
	if o.Headless {
		s.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
	}
	if len(s.Spec.ClusterIPs) > 0 {
		s.Spec.ClusterIP = s.Spec.ClusterIPs[0]
	}
	// What came from the load balancer is not told apart from spec.externalIPs; DNS shows both alike, in this order.
	// Host names are no external IPs, and need the other place.
	ips := true
	for _, text := range o.ExternalIPs {
		ips = ips && isAddress(text)
	}
	for _, text := range o.ExternalIPs {
		switch {
		case ips:
			s.Spec.ExternalIPs = append(s.Spec.ExternalIPs, text)
		case isAddress(text):
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: text})
		default:
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{Hostname: text})
		}
	}
	for _, p := range o.Ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: p.Name, Protocol: corev1.Protocol(p.Protocol), Port: p.Number})
	}
	return s
}

func renderSlice(o *store.EndpointSlice) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{}
	s.AddressType = [...]discoveryv1.AddressType{
		store.IPv4: discoveryv1.AddressTypeIPv4, store.IPv6: discoveryv1.AddressTypeIPv6, store.FQDN: discoveryv1.AddressTypeFQDN,
	}[o.AddressType]
	for key, of := range resources[store.EndpointSlices].selectableLabel {
		if value := of(o); value != "" {
			if s.Labels == nil {
				s.Labels = map[string]string{}
			}
			s.Labels[key] = value
		}
	}
	for _, p := range o.Ports {
		port := discoveryv1.EndpointPort{Name: &p.Name}
		if p.Protocol != "" {
			port.Protocol = (*corev1.Protocol)(&p.Protocol)
		}
		if p.Number >= 0 {
			port.Port = &p.Number
		}
		s.Ports = append(s.Ports, port)
	}
	text := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	s.Endpoints = make([]discoveryv1.Endpoint, 0, o.Total)
	for e := range o.Endpoints() {
		endpoint := discoveryv1.Endpoint{
			Addresses:  []string{e.Address()},
			Conditions: discoveryv1.EndpointConditions{Ready: &e.Ready, Serving: &e.Serving, Terminating: &e.Terminating},
			Hostname:   text(e.Hostname), NodeName: text(e.NodeName), Zone: text(e.Zone),
		}
		if e.TargetName != "" || e.TargetUID != (store.UID{}) {
			endpoint.TargetRef = &corev1.ObjectReference{Kind: "Pod", Namespace: o.Namespace, Name: e.TargetName, UID: types.UID(e.TargetUID.String())}
		}
		s.Endpoints = append(s.Endpoints, endpoint)
	}
	return s
}

func renderImport(o *store.ServiceImport) *mcsv1alpha1.ServiceImport {
	s := &mcsv1alpha1.ServiceImport{}
	s.Spec.Type = mcsv1alpha1.ClusterSetIP
	if o.Type == store.HeadlessImport {
		s.Spec.Type = mcsv1alpha1.Headless
	}
	for _, ip := range o.IPs {
		s.Spec.IPs = append(s.Spec.IPs, ip.String())
	}
	for _, p := range o.Ports {
		s.Spec.Ports = append(s.Spec.Ports, mcsv1alpha1.ServicePort{Name: p.Name, Protocol: corev1.Protocol(p.Protocol), Port: p.Number})
	}
	return s
}

func renderPod(o *store.Pod) *corev1.Pod {
	p := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	for _, ip := range o.IPs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: ip.String()})
	}
	if len(o.IPs) > 0 {
		p.Status.PodIP = p.Status.PodIPs[0].IP
	}
	for _, l := range o.Labels {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[l.Key] = l.Value
	}
	return p
}

func isAddress(text string) bool {
	_, err := netip.ParseAddr(text)
	return err == nil
}
