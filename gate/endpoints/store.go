package endpoints

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"
	coreclient "k8s.io/client-go/kubernetes/typed/core/v1"
	discoveryclient "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
)

const (
	service   = "kubernetes"
	inDefault = metav1.NamespaceDefault
	portName  = "https"
	skip      = "endpointslice.kubernetes.io/skip-mirror" // the controller that mirrors Endpoints leaves them alone
)

// patience is how long one request may take: an API server that is slow is not gone.
const patience = 10 * time.Second

// Store is the part of the API that is needed here.
type Store struct {
	leases   coordinationclient.LeaseInterface
	slices   discoveryclient.EndpointSliceInterface
	services coreclient.ServiceInterface
	// Endpoints are what the API server's own reconciler keeps too, and older clients read.
	endpoints coreclient.EndpointsInterface
	dryRun    []string
}

// NewStore speaks over the client, which carries the identity. With dryRun the API server checks everything and changes
// nothing.
func NewStore(config *rest.Config, client *http.Client, dryRun bool) (*Store, error) {
	c := rest.CopyConfig(config)
	c.QPS, c.UserAgent = -1, "seakeep-endpoints"
	c.WarningHandler = rest.NoWarnings{}
	leases, err := coordinationclient.NewForConfigAndClient(c, client)
	if err != nil {
		return nil, err
	}
	discovery, err := discoveryclient.NewForConfigAndClient(c, client)
	if err != nil {
		return nil, err
	}
	core, err := coreclient.NewForConfigAndClient(c, client)
	if err != nil {
		return nil, err
	}
	s := &Store{leases: leases.Leases(Namespace), slices: discovery.EndpointSlices(inDefault),
		services: core.Services(inDefault), endpoints: core.Endpoints(inDefault)}
	if dryRun {
		s.dryRun = []string{metav1.DryRunAll}
	}
	return s, nil
}

// Gates reads all Leases.
func (s *Store) Gates(ctx context.Context) ([]Gate, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	list, err := s.leases.List(ctx, metav1.ListOptions{LabelSelector: LabelGate + "=true", Limit: 500})
	if err != nil {
		return nil, fmt.Errorf("listing the gates' leases: %w", err)
	}
	var gates []Gate
	for i := range list.Items {
		if g, ok := gateOf(&list.Items[i]); ok {
			gates = append(gates, g)
		}
	}
	return gates, nil
}

// ClusterIPs are the Service's.
func (s *Store) ClusterIPs(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	svc, err := s.services.Get(ctx, service, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the service %s/%s: %w", inDefault, service, err)
	}
	if len(svc.Spec.ClusterIPs) > 0 {
		return svc.Spec.ClusterIPs, nil
	}
	return []string{svc.Spec.ClusterIP}, nil
}

// ErrHeld says that another process with the gate's name renews its Lease.
var ErrHeld = errors.New("another gate of this name holds the lease")

// Renew renews a gate's Lease, or takes it when whoever held it has been silent for its time, which the caller knows from
// its sightings.
func (s *Store) Renew(ctx context.Context, g Gate, mayTake bool) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	now := metav1.NewMicroTime(g.Renewed)
	seconds := int32(g.Lifetime / time.Second)
	lease, err := s.leases.Get(ctx, LeasePrefix+g.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = s.leases.Create(ctx, &coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: LeasePrefix + g.Name, Labels: map[string]string{LabelGate: "true"}, Annotations: map[string]string{AnnotationWhere: g.Address.String()}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &g.Holder, LeaseDurationSeconds: &seconds, AcquireTime: &now, RenewTime: &now},
		}, metav1.CreateOptions{DryRun: s.dryRun})
		return wrap("making the lease", err)
	}
	if err != nil {
		return fmt.Errorf("reading the lease: %w", err)
	}
	holder := ""
	if lease.Spec.HolderIdentity != nil {
		holder = *lease.Spec.HolderIdentity
	}
	if holder != g.Holder {
		if holder != "" && !mayTake {
			return ErrHeld
		}
		lease.Spec.AcquireTime = &now
	}
	if lease.Labels == nil {
		lease.Labels = map[string]string{}
	}
	if lease.Annotations == nil {
		lease.Annotations = map[string]string{}
	}
	lease.Labels[LabelGate], lease.Annotations[AnnotationWhere] = "true", g.Address.String()
	lease.Spec.HolderIdentity, lease.Spec.LeaseDurationSeconds, lease.Spec.RenewTime = &g.Holder, &seconds, &now
	_, err = s.leases.Update(ctx, lease, metav1.UpdateOptions{DryRun: s.dryRun}) // fails if somebody else was faster
	return wrap("renewing the lease", err)
}

// Release gives a gate's Lease up: the gate stops.
func (s *Store) Release(ctx context.Context, g Gate) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	lease, err := s.leases.Get(ctx, LeasePrefix+g.Name, metav1.GetOptions{})
	if err != nil {
		return wrap("reading the lease", err)
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != g.Holder {
		return nil
	}
	nobody, now := "", metav1.NewMicroTime(g.Renewed)
	lease.Spec.HolderIdentity, lease.Spec.RenewTime = &nobody, &now
	_, err = s.leases.Update(ctx, lease, metav1.UpdateOptions{DryRun: s.dryRun})
	return wrap("giving the lease up", err)
}

