package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
)

func TestPlaces(t *testing.T) {
	many := make([]string, maxDiscovered+2)
	for i := range many {
		many[i] = fmt.Sprintf("10.0.0.%02d:6443", i)
	}
	for name, test := range map[string]struct {
		before, want places
		found        []string
		left         int
	}{
		"the first":               {nil, places{"a", "b"}, []string{"b", "a"}, 0},
		"the same":                {places{"a", "b"}, places{"a", "b"}, []string{"b", "a"}, 0},
		"one leaves, others stay": {places{"a", "b", "c"}, places{"a", "", "c"}, []string{"c", "a"}, 0},
		"its place is taken":      {places{"a", "", "c"}, places{"a", "d", "c"}, []string{"c", "a", "d"}, 0},
		"all are others":          {places{"a", "b"}, places{"c"}, []string{"c"}, 0},
		"too many":                {nil, places(many[:maxDiscovered]), many, 2},
		"nothing is no address":   {nil, places{"a"}, []string{"", "a"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			got, left := test.before.settle(test.found)
			if diff := cmp.Diff(test.want, got); diff != "" || left != test.left {
				t.Errorf("%d left, want %d; (-want +got):\n%s", left, test.left, diff)
			}
		})
	}
}

const slicesOfAService = `{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":[
 {"addressType":"IPv4","ports":[{"name":"metrics","port":9000},{"name":"https","port":6443,"protocol":"TCP"}],
  "endpoints":[{"addresses":["10.0.0.1"],"conditions":{"ready":true}},{"addresses":["10.0.0.2"],"conditions":{}},{"addresses":["10.0.0.3"],"conditions":{"ready":false}}]},
 {"addressType":"IPv6","ports":[{"port":443}],"endpoints":[{"addresses":["fd00::1"]},{"addresses":[]},{"addresses":["a b/c"]}]},
 {"addressType":"FQDN","ports":[{"port":6443}],"endpoints":[{"addresses":["api.example.com"]}]},
 {"addressType":"IPv4","ports":[{"port":53,"protocol":"UDP"}],"endpoints":[{"addresses":["10.0.0.9"]}]},
 {"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.9"]}]}]}`

func TestEndpointsIn(t *testing.T) {
	got, err := endpointsIn([]byte(slicesOfAService))
	want := []string{"10.0.0.1:6443", "10.0.0.2:6443", "[fd00::1]:443", "api.example.com:6443"}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := endpointsIn([]byte(`{"items":[`)); err == nil {
		t.Error("half an answer was read")
	}
}

