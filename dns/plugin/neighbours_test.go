package plugin

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/dns/differential"
)

// same puts the questions to stock and to ours, and wants at least so many that have an answer.
func same(t *testing.T, stock, ours *server, questions []differential.Query, positive int) {
	t.Helper()
	n := 0
	for _, q := range questions {
		want, got := stock.put(t, q), ours.put(t, q)
		if diffs := differential.Compare(want, got); len(diffs) > 0 {
			t.Errorf("%s:\n\t%s", q, strings.Join(diffs, "\n\t"))
		}
		if len(want.Answer) > 0 {
			n++
		}
	}
	if n < positive {
		t.Errorf("%d of %d questions have an answer: too little was compared", n, len(questions))
	}
}

func questions(names []string, types ...uint16) []differential.Query {
	var out []differential.Query
	for _, name := range names {
		for _, qtype := range types {
			out = append(out, differential.Query{Name: name, Type: qtype, Class: dns.ClassINET, RD: true})
		}
	}
	return out
}

func TestExternalIsServed(t *testing.T) {
	r := newRig(t, false)
	c := corefile("ttl 5", "k8s_external cluster.example {\nheadless\n}\ntransfer cluster.example {\nto *\n}")
	stock, ours := r.serve(t, "kubernetes", c), r.serve(t, "seakeep", c)
	names := []string{
		"cluster.example.", "balanced.team-0.cluster.example.", "_http._tcp.balanced.team-0.cluster.example.", "db.team-1.cluster.example.",
		"many.team-1.cluster.example.", "web.team-0.cluster.example.", "nothing.team-0.cluster.example.", "team-0.cluster.example.",
		"stateful-1.stateful.team-2.cluster.example.", "ns1.dns.cluster.example.", "203.0.113.1.in-addr.arpa.",
	}
	same(t, stock, ours, questions(names, dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeSOA, dns.TypeNS, dns.TypePTR, dns.TypeTXT), 8)
	want, err := differential.Transfer(stock.addr, "cluster.example.")
	if err != nil {
		t.Fatal(err)
	}
	got, err := differential.Transfer(ours.addr, "cluster.example.")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("transfer differs:\n%s", diff)
	}
}

// The client must be a pod: this one is.
func TestAutopathIsServed(t *testing.T) {
	r := newRig(t, true)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "client", Namespace: "team-0", Labels: map[string]string{"app": "client"}},
		Spec:       corev1.PodSpec{SchedulerName: "nobody", Containers: []corev1.Container{{Name: "c", Image: "registry.example.com/web:1"}}},
	}
	made, err := r.client.CoreV1().Pods("team-0").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Status.Phase, made.Status.PodIP, made.Status.PodIPs = corev1.PodRunning, "127.0.0.1", []corev1.PodIP{{IP: "127.0.0.1"}}
	if _, err := r.client.CoreV1().Pods("team-0").UpdateStatus(t.Context(), made, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := corefile("pods verified", "metadata\nautopath @kubernetes\nrewrite name exact client.example {kubernetes/client-pod-name}.short.example\nloadbalance")
	stock, ours := r.serve(t, "kubernetes", c), r.serve(t, "seakeep", c)
	names := []string{
		outsideName + ".team-0.svc.cluster.local.", "web.team-0.team-0.svc.cluster.local.", "web.team-1.team-0.svc.cluster.local.",
		"web.team-0.svc.cluster.local.", outsideName + ".svc.cluster.local.", "client.example.",
	}
	same(t, stock, ours, questions(names, dns.TypeA, dns.TypeAAAA), 6)
	// One question is enough for a name of the world outside: that is what autopath is for.
	if m := ours.ask(t, outsideName+".team-0.svc.cluster.local.", dns.TypeA); len(m.Answer) != 2 {
		t.Errorf("the search path was not walked: %v", m)
	}
}

