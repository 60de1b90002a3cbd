package breakglass

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/pki"
)

// rig is a lane with everything around it on this machine: PKI, a server that plays the API server, and clients.
type rig struct {
	t        *testing.T
	dir      string
	lane     *Server
	registry *prometheus.Registry
	stderr   *buffer
	config   *v1alpha1.BreakGlassConfiguration
	stop     func() error

	cluster, breakGlass, frontProxy *pki.CA
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func must[T any](value T, err error) func(t testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

// leavesNothing sees to it that no goroutine and no descriptor is left of what the test makes from now on.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := gatetest.Snapshot()
	t.Cleanup(func() { before.Verify(t) })
}

// newRig makes the PKI; start starts the lane.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), registry: prometheus.NewRegistry(), stderr: &buffer{}}
	leavesNothing(t)
	r.cluster = must(pki.NewCA("cluster", time.Hour))(t)
	r.breakGlass = must(pki.NewCA("break-glass", time.Hour))(t)
	r.frontProxy = must(pki.NewCA("front-proxy", time.Hour))(t)
	serving := must(r.cluster.Issue(pki.Spec{CommonName: "lane", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Server: true}))(t)
	proxy := must(r.frontProxy.Issue(pki.Spec{CommonName: "seakeep-break-glass", Lifetime: time.Hour, Client: true}))(t)
	for _, err := range []error{
		serving.Write(r.path("lane.crt"), r.path("lane.key")),
		proxy.Write(r.path("proxy.crt"), r.path("proxy.key")),
		os.WriteFile(r.path("cluster.crt"), r.cluster.CertPEM(), 0o600),
		os.WriteFile(r.path("ca.crt"), r.breakGlass.CertPEM(), 0o600),
		os.WriteFile(r.path("denied"), nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	r.config = &v1alpha1.BreakGlassConfiguration{
		Listen: v1alpha1.BreakGlassListen{
			Address: "127.0.0.1:0", CertFile: r.path("lane.crt"), KeyFile: r.path("lane.key"),
			ClientCAFile: r.path("ca.crt"), DeniedSerialsFile: r.path("denied"),
		},
		Identity:  v1alpha1.BreakGlassIdentity{ProxyCertFile: r.path("proxy.crt"), ProxyKeyFile: r.path("proxy.key")},
		AuditFile: r.path("audit.log"),
	}
	r.config.SetDefaults()
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// apiServer adds a server that plays an API server: it wants the front-proxy certificate.
func (r *rig) apiServer(handler http.HandlerFunc) *httptest.Server {
	r.t.Helper()
	pair := must(r.cluster.Issue(pki.Spec{CommonName: "kube-apiserver", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Server: true}))(r.t)
	roots := x509.NewCertPool()
	roots.AddCert(r.frontProxy.Cert)
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair.TLS()}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	server.StartTLS()
	r.t.Cleanup(server.Close)
	r.upstream(server.URL)
	return server
}

func (r *rig) upstream(url string) {
	name := string(rune('a' + len(r.config.Upstreams)))
	r.config.Upstreams = append(r.config.Upstreams, v1alpha1.GateUpstream{Name: name, URL: url, CAFile: r.path("cluster.crt")})
}

func (r *rig) start() {
	r.t.Helper()
	if errs := r.config.Validate(); len(errs) > 0 && r.config.Listen.Address != "127.0.0.1:0" {
		r.t.Fatal(errs.ToAggregate())
	}
	log := slog.New(slog.NewTextHandler(r.stderr, nil))
	lane, err := New(Options{Config: r.config, Log: log, Stderr: r.stderr, Registerer: r.registry, Gatherer: r.registry})
	if err != nil {
		r.t.Fatal(err)
	}
	r.lane = lane
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- lane.Run(ctx) }()
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	r.t.Cleanup(func() {
		if err := r.stop(); err != nil {
			r.t.Errorf("the lane ended with: %v", err)
		}
		if r.t.Failed() {
			r.t.Log(r.stderr.String())
		}
	})
}

// engineer is a client with a certificate of the CA; spec's zero fields are filled in.
func (r *rig) engineer(ca *pki.CA, spec pki.Spec) (*http.Client, *pki.Pair) {
	r.t.Helper()
	spec.Client = true
	if spec.CommonName == "" {
		spec.CommonName = "alice"
	}
	if spec.Organizations == nil {
		spec.Organizations = []string{"system:masters"}
	}
	if spec.Lifetime == 0 {
		spec.Lifetime = time.Hour
	}
	pair := must(ca.Issue(spec))(r.t)
	return r.client(pair), pair
}

// client speaks to the lane with a certificate, or without one when the pair is nil.
func (r *rig) client(pair *pki.Pair) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(r.cluster.Cert)
	config := &tls.Config{RootCAs: roots}
	if pair != nil {
		// The certificate is sent even when the server does not name its CA, as kubectl does.
		certificate := pair.TLS()
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certificate, nil }
	}
	transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func (r *rig) url(path string) string { return "https://" + r.lane.Address().String() + path }

// records stops the lane and returns its audit file, verified.
func (r *rig) records() []record {
	r.t.Helper()
	if err := r.stop(); err != nil {
		r.t.Fatal(err)
	}
	return readRecords(r.t, r.config.AuditFile)
}

func readRecords(t *testing.T, path string) []record {
	t.Helper()
	if _, err := auditlog.Verify(path); err != nil {
		t.Fatalf("the audit chain is broken: %v", err)
	}
	data := must(os.ReadFile(path))(t)
	var records []record
	for line := range bytes.Lines(data) {
		var l struct{ Event record }
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		records = append(records, l.Event)
	}
	return records
}

func statusOf(t *testing.T, response *http.Response) metav1.Status {
	t.Helper()
	defer response.Body.Close()
	body := must(io.ReadAll(response.Body))(t)
	var status metav1.Status
	if err := json.Unmarshal(body, &status); err != nil || status.Kind != "Status" {
		t.Fatalf("the answer is no Status: %s", body)
	}
	return status
}

// probing is true for the lane's own questions, which every API server gets.
func probing(q *http.Request) bool { return q.URL.Path == "/livez" || q.URL.Path == "/readyz" }
