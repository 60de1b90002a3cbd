package plugin

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/dns/differential"
	"github.com/seakeep/seakeep/lab"
)

// usual is a Corefile like kubeadm's, with the world outside forwarded to a stub.
const usual = `.:{{.Port}} {
    bind 127.0.0.1
    errors
    {{.Plugin}} cluster.local in-addr.arpa ip6.arpa {
        kubeconfig {{.Kubeconfig}} lab
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }
    loadbalance
    forward . {{.Upstream}}
}
`

// corefile is the usual one with these lines in the plugin's block instead, and others beside it.
func corefile(inside, beside string) string {
	return fmt.Sprintf(`.:{{.Port}} {
    bind 127.0.0.1
    errors
    {{.Plugin}} cluster.local in-addr.arpa ip6.arpa {
        kubeconfig {{.Kubeconfig}} lab
        %s
    }
    %s
    forward . {{.Upstream}}
}
`, inside, beside)
}

// compare asks both servers n questions, ours three times (an answer made, and two from memory), and reports up to ten
// differences. It returns what stock's answers were like.
func compare(t *testing.T, r *rig, stock, ours *server, n int, seed uint64, change ...func(*differential.Query)) tally {
	t.Helper()
	counted := tally{}
	different := 0
	for q := range differential.Queries(r.world, "cluster.local.", seed) {
		if n--; n < 0 {
			break
		}
		for _, do := range change {
			do(&q)
		}
		want, err := differential.Ask(t.Context(), stock.addr, q)
		if err != nil {
			t.Fatal(err)
		}
		counted.count(q, want)
		for i := range 3 {
			got, err := differential.Ask(t.Context(), ours.addr, q)
			if err != nil {
				t.Fatal(err)
			}
			if diffs := differential.Compare(want, got); len(diffs) > 0 {
				t.Errorf("%s, asked for the %d. time:\n\t%s", q, i+1, strings.Join(diffs, "\n\t"))
				if different++; different >= 10 {
					t.Fatal("and perhaps more")
				}
			}
		}
	}
	return counted
}

// tally counts what was compared, by what is peculiar to it: a comparison that met no truncated answer says nothing of them.
type tally map[string]int

func (c tally) count(q differential.Query, m *dns.Msg) {
	for _, rr := range m.Answer {
		c[dns.TypeToString[rr.Header().Rrtype]]++
	}
	c[dns.RcodeToString[m.Rcode]]++
	lower := strings.ToLower(q.Name)
	for what, is := range map[string]bool{
		"truncated": m.Truncated, "TCP": q.TCP, "over TCP what UDP would cut": q.TCP && len(m.Answer) > 28, "EDNS": q.EDNS > 0, "DO": q.DO, "cookie": q.Cookie,
		"other case": q.Name != lower, "nothing of the type": m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0,
		"pod": strings.HasSuffix(lower, ".pod.cluster.local.") && len(m.Answer) > 0, "reverse": strings.HasSuffix(lower, ".arpa.") && len(m.Answer) > 0,
		"fallen through": len(m.Answer) > 0 && !dns.IsSubDomain("cluster.local.", lower) && !dns.IsSubDomain("arpa.", lower),
		"search list":    strings.Contains(lower, ".com.") && dns.IsSubDomain("cluster.local.", lower),
	} {
		if is {
			c[what]++
		}
	}
}

// covers holds that at least so many of each were among what was compared.
func (c tally) covers(t *testing.T, least map[string]int) {
	t.Helper()
	for what, n := range least {
		if c[what] < n {
			t.Errorf("%d of the answers compared were %s, want at least %d: %v", c[what], what, n, c)
		}
	}
}

// The comparison itself is tested: stock CoreDNS answers as stock CoreDNS does.
func TestStockIsEqualToStock(t *testing.T) {
	r := newRig(t, false)
	compare(t, r, r.serve(t, "kubernetes", usual), r.serve(t, "kubernetes", usual), 1000, 1)
}

func TestLiveAnswersAreStocks(t *testing.T) {
	r := newRig(t, false)
	packed := testutil.ToFloat64(processMetrics().packed)
	// Every record type of the DNS specification, every way of asking. There is no NS here: on loopback stock has none.
	compare(t, r, r.serve(t, "kubernetes", usual), r.serve(t, "seakeep", usual), 10_000, 2).covers(t, map[string]int{
		"A": 1000, "AAAA": 100, "SRV": 500, "PTR": 100, "CNAME": 50, "TXT": 5, "SOA": 5,
		"NXDOMAIN": 1000, "nothing of the type": 500, "truncated": 20, "TCP": 500, "over TCP what UDP would cut": 5, "EDNS": 2000, "DO": 500, "cookie": 100,
		"other case": 500, "pod": 50, "reverse": 100, "fallen through": 50, "search list": 200,
	})
	if n := testutil.ToFloat64(processMetrics().packed) - packed; n < 10_000 {
		t.Errorf("%g of 30,000 answers came from memory: the fast path was not compared", n)
	}
}

