package plugin

import (
	"context"
	"errors"
	"net/netip"
	"strings"

	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/coredns/coredns/plugin/kubernetes/object"
	corev1 "k8s.io/api/core/v1"
	mcs "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

// conn is what the kubernetes plugin takes for its informers: one View of our data, for one query. Its methods are those
// of the plugin's unexported interface dnsController, which any type may satisfy. The plugin's types are made when they
// are asked for, and are never kept: they change with its releases (Pod.PodIP became PodIPs in 1.15).
type conn struct {
	view   *store.View
	data   keeper.Data
	status keeper.Status
	// zonal and noEndpoints are the plugin's options of these names.
	zonal       bool
	noEndpoints bool
	// held is set when an endpoint was handed out that only the guard keeps.
	held bool
}

// ServiceList returns every service.
func (c *conn) ServiceList() []*object.Service {
	var out []*object.Service
	for s := range c.view.Services() {
		out = append(out, service(s))
	}
	return out
}

// EndpointsList returns every endpoint slice.
func (c *conn) EndpointsList() []*object.Endpoints {
	var out []*object.Endpoints
	if c.noEndpoints {
		return nil
	}
	for s := range c.view.EndpointSlices() {
		out = append(out, c.endpoints(s))
	}
	return out
}

// ServiceImportList returns every service import.
func (c *conn) ServiceImportList() []*object.ServiceImport {
	var out []*object.ServiceImport
	for s := range c.view.ServiceImports() {
		out = append(out, serviceImport(s))
	}
	return out
}

// SvcIndex returns the service of a key name.namespace.
func (c *conn) SvcIndex(key string) []*object.Service {
	name, namespace := splitKey(key)
	if s := c.view.Service(namespace, name); s != nil {
		return []*object.Service{service(s)}
	}
	return nil
}

// SvcIndexReverse returns the services with a cluster IP.
func (c *conn) SvcIndexReverse(ip string) []*object.Service {
	var out []*object.Service
	if addr, ok := canonical(ip); ok {
		for s := range c.view.ServicesByClusterIP(addr) {
			out = append(out, service(s))
		}
	}
	return out
}

// SvcExtIndexReverse returns the services with an external IP.
func (c *conn) SvcExtIndexReverse(ip string) []*object.Service {
	var out []*object.Service
	for s := range c.view.ServicesByExternalIP(ip) {
		out = append(out, service(s))
	}
	return out
}

// SvcImportIndex returns the service import of a key name.namespace.
func (c *conn) SvcImportIndex(key string) []*object.ServiceImport {
	name, namespace := splitKey(key)
	if s := c.view.ServiceImport(namespace, name); s != nil {
		return []*object.ServiceImport{serviceImport(s)}
	}
	return nil
}

// PodIndex returns the pods with an IP.
func (c *conn) PodIndex(ip string) []*object.Pod {
	var out []*object.Pod
	if addr, ok := canonical(ip); ok {
		for p := range c.view.PodsByIP(addr) {
			out = append(out, pod(p))
		}
	}
	return out
}

// EpIndex returns the endpoint slices of a service's key name.namespace.
func (c *conn) EpIndex(key string) []*object.Endpoints {
	if c.noEndpoints {
		return nil
	}
	var out []*object.Endpoints
	name, namespace := splitKey(key)
	for s := range c.view.SlicesOf(namespace, name) {
		out = append(out, c.endpoints(s))
	}
	return out
}

// EpIndexReverse returns the endpoint slices in which an IP is ready.
func (c *conn) EpIndexReverse(ip string) []*object.Endpoints {
	addr, ok := canonical(ip)
	if !ok || c.noEndpoints {
		return nil
	}
	var out []*object.Endpoints
	for s := range c.view.SlicesByAddr(addr) {
		out = append(out, c.endpoints(s))
	}
	return out
}

// McEpIndex returns the endpoint slices of a service import's key name.namespace.
func (c *conn) McEpIndex(key string) []*object.MultiClusterEndpoints {
	var out []*object.MultiClusterEndpoints
	name, namespace := splitKey(key)
	for s := range c.view.SlicesOfImport(namespace, name) {
		e := &object.MultiClusterEndpoints{Endpoints: *c.endpoints(s), ClusterId: s.Cluster}
		e.Index = object.MultiClusterEndpointsKey(s.Import, s.Namespace)
		out = append(out, e)
	}
	return out
}

var (
	errNoNode      = errors.New("nodes are not read")
	errNoNamespace = errors.New("namespace not found")
)

// GetNodeByName always fails: nothing in CoreDNS asks for nodes since federation was removed.
func (c *conn) GetNodeByName(context.Context, string) (*corev1.Node, error) { return nil, errNoNode }

// GetNamespaceByName returns a namespace, or an error.
func (c *conn) GetNamespaceByName(name string) (*object.Namespace, error) {
	if n := c.view.Namespace(name); n != nil {
		return &object.Namespace{Name: n.Name}, nil
	}
	return nil, errNoNamespace
}

// Run and Stop do nothing: the keeper runs elsewhere.
func (c *conn) Run() {}

// Stop does nothing.
func (c *conn) Stop() error { return nil }

// HasSynced is true with complete data from any source.
func (c *conn) HasSynced() bool { return c.status.Ready() }

// Modified is when a zone's records last changed, in Unix seconds.
func (c *conn) Modified(mode kubernetes.ModifiedMode) int64 {
	switch mode {
	case kubernetes.ModifiedInternal:
		return c.data.Store().Modified(store.Internal)
	case kubernetes.ModifiedExternal:
		return c.data.Store().Modified(store.External)
	case kubernetes.ModifiedMultiCluster:
		return c.data.Store().Modified(store.ClusterSet)
	}
	return -1
}

// splitKey is the inverse of object.ServiceKey; a namespace has no dot.
func splitKey(key string) (name, namespace string) {
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return key[:i], key[i+1:]
	}
	return key, ""
}

