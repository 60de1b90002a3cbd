package upstream

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/internal/pki"
)

// rig is an upstream under the test's control: what the API server would never do on demand is done here. The behaviour
// of the real one is tested in the gate's own tests.
type rig struct {
	t       *testing.T
	dir     string
	backend *httptest.Server
}

func newRig(t *testing.T, handler http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir()}
	ca, err := pki.NewCA("test", time.Hour)
	check(t, err)
	serving, err := ca.Issue(pki.Spec{CommonName: "upstream", DNSNames: []string{"api.test"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true, Lifetime: time.Hour})
	check(t, err)
	proxy, err := ca.Issue(pki.Spec{CommonName: "front-proxy", Client: true, Lifetime: time.Hour})
	check(t, err)
	check(t, ca.Write(r.path("ca.crt"), r.path("ca.key")))
	check(t, proxy.Write(r.path("proxy.crt"), r.path("proxy.key")))
	r.backend = httptest.NewUnstartedServer(handler)
	r.backend.EnableHTTP2 = true
	r.backend.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	r.backend.TLS = &tls.Config{Certificates: []tls.Certificate{serving.TLS()}, ClientAuth: tls.RequestClientCert}
	r.backend.StartTLS()
	t.Cleanup(r.backend.Close)
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

func (r *rig) server(name, url string) *Server {
	r.t.Helper()
	s, err := New(Options{Name: name, URL: url, CAFile: r.path("ca.crt"), ProxyCertFile: r.path("proxy.crt"), ProxyKeyFile: r.path("proxy.key")})
	check(r.t, err)
	r.t.Cleanup(s.Close)
	return s
}

// front serves the proxy as the gate does, for a caller of the given certainty.
func (r *rig) front(certainty flow.Certainty, timeout time.Duration, servers ...*Server) (client *http.Client, url string, results chan Result) {
	r.t.Helper()
	return r.frontWith(NewBodies(nil), certainty, timeout, servers...)
}

func (r *rig) frontWith(bodies *Bodies, certainty flow.Certainty, timeout time.Duration, servers ...*Server) (client *http.Client, url string, results chan Result) {
	r.t.Helper()
	proxy := NewProxy(Fixed(servers...), identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{}), timeout, bodies, slog.New(slog.DiscardHandler))
	results = make(chan Result, 16)
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		caller := flow.Caller{User: "jane", Groups: []string{"dev"}, Certainty: certainty}
		f, err := flow.Classify(req, caller, flow.Standard, time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		proxy.Serve(w, req, f, func(result Result) { results <- result })
	}))
	front.EnableHTTP2 = true
	front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	front.StartTLS()
	r.t.Cleanup(front.Close)
	return front.Client(), front.URL, results
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, client *http.Client, url string) (int, http.Header, string) {
	t.Helper()
	response, err := client.Get(url)
	check(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	check(t, err)
	return response.StatusCode, response.Header, string(body)
}

func statusOf(t *testing.T, body string) metav1.Status {
	t.Helper()
	var status metav1.Status
	if err := json.Unmarshal([]byte(body), &status); err != nil {
		t.Fatalf("the answer is no Status: %v\n%s", err, body)
	}
	return status
}

func TestPoolsNeverShareAConnection(t *testing.T) {
	rig := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s certificates=%d remote=%s authorization=%s", r.RemoteAddr, len(r.TLS.PeerCertificates),
			r.Header.Get("X-Remote-User"), r.Header.Get("Authorization"))
	})
	server := rig.server("a", rig.backend.URL)
	seen := map[string]string{}
	for name, test := range map[string]struct {
		certainty flow.Certainty
		want      string
	}{
		"certificate": {flow.CertificateVerified, "certificates=1 remote=jane authorization="},
		"token":       {flow.TokenVerified, "certificates=0 remote= authorization=Bearer x"},
		"stranger":    {flow.Unverified, "certificates=0 remote= authorization=Bearer x"},
	} {
		client, url, _ := rig.front(test.certainty, time.Minute, server)
		req, err := http.NewRequest(http.MethodGet, url+"/api/v1/pods", nil)
		check(t, err)
		req.Header.Set("Authorization", "Bearer x")
		response, err := client.Do(req)
		check(t, err)
		body, err := io.ReadAll(response.Body)
		check(t, err)
		response.Body.Close()
		connection, rest, _ := strings.Cut(string(body), " ")
		if rest != test.want {
			t.Errorf("%s: upstream saw %q, want %q", name, rest, test.want)
		}
		if other, shared := seen[connection]; shared {
			t.Errorf("%s and %s share the connection %s", name, other, connection)
		}
		seen[connection] = name
	}
}

