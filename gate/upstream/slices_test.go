package upstream

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/lab"
)

// TestServersOfAService reads a Service's slices from a real API server, with no more right than the documentation asks
// for. Their addresses are of nobody (RFC 5737; a slice may not have those of loopback): so they are found and not
// believed.
func TestServersOfAService(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	admin, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	check(t, err)
	https, port, no := "https", int32(6443), false
	for name, addresses := range map[string][]string{"apiservers-a": {"192.0.2.1", "192.0.2.2"}, "apiservers-b": {"192.0.2.3"}} {
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: "apiservers"}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &https, Port: &port}},
		}
		for _, address := range addresses {
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}})
		}
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{"192.0.2.99"}, Conditions: discoveryv1.EndpointConditions{Ready: &no}})
		_, err := admin.DiscoveryV1().EndpointSlices("default").Create(t.Context(), slice, metav1.CreateOptions{})
		check(t, err)
	}
	pair, err := tls.LoadX509KeyPair(l.PKI().FrontProxyCert, l.PKI().FrontProxyKey)
	check(t, err)
	k := NewKeeper(nil, slog.New(slog.DiscardHandler))
	g, err := k.Prepare([]Options{{
		Name: "api", URL: l.APIServerURL(0), CAFile: l.CAFile(), ProxyCertificate: &pair, ServerName: "localhost", DialTimeout: 200 * time.Millisecond,
		Discovery: &Discovery{Service: "default/apiservers", Refresh: time.Second},
	}})
	check(t, err)
	k.Use(g, identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{}), 10)
	defer k.Close()

	e := g.entries[0]
	if found, err := k.endpoints(t.Context(), g, &e.options); err == nil {
		t.Fatalf("without the right to read slices %v were found", found)
	}
	_, err = admin.RbacV1().Roles("default").Create(t.Context(), &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "seakeep-gate"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list"}}},
	}, metav1.CreateOptions{})
	check(t, err)
	_, err = admin.RbacV1().RoleBindings("default").Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "seakeep-gate"},
		Subjects:   []rbacv1.Subject{{Kind: "User", Name: ProbeUser, APIGroup: "rbac.authorization.k8s.io"}},
		RoleRef:    rbacv1.RoleRef{Kind: "Role", Name: "seakeep-gate", APIGroup: "rbac.authorization.k8s.io"},
	}, metav1.CreateOptions{})
	check(t, err)
	deadline := time.After(10 * time.Second)
	var found []string
	for found == nil {
		if found, err = k.endpoints(t.Context(), g, &e.options); err == nil {
			break
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	want := []string{"192.0.2.1:6443", "192.0.2.2:6443", "192.0.2.3:6443"}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	if err := k.look(t.Context(), g, e); !errors.Is(err, errNobodyThere) {
		t.Errorf("servers that nobody can reach: %v, want %v", err, errNobodyThere)
	}
	if servers := g.Servers(); len(servers) != 1 || "https://"+servers[0].url.Host != l.APIServerURL(0) {
		t.Errorf("the one that answers was given up for %d others", len(servers))
	}
}