// canonical parses an IP. The kubernetes plugin compares addresses as text, so only the text that the API server would
// write finds anything.
func canonical(ip string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(ip)
	return addr, err == nil && addr.String() == ip
}

func service(s *store.Service) *object.Service {
	o := &object.Service{
		Name: s.Name, Namespace: s.Namespace, Index: object.ServiceKey(s.Name, s.Namespace),
		ClusterIPs: addresses(s.ClusterIPs), ExternalName: s.ExternalName, ExternalIPs: s.ExternalIPs,
	}
	switch s.Type {
	case store.NodePort:
		o.Type = corev1.ServiceTypeNodePort
	case store.LoadBalancer:
		o.Type = corev1.ServiceTypeLoadBalancer
	case store.ExternalName:
		o.Type = corev1.ServiceTypeExternalName
	default:
		o.Type = corev1.ServiceTypeClusterIP
	}
	switch {
	case s.Headless:
		o.ClusterIPs = []string{corev1.ClusterIPNone}
	case len(o.ClusterIPs) == 0:
		o.ClusterIPs = []string{""} // the plugin reads the first without looking
	}
	if len(s.Ports) == 0 {
		o.Ports = []corev1.ServicePort{{Port: -1}} // the plugin's mark of a service without ports
	}
	for _, p := range s.Ports {
		o.Ports = append(o.Ports, corev1.ServicePort{Name: p.Name, Protocol: corev1.Protocol(p.Protocol), Port: p.Number})
	}
	return o
}

// endpoints is the slice with its ready endpoints, as the plugin keeps it.
func (c *conn) endpoints(s *store.EndpointSlice) *object.Endpoints {
	o := &object.Endpoints{
		Name: s.Name, Namespace: s.Namespace, Index: object.EndpointsKey(s.Service, s.Namespace), Subsets: make([]object.EndpointSubset, 1),
	}
	subset := &o.Subsets[0]
	if len(s.Ports) == 0 {
		subset.Ports = []object.EndpointPort{{Port: -1}}
	}
	for _, p := range s.Ports {
		subset.Ports = append(subset.Ports, object.EndpointPort{Port: p.Number, Name: p.Name, Protocol: p.Protocol})
	}
	for e := range s.Endpoints() {
		if !e.Ready {
			continue
		}
		c.held = c.held || e.Held
		address := object.EndpointAddress{IP: e.Address(), Hostname: e.Hostname, NodeName: e.NodeName}
		if len(e.TargetName) < 64 { // longer than a label can be
			address.TargetRefName = e.TargetName
		}
		if c.zonal && e.Zone != "" {
			if o.Zones == nil {
				o.Zones = map[string]string{}
			}
			o.Zones[address.IP] = strings.ToLower(e.Zone)
		}
		subset.Addresses = append(subset.Addresses, address)
	}
	return o
}

func serviceImport(s *store.ServiceImport) *object.ServiceImport {
	o := &object.ServiceImport{
		Name: s.Name, Namespace: s.Namespace, Index: object.ServiceImportKey(s.Name, s.Namespace), ClusterIPs: addresses(s.IPs), Type: mcs.ClusterSetIP,
	}
	if s.Type == store.HeadlessImport {
		o.Type = mcs.Headless
	}
	for _, p := range s.Ports {
		o.Ports = append(o.Ports, mcs.ServicePort{Name: p.Name, Protocol: corev1.Protocol(p.Protocol), Port: p.Number})
	}
	return o
}

func pod(p *store.Pod) *object.Pod {
	o := &object.Pod{Name: p.Name, Namespace: p.Namespace, PodIPs: addresses(p.IPs), Labels: make(map[string]string, len(p.Labels))}
	for _, l := range p.Labels {
		o.Labels[l.Key] = l.Value
	}
	return o
}

func addresses(addrs []netip.Addr) []string {
	out := make([]string, len(addrs))
	for i, a := range addrs {
		out[i] = a.String()
	}
	return out
}
