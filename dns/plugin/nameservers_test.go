package plugin

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/differential"
)

// theServer are objects in which cluster DNS is a service itself, with one endpoint at 10.128.0.5.
const theServer = `apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: kube-system}
spec: {clusterIP: %[2]s, clusterIPs: [%[2]s], ports: [{name: dns, port: 53, protocol: UDP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: %[1]s-x, namespace: kube-system, labels: {kubernetes.io/service-name: %[1]s}}
addressType: IPv4
endpoints: [{addresses: [10.128.0.5], conditions: {ready: true}}]
ports: [{name: dns, port: 53, protocol: UDP}]
`

// The name servers of the zone, and the name ns.dns, depend on the addresses that the server itself has, loopback apart. The
// other comparisons listen on loopback, where there are none; so here stock's plugin and ours are told the same addresses and asked
// side by side, over the same data.
func TestNameServersAreStocks(t *testing.T) {
	for name, tc := range map[string]struct {
		objects string
		local   []string
	}{
		"nobody's endpoint":             {fmt.Sprintf(theServer, "kube-dns", "10.96.0.10"), []string{"10.128.0.9", "fd00:10:128::9"}},
		"an endpoint of a service":      {fmt.Sprintf(theServer, "kube-dns", "10.96.0.10"), []string{"10.128.0.5"}},
		"of a headless service":         {fmt.Sprintf(theServer, "kube-dns", "None"), []string{"10.128.0.5"}},
		"of two services":               {fmt.Sprintf(theServer, "kube-dns", "10.96.0.10") + "---\n" + fmt.Sprintf(theServer, "other", "10.96.0.11"), []string{"10.128.0.5", "10.128.0.9"}},
		"without an address of its own": {fmt.Sprintf(theServer, "kube-dns", "10.96.0.10"), nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := handlerOver(t, tc.objects)
			stock := *h.upstream
			stock.APIConn = h.conn()
			var ips []net.IP
			for _, text := range tc.local {
				ip := net.ParseIP(text)
				if four := ip.To4(); four != nil {
					ip = four
				}
				ips = append(ips, ip)
			}
			field := reflect.ValueOf(&stock).Elem().FieldByName("localIPs") // set by its set-up alone
			*(*[]net.IP)(unsafe.Pointer(field.UnsafeAddr())) = ips          //nolint:gosec // of the type it has
			h.localIPs = tc.local

			positive := 0
			for _, q := range questions([]string{"cluster.local.", "ns.dns.cluster.local.", "NS.dns.Cluster.local.", "kube-dns.kube-system.svc.cluster.local.", "dns.cluster.local.", "x.ns.dns.cluster.local."},
				dns.TypeNS, dns.TypeA, dns.TypeAAAA, dns.TypeSOA, dns.TypeTXT, dns.TypeSRV) {
				want, got := answerOf(t, &stock, q), answerOf(t, h, q)
				if diffs := differential.Compare(want, got); len(diffs) > 0 {
					t.Errorf("%s:\n\t%s", q, strings.Join(diffs, "\n\t"))
				}
				if len(want.Answer) > 0 && (q.Type == dns.TypeNS || strings.HasPrefix(strings.ToLower(q.Name), "ns.")) {
					positive++
				}
			}
			if (positive > 0) != (len(tc.local) > 0) {
				t.Errorf("%d questions about name servers have an answer", positive)
			}
			want, err := stock.Transfer("cluster.local.", 0)
			if err != nil {
				t.Fatal(err)
			}
			got, err := h.Transfer("cluster.local.", 0)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(records(want), records(got)); diff != "" {
				t.Errorf("transfers differ:\n%s", diff)
			}
		})
	}
}

// handlerOver is a handler whose data is a static file.
func handlerOver(t *testing.T, objects string) *Handler {
	t.Helper()
	path := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(path, []byte(objects), 0o600); err != nil {
		t.Fatal(err)
	}
	k, o, err := parse(stanza("endpoint http://127.0.0.1:1", "source file "+path, "pods insecure"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := open(k, o, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- data.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	h := &Handler{upstream: k, data: data, options: o, now: time.Now, metrics: processMetrics()}
	h.memo.data, h.memo.pods, h.memo.multicluster = data, o.podMode == podsVerified, o.multicluster
	eventually(t, "the file's data", h.Ready)
	return h
}

func answerOf(t *testing.T, h interface {
	ServeDNS(context.Context, dns.ResponseWriter, *dns.Msg) (int, error)
}, q differential.Query) *dns.Msg {
	t.Helper()
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	if _, err := h.ServeDNS(t.Context(), w, q.Msg()); err != nil || w.Msg == nil {
		t.Fatalf("%s: %v", q, err)
	}
	return w.Msg
}

// records are those of a transfer, in order.
func records(from <-chan []dns.RR) []string {
	var out []string
	for rrs := range from {
		for _, rr := range rrs {
			out = append(out, differential.Record(rr))
		}
	}
	slices.Sort(out)
	return out
}