// serviceImportCRD is the kind of the Multi-Cluster Services API (KEP-1645), without its schema.
var serviceImportCRD = map[string]any{
	"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
	"metadata": map[string]any{
		"name":        "serviceimports.multicluster.x-k8s.io",
		"annotations": map[string]any{"api-approved.kubernetes.io": "https://github.com/kubernetes/enhancements/tree/master/keps/sig-multicluster/1645-multi-cluster-services-api"},
	},
	"spec": map[string]any{
		"group": "multicluster.x-k8s.io", "scope": "Namespaced",
		"names": map[string]any{"plural": "serviceimports", "singular": "serviceimport", "kind": "ServiceImport", "listKind": "ServiceImportList"},
		"versions": []any{map[string]any{
			"name": "v1alpha1", "served": true, "storage": true,
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
		}},
	},
}

// multicluster makes ServiceImports, and slices as another cluster's exporter would bring them, in the namespace team-0.
// The lab must be the test's own: a CRD is there for all.
func multicluster(t *testing.T, r *rig) {
	t.Helper()
	post := func(path string, object any) {
		t.Helper()
		body, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, "creating at "+path, func() bool {
			return r.client.Discovery().RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body(body).Do(t.Context()).Error() == nil
		})
	}
	post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", serviceImportCRD)
	serviceImport := func(name, kind string, ips ...string) map[string]any {
		return map[string]any{
			"apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport", "metadata": map[string]any{"name": name, "namespace": "team-0"},
			"spec": map[string]any{"type": kind, "ips": ips, "ports": []any{map[string]any{"name": "http", "protocol": "TCP", "port": 80}}},
		}
	}
	const path = "/apis/multicluster.x-k8s.io/v1alpha1/namespaces/team-0/serviceimports"
	post(path, serviceImport("shared", "ClusterSetIP", "10.42.42.42"))
	post(path, serviceImport("spread", "Headless"))
	for cluster := range 2 {
		post("/apis/discovery.k8s.io/v1/namespaces/team-0/endpointslices", map[string]any{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
			"metadata": map[string]any{"name": fmt.Sprintf("spread-%d", cluster), "labels": map[string]any{
				"multicluster.kubernetes.io/service-name": "spread", "multicluster.kubernetes.io/source-cluster": fmt.Sprintf("cluster-%d", cluster),
			}},
			"endpoints": []any{map[string]any{"addresses": []string{fmt.Sprintf("10.7.%d.1", cluster)}, "hostname": "first"}},
			"ports":     []any{map[string]any{"name": "http", "protocol": "TCP", "port": 8080}},
		})
	}
}

// multiclusterNames are what those ServiceImports are asked by.
var multiclusterNames = []string{
	"shared.team-0.svc.clusterset.local.", "spread.team-0.svc.clusterset.local.", "_http._tcp.shared.team-0.svc.clusterset.local.",
	"_http._tcp.spread.team-0.svc.clusterset.local.", "first.cluster-0.spread.team-0.svc.clusterset.local.", "first.spread.team-0.svc.clusterset.local.",
	"first.cluster-2.spread.team-0.svc.clusterset.local.", "nothing.team-0.svc.clusterset.local.", "web.team-0.svc.clusterset.local.",
	"clusterset.local.", "web.team-0.svc.cluster.local.", "shared.team-0.svc.cluster.local.", "dns-version.clusterset.local.",
}

func TestMulticlusterIsServed(t *testing.T) {
	r := newRig(t, true)
	multicluster(t, r)
	const c = `.:{{.Port}} {
    bind 127.0.0.1
    {{.Plugin}} cluster.local clusterset.local {
        kubeconfig {{.Kubeconfig}} lab
        multicluster clusterset.local
    }
    loadbalance
    transfer clusterset.local {
        to *
    }
}
`
	stock, ours := r.serve(t, "kubernetes", c), r.serve(t, "seakeep", c)
	all := questions(multiclusterNames, dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeTXT, dns.TypeSOA, dns.TypeNS)
	same(t, stock, ours, slices.Concat(all, all), 20)
	want, err := differential.Transfer(stock.addr, "clusterset.local.")
	if err != nil {
		t.Fatal(err)
	}
	got, err := differential.Transfer(ours.addr, "clusterset.local.")
	if err != nil || len(want) < 6 {
		t.Fatal(err, want)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("transfer differs:\n%s", diff)
	}
}

