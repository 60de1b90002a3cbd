package plugin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/dns/differential"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// relayPapers makes a CA, and one certificate that serves for the relay and its clients.
func relayPapers(t *testing.T) (cert, key, ca string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := pki.NewCA("relays", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := authority.Issue(pki.Spec{CommonName: "dns-node", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Client: true, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, key, ca = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), filepath.Join(dir, "ca.crt")
	if err := pair.Write(cert, key); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca, authority.CertPEM(), 0o600); err != nil {
		t.Fatal(err)
	}
	return cert, key, ca
}

// relayed is a Corefile; options is what stands in the stanza about sources.
func relayed(options string) string {
	return `.:{{.Port}} {
    bind 127.0.0.1
    errors
    {{.Plugin}} cluster.local in-addr.arpa ip6.arpa {
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 10
        ` + options + `
    }
    loadbalance
    forward . {{.Upstream}}
}
`
}

// Stock CoreDNS with a relay as its endpoint, ours with it as its source, and ours with a peer or a file alone answer as
// stock with the API server.
func TestAnswersThroughARelayAreStocks(t *testing.T) {
	r := newRig(t, false)
	cert, key, ca := relayPapers(t)
	direct := r.serve(t, "kubernetes", relayed("kubeconfig {{.Kubeconfig}} lab"))
	relay := r.serve(t, "seakeep", relayed(fmt.Sprintf(`kubeconfig {{.Kubeconfig}} lab
        relay 127.0.0.1:{{index .Ports 1}} {
            tls %s %s %s
            allow dns-node
        }`, cert, key, ca)))
	url := fmt.Sprintf("https://127.0.0.1:%d", relay.ports[1])
	for name, tc := range map[string]struct{ plugin, options string }{
		"stock":             {"kubernetes", fmt.Sprintf("endpoint %s\n        tls %s %s %s", url, cert, key, ca)},
		"ours":              {"seakeep", fmt.Sprintf("source relay %s {\n tls %s %s %s\n }", url, cert, key, ca)},
		"ours, from a peer": {"seakeep", fmt.Sprintf("source peer %s {\n tls %s %s %s\n }", url, cert, key, ca)},
	} {
		t.Run(name, func(t *testing.T) {
			s := r.serve(t, tc.plugin, relayed(tc.options))
			eventually(t, "data", func() bool { return s.ask(t, aClusterIP, dns.TypeA).Rcode == dns.RcodeSuccess })
			compare(t, r, direct, s, 2000, 21)
		})
	}
}

// follows says whether the server follows a source; its option state is at the second port.
func follows(t *testing.T, s *server, name string) func() bool {
	return func() bool {
		var state struct{ Source, State string }
		getJSON(t, fmt.Sprintf("http://127.0.0.1:%d/state", s.ports[1]), &state)
		return state.Source == name && state.State == "live"
	}
}

// The relays die one after the other, and then there is the API server; every query is answered, and right.
func TestFailoverAnswersEveryQuery(t *testing.T) {
	r := newRig(t, false)
	cert, key, ca := relayPapers(t)
	relaying := fmt.Sprintf("kubeconfig {{.Kubeconfig}} lab\n        relay 127.0.0.1:{{index .Ports 1}} {\n tls %s %s %s\n allow dns-node\n }", cert, key, ca)
	relays := []*server{r.serve(t, "seakeep", relayed(relaying)), r.serve(t, "seakeep", relayed(relaying))}
	urls := []string{fmt.Sprintf("https://127.0.0.1:%d", relays[0].ports[1]), fmt.Sprintf("https://127.0.0.1:%d", relays[1].ports[1])}
	s := r.serve(t, "seakeep", relayed(fmt.Sprintf(`kubeconfig {{.Kubeconfig}} lab
        state 127.0.0.1:{{index .Ports 1}}
        source relay %s {
            tls %s %s %s
            node a-node
        }
        source api`, strings.Join(urls, " "), cert, key, ca)))
	ordered := order("a-node", urls)
	eventually(t, "the first relay to be followed", follows(t, s, ordered[0]))

	want := s.ask(t, aClusterIP, dns.TypeA)
	if len(want.Answer) != 1 {
		t.Fatalf("%s is answered with %v", aClusterIP, want)
	}
	var asked, wrong atomic.Int64
	stop := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			asked.Add(1)
			m, err := differential.Ask(t.Context(), s.addr, differential.Query{Name: aClusterIP, Type: dns.TypeA, Class: dns.ClassINET, RD: true})
			if err != nil || len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != want.Answer[0].(*dns.A).A.String() {
				wrong.Add(1)
			}
		}
	})
	for i, url := range ordered {
		relays[slices.Index(urls, url)].stop()
		next := r.lab.APIServerURL(0)
		if i+1 < len(ordered) {
			next = ordered[i+1]
		}
		eventually(t, "the next source to be followed: "+next, follows(t, s, next))
	}
	close(stop)
	asking.Wait()
	t.Logf("%d queries while two relays died", asked.Load())
	if wrong.Load() > 0 {
		t.Errorf("%d of %d queries were not answered, or wrong", wrong.Load(), asked.Load())
	}
}

