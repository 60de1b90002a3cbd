package source

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	multicluster "sigs.k8s.io/mcs-api/pkg/apis/v1alpha1"

	"github.com/seakeep/seakeep/dns/store"
)

func TestConvert(t *testing.T) {
	now := metav1.Now()
	v4, v6 := netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00::1")
	for name, test := range map[string]struct {
		from runtime.Object
		want store.Object
	}{
		"a namespace": {
			from: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "a", ResourceVersion: "7"}},
			want: &store.Namespace{Name: "a", Version: 7},
		},
		"a dual-stack service": {
			from: &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", ResourceVersion: "8"},
				Spec: corev1.ServiceSpec{
					Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.1", ClusterIPs: []string{"10.96.0.1", "fd00::1"}, ExternalIPs: []string{"192.0.2.1"},
					Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
				},
				Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.2", Hostname: "ignored"}, {Hostname: "lb.example.com"}}}},
			},
			want: &store.Service{
				Namespace: "a", Name: "b", Version: 8, Type: store.LoadBalancer, ClusterIPs: []netip.Addr{v4, v6},
				ExternalIPs: []string{"192.0.2.1", "192.0.2.2", "lb.example.com"}, Ports: []store.Port{{Name: "http", Protocol: "TCP", Number: 80}},
			},
		},
		"a headless service": {
			from: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}, Spec: corev1.ServiceSpec{ClusterIP: "None"}},
			want: &store.Service{Namespace: "a", Name: "b", Headless: true},
		},
		"an external name": {
			from: &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b"}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.com"}},
			want: &store.Service{Namespace: "a", Name: "b", Type: store.ExternalName, ExternalName: "example.com"},
		},
		"a service import": {
			from: &multicluster.ServiceImport{
				ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", ResourceVersion: "9"},
				Spec:       multicluster.ServiceImportSpec{Type: multicluster.Headless, IPs: []string{"fd00::1"}, Ports: []multicluster.ServicePort{{Name: "x", Protocol: corev1.ProtocolUDP, Port: 53}}},
			},
			want: &store.ServiceImport{Namespace: "a", Name: "b", Version: 9, Type: store.HeadlessImport, IPs: []netip.Addr{v6}, Ports: []store.Port{{Name: "x", Protocol: "UDP", Number: 53}}},
		},
		"a pod": {
			from: &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", Labels: map[string]string{"z": "1", "a": "2"}},
				Status:     corev1.PodStatus{PodIPs: []corev1.PodIP{{IP: "10.96.0.1"}}},
			},
			want: &store.Pod{Namespace: "a", Name: "b", IPs: []netip.Addr{v4}, Labels: []store.Label{{Key: "a", Value: "2"}, {Key: "z", Value: "1"}}},
		},
		"a pod that terminates": {
			from: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "b", DeletionTimestamp: &now}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := convert(test.from)
			if diff := cmp.Diff(test.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if got := convert(&corev1.Node{}); got != nil {
		t.Errorf("a node was converted to %v", got)
	}
}

func TestConvertEndpointSlice(t *testing.T) {
	uid := "5f2a9a7e-4a43-4a1d-8d0f-0f6b0c2f9d11"
	got := convert(&discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "a", Name: "web-x2z", ResourceVersion: "11",
			Labels: map[string]string{discoveryv1.LabelServiceName: "web", multicluster.LabelServiceName: "web", multicluster.LabelSourceCluster: "west"},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To[int32](80)}, {}},
		Endpoints: []discoveryv1.Endpoint{
			{Addresses: []string{"10.0.0.1", "10.0.0.2"}, Hostname: ptr.To("h"), NodeName: ptr.To("n"), Zone: ptr.To("Z"), TargetRef: &corev1.ObjectReference{Name: "p", UID: "5f2a9a7e-4a43-4a1d-8d0f-0f6b0c2f9d11"}},
			{Addresses: []string{"10.0.0.3"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}},
			{Addresses: []string{"not an address"}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}},
		},
	})
	s := got.(*store.EndpointSlice)
	wantMeta := store.SliceMeta{
		Namespace: "a", Name: "web-x2z", Service: "web", Import: "web", Cluster: "west", Version: 11,
		Ports: []store.Port{{Name: "http", Protocol: "TCP", Number: 80}, {Number: -1}},
	}
	if diff := cmp.Diff(wantMeta, s.SliceMeta); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	want := []store.Endpoint{
		{Addr: netip.MustParseAddr("10.0.0.1"), Ready: true, Serving: true, Hostname: "h", NodeName: "n", Zone: "Z", TargetName: "p", TargetUID: store.ParseUID(uid)},
		{Addr: netip.MustParseAddr("10.0.0.2"), Ready: true, Serving: true, Hostname: "h", NodeName: "n", Zone: "Z", TargetName: "p", TargetUID: store.ParseUID(uid)},
		{Addr: netip.MustParseAddr("10.0.0.3"), Serving: true, Terminating: true},
		{Host: "not an address"},
	}
	if diff := cmp.Diff(want, slices.Collect(s.Endpoints()), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.Ready != 2 || s.Total != 4 {
		t.Errorf("%d of %d endpoints are ready, want 2 of 4", s.Ready, s.Total)
	}
}
