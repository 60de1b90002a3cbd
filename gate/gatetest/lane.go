// Package gatetest opens a gate in front of a lab's control plane for the tests of the gate's rooms, and sees to it that
// nothing of it is left when the test ends: no goroutine, no descriptor. It is compiled into tests only.
package gatetest

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// Options say what gate to open. The zero value is a gate as shipped, on loopback.
type Options struct {
	// Upstream is the URL of what the gate takes for its API server, with a certificate of the lab's authority;
	// default: the lab's first API server.
	Upstream string
	// Address is where the gate listens; default 127.0.0.1:0.
	Address string
	// More is YAML appended to the configuration: further fields, such as limits.
	More string
}

// Lane is a running gate. Its methods are for the test's goroutine; the clients they return are safe for any.
type Lane struct {
	// Lab is the control plane behind the gate.
	Lab *lab.Lab
	// File is the gate's configuration, which a test may change; see Replace.
	File string
	// URL is where the gate listens.
	URL string
	// Registry holds the gate's metrics.
	Registry *prometheus.Registry

	t       testing.TB
	dir     string
	stop    func()
	clients *connections
}

const configuration = `apiVersion: seakeep.dev/v1alpha1
kind: GateConfiguration
listen: {address: %[10]q, certFile: %[1]s, keyFile: %[2]s}
upstreams: [{name: lab, url: %[3]q, caFile: %[4]s}]
identity:
  clientCAFile: %[4]s
  proxyCertFile: %[5]s
  proxyKeyFile: %[6]s
  serviceAccounts: {issuers: [%[7]s], keyFiles: [%[8]s]}
admin: {socket: %[9]s/admin.sock}
stateDir: %[9]s/state
`

// Write writes a gate's configuration and the serving key it names into the folder, and returns the file's name. The
// key is a copy, so that a test may replace it.
func Write(t testing.TB, l *lab.Lab, dir string, o Options) string {
	t.Helper()
	p := l.PKI()
	serving := func(name string) string {
		data, err := os.ReadFile(name)
		check(t, err)
		copied := filepath.Join(dir, filepath.Base(name))
		check(t, os.WriteFile(copied, data, 0o600))
		return copied
	}
	if o.Upstream == "" {
		o.Upstream = l.APIServerURL(0)
	}
	if o.Address == "" {
		o.Address = "127.0.0.1:0"
	}
	text := fmt.Sprintf(configuration, serving(p.ServingCert), serving(p.ServingKey), o.Upstream, p.ClusterCA, p.FrontProxyCert, p.FrontProxyKey,
		lab.ServiceAccountIssuer, p.ServiceAccountKey, dir, o.Address) + o.More
	file := filepath.Join(dir, "gate.yaml")
	check(t, os.WriteFile(file, []byte(text), 0o600))
	return file
}

// Open opens a gate in front of the lab. When the test ends the gate is stopped and must leave nothing behind; so the
// lab must be up before, and clients must come from the lane (Config, Direct), which cuts their connections first.
func Open(t testing.TB, l *lab.Lab, o Options) *Lane {
	t.Helper()
	return Serve(t, l, Write(t, l, t.TempDir(), o))
}

// Serve is Open with a configuration written before, by Write or by hand. The admin socket is expected beside the file.
func Serve(t testing.TB, l *lab.Lab, file string) *Lane {
	t.Helper()
	leftBehind := Snapshot()
	n := &Lane{t: t, Lab: l, File: file, dir: filepath.Dir(file), Registry: prometheus.NewRegistry(), clients: &connections{open: map[net.Conn]struct{}{}}}
	g, err := newGate(file, n.Registry, nil, slog.New(slog.NewTextHandler(t.Output(), nil)))
	check(t, err)
	n.URL = "https://" + g.Address().String()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the gate ended with %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("the gate does not stop")
		}
	})
	t.Cleanup(func() {
		n.stop()
		n.clients.cut()
		leftBehind.Verify(t)
	})
	return n
}