func TestWhatTheClientIsTold(t *testing.T) {
	block := make(chan struct{})
	rig := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/never":
			<-block
		case "/torn":
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write([]byte("half an ans"))
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/raw":
			fmt.Fprint(w, r.URL.RawQuery)
		default:
			fmt.Fprint(w, "ok")
		}
	})
	t.Cleanup(func() { close(block) })
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	deadURL := "https://" + dead.Addr().String()
	check(t, dead.Close())

	t.Run("nobody there: 503 that says so, and the request was not sent", func(t *testing.T) {
		client, url, results := rig.front(flow.TokenVerified, time.Minute, rig.server("gone", deadURL))
		code, header, body := get(t, client, url+"/api/v1/pods")
		status := statusOf(t, body)
		if code != http.StatusServiceUnavailable || header.Get("Retry-After") == "" || !strings.Contains(status.Message, "gone") {
			t.Errorf("got %d, Retry-After %q, %q", code, header.Get("Retry-After"), status.Message)
		}
		if result := <-results; result.Err == nil || result.Code != code {
			t.Errorf("result is %+v", result)
		}
	})
	t.Run("the next server is asked when one cannot be reached", func(t *testing.T) {
		client, url, results := rig.front(flow.TokenVerified, time.Minute, rig.server("gone", deadURL), rig.server("there", rig.backend.URL))
		for range 3 {
			if code, _, body := get(t, client, url+"/api/v1/pods"); code != http.StatusOK || body != "ok" {
				t.Errorf("got %d %q", code, body)
			}
			if result := <-results; result.Server != "there" || result.ResponseBytes != 2 {
				t.Errorf("result is %+v", result)
			}
		}
	})
	t.Run("a server that takes the request and never answers: 504, not a hang", func(t *testing.T) {
		client, url, _ := rig.front(flow.TokenVerified, 50*time.Millisecond, rig.server("mute", rig.backend.URL))
		code, _, body := get(t, client, url+"/never")
		if status := statusOf(t, body); code != http.StatusGatewayTimeout || status.Reason != metav1.StatusReasonTimeout {
			t.Errorf("got %d, %+v", code, status)
		}
	})
	t.Run("a torn answer does not look complete", func(t *testing.T) {
		client, url, _ := rig.front(flow.TokenVerified, time.Minute, rig.server("torn", rig.backend.URL))
		response, err := client.Get(url + "/torn")
		if err != nil {
			return // torn before its beginning had gone on
		}
		defer response.Body.Close()
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("the answer was read to its end without an error")
		}
	})
	t.Run("the query is passed on as it was written", func(t *testing.T) {
		client, url, _ := rig.front(flow.TokenVerified, time.Minute, rig.server("raw", rig.backend.URL))
		const query = "labelSelector=a%2Cb;c&limit=5&%zz"
		if _, _, body := get(t, client, url+"/raw?"+query); body != query {
			t.Errorf("upstream saw %q, want %q", body, query)
		}
	})
}

func TestEndingAStream(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	rig := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_, _ = w.Write([]byte("first"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	server := rig.server("a", rig.backend.URL)
	proxy := NewProxy(Fixed(server), identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{}), time.Minute, NewBodies(nil), slog.New(slog.DiscardHandler))
	for name, test := range map[string]struct {
		path      string
		wantClean bool
	}{
		"a watch ends cleanly":                       {"/api/v1/pods?watch=true&resourceVersion=5", true},
		"a cut list does not look like a whole list": {"/api/v1/pods", false},
	} {
		t.Run(name, func(t *testing.T) {
			ends := make(chan context.CancelCauseFunc, 1)
			front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancelCause(r.Context())
				defer cancel(nil)
				ends <- cancel
				f, _ := flow.Classify(r, flow.Caller{Certainty: flow.TokenVerified}, flow.Standard, time.Now())
				proxy.Serve(w, r.WithContext(ctx), f, func(Result) {})
			}))
			front.EnableHTTP2 = true
			front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			front.StartTLS()
			defer front.Close()
			response, err := front.Client().Get(front.URL + test.path)
			check(t, err)
			defer response.Body.Close()
			first := make([]byte, 5)
			_, err = io.ReadFull(response.Body, first)
			check(t, err)
			(<-ends)(fmt.Errorf("%w: blocked", ErrEndStream))
			_, err = io.ReadAll(response.Body)
			if clean := err == nil; clean != test.wantClean {
				t.Errorf("reading to the end: %v, want clean: %v", err, test.wantClean)
			}
		})
	}
	server.Close()
	rig.backend.Close()
}

func TestUntrustedUpstreamIsNotSpokenTo(t *testing.T) {
	called := false
	rig := newRig(t, func(http.ResponseWriter, *http.Request) { called = true })
	other := newRig(t, func(http.ResponseWriter, *http.Request) {})
	client, url, _ := other.front(flow.CertificateVerified, time.Minute, other.server("impostor", rig.backend.URL))
	code, _, _ := get(t, client, url+"/api/v1/pods")
	if code != http.StatusServiceUnavailable || called {
		t.Errorf("got %d, called: %v", code, called)
	}
}

func TestNewRefusesWhatItCannotUse(t *testing.T) {
	rig := newRig(t, func(http.ResponseWriter, *http.Request) {})
	_, err := New(Options{Name: "a", URL: rig.backend.URL, CAFile: rig.path("proxy.key"), ProxyCertFile: rig.path("proxy.crt"), ProxyKeyFile: rig.path("proxy.key")})
	if err == nil {
		t.Error("a CA file without certificates was accepted")
	}
	_, err = New(Options{Name: "a", URL: rig.backend.URL, CAFile: rig.path("ca.crt"), ProxyCertFile: rig.path("proxy.crt"), ProxyKeyFile: rig.path("ca.key")})
	if err == nil {
		t.Error("a key of another certificate was accepted")
	}
}
