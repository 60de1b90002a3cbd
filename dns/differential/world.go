package differential

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// World is what the cluster holds: every shape of object that cluster DNS answers for.
type World struct {
	Namespaces []*corev1.Namespace
	Services   []*corev1.Service
	Slices     []*discoveryv1.EndpointSlice
	Pods       []*corev1.Pod
}

// NewWorld returns a world of the given number of namespaces, each with one service of every shape. External is a name
// outside the cluster that the servers can resolve.
func NewWorld(seed uint64, namespaces int, external string) *World {
	w := &World{}
	b := &builder{World: w, rand: rand.New(rand.NewPCG(seed, 1)), external: external, next: netip.MustParseAddr("10.100.0.10")}
	for i := range namespaces {
		b.namespace(i)
	}
	return w
}

type builder struct {
	*World
	rand     *rand.Rand
	external string
	ns       string
	next     netip.Addr // the next cluster address
	pod      int        // the next pod address
}

func (b *builder) namespace(i int) {
	b.ns = fmt.Sprintf("team-%d", i)
	labels := map[string]string{"tier": []string{"gold", "silver"}[i%2]}
	b.Namespaces = append(b.Namespaces, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: b.ns, Labels: labels}})

	http := corev1.ServicePort{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP}
	dnsUDP := corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}
	dnsTCP := corev1.ServicePort{Name: "dns-tcp", Port: 53, Protocol: corev1.ProtocolTCP}

	b.slices(b.clusterIP("web", http), 3, 2)
	b.slices(b.clusterIP("dns", dnsUDP, dnsTCP), 2, 1)
	b.slices(b.clusterIP("unnamed", corev1.ServicePort{Port: 8080, Protocol: corev1.ProtocolTCP}), 1, 1)
	b.clusterIP("no-endpoints", http)
	node := b.clusterIP("node", http)
	node.Spec.Type = corev1.ServiceTypeNodePort
	balanced := b.clusterIP("balanced", http, dnsUDP)
	balanced.Spec.Type = corev1.ServiceTypeLoadBalancer
	balanced.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", i+1)}
	balanced.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", i+1)}}
	dual := b.clusterIP("dual", http)
	both := corev1.IPFamilyPolicyRequireDualStack
	dual.Spec.IPFamilyPolicy = &both
	dual.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	dual.Spec.ClusterIPs = append(dual.Spec.ClusterIPs, fmt.Sprintf("fd00:10:96::%x", 0x100+i))
	udp := b.clusterIP("same-name", corev1.ServicePort{Name: "game", Port: 7, Protocol: corev1.ProtocolUDP},
		corev1.ServicePort{Name: "game-tcp", Port: 7, Protocol: corev1.ProtocolTCP})
	b.slices(udp, 4, 2)

	b.slices(b.headless("db", http, dnsUDP), 3, 1)
	b.slices(b.headless("many", http), 60, 3)
	b.slices(b.headless("no-ports"), 3, 1)
	b.headless("no-slices", http)
	b.notReady(b.headless("none-ready", http))
	b.hostnames(b.headless("stateful", http))
	b.slicesOf(b.headless("six", http), discoveryv1.AddressTypeIPv6, 3, 1)
	mixed := b.headless("mixed", http)
	b.slices(mixed, 2, 1)
	b.slicesOf(mixed, discoveryv1.AddressTypeIPv6, 2, 1)
	b.zoned(b.headless("zoned", http))

	b.externalName("outside", b.external)
	b.externalName("inside", "web."+b.ns+".svc.cluster.local")
	b.externalName("inside-headless", "db."+b.ns+".svc.cluster.local")
	b.externalName("chain", "inside."+b.ns+".svc.cluster.local")
	b.externalName("loop", "loop."+b.ns+".svc.cluster.local")
	b.externalName("missing", "nothing."+b.ns+".svc.cluster.local")
	b.externalName("address", "192.0.2.7")

	for _, phase := range []corev1.PodPhase{corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded} {
		b.Pods = append(b.Pods, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", len(b.Pods)), Namespace: b.ns},
			// Nobody schedules it, so that nobody else writes its status.
			Spec: corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "registry.example.com/web:1"}}},
			Status: corev1.PodStatus{Phase: phase, PodIPs: []corev1.PodIP{
				{IP: b.podAddress(false)}, {IP: b.podAddress(true)},
			}},
		})
	}
}

func (b *builder) service(name string, ports []corev1.ServicePort) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.ns, Labels: map[string]string{"app": name}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, Ports: ports},
	}
	b.Services = append(b.Services, s)
	return s
}

func (b *builder) clusterIP(name string, ports ...corev1.ServicePort) *corev1.Service {
	s := b.service(name, ports)
	s.Spec.ClusterIP = b.next.String()
	s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	b.next = b.next.Next()
	return s
}

func (b *builder) headless(name string, ports ...corev1.ServicePort) *corev1.Service {
	s := b.service(name, ports)
	s.Spec.ClusterIP = corev1.ClusterIPNone
	s.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
	return s
}

func (b *builder) externalName(name, target string) {
	s := b.service(name, nil)
	s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, target
}

func (b *builder) podAddress(six bool) string {
	b.pod++
	if six {
		return fmt.Sprintf("fd00:10:128::%x", 0x1000+b.pod)
	}
	return fmt.Sprintf("10.128.%d.%d", b.pod/200, b.pod%200+1)
}

