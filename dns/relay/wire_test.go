package relay_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/relay"
	"github.com/seakeep/seakeep/dns/store"
)

// handed is a keeper's data that was handed over whole.
type handed struct {
	store  *store.Store
	status keeper.Status
}

func (h *handed) Store() *store.Store   { return h.store }
func (h *handed) Status() keeper.Status { return h.status }

// data has n services, each with a slice.
func data(n int) *handed {
	h := &handed{store: store.New(time.Now)}
	h.status = keeper.Status{
		State: keeper.Restored, Stale: true, Source: "snapshot", Class: keeper.Disk, Cluster: "a-cluster", Confirmed: time.Now().Add(-time.Minute),
		Versions: map[string]string{"namespaces": "100", "services": "200", "endpointslices": "300"},
	}
	for _, name := range []string{"default", "kube-system", "shop"} {
		h.store.Put(&store.Namespace{Name: name, Version: 1})
	}
	for i := range n {
		name := fmt.Sprintf("svc-%05d", i)
		h.store.Put(&store.Service{
			Namespace: "shop", Name: name, Version: uint64(i + 2), ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
			Ports: []store.Port{{Name: "http", Protocol: "TCP", Number: 80}},
		})
		var endpoints []store.Endpoint
		for j := range 10 {
			endpoints = append(endpoints, store.Endpoint{Addr: netip.AddrFrom4([4]byte{10, 1, byte(i), byte(j)}), Ready: true, Serving: true, NodeName: "node-1", TargetName: fmt.Sprint(name, j)})
		}
		h.store.Put(store.NewEndpointSlice(store.SliceMeta{Namespace: "shop", Name: name + "-x", Service: name, Version: uint64(i + 3)}, endpoints))
	}
	return h
}

