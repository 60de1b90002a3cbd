package analysis

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// dnsServer answers on loopback, UDP and TCP, and remembers the names.
func dnsServer(t *testing.T, answer func(name string, tcp bool, m *dns.Msg)) (address string, asked func() []string) {
	t.Helper()
	var mu sync.Mutex
	var names []string
	handler := func(tcp bool) dns.HandlerFunc {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			mu.Lock()
			names = append(names, q.Question[0].Name)
			mu.Unlock()
			m := new(dns.Msg)
			m.SetReply(q)
			answer(q.Question[0].Name, tcp, m)
			_ = w.WriteMsg(m)
		}
	}
	address = testkit.ServeDNS(t, handler(false), handler(true))
	return address, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return names
	}
}

func TestAskDNS(t *testing.T) {
	address := func(m *dns.Msg, name string) {
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 30}, A: net.IPv4(10, 96, 0, 1)})
	}
	for name, tc := range map[string]struct {
		answer func(name string, tcp bool, m *dns.Msg)
		want   int // of four
		wrong  string
	}{
		"well": {func(name string, _ bool, m *dns.Msg) {
			if strings.HasPrefix(name, "kubernetes.") {
				address(m, name)
			} else {
				m.Rcode = dns.RcodeNameError
			}
		}, 4, ""},
		"it has lost its data":            {func(_ string, _ bool, m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }, 0, "SERVFAIL"},
		"it answers anything":             {func(name string, _ bool, m *dns.Msg) { address(m, name) }, 2, "NOERROR, not NXDOMAIN"},
		"it has forgotten the API server": {func(_ string, _ bool, m *dns.Msg) { m.Rcode = dns.RcodeNameError }, 2, "NXDOMAIN, not NOERROR"},
		"an empty answer": {func(name string, _ bool, m *dns.Msg) {
			if !strings.HasPrefix(name, "kubernetes.") {
				m.Rcode = dns.RcodeNameError
			}
		}, 2, "empty"},
		"over TCP": {func(name string, tcp bool, m *dns.Msg) {
			switch {
			case !strings.HasPrefix(name, "kubernetes."):
				m.Rcode = dns.RcodeNameError
			case tcp:
				address(m, name)
			default:
				m.Truncated = true
			}
		}, 4, ""},
	} {
		t.Run(name, func(t *testing.T) {
			server, asked := dnsServer(t, tc.answer)
			var a v1alpha1.RolloutAnalysis
			a.DNS.Servers, a.DNS.Questions = []string{server}, 4
			a.SetDefaults(time.Second)
			c, err := open(Cluster{Name: "c", Config: &rest.Config{Host: "https://127.0.0.1:1"}}, time.Second)
			if err != nil {
				t.Fatal(err)
			}
			got := c.askDNS(t.Context(), a.DNS, time.Now).asked[checkDNS+"/"+server]
			if got.Asked != 4 || got.Answered != tc.want || !strings.Contains(got.Wrong, tc.wrong) {
				t.Errorf("%d of %d answered: %q; want %d: …%s…", got.Answered, got.Asked, got.Wrong, tc.want, tc.wrong)
			}
			seen := map[string]bool{}
			for _, n := range asked() {
				if strings.Contains(n, ".seakeep-probe.") {
					if seen[n] {
						t.Errorf("%s was asked for twice: a cache could have answered", n)
					}
					seen[n] = true
				}
			}
			if len(seen) != 2 {
				t.Errorf("%d unique names were asked for, want 2", len(seen))
			}
		})
	}
}

// With many servers not all are asked, and the finding says so.
func TestSomeDNSServersAreAsked(t *testing.T) {
	var slice discoveryv1.EndpointSlice
	slice.Ports = []discoveryv1.EndpointPort{{Port: new(int32(1)), Protocol: new(corev1.ProtocolUDP)}}
	for i := range 40 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{fmt.Sprintf("127.0.0.%d", i+1)}})
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(discoveryv1.EndpointSliceList{TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSliceList"}, Items: []discoveryv1.EndpointSlice{slice}})
	}))
	defer server.Close()
	var a v1alpha1.RolloutAnalysis
	a.ControlPlane.Mode, a.Probes.Mode, a.DNS.Questions, a.DNS.Timeout = v1alpha1.Disabled, v1alpha1.Disabled, 1, &metav1.Duration{Duration: 10 * time.Millisecond}
	a.SetDefaults(time.Second)
	finding := func(of Cluster) verdict.Finding {
		t.Helper()
		of.Name, of.Config = "c", &rest.Config{Host: server.URL}
		analyst, err := New(Options{Analysis: a, Interval: time.Second, Clusters: []Cluster{of}})
		if err != nil {
			t.Fatal(err)
		}
		analyst.Measure(t.Context())
		found := analyst.clusters["c"].judgeAsked(a, nil, analyst.now())
		return found[0]
	}
	if f := finding(Cluster{}); f.Check != checkDNS || !strings.HasSuffix(f.Reason, "; 16 of 40 were asked") {
		t.Errorf("found: %+v", f)
	}
	if f := finding(Cluster{DNS: []string{"127.0.0.1:1"}}); strings.Contains(f.Reason, "were asked") {
		t.Errorf("of those that are named: %+v", f)
	}
}
