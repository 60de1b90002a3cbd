package plugin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/dns/differential"
	"github.com/seakeep/seakeep/dns/plugin/control"
	"github.com/seakeep/seakeep/lab"
)

// keeping is a Corefile with what ours keeps.
const keeping = `.:{{.Port}} {
    bind 127.0.0.1
    errors
    ready 127.0.0.1:{{index .Ports 2}}
    {{.Plugin}} cluster.local in-addr.arpa ip6.arpa {
        kubeconfig {{.Kubeconfig}} lab
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 10
        startup_timeout 2s
        {{ours (printf "snapshot %s/snapshots" .Dir)}}
        {{ours (printf "state 127.0.0.1:%d" (index .Ports 1))}}
        {{ours (printf "socket %s/dns.sock" .Dir)}}
    }
    loadbalance
    forward . {{.Upstream}}
}
`

// explained asks with EDNS and returns the answer and its Extended DNS Error, if it has one.
func explained(t *testing.T, s *server, name string, qtype uint16) (*dns.Msg, *dns.EDNS0_EDE) {
	t.Helper()
	m := s.put(t, differential.Query{Name: name, Type: qtype, Class: dns.ClassINET, RD: true, EDNS: 1232})
	return m, errorOf(m)
}

func errorOf(m *dns.Msg) *dns.EDNS0_EDE {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if e, ok := o.(*dns.EDNS0_EDE); ok {
			return e
		}
	}
	return nil
}

const (
	aClusterIP = "web.team-0.svc.cluster.local."
	aHeadless  = "db.team-0.svc.cluster.local."
	aPod       = "10-128-0-1.team-0.pod.cluster.local."
	nothing    = "nothing.team-0.svc.cluster.local."
)

// The whole way: live, the API server gone, DNS restarted without it, the API server back.
func TestAnswersAreStocksThroughAnOutage(t *testing.T) {
	r := newRig(t, true)
	dir := t.TempDir()
	stock, ours := r.serve(t, "kubernetes", keeping), r.serveIn(t, "seakeep", keeping, dir)
	if _, e := explained(t, ours, aClusterIP, dns.TypeA); e != nil {
		t.Errorf("a live answer says %v", e)
	}
	api, _ := r.lab.Process(lab.KindAPIServer)
	if err := api.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, r, stock, ours, 1500, 7)
	eventually(t, "answers that say they are stale", func() bool {
		_, e := explained(t, ours, aClusterIP, dns.TypeA)
		return e != nil && e.InfoCode == dns.ExtendedErrorCodeStaleAnswer
	})
	compare(t, r, stock, ours, 10_000, 8)

	ours.stop()
	restored := r.serveIn(t, "seakeep", keeping, dir)
	compare(t, r, stock, restored, 10_000, 9)
	checkStale(t, restored)

	if err := api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "live answers", func() bool {
		_, e := explained(t, restored, aClusterIP, dns.TypeA)
		return e == nil
	})
	compare(t, r, stock, restored, 1500, 10) // live again
}

// checkStale is what RFC 8914 and the policy want of stale answers.
func checkStale(t *testing.T, s *server) {
	t.Helper()
	tests := map[string]struct {
		name  string
		qtype uint16
		code  uint16
		ttl   uint32
	}{
		"cluster IP":      {aClusterIP, dns.TypeA, dns.ExtendedErrorCodeStaleAnswer, 30},
		"headless":        {aHeadless, dns.TypeA, dns.ExtendedErrorCodeStaleAnswer, 5},
		"pod":             {aPod, dns.TypeA, dns.ExtendedErrorCodeStaleAnswer, 5},
		"no such name":    {nothing, dns.TypeA, dns.ExtendedErrorCodeStaleNXDOMAINAnswer, 5},
		"no such type":    {aClusterIP, dns.TypeMX, dns.ExtendedErrorCodeStaleAnswer, 5},
		"the service SRV": {"_http._tcp." + aHeadless, dns.TypeSRV, dns.ExtendedErrorCodeStaleAnswer, 5},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for range 2 { // the second is from memory
				m, e := explained(t, s, tc.name, tc.qtype)
				if e == nil || e.InfoCode != tc.code || !strings.HasPrefix(e.ExtraText, "last confirmed ") {
					t.Errorf("answer says %v, want code %d with an age", e, tc.code)
				}
				for _, rr := range append(m.Answer, m.Ns...) {
					if rr.Header().Ttl != tc.ttl {
						t.Errorf("TTL is %d, want %d: %v", rr.Header().Ttl, tc.ttl, rr)
					}
				}
			}
			if m := s.ask(t, tc.name, tc.qtype); m.IsEdns0() != nil {
				t.Error("a query without EDNS was answered with an OPT")
			}
		})
	}
}