func loaded(t testing.TB, h *handed) *relay.Relay {
	t.Helper()
	r := relay.New(relay.Options{Data: h, Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	r.Load()
	return r
}

var plain = relay.Access{Plain: true}

func serve(t *testing.T, handler http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return s
}

func ask(t *testing.T, s *httptest.Server, path, accept string) (int, http.Header, []byte) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	check(t, err)
	q.Header.Set("Accept", accept)
	answer, err := s.Client().Do(q)
	check(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	check(t, err)
	return answer.StatusCode, answer.Header, body
}

const protobuf = "application/vnd.kubernetes.protobuf,application/json"

// Both encodings are what client-go reads, and say the same.
func TestEncodings(t *testing.T) {
	s := serve(t, loaded(t, data(30)).Handler(plain))
	for _, path := range []string{"/api/v1/services", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", "/api/v1/namespaces", "/api/v1/namespaces/shop/services/svc-00003"} {
		var decoded []any
		for accept, want := range map[string]string{protobuf: "application/vnd.kubernetes.protobuf", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json": "application/json"} {
			code, header, body := ask(t, s, path, accept)
			if code != 200 || header.Get("Content-Type") != want {
				t.Fatalf("%s answers %d %s", path, code, header.Get("Content-Type"))
			}
			o, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
			check(t, err)
			// Items carry their type in JSON only.
			text, err := json.Marshal(o)
			check(t, err)
			decoded = append(decoded, string(text))
			if age := header.Get(relay.HeaderAge); age != "60" && age != "61" {
				t.Errorf("the data is %q old, want 60 or 61", age)
			}
			if state := header.Get(relay.HeaderState); state != "restored" {
				t.Errorf("the state is %q", state)
			}
		}
		if decoded[0] != decoded[1] {
			t.Errorf("%s: the encodings differ:\n%s", path, cmp.Diff(decoded[0], decoded[1]))
		}
	}
}

func TestRequests(t *testing.T) {
	s := serve(t, loaded(t, data(5)).Handler(plain))
	for path, want := range map[string]struct {
		code int
		text string
	}{
		"/api/v1/services":                                                    {200, `"resourceVersion":"200"`},
		"/api/v1/services?resourceVersion=0":                                  {200, "svc-00004"},
		"/api/v1/services?resourceVersion=250":                                {200, `"resourceVersion":"200"`}, // another kind is that far; it says what it is of
		"/api/v1/services?resourceVersion=100000":                             {504, "ResourceVersionTooLarge"},
		"/api/v1/services?resourceVersion=abc":                                {400, "resourceVersion"},
		"/api/v1/services?resourceVersion=3&resourceVersionMatch=Exact":       {410, "Expired"},
		"/api/v1/services?resourceVersionMatch=Sometimes":                     {400, "resourceVersionMatch"},
		"/api/v1/services?limit=-1":                                           {400, "limit"},
		"/api/v1/services?limit=2":                                            {200, "continue"},
		"/api/v1/services?continue=abc":                                       {400, "continue"},
		"/api/v1/services?continue=eyJpZCI6Im5vIn0":                           {410, "Expired"},
		"/api/v1/services?labelSelector=app%3Dweb":                            {400, "does not keep the label"},
		"/api/v1/services?labelSelector=%21%21":                               {400, "labelSelector"},
		"/api/v1/services?fieldSelector=spec.type%3DX":                        {400, "cannot select"},
		"/api/v1/services?fieldSelector=metadata.name%3Dsvc-00001":            {200, "svc-00001"},
		"/api/v1/namespaces/none/services":                                    {200, `"items":[]`},
		"/api/v1/namespaces?labelSelector=kubernetes.io/metadata.name%3Dshop": {200, "shop"},
		"/api/v1/namespaces/kube-system":                                      {200, `"uid":"a-cluster"`},
		"/api/v1/namespaces/kube-system?resourceVersion=300":                  {200, `"uid":"a-cluster"`},
		"/api/v1/namespaces/kube-system?resourceVersion=301":                  {504, "ResourceVersionTooLarge"},
		"/api/v1/namespaces/none":                                             {404, "NotFound"},
		"/api/v1/pods":                                                        {404, "does not have this kind"},
		"/apis/multicluster.x-k8s.io/v1alpha1/serviceimports":                 {404, "does not have this kind"},
		"/api/v1/secrets":                                                     {404, "does not serve"},
		"/api/v1/namespaces/shop/services/svc-00001/status":                   {404, "does not serve"},
		"/api/v1/services/svc-00001":                                          {404, "does not serve"},
		"/api/v1/services?watch=1&resourceVersion=150":                        {410, "Expired"},
		"/api/v1/services?watch=1&sendInitialEvents=true":                     {400, "sendInitialEvents"},
		"/api/v1/services?sendInitialEvents=true":                             {400, "sendInitialEvents"},
		"/api/v1/services?watch=1&resourceVersion=200&timeoutSeconds=1":       {200, ""},
		"/api/v1/services?watch=1&resourceVersion=100000&timeoutSeconds=1":    {504, "ResourceVersionTooLarge"},
		"/api/v1/services?watch=1&resourceVersion=200&timeoutSeconds=-1":      {400, "timeoutSeconds"},
		"/api":                      {200, `"v1"`},
		"/apis":                     {200, "discovery.k8s.io"},
		"/api/v1":                   {200, "namespaces"},
		"/apis/discovery.k8s.io/v1": {200, "endpointslices"},
		"/version":                  {200, "gitVersion"},
		"/readyz":                   {200, "ok"},
		"/livez":                    {200, "ok"},
		"/":                         {404, "does not serve"},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			code, _, body := ask(t, s, path, "application/json")
			if code != want.code || !strings.Contains(string(body), want.text) {
				t.Errorf("it answers %d %.300s, want %d and %q", code, body, want.code, want.text)
			}
		})
	}
	if code, _, _ := ask(t, s, "/api/v1/services", "text/html"); code != http.StatusNotAcceptable {
		t.Errorf("HTML is answered with %d", code)
	}
	if answer, err := s.Client().Post(s.URL+"/api/v1/services", "application/json", strings.NewReader("{}")); err != nil || answer.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST is answered with %v (%v)", answer, err)
	}
}

func TestWatchList(t *testing.T) {
	s := serve(t, loaded(t, data(3)).Handler(plain))
	code, _, body := ask(t, s, "/api/v1/services?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1", "application/json")
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	if code != 200 || len(lines) != 4 || !strings.HasPrefix(lines[0], `{"type":"ADDED"`) {
		t.Fatalf("it answers %d %s", code, body)
	}
	for _, want := range []string{`"BOOKMARK"`, `"resourceVersion":"200"`, `"k8s.io/initial-events-end":"true"`, `"seakeep.dev/age-seconds":"60.`} {
		if !strings.Contains(lines[3], want) {
			t.Errorf("the last event is %s, want %s in it", lines[3], want)
		}
	}
}

// What comes first is of the version that it says, also for a client that knows a newer one: said to be newer, a change
// between the two would be lost.
func TestInitialEventsSayTheirOwnVersion(t *testing.T) {
	s := serve(t, loaded(t, data(3)).Handler(plain))
	_, _, body := ask(t, s, "/api/v1/services?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=250&allowWatchBookmarks=true&timeoutSeconds=1", "application/json")
	if !strings.Contains(string(body), `"resourceVersion":"200","annotations"`) {
		t.Errorf("it answers %s", body)
	}
}