func FuzzEndpointsIn(f *testing.F) {
	f.Add([]byte(slicesOfAService))
	f.Add([]byte(`{"items":[{"ports":[{"port":1}],"endpoints":[{"addresses":["x@y"]}]}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		found, err := endpointsIn(body)
		if err != nil {
			return
		}
		for _, address := range found {
			if u, err := url.Parse("https://" + address); err != nil || u.Host != address || u.Port() == "" || u.User != nil || u.Path != "" {
				t.Errorf("%q is no host:port", address)
			}
		}
	})
}

// zone is a DNS server of one name, whose addresses a test changes.
type zone struct {
	mu        sync.Mutex
	addresses []string // none: NXDOMAIN
}

func (z *zone) set(addresses ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.addresses = addresses
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	if len(z.addresses) == 0 {
		m.Rcode = dns.RcodeNameError
	}
	for _, a := range z.addresses {
		if q.Question[0].Qtype == dns.TypeA {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.ParseIP(a)})
		}
	}
	_ = w.WriteMsg(m)
}

func (z *zone) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	check(t, err)
	server := &dns.Server{PacketConn: conn, Handler: z}
	serving := make(chan error, 1)
	go func() { serving <- server.ActivateAndServe() }()
	t.Cleanup(func() { _ = server.Shutdown(); <-serving })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// at serves the rig's handler at another address, with the rig's certificate, on the port of the first.
func (r *rig) at(address, port string) *httptest.Server {
	r.t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(address, port))
	check(r.t, err)
	s := httptest.NewUnstartedServer(r.backend.Config.Handler)
	_ = s.Listener.Close()
	s.Listener = listener
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	s.TLS = &tls.Config{Certificates: r.backend.TLS.Certificates, ClientAuth: tls.RequestClientCert}
	s.StartTLS()
	return s
}

// TestServersByName follows a name whose addresses change while requests go on: another server joins, one leaves in the
// middle of an answer, an answer without addresses and one with a dead address change nothing, and a new process begins
// with what was found last although the name server is gone.
func TestServersByName(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
	held := make(chan struct{})
	rig := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Served-By", r.Context().Value(http.LocalAddrContextKey).(net.Addr).String())
		if r.URL.Path == "/api/v1/namespaces/held" {
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-held
		}
		fmt.Fprint(w, "ok")
	})
	port := rig.backend.URL[strings.LastIndex(rig.backend.URL, ":")+1:]
	second, third := rig.at("127.0.0.2", port), rig.at("127.0.0.3", port)
	defer second.Close()
	defer third.Close()
	defer rig.backend.Close()

	names := &zone{}
	names.set("127.0.0.1", "127.0.0.2")
	state := t.TempDir()
	pair, err := tls.LoadX509KeyPair(rig.path("proxy.crt"), rig.path("proxy.key"))
	check(t, err)
	options := []Options{{
		Name: "api", URL: "https://api.test:" + port, ServerName: "api.test", CAFile: rig.path("ca.crt"), ProxyCertificate: &pair,
		Discovery: &Discovery{Refresh: 20 * time.Millisecond},
	}}
	headers := identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{})
	start := func(resolver *net.Resolver) (keeper *Keeper, group *Group, stop func()) {
		k := NewKeeper(nil, slog.New(slog.DiscardHandler))
		k.resolver = resolver
		k.Remember(state, "127.0.0.9:1")
		g, err := k.Prepare(options)
		check(t, err)
		k.Use(g, headers, 10)
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		return k, g, func() { cancel(); <-ended; k.Close() }
	}
	resolver := names.resolver(t)
	_, group, stop := start(resolver)
	named := func(g *Group) string {
		var all []string
		for _, s := range g.Servers() {
			all = append(all, s.Name+"="+strings.TrimSuffix(s.url.Host, ":"+port))
		}
		slices.Sort(all)
		return strings.Join(all, " ")
	}
	until := func(g *Group, want string) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for named(g) != want {
			select {
			case <-deadline:
				t.Fatalf("the servers are %s, want %s", named(g), want)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	until(group, "api-0=127.0.0.1 api-1=127.0.0.2")

	proxy := NewProxy(group, headers, time.Minute, NewBodies(nil), slog.New(slog.DiscardHandler))
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := flow.Classify(r, flow.Caller{User: "jane", Certainty: flow.CertificateVerified}, flow.Standard, time.Now())
		check(t, err)
		proxy.Serve(w, r, f, func(Result) {})
	}))
	defer front.Close()
	// An answer has begun at the second when it leaves.
	var open *http.Response
	for open == nil {
		response, err := front.Client().Get(front.URL + "/api/v1/namespaces/held")
		check(t, err)
		if strings.HasPrefix(response.Header.Get("Served-By"), "127.0.0.2:") {
			open = response
			break
		}
		defer response.Body.Close()
	}
	names.set("127.0.0.1", "127.0.0.3")
	until(group, "api-0=127.0.0.1 api-1=127.0.0.3")
	close(held)
	body := make([]byte, 2)
	if _, err := open.Body.Read(body); err != nil && string(body) != "ok" {
		t.Errorf("the answer of the server that left ends with %q, %v", body, err)
	}
	check(t, open.Body.Close())

	for name, addresses := range map[string][]string{"nobody": nil, "somebody who is not there": {"127.0.0.77"}} {
		names.set(addresses...)
		k := &entry{options: options[0], places: group.entries[0].places}
		keeper := NewKeeper(nil, slog.New(slog.DiscardHandler))
		keeper.resolver = resolver
		if err := keeper.look(t.Context(), group, k); err == nil {
			t.Errorf("%s: believed", name)
		}
		until(group, "api-0=127.0.0.1 api-1=127.0.0.3")
	}
	stop()

	gone := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no name server") }}
	_, again, stop := start(gone)
	until(again, "api-0=127.0.0.1 api-1=127.0.0.3")
	stop()
	front.CloseClientConnections()
}