// Addresses of pods are given to other pods, so they are given up when the data is older than their class may be, from one
// moment to the next and from memory too; cluster IPs are not. When the data is live again, so are they.
func TestRecordsAreGivenUpByClass(t *testing.T) {
	r := newRig(t, true)
	dir := t.TempDir()
	r.serveIn(t, "seakeep", keeping, dir).stop()
	api, _ := r.lab.Process(lab.KindAPIServer)
	if err := api.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := r.serveIn(t, "seakeep", strings.Replace(keeping, "ttl 10", "ttl 10\n        staleness headless 5s 15s", 1), dir)
	answered := 0
	eventually(t, "the headless service to be given up", func() bool {
		m, e := explained(t, s, aHeadless, dns.TypeA)
		switch {
		case m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 && e != nil && e.InfoCode == dns.ExtendedErrorCodeStaleAnswer:
			answered++
			return false
		case m.Rcode == dns.RcodeServerFailure && e != nil && e.InfoCode == dns.ExtendedErrorCodeNotReady && strings.Contains(e.ExtraText, "too old"):
			return true
		}
		t.Fatalf("it is answered with %v", m)
		return false
	})
	if answered < 3 {
		t.Errorf("it was answered %d times before it was given up: nothing was in memory", answered)
	}
	if m, e := explained(t, s, aClusterIP, dns.TypeA); len(m.Answer) != 1 || e == nil || e.InfoCode != dns.ExtendedErrorCodeStaleAnswer {
		t.Errorf("a cluster IP is answered with %v and %v", m, e)
	}
	if m, _ := explained(t, s, nothing, dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("no such name is answered with %v", m)
	}
	if err := api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the headless service, live", func() bool {
		m, e := explained(t, s, aHeadless, dns.TypeA)
		return len(m.Answer) > 0 && e == nil
	})
}

// Without any data, names of the cluster are not told to the world outside, and get no false denial.
func TestNothingLeaksBeforeThereIsData(t *testing.T) {
	r := newRig(t, true)
	api, _ := r.lab.Process(lab.KindAPIServer)
	if err := api.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := r.serveIn(t, "seakeep", keeping, dir)
	for _, name := range []string{aClusterIP, aHeadless, aPod, nothing, "10.0.100.10.in-addr.arpa.", "1.0.0.127.in-addr.arpa.", "google.com.team-0.svc.cluster.local."} {
		m, e := explained(t, s, name, dns.TypeA)
		if m.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != dns.ExtendedErrorCodeNotReady {
			t.Errorf("%s is answered with %s and %v, want SERVFAIL and code 14", name, dns.RcodeToString[m.Rcode], e)
		}
		if m := s.ask(t, name, dns.TypePTR); m.Rcode != dns.RcodeServerFailure || m.IsEdns0() != nil {
			t.Errorf("PTR of %s is answered with %s", name, dns.RcodeToString[m.Rcode])
		}
	}
	for _, zone := range []string{"cluster.local.", "in-addr.arpa."} {
		if n := r.outside.asked(zone); n > 0 {
			t.Errorf("%d questions for %s leaked", n, zone)
		}
	}
	if m := s.ask(t, outsideName+".", dns.TypeA); m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
		t.Errorf("a name of the world outside is answered with %v", m)
	}

	// It says so where it is asked, and is alive.
	var state control.State
	getJSON(t, fmt.Sprintf("http://127.0.0.1:%d/state", s.ports[1]), &state)
	if state.Ready || state.State != "empty" {
		t.Errorf("state is %+v, want empty and not ready", state)
	}
	if code, body := get(t, fmt.Sprintf("http://127.0.0.1:%d/ready", s.ports[2])); code != http.StatusServiceUnavailable || !strings.Contains(body, "kubernetes") {
		t.Errorf("/ready answers %d %q", code, body)
	}

	if err := api.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "data", func() bool { m := s.ask(t, aClusterIP, dns.TypeA); return len(m.Answer) == 1 })
	eventually(t, "readiness", func() bool {
		code, _ := get(t, fmt.Sprintf("http://127.0.0.1:%d/ready", s.ports[2]))
		return code == http.StatusOK
	})
	var out, errs strings.Builder
	if code := control.Run(t.Context(), []string{"state", "--socket", dir + "/dns.sock"}, &out, &errs); code != 0 || !strings.Contains(out.String(), "state    live") {
		t.Errorf("seakeep-dns state ends with %d: %s%s", code, out.String(), errs.String())
	}
	if info, err := os.Stat(dir + "/dns.sock"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v (%v), want mode 0600", info, err)
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

func getJSON(t *testing.T, url string, into any) {
	t.Helper()
	code, body := get(t, url)
	if err := json.Unmarshal([]byte(body), into); err != nil || code != http.StatusOK {
		t.Fatalf("%s answers %d %q: %v", url, code, body, err)
	}
}