// Two API servers: with the first gone the second is followed, from the version that is known.
func TestSecondAPIServer(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), APIServers: 2})
	r := &rig{lab: l, outside: startOutside(t)}
	config, dir := l.RESTConfig(lab.Masters), t.TempDir()
	if err := errors.Join(os.WriteFile(dir+"/tls.crt", config.CertData, 0o600), os.WriteFile(dir+"/tls.key", config.KeyData, 0o600)); err != nil {
		t.Fatal(err)
	}
	s := r.serve(t, "seakeep", relayed(fmt.Sprintf(`endpoint %s %s
        tls %s/tls.crt %s/tls.key %s
        state 127.0.0.1:{{index .Ports 1}}`, l.APIServerURL(0), l.APIServerURL(1), dir, dir, l.CAFile())))
	eventually(t, "the first", follows(t, s, l.APIServerURL(0)))
	api, _ := l.Process(lab.KindAPIServer)
	if err := api.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m := s.ask(t, "kubernetes.default.svc.cluster.local.", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("with the first gone: %v", m)
	}
	eventually(t, "the second", follows(t, s, l.APIServerURL(1)))
	config.Host = l.APIServerURL(1)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "later"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what changed since", func() bool { return len(s.ask(t, "later.default.svc.cluster.local.", dns.TypeA).Answer) == 1 })
}

