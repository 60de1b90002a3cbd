package plugin

import (
	"strings"
	"testing"

	"github.com/seakeep/seakeep/dns/differential"
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

// compare asks both servers n questions and reports up to ten differences.
func compare(t *testing.T, r *rig, stock, ours *server, n int, seed uint64) {
	t.Helper()
	different := 0
	for q := range differential.Queries(r.world, "cluster.local.", seed) {
		if n--; n < 0 {
			break
		}
		want, err := differential.Ask(t.Context(), stock.addr, q)
		if err != nil {
			t.Fatal(err)
		}
		got, err := differential.Ask(t.Context(), ours.addr, q)
		if err != nil {
			t.Fatal(err)
		}
		if diffs := differential.Compare(want, got); len(diffs) > 0 {
			t.Errorf("%s:\n\t%s", q, strings.Join(diffs, "\n\t"))
			if different++; different >= 10 {
				t.Fatal("and perhaps more")
			}
		}
	}
}

// The comparison itself is tested: stock CoreDNS answers as stock CoreDNS does.
func TestStockIsEqualToStock(t *testing.T) {
	r := newRig(t, false)
	compare(t, r, r.serve(t, "kubernetes", usual), r.serve(t, "kubernetes", usual), 2000, 1)
}
