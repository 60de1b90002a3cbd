package analysis

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
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