func TestNothingYet(t *testing.T) {
	h := data(1)
	h.status = keeper.Status{State: keeper.Empty}
	s := serve(t, loaded(t, h).Handler(plain))
	for _, path := range []string{"/api/v1/services", "/api/v1/services?watch=1", "/api/v1/namespaces/kube-system", "/readyz", "/snapshot"} {
		if code, _, body := ask(t, s, path, "application/json"); code != http.StatusServiceUnavailable {
			t.Errorf("%s answers %d %s", path, code, body)
		}
	}
}

// Nobody reads but those who were named.
func TestAccess(t *testing.T) {
	p := newPapers(t)
	token := p.file("token")
	check(t, os.WriteFile(token, []byte("0123456789abcdef\n"), 0o600))
	both := p.access
	both.TokenFile = token
	everybody := p.access
	everybody.Allow = []string{relay.Anyone}
	r := loaded(t, data(1))
	for name, test := range map[string]struct {
		access        relay.Access
		client, token string
		want          int // 0: no connection
	}{
		"the one named":                {p.access, "node", "", 200},
		"another of the CA":            {p.access, "kubelet", "", 403},
		"another, all being allowed":   {everybody, "kubelet", "", 200},
		"nobody":                       {p.access, "", "", 0},
		"nobody, where tokens are":     {both, "", "", 401},
		"with the token":               {both, "", "0123456789abcdef", 200},
		"with another token":           {both, "", "0123456789abcdeF", 401},
		"with a certificate not named": {both, "kubelet", "0123456789abcdef", 403},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, test.access.Validate("0.0.0.0:1"))
			l, err := net.Listen("tcp", "127.0.0.1:0")
			check(t, err)
			server := r.Server(test.access)
			server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			done := make(chan struct{})
			go func() { defer close(done); _ = server.ServeTLS(l, "", "") }()
			defer func() { _ = server.Close(); <-done }()
			n := &node{papers: p, url: "https://" + l.Addr().String()}
			config := p.config(n.url, test.client)
			config.BearerToken = test.token
			code := 0
			if answer, err := clientFor(t, config).Get(n.url + "/api/v1/services"); err == nil {
				code = answer.StatusCode
				_ = answer.Body.Close()
			}
			if code != test.want {
				t.Errorf("it answers %d, want %d", code, test.want)
			}
		})
	}
}

func TestAccessIsNotGivenByAccident(t *testing.T) {
	p := newPapers(t)
	check(t, os.WriteFile(p.file("short"), []byte("abc"), 0o600))
	for name, test := range map[string]struct {
		access  relay.Access
		address string
		want    string
	}{
		"nothing":               {relay.Access{}, "127.0.0.1:1", "a certificate and its key"},
		"no clients":            {relay.Access{CertFile: "a", KeyFile: "b"}, "127.0.0.1:1", "nobody could read"},
		"no names":              {relay.Access{CertFile: "a", KeyFile: "b", ClientCAFile: "c"}, "127.0.0.1:1", "which names"},
		"names without a CA":    {relay.Access{CertFile: "a", KeyFile: "b", TokenFile: "t", Allow: []string{"x"}}, "127.0.0.1:1", "no CA"},
		"no such files":         {relay.Access{CertFile: "a", KeyFile: "b", ClientCAFile: "c", Allow: []string{"x"}}, "127.0.0.1:1", "reading"},
		"a short token":         {relay.Access{CertFile: p.access.CertFile, KeyFile: p.access.KeyFile, TokenFile: p.file("short")}, "127.0.0.1:1", "shorter"},
		"plain for all":         {plain, "0.0.0.0:8080", "loopback"},
		"plain for a name":      {plain, "localhost:8080", "loopback"},
		"plain with a port":     {plain, ":8080", "loopback"},
		"plain and TLS at once": {relay.Access{Plain: true, CertFile: "a"}, "127.0.0.1:1", "neither"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := test.access.Validate(test.address); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q in it", err, test.want)
			}
		})
	}
	check(t, plain.Validate("127.0.0.1:8080"))
	check(t, plain.Validate("[::1]:8080"))
}