func wrap(doing string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return nil
}

var errEmpty = errors.New("BUG: no address to keep the service to")

// Keep makes the Service's EndpointSlice and Endpoints what b says, and says whether something had to be changed. It never
// writes an empty list. What somebody else changes meanwhile makes it fail; the next look decides anew.
func (s *Store) Keep(ctx context.Context, b Backends, by string) (changed bool, err error) {
	if len(b.Addresses) == 0 {
		return false, errEmpty
	}
	first, err := s.keepSlice(ctx, b, by)
	if err != nil {
		return first, fmt.Errorf("keeping the endpoint slice of %s/%s: %w", inDefault, service, err)
	}
	second, err := s.keepEndpoints(ctx, b, by)
	if err != nil {
		return first || second, fmt.Errorf("keeping the endpoints of %s/%s: %w", inDefault, service, err)
	}
	return first || second, nil
}

func (s *Store) keepSlice(ctx context.Context, b Backends, by string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	slice, err := s.slices.Get(ctx, service, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, err
	}
	missing := err != nil
	if missing {
		slice = &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Name: service}}
	}
	want := slice.DeepCopy()
	want.AddressType = discoveryv1.AddressTypeIPv4
	if !b.Addresses[0].Is4() {
		want.AddressType = discoveryv1.AddressTypeIPv6
	}
	if !missing && want.AddressType != slice.AddressType {
		return false, fmt.Errorf("it is of type %s, which cannot be changed: delete it once, with gates and API servers in one address family", slice.AddressType)
	}
	mark(&want.ObjectMeta, discoveryv1.LabelServiceName, service, by)
	ready, port, protocol, name := true, int32(b.Port), corev1.ProtocolTCP, portName
	want.Ports = []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &protocol}}
	if !sameEndpoints(slice, b) {
		want.Endpoints = nil
		for _, a := range b.strings() {
			want.Endpoints = append(want.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}})
		}
	}
	switch {
	case missing:
		_, err = s.slices.Create(ctx, want, metav1.CreateOptions{DryRun: s.dryRun})
	case sameEndpoints(slice, b) && samePort(slice.Ports, b) && marked(&slice.ObjectMeta, discoveryv1.LabelServiceName, service, by):
		return false, nil
	default:
		_, err = s.slices.Update(ctx, want, metav1.UpdateOptions{DryRun: s.dryRun})
	}
	return err == nil, err
}

func sameEndpoints(slice *discoveryv1.EndpointSlice, b Backends) bool {
	var there []string
	for _, e := range slice.Endpoints {
		if len(e.Addresses) != 1 || e.Conditions.Ready != nil && !*e.Conditions.Ready {
			return false
		}
		there = append(there, e.Addresses[0])
	}
	slices.Sort(there)
	want := b.strings()
	slices.Sort(want)
	return slices.Equal(there, want)
}

func samePort(ports []discoveryv1.EndpointPort, b Backends) bool {
	return len(ports) == 1 && ports[0].Name != nil && *ports[0].Name == portName && ports[0].Port != nil && *ports[0].Port == int32(b.Port)
}

func mark(m *metav1.ObjectMeta, label, value, by string) {
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	if m.Annotations == nil {
		m.Annotations = map[string]string{}
	}
	m.Labels[label], m.Annotations[AnnotationBy] = value, by
}

func marked(m *metav1.ObjectMeta, label, value, by string) bool {
	return m.Labels[label] == value && m.Annotations[AnnotationBy] == by
}

func (s *Store) keepEndpoints(ctx context.Context, b Backends, by string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	there, err := s.endpoints.Get(ctx, service, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, err
	}
	missing := err != nil
	if missing {
		//lint:ignore SA1019 the API server's own reconciler keeps this object too, and older clients read it
		there = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: service}}
	}
	var have []string
	port := false
	if len(there.Subsets) == 1 && len(there.Subsets[0].NotReadyAddresses) == 0 {
		for _, a := range there.Subsets[0].Addresses {
			have = append(have, a.IP)
		}
		p := there.Subsets[0].Ports
		port = len(p) == 1 && p[0].Name == portName && p[0].Port == int32(b.Port)
	}
	slices.Sort(have)
	want := b.strings()
	slices.Sort(want)
	if !missing && port && slices.Equal(have, want) && marked(&there.ObjectMeta, skip, "true", by) {
		return false, nil
	}
	next := there.DeepCopy()
	mark(&next.ObjectMeta, skip, "true", by)
	//lint:ignore SA1019 the API server's own reconciler keeps this object too, and older clients read it
	subset := corev1.EndpointSubset{Ports: []corev1.EndpointPort{{Name: portName, Port: int32(b.Port), Protocol: corev1.ProtocolTCP}}}
	for _, a := range b.strings() {
		subset.Addresses = append(subset.Addresses, corev1.EndpointAddress{IP: a})
	}
	//lint:ignore SA1019 the API server's own reconciler keeps this object too, and older clients read it
	next.Subsets = []corev1.EndpointSubset{subset}
	if missing {
		_, err = s.endpoints.Create(ctx, next, metav1.CreateOptions{DryRun: s.dryRun})
	} else {
		_, err = s.endpoints.Update(ctx, next, metav1.UpdateOptions{DryRun: s.dryRun})
	}
	return err == nil, err
}
