package plugin

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/dns/differential"
)

// everyKind is a Corefile that needs every kind of object; options is what stands in the stanza about sources.
func everyKind(options string) string {
	return `.:{{.Port}} {
    bind 127.0.0.1
    errors
    {{.Plugin}} cluster.local clusterset.local in-addr.arpa ip6.arpa {
        pods verified
        multicluster clusterset.local
        fallthrough in-addr.arpa ip6.arpa
        ttl 10
        ` + options + `
    }
    loadbalance
    transfer clusterset.local {
        to *
    }
    forward . {{.Upstream}}
}
`
}

// Pods and ServiceImports, too, are through a relay what they are from the API server: to stock CoreDNS with the relay as its
// endpoint, to ours, and to ours that has a peer; at first, and after they changed.
func TestEveryKindThroughARelayIsStocks(t *testing.T) {
	r := newRig(t, true)
	multicluster(t, r)
	cert, key, ca := relayPapers(t)
	direct := r.serve(t, "kubernetes", everyKind("kubeconfig {{.Kubeconfig}} lab"))
	relay := r.serve(t, "seakeep", everyKind(fmt.Sprintf(`kubeconfig {{.Kubeconfig}} lab
        relay 127.0.0.1:{{index .Ports 1}} {
            tls %s %s %s
            allow dns-node
        }`, cert, key, ca)))
	url := fmt.Sprintf("https://127.0.0.1:%d", relay.ports[1])
	clients := map[string]*server{}
	for name, tc := range map[string]struct{ plugin, options string }{
		"stock": {"kubernetes", fmt.Sprintf("endpoint %s\n        tls %s %s %s", url, cert, key, ca)},
		"ours":  {"seakeep", fmt.Sprintf("source relay %s {\n tls %s %s %s\n }", url, cert, key, ca)},
		"peer":  {"seakeep", fmt.Sprintf("source peer %s {\n tls %s %s %s\n }", url, cert, key, ca)},
	} {
		clients[name] = r.serve(t, tc.plugin, everyKind(tc.options))
	}
	imports := questions(multiclusterNames, dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeSOA, dns.TypeNS)
	pods := questions(podNames(r.world.Pods), dns.TypeA, dns.TypeAAAA)
	for name, s := range clients {
		t.Run(name, func(t *testing.T) {
			eventually(t, "data", func() bool { return s.ask(t, aClusterIP, dns.TypeA).Rcode == dns.RcodeSuccess })
			same(t, direct, s, slices.Concat(imports, imports), 20)
			same(t, direct, s, slices.Concat(pods, pods), len(r.world.Pods))
			compare(t, r, direct, s, 1000, 31)
			sameZone(t, direct, s, "clusterset.local.")
		})
	}

	// One pod comes, one ends; one import goes, and one gets another address.
	const later = "10-9-9-9.team-0.pod.cluster.local."
	ends := podNames(r.world.Pods[:1])[0]
	r.makePod(t, "later", "10.9.9.9")
	if err := r.client.CoreV1().Pods(r.world.Pods[0].Namespace).Delete(t.Context(), r.world.Pods[0].Name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
	const path = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/team-0/serviceimports/"
	rest := r.client.Discovery().RESTClient()
	if err := rest.Delete().AbsPath(path + "spread").Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	if err := rest.Patch("application/merge-patch+json").AbsPath(path + "shared").Body([]byte(`{"spec":{"ips":["10.42.42.43"]}}`)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	changed := func(t *testing.T, s *server) {
		t.Helper()
		eventually(t, "the pod that came", func() bool { return len(s.ask(t, later, dns.TypeA).Answer) == 1 })
		eventually(t, "the end of the pod that went", func() bool { return s.ask(t, ends, dns.TypeA).Rcode == dns.RcodeNameError })
		eventually(t, "the import's other address", func() bool {
			m := s.ask(t, multiclusterNames[0], dns.TypeA)
			return len(m.Answer) == 1 && m.Answer[0].(*dns.A).A.String() == "10.42.42.43"
		})
		eventually(t, "the end of the import", func() bool { return s.ask(t, multiclusterNames[1], dns.TypeA).Rcode == dns.RcodeNameError })
	}
	changed(t, direct)
	for name, s := range clients {
		if name == "peer" {
			continue // it asks again every 30 s, and its data is the relay's
		}
		t.Run(name+", after changes", func(t *testing.T) {
			changed(t, s)
			same(t, direct, s, imports, 8)
			same(t, direct, s, pods, len(r.world.Pods)-2)
			sameZone(t, direct, s, "clusterset.local.")
		})
	}
}

// sameZone compares whole transfers of a zone.
func sameZone(t *testing.T, stock, ours *server, zone string) {
	t.Helper()
	want, err := differential.Transfer(stock.addr, zone)
	if err != nil {
		t.Fatal(err)
	}
	got, err := differential.Transfer(ours.addr, zone)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 3 {
		t.Errorf("a transfer of %s with %d records differs:\n%s", zone, len(want), diff)
	}
}

// podNames are what pods are asked by, one for each of their addresses.
func podNames(pods []*corev1.Pod) []string {
	var names []string
	for _, p := range pods {
		for _, ip := range p.Status.PodIPs {
			label := strings.NewReplacer(".", "-", ":", "-").Replace(netip.MustParseAddr(ip.IP).String())
			names = append(names, label+"."+p.Namespace+".pod.cluster.local.")
		}
	}
	return names
}

// makePod makes a pod that runs at an address, in the namespace team-0.
func (r *rig) makePod(t *testing.T, name, ip string) {
	t.Helper()
	pod := r.world.Pods[0].DeepCopy()
	pod.ObjectMeta = metav1.ObjectMeta{Name: name, Namespace: "team-0"}
	api := r.client.CoreV1().Pods("team-0")
	made, err := api.Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Status = corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}
	if _, err := api.UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}