func newGate(file string, registry *prometheus.Registry, stdout io.Writer, log *slog.Logger) (*gate.Gate, error) {
	return gate.New(gate.Options{
		Load: func() (*v1alpha1.GateConfiguration, *config.Document, error) {
			return config.LoadKind[*v1alpha1.GateConfiguration](file, strings.NewReader(""))
		},
		ConfigFile: file, Version: "test", Gatherer: registry, Registerer: registry, Stdout: stdout, Log: log,
	})
}

// Play is `seakeep gate --config file` in a test program that was started to be a gate: it ends with SIGTERM, and says on
// stderr what is of that level.
func Play(file string, stdout, stderr io.Writer, level slog.Level) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	g, err := newGate(file, prometheus.NewRegistry(), stdout, slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level})))
	if err != nil {
		return err
	}
	return g.Run(ctx)
}

// Stop stops the gate as SIGTERM does and waits for its end. It may be called more than once.
func (n *Lane) Stop() { n.stop() }

// Socket is the admin endpoint.
func (n *Lane) Socket() string { return filepath.Join(n.dir, "admin.sock") }

// Replace replaces the configuration as an editor does, whole.
func (n *Lane) Replace(text string) {
	n.t.Helper()
	check(n.t, os.WriteFile(n.File+".new", []byte(text), 0o600))
	check(n.t, os.Rename(n.File+".new", n.File))
}

// Config is a client's way through the gate as the identity.
func (n *Lane) Config(id lab.Identity) *rest.Config {
	c := n.Direct(id)
	c.Host = n.URL
	return c
}

// Direct is a client's way round the gate, with connections of its own.
func (n *Lane) Direct(id lab.Identity) *rest.Config {
	c := rest.CopyConfig(n.Lab.RESTConfig(id))
	c.Dial = n.Dial
	return c
}

// Client is a client through the gate as the identity.
func (n *Lane) Client(id lab.Identity) *kubernetes.Clientset { return Clientset(n.t, n.Config(id)) }

// Dial opens a connection that is cut when the test ends.
func (n *Lane) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return n.clients.dial(ctx, network, address)
}

// HTTP is a client without any identity but the given certificates, for requests a client library would not send. The
// protocol is HTTP/1.1 unless http2 is set.
func (n *Lane) HTTP(http2 bool, certificates ...tls.Certificate) *http.Client {
	n.t.Helper()
	roots, err := pki.LoadPool(n.Lab.CAFile())
	check(n.t, err)
	return &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:        n.Dial,
			TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: certificates},
			ForceAttemptHTTP2:  http2,
			DisableCompression: true,
		},
	}
}

// Certificate is what the identity shows in a handshake.
func (n *Lane) Certificate(id lab.Identity) tls.Certificate {
	n.t.Helper()
	return certificateOf(n.t, n.Lab.RESTConfig(id))
}

func certificateOf(t testing.TB, c *rest.Config) tls.Certificate {
	t.Helper()
	tlsConfig, err := rest.TLSConfigFor(c)
	check(t, err)
	certificate, err := tlsConfig.GetClientCertificate(&tls.CertificateRequestInfo{})
	check(t, err)
	return *certificate
}

// Clientset is a client of the configuration.
func Clientset(t testing.TB, c *rest.Config) *kubernetes.Clientset {
	t.Helper()
	client, err := kubernetes.NewForConfig(c)
	check(t, err)
	return client
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connections are those of a test's clients, which would otherwise be kept for another request by transports that
// nobody can reach any more.
type connections struct {
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open[conn] = struct{}{}
	return &connection{Conn: conn, forget: sync.OnceFunc(func() { c.forget(conn) })}, nil
}

func (c *connections) forget(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, conn)
}

func (c *connections) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for conn := range c.open {
		_ = conn.Close()
	}
}

type connection struct {
	net.Conn
	forget func()
}

func (c *connection) Close() error {
	c.forget()
	return c.Conn.Close()
}