// A client that reads slowly gets its list, whole, and costs the others nothing; one that does not read is dropped.
func TestSlowReaders(t *testing.T) {
	h := data(2000) // 3 MB of slices
	r := loaded(t, h)
	s := serve(t, r.Handler(plain))
	slow, err := net.Dial("tcp", s.Listener.Addr().String())
	check(t, err)
	defer slow.Close()
	check(t, slow.(*net.TCPConn).SetReadBuffer(64<<10))
	fmt.Fprintf(slow, "GET /apis/discovery.k8s.io/v1/endpointslices HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	first := make([]byte, 1000)
	_, err = io.ReadFull(slow, first)
	check(t, err)
	began := time.Now()
	code, _, body := ask(t, s, "/apis/discovery.k8s.io/v1/endpointslices", protobuf)
	if code != 200 || len(body) < 100<<10 {
		t.Errorf("beside a slow reader a list has %d bytes", len(body))
	}
	t.Logf("beside a slow reader a list of %d bytes took %s", len(body), time.Since(began))
	// It reads on, and gets to the end.
	answer, err := http.ReadResponse(bufio.NewReader(io.MultiReader(strings.NewReader(string(first)), slow)), nil)
	check(t, err)
	text, err := io.ReadAll(answer.Body)
	check(t, err)
	var list discoveryv1.EndpointSliceList
	check(t, json.Unmarshal(text, &list))
	if len(list.Items) != 2000 {
		t.Errorf("the slow reader got %d slices", len(list.Items))
	}
}

// Who does not read at all is dropped, and nothing is kept for it.
func TestWhoDoesNotReadIsDropped(t *testing.T) {
	r := relay.New(relay.Options{Data: data(20_000), WriteFor: 300 * time.Millisecond, Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	r.Load()
	s := serve(t, r.Handler(plain))
	for _, path := range []string{"/apis/discovery.k8s.io/v1/endpointslices", "/apis/discovery.k8s.io/v1/endpointslices?watch=1"} {
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		check(t, err)
		fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		<-time.After(3 * time.Second) // whatever the buffers take is written long before
		check(t, c.SetReadDeadline(time.Now().Add(30*time.Second)))
		n, err := io.Copy(io.Discard, c)
		if err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("after %d bytes of %s: %v", n, path, err)
		}
		if n > 25<<20 { // it is 50 MB
			t.Errorf("%s went on to %d bytes for a client that did not read", path, n)
		}
		check(t, c.Close())
	}
}

// What is not HTTP, or no TLS, ends with an error and leaves the relay as it was.
func TestGarbage(t *testing.T) {
	p := newPapers(t)
	r := loaded(t, data(1))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server := r.Server(p.access)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(l, "", "") }()
	defer func() { _ = server.Close(); <-done }()
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff", strings.Repeat("\x00", 100_000)} {
		c, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		_, _ = c.Write([]byte(garbage))
		check(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
		_ = c.(*net.TCPConn).CloseWrite()
		if _, err := io.ReadAll(c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%.20q is not answered: %v", garbage, err)
		}
		_ = c.Close()
	}
	pair, err := tls.LoadX509KeyPair(p.file("node.crt"), p.file("node.key"))
	check(t, err)
	inside, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true}) //nolint:gosec // it sends garbage
	check(t, err)
	_, _ = inside.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + strings.Repeat("\xff", 5000)))
	_ = inside.Close()
	answer, err := clientFor(t, p.config("https://"+l.Addr().String(), "node")).Get("https://" + l.Addr().String() + "/readyz")
	check(t, err)
	_ = answer.Body.Close()
	if answer.StatusCode != 200 {
		t.Errorf("after it the relay answers %d", answer.StatusCode)
	}
}

func FuzzRequests(f *testing.F) {
	for _, path := range []string{
		"/api/v1/services?limit=2", "/api/v1/namespaces/a/services/b?watch=1&timeoutSeconds=1", "/apis/discovery.k8s.io/v1/endpointslices?labelSelector=a%3Db",
		"/api/v1/services?continue=eyJpZCI6IiJ9", "/snapshot", "/api//v1", "/api/v1/namespaces//services",
	} {
		f.Add(path, protobuf)
	}
	r := loaded(f, data(3))
	handler := r.Handler(plain)
	f.Fuzz(func(t *testing.T, path, accept string) {
		u, err := url.ParseRequestURI(path)
		if err != nil || u.Query().Get("watch") != "" || u.Query().Get("resourceVersion") != "" {
			return // those wait
		}
		q := httptest.NewRequest(http.MethodGet, "/", nil)
		q.URL = u
		q.Header.Set("Accept", accept)
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, q)
		if w.Code == 200 && w.Header().Get("Content-Type") == "application/json" && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%q answers what is no JSON: %s", path, w.Body)
		}
		if w.Code >= 500 {
			t.Errorf("%q answers %d %s", path, w.Code, w.Body)
		}
	})
}