func (b *builder) slices(s *corev1.Service, endpoints, slices int) {
	b.slicesOf(s, discoveryv1.AddressTypeIPv4, endpoints, slices)
}

// slicesOf spreads the service's endpoints over slices. One in seven is not ready.
func (b *builder) slicesOf(s *corev1.Service, family discoveryv1.AddressType, endpoints, slices int) {
	for i := range slices {
		slice := b.slice(s, family)
		for n := i; n < endpoints; n += slices {
			ready := b.rand.IntN(7) > 0
			slice.Endpoints = append(slice.Endpoints, b.endpoint(family, ready))
		}
	}
}

func (b *builder) slice(s *corev1.Service, family discoveryv1.AddressType) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%d", s.Name, len(b.Slices)), Namespace: s.Namespace,
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name, "app": s.Name},
		},
		AddressType: family,
	}
	for _, port := range s.Spec.Ports {
		target := port.Port + 8000
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: new(port.Name), Port: &target, Protocol: new(port.Protocol)})
	}
	b.Slices = append(b.Slices, slice)
	return slice
}

func (b *builder) endpoint(family discoveryv1.AddressType, ready bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{
		Addresses:  []string{b.podAddress(family == discoveryv1.AddressTypeIPv6)},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: b.ns, Name: fmt.Sprintf("web-%d", b.pod)},
	}
}

func (b *builder) notReady(s *corev1.Service) {
	slice := b.slice(s, discoveryv1.AddressTypeIPv4)
	for range 3 {
		slice.Endpoints = append(slice.Endpoints, b.endpoint(discoveryv1.AddressTypeIPv4, false))
	}
}

// hostnames makes a StatefulSet's endpoints. One name has two addresses, and one endpoint's readiness is unknown, which
// counts as ready.
func (b *builder) hostnames(s *corev1.Service) {
	slice := b.slice(s, discoveryv1.AddressTypeIPv4)
	for i := range 4 {
		e := b.endpoint(discoveryv1.AddressTypeIPv4, true)
		e.Hostname = new(fmt.Sprintf("stateful-%d", min(i, 2)))
		if i == 1 {
			e.Conditions.Ready = nil
		}
		slice.Endpoints = append(slice.Endpoints, e)
	}
}

func (b *builder) zoned(s *corev1.Service) {
	slice := b.slice(s, discoveryv1.AddressTypeIPv4)
	for i := range 3 {
		e := b.endpoint(discoveryv1.AddressTypeIPv4, true)
		e.Zone = new(fmt.Sprintf("zone-%d", i%2))
		slice.Endpoints = append(slice.Endpoints, e)
	}
}

// Apply creates the world's objects. It may be repeated.
func (w *World) Apply(ctx context.Context, client kubernetes.Interface) error {
	for _, ns := range w.Namespaces {
		if _, err := client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); ignoreExists(err) != nil {
			return fmt.Errorf("creating namespace %s: %w", ns.Name, err)
		}
	}
	for _, s := range w.Services {
		// Asked for first, because creating it again would complain of its address, which it has.
		if _, err := client.CoreV1().Services(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{}); err == nil {
			continue
		}
		made, err := client.CoreV1().Services(s.Namespace).Create(ctx, s, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("creating service %s/%s: %w", s.Namespace, s.Name, err)
		}
		if len(s.Status.LoadBalancer.Ingress) > 0 {
			made.Status = s.Status
			if _, err := client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
				return fmt.Errorf("giving service %s/%s its address: %w", s.Namespace, s.Name, err)
			}
		}
	}
	for _, slice := range w.Slices {
		if _, err := client.DiscoveryV1().EndpointSlices(slice.Namespace).Create(ctx, slice, metav1.CreateOptions{}); ignoreExists(err) != nil {
			return fmt.Errorf("creating endpoint slice %s/%s: %w", slice.Namespace, slice.Name, err)
		}
	}
	return w.applyPods(ctx, client)
}

// applyPods waits for each namespace's account, without which no pod is admitted.
func (w *World) applyPods(ctx context.Context, client kubernetes.Interface) error {
	for _, ns := range w.Namespaces {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: ns.Name}}
		if _, err := client.CoreV1().ServiceAccounts(ns.Name).Create(ctx, account, metav1.CreateOptions{}); ignoreExists(err) != nil {
			return fmt.Errorf("creating the account of namespace %s: %w", ns.Name, err)
		}
	}
	for _, pod := range w.Pods {
		made, err := client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("creating pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		made.Status = pod.Status
		made.Status.PodIP = pod.Status.PodIPs[0].IP
		if _, err := client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("giving pod %s/%s its address: %w", pod.Namespace, pod.Name, err)
		}
	}
	return nil
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// hosts are the first labels that exist below each service: addresses with dashes, host names, names of pods.
func (w *World) hosts() map[string][]string {
	hosts := map[string][]string{}
	for _, slice := range w.Slices {
		key := slice.Labels[discoveryv1.LabelServiceName] + "." + slice.Namespace
		for _, e := range slice.Endpoints {
			for _, address := range e.Addresses {
				hosts[key] = append(hosts[key], strings.NewReplacer(".", "-", ":", "-").Replace(address))
			}
			if e.Hostname != nil {
				hosts[key] = append(hosts[key], *e.Hostname)
			}
			if e.TargetRef != nil {
				hosts[key] = append(hosts[key], e.TargetRef.Name)
			}
		}
	}
	return hosts
}