// Every option of the kubernetes plugin, and the plugins that stand beside it.
func TestOptionsMeanWhatStocksMean(t *testing.T) {
	tests := map[string]struct{ inside, beside string }{
		"pods disabled":         {"pods disabled", ""},
		"pods verified":         {"pods verified\nfallthrough", "loadbalance"},
		"endpoint_pod_names":    {"endpoint_pod_names", "loadbalance"},
		"zonal":                 {"zonal\nendpoint_pod_names", ""},
		"namespaces":            {"namespaces team-0 team-3\npods insecure", ""},
		"namespace_labels":      {"namespace_labels tier=gold\npods insecure", ""},
		"labels":                {"labels app in (web, db, stateful, outside)", ""},
		"noendpoints":           {"noendpoints", ""},
		"ignore empty_service":  {"ignore empty_service", ""},
		"fallthrough all":       {"fallthrough", ""},
		"fallthrough some":      {"fallthrough team-1.svc.cluster.local", ""},
		"ttl 0":                 {"ttl 0", ""},
		"cache":                 {"ttl 5", "cache 30"},
		"any":                   {"ttl 5", "any\nloadbalance"},
		"the usual, no options": {"", ""},
		"rewrite":               {"ttl 5", "rewrite name suffix .short.example .team-0.svc.cluster.local answer auto"},
		"acl":                   {"ttl 5", "acl {\nblock type ANY net *\n}"},
		"metadata and log":      {"ttl 5\npods verified", "metadata\nlog . \"{/kubernetes/service}\""},
		"fastpath off":          {"{{ours \"fastpath off\"}}", "loadbalance"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, false)
			c := corefile(tc.inside, tc.beside)
			compare(t, r, r.serve(t, "kubernetes", c), r.serve(t, "seakeep", c), 700, 3, func(q *differential.Query) {
				if name == "cache" { // stock's answers have the case of whoever asked first
					q.Name = strings.ToLower(q.Name)
				}
			})
		})
	}
}

func TestTransfersAreStocks(t *testing.T) {
	r := newRig(t, false)
	c := corefile("pods insecure\nendpoint_pod_names", "transfer cluster.local {\nto *\n}")
	stock, ours := r.serve(t, "kubernetes", c), r.serve(t, "seakeep", c)
	want, err := differential.Transfer(stock.addr, "cluster.local.")
	if err != nil {
		t.Fatal(err)
	}
	got, err := differential.Transfer(ours.addr, "cluster.local.")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 200 {
		t.Errorf("%d records, want %d:\n%s", len(got), len(want), diff)
	}
	for _, s := range []*server{stock, ours} {
		for _, qtype := range []uint16{dns.TypeAXFR, dns.TypeIXFR} {
			if m := s.ask(t, "cluster.local.", qtype); m.Rcode != dns.RcodeRefused {
				t.Errorf("a transfer over UDP was answered with %s", dns.RcodeToString[m.Rcode])
			}
		}
	}
}

// While objects change, an answer is right if it is what stock said before or after it.
func TestAnswersAreStocksWhileObjectsChange(t *testing.T) {
	r := newRig(t, true)
	// Half of everything going and coming within a minute is what the guard is there to hold; here it must not.
	c := strings.Replace(usual, "ttl 30", "ttl 30\n{{ours \"guard off\"}}", 1)
	stock, ours := r.serve(t, "kubernetes", c), r.serve(t, "seakeep", c)
	ctx, stop := context.WithCancel(t.Context())
	var churning sync.WaitGroup
	churning.Go(func() { churn(ctx, t, r) })
	defer churning.Wait()
	defer stop()

	n := 10_000
	for q := range differential.Queries(r.world, "cluster.local.", 4) {
		if n--; n < 0 {
			break
		}
		var diffs []string
		// The two read the same events, each in its own time.
		right := func() bool {
			before, got := stock.put(t, q), ours.put(t, q)
			if diffs = differential.Compare(before, got); len(diffs) == 0 {
				return true
			}
			return len(differential.Compare(stock.put(t, q), got)) == 0
		}
		if !soon(t, 5*time.Second, right) {
			t.Errorf("%s: still different after 5 s:\n\t%s", q, strings.Join(diffs, "\n\t"))
		}
	}
	stop()
	churning.Wait()
	eventually(t, "the same zone after the changes", func() bool {
		q := differential.Query{Name: "many.team-0.svc.cluster.local.", Type: dns.TypeA, Class: dns.ClassINET, EDNS: 4096}
		return len(differential.Compare(stock.put(t, q), ours.put(t, q))) == 0
	})
	compare(t, r, stock, ours, 1500, 5)
}

func soon(t *testing.T, limit time.Duration, ok func() bool) bool {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			return false
		case <-tick.C:
		}
	}
	return true
}

// churn changes readiness, deletes and creates slices and services, some hundred times a second at most.
func churn(ctx context.Context, t *testing.T, r *rig) {
	random := rand.New(rand.NewPCG(5, 6))
	client := r.clientOf(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		slice := r.world.Slices[random.IntN(len(r.world.Slices))]
		api := client.DiscoveryV1().EndpointSlices(slice.Namespace)
		switch random.IntN(6) {
		case 0:
			_ = api.Delete(ctx, slice.Name, metav1.DeleteOptions{})
		case 1:
			_, _ = api.Create(ctx, slice, metav1.CreateOptions{})
		case 2:
			s := r.world.Services[random.IntN(len(r.world.Services))]
			if client.CoreV1().Services(s.Namespace).Delete(ctx, s.Name, metav1.DeleteOptions{}) == nil {
				_, _ = client.CoreV1().Services(s.Namespace).Create(ctx, s, metav1.CreateOptions{})
			}
		default:
			changed := slice.DeepCopy()
			for i := range changed.Endpoints {
				changed.Endpoints[i].Conditions.Ready = new(random.IntN(2) == 0)
			}
			_, _ = api.Update(ctx, changed, metav1.UpdateOptions{})
		}
	}
}

// With the API server gone, stock CoreDNS keeps what it has, and so must ours.
func TestAnswersAreStocksWithoutTheAPIServer(t *testing.T) {
	r := newRig(t, true)
	stock, ours := r.serve(t, "kubernetes", usual), r.serve(t, "seakeep", usual)
	server, _ := r.lab.Process(lab.KindAPIServer)
	if err := server.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	compare(t, r, stock, ours, 3000, 6)
}