// A static file alone is enough to answer.
func TestStaticFileAnswers(t *testing.T) {
	r := newRig(t, false)
	path := filepath.Join(t.TempDir(), "objects.yaml")
	if err := os.WriteFile(path, []byte(`apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.77, clusterIPs: [10.96.0.77], ports: [{port: 80, protocol: TCP}]}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := r.serve(t, "seakeep", relayed("source file "+path))
	eventually(t, "the file's data", func() bool {
		m := s.ask(t, "web.shop.svc.cluster.local.", dns.TypeA)
		return len(m.Answer) == 1 && m.Answer[0].(*dns.A).A.String() == "10.96.0.77"
	})
	m, e := explained(t, s, "none.shop.svc.cluster.local.", dns.TypeA)
	if m.Rcode != dns.RcodeNameError || e == nil || e.InfoCode != dns.ExtendedErrorCodeStaleNXDOMAINAnswer {
		t.Errorf("a name that is not in it is answered with %v and %v", m, e)
	}
}

func TestSourceOptionsRefused(t *testing.T) {
	cert, key, ca := relayPapers(t)
	papers := strings.Join([]string{cert, key, ca}, " ")
	for options, want := range map[string]string{
		"source":                           "Wrong argument count",
		"source fish":                      `there is no "fish"`,
		"source api https://a":             "api takes no arguments",
		"source api\nsource api":           "twice",
		"source file":                      "file takes one path",
		"source relay":                     "takes a URL",
		"source relay https://a":           "tls CERT KEY CACERT is missing",
		"source relay http://192.0.2.1:80": "loopback",
		"source relay https://a/b {\n tls " + papers + "\n}":           "not the URL",
		"source relay https://a {\n tls " + cert + "\n}":               "unknown property 'tls'",
		"source relay https://a {\n tls_servername b\n}":               "tls CERT KEY CACERT is missing",
		"source api {\n tls_servername b\n}":                           "api takes no arguments",
		"source peer https://a https://b":                              "takes a URL",
		"source peer https://a {\n node x\n}":                          "unknown property 'node'",
		"source relay https://a {\n tls " + papers + "\n}\nlabels a=b": "do not keep labels",
		"relay":                                       "Wrong argument count",
		"relay 127.0.0.1:1":                           "a certificate and its key",
		"relay 0.0.0.0:1 {\n plain\n}":                "loopback",
		"relay 127.0.0.1:1 {\n plane\n}":              "unknown property 'plane'",
		"relay 127.0.0.1:1 {\n tls " + papers + "\n}": "which names are allowed",
		"relay 127.0.0.1:1 {\n tls " + papers + "\n allow x\n}\nlabels a=b": "a part of the data",
		"relay 127.0.0.1:1 {\n plain\n}\nrelay 127.0.0.1:2 {\n plain\n}":    "Wrong argument count",
	} {
		t.Run(options, func(t *testing.T) {
			c := caddy.NewTestController("dns", "seakeep cluster.local {\n endpoint http://127.0.0.1:1\n "+options+"\n}")
			k, o, err := parse(c)
			if err == nil {
				_, _, err = openSources(k, o)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q in it", err, want)
			}
		})
	}
}

// In a pod the URLs of a service are made of the variables that Kubernetes sets.
func TestRelaysOfAService(t *testing.T) {
	cert, key, ca := relayPapers(t)
	block := fmt.Sprintf(" {\n tls %s %s %s\n tls_servername relay.example\n node a\n}\nsource api", cert, key, ca)
	for urls, want := range map[string][]string{
		"https://10.96.0.7:9443 https://fd00::1:9443": {"https://10.96.0.7:9443", "https://[fd00::1]:9443"},
		"https://[fd00::1]:9443":                      {"https://[fd00::1]:9443"},
		"https://: https://10.96.0.7:9443":            {"https://10.96.0.7:9443"}, // one service is not there yet
		"https://: https://:":                         nil,
	} {
		t.Run(urls, func(t *testing.T) {
			k, o, err := parse(caddy.NewTestController("dns", "seakeep cluster.local {\n endpoint http://127.0.0.1:1\n source relay "+urls+block+"\n}"))
			if err != nil {
				t.Fatal(err)
			}
			sources, _, err := openSources(k, o)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range sources {
				got = append(got, s.Name())
			}
			if want = append(want, "http://127.0.0.1:1"); !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) || got[len(got)-1] != want[len(want)-1] {
				t.Errorf("sources are %v, want %v", got, want)
			}
		})
	}
}

// Every node has its own order, the same each time; nodes share the relays evenly, and a relay's end moves its own only.
func TestOrder(t *testing.T) {
	urls := []string{"https://10.0.0.1", "https://10.0.0.2", "https://10.0.0.3", "https://10.0.0.4"}
	first := map[string]int{}
	for i := range 1000 {
		node := fmt.Sprint("node-", i)
		ordered := order(node, urls)
		if again := order(node, []string{urls[2], urls[0], urls[3], urls[1]}); !slices.Equal(ordered, again) {
			t.Fatalf("%s has the orders %v and %v", node, ordered, again)
		}
		first[ordered[0]]++
		if fewer := order(node, slices.DeleteFunc(slices.Clone(urls), func(u string) bool { return u == ordered[3] })); !slices.Equal(fewer, ordered[:3]) {
			t.Fatalf("without its last choice %s has the order %v, not %v", node, fewer, ordered[:3])
		}
	}
	for _, u := range urls {
		if first[u] < 150 || first[u] > 350 {
			t.Errorf("%d of 1000 nodes choose %s first", first[u], u)
		}
	}
}