// What the prometheus plugin counts of answers from memory is what it counts of answers of the chain.
func TestPackedAnswersAreCounted(t *testing.T) {
	r := newRig(t, false)
	c := corefile("pods insecure\nfallthrough in-addr.arpa", "prometheus 127.0.0.1:{{index .Ports 1}}\nloadbalance")
	stock, ours := r.serve(t, "kubernetes", c), r.serve(t, "seakeep", c)
	names := []string{"web.team-0.svc.cluster.local.", "db.team-1.svc.cluster.local.", "nothing.team-0.svc.cluster.local.", "google.com.team-0.svc.cluster.local."}
	packed := value(t, "seakeep_dns_fastpath_queries_total", "packed")
	for _, q := range questions(names, dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeNAPTR) {
		for _, q.EDNS = range []uint16{0, 1232} {
			q.DO = q.EDNS > 0 && q.Type == dns.TypeA
			for range 5 {
				stock.put(t, q)
				ours.put(t, q)
			}
		}
	}
	if n := value(t, "seakeep_dns_fastpath_queries_total", "packed") - packed; n < 100 {
		t.Errorf("%g of 160 answers were packed: nothing was compared", n)
	}
	want, got := series(t, stock.addr), series(t, ours.addr)
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 10 {
		t.Errorf("%d series; they differ:\n%s", len(want), diff)
	}
}

// series are what CoreDNS counts for a server, but times.
func series(t *testing.T, addr string) map[string]float64 {
	t.Helper()
	out := map[string]float64{}
	each(t, func(name string, m *dto.Metric) {
		if !strings.HasPrefix(name, "coredns_dns_") {
			return
		}
		mine := false
		for _, l := range m.GetLabel() {
			if l.GetName() == "server" {
				mine = l.GetValue() == "dns://"+addr
				continue
			}
			name += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
		}
		if !mine {
			return
		}
		if h := m.GetHistogram(); h != nil {
			out[name+" count"] = float64(h.GetSampleCount())
			if !strings.Contains(name, "seconds") {
				out[name+" sum"] = h.GetSampleSum()
			}
			return
		}
		out[name] = m.GetCounter().GetValue()
	})
	return out
}

// value is that of the series of the name that has a label of this value.
func value(t *testing.T, name, label string) (v float64) {
	t.Helper()
	each(t, func(n string, m *dto.Metric) {
		for _, l := range m.GetLabel() {
			if n == name && l.GetValue() == label {
				v = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	})
	return v
}

func each(t *testing.T, do func(name string, m *dto.Metric)) {
	t.Helper()
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			do(f.GetName(), m)
		}
	}
}

// A reload is another instance of the plugin on the same sockets: no question goes unanswered, and the old one leaves
// nothing.
func TestReload(t *testing.T) {
	r := newRig(t, false)
	s := r.serve(t, "seakeep", usual)
	for i := range 4 {
		s.reload(t, strings.Replace(usual, "ttl 30", fmt.Sprintf("ttl %d", i+1), 1))
		for range 50 {
			m := s.ask(t, aClusterIP, dns.TypeA)
			if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != uint32(i+1) {
				t.Fatalf("after reload %d: %v", i, m)
			}
		}
	}
	fronts.Lock()
	f := fronts.byAddr["dns://"+s.addr]
	fronts.Unlock()
	if f == nil {
		t.Fatal("no fast path is left after reloads")
	}
	s.reload(t, strings.Replace(usual, "ttl 30", "fastpath off", 1))
	fronts.Lock()
	f = fronts.byAddr["dns://"+s.addr]
	fronts.Unlock()
	if m := s.ask(t, aClusterIP, dns.TypeA); f != nil || len(m.Answer) != 1 {
		t.Errorf("switched off, the fast path is %v and the answer %v", f, m)
	}
	s.stop()
	if n := value(t, "seakeep_dns_state", "live"); n != 0 {
		t.Errorf("the state of an instance that has ended is still collected: %g", n)
	}
}
