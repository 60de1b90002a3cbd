package store

import (
	"fmt"
	"net/netip"
	"strings"
	"unique"
)

// Kind is a kind of object.
type Kind uint8

// The kinds, in the order they are listed and written: namespaces first, because a namespace that is missing hides
// everything in it.
const (
	Namespaces Kind = iota
	Services
	EndpointSlices
	ServiceImports
	Pods
	// KindCount is how many kinds there are.
	KindCount = 5
)

var kindNames = [KindCount]string{"namespaces", "services", "endpointslices", "serviceimports", "pods"}

// String is the kind's resource name: "endpointslices".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind is the inverse of String.
func ParseKind(name string) (Kind, error) {
	for k, n := range kindNames {
		if n == name {
			return Kind(k), nil
		}
	}
	return 0, fmt.Errorf("no kind is named %q; there are %s", name, strings.Join(kindNames[:], ", "))
}

// Key names an object within its kind. Namespace is empty for namespaces.
type Key struct{ Namespace, Name string }

// String is namespace/name, or the name alone.
func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Object is one of *Namespace, *Service, *EndpointSlice, *ServiceImport and *Pod. An object must not be changed after
// it was handed to a store, nor after it was read from one.
type Object interface {
	Kind() Kind
	Key() Key
	// ResourceVersion is the API server's, as a number; 0 when the source has none. Kubernetes promises since 1.35
	// that versions of one resource are numbers that can be compared (KEP-5504).
	ResourceVersion() uint64
	// sameData is true when another object of the same kind and key says the same; the version is left out.
	sameData(Object) bool
}

// Namespace is a namespace that exists, whatever its phase.
type Namespace struct {
	Name    string
	Version uint64
}

// ServiceType is the type of a service; DNS tells only external names apart.
type ServiceType uint8

// The types of a service.
const (
	ClusterIP ServiceType = iota
	NodePort
	LoadBalancer
	ExternalName
)

// Port is a port of a service, a slice or an import. Number is -1 where the source has none.
type Port struct {
	Name     string
	Protocol string
	Number   int32
}

// Service is a service.
type Service struct {
	Namespace string
	Name      string
	Version   uint64
	Type      ServiceType
	// Headless is true for clusterIP None; ClusterIPs is then empty.
	Headless   bool
	ClusterIPs []netip.Addr
	// ExternalName is the target of an ExternalName service.
	ExternalName string
	// ExternalIPs are spec.externalIPs, then the load balancer's ingresses: an IP, else its host name.
	ExternalIPs []string
	Ports       []Port
}

// ImportType is the type of a ServiceImport.
type ImportType uint8

// The types of a ServiceImport.
const (
	ClusterSetIP ImportType = iota
	HeadlessImport
)

// ServiceImport is a service of the cluster set (KEP-1645).
type ServiceImport struct {
	Namespace string
	Name      string
	Version   uint64
	Type      ImportType
	IPs       []netip.Addr
	Ports     []Port
}

// Label is one label of a pod.
type Label struct{ Key, Value string }

// Pod is a pod that is neither finished nor terminating; kept only where pods are verified. Labels are what CoreDNS's
// metadata shows of a client; they are sorted by key.
type Pod struct {
	Namespace string
	Name      string
	Version   uint64
	IPs       []netip.Addr
	Labels    []Label
}

// Kind implements Object.
func (*Namespace) Kind() Kind { return Namespaces }

// Kind implements Object.
func (*Service) Kind() Kind { return Services }

// Kind implements Object.
func (*EndpointSlice) Kind() Kind { return EndpointSlices }

// Kind implements Object.
func (*ServiceImport) Kind() Kind { return ServiceImports }

// Kind implements Object.
func (*Pod) Kind() Kind { return Pods }

// Key implements Object.
func (o *Namespace) Key() Key { return Key{Name: o.Name} }

// Key implements Object.
func (o *Service) Key() Key { return Key{o.Namespace, o.Name} }

// Key implements Object.
func (o *EndpointSlice) Key() Key { return Key{o.Namespace, o.Name} }

// Key implements Object.
func (o *ServiceImport) Key() Key { return Key{o.Namespace, o.Name} }

// Key implements Object.
func (o *Pod) Key() Key { return Key{o.Namespace, o.Name} }

// ResourceVersion implements Object.
func (o *Namespace) ResourceVersion() uint64 { return o.Version }

// ResourceVersion implements Object.
func (o *Service) ResourceVersion() uint64 { return o.Version }

// ResourceVersion implements Object.
func (o *EndpointSlice) ResourceVersion() uint64 { return o.Version }

// ResourceVersion implements Object.
func (o *ServiceImport) ResourceVersion() uint64 { return o.Version }

// ResourceVersion implements Object.
func (o *Pod) ResourceVersion() uint64 { return o.Version }

// Intern returns the one copy of a string that many objects repeat: namespaces, port names, label keys. Sources use it
// when they convert.
func Intern(s string) string { return unique.Make(s).Value() }
