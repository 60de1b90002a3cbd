package relay_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/relay"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/source"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testkit.Within(t, what, 60*time.Second, ok)
}

// papers are a CA, the relay's certificate, and clients'.
type papers struct {
	dir    string
	access relay.Access
}

func newPapers(t *testing.T) papers {
	t.Helper()
	p := papers{dir: t.TempDir()}
	ca, err := pki.NewCA("relays", time.Hour)
	check(t, err)
	check(t, os.WriteFile(p.file("ca.crt"), ca.CertPEM(), 0o600))
	for name, spec := range map[string]pki.Spec{
		"relay":   {CommonName: "relay", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true, Lifetime: time.Hour},
		"node":    {CommonName: "dns-node", Client: true, Lifetime: time.Hour},
		"kubelet": {CommonName: "system:node:a", Client: true, Lifetime: time.Hour},
	} {
		pair, err := ca.Issue(spec)
		check(t, err)
		check(t, pair.Write(p.file(name+".crt"), p.file(name+".key")))
	}
	p.access = relay.Access{CertFile: p.file("relay.crt"), KeyFile: p.file("relay.key"), ClientCAFile: p.file("ca.crt"), Allow: []string{"dns-node"}}
	return p
}

func (p papers) file(name string) string { return filepath.Join(p.dir, name) }

// config is a client's.
func (p papers) config(url, client string) *rest.Config {
	c := &rest.Config{Host: url, TLSClientConfig: rest.TLSClientConfig{CAFile: p.file("ca.crt")}}
	if client != "" {
		c.CertFile, c.KeyFile = p.file(client+".crt"), p.file(client+".key")
	}
	return c
}

// node is one seakeep-dns without the DNS: a keeper, and the relay it feeds.
type node struct {
	t      *testing.T
	keeper *keeper.Keeper
	relay  *relay.Relay
	url    string
	papers papers
	addr   string

	stopServer func()
	stop       func()
}

type nodeOptions struct {
	sources  []keeper.Source
	fetchers []keeper.Fetcher
	state    string
	cluster  string
	spread   time.Duration
	address  string
	papers   *papers
}

var quick = struct{ silent time.Duration }{3 * time.Second}

func startNode(t *testing.T, o nodeOptions) *node {
	t.Helper()
	n := &node{t: t, addr: o.address}
	if o.papers != nil {
		n.papers = *o.papers
	} else {
		n.papers = newPapers(t)
	}
	if n.addr == "" {
		n.addr = "127.0.0.1:0"
	}
	log := slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	n.relay = relay.New(relay.Options{BookmarkEvery: 200 * time.Millisecond, Registerer: prometheus.NewRegistry(), Log: log})
	ko := keeper.Options{
		Store: store.New(time.Now), Sources: o.sources, Fetchers: o.fetchers, Tap: n.relay.Tap, Cluster: o.cluster,
		StaleAfter: time.Second, SwitchAfter: quick.silent, PreferAfter: 5 * time.Second, RelistSpread: max(o.spread, time.Millisecond), SaveAfter: time.Second,
		Registerer: prometheus.NewRegistry(), Log: log,
	}
	if o.state != "" {
		disk, err := snapshot.Open(snapshot.Options{Dir: o.state})
		check(t, err)
		ko.Snapshot = disk
	}
	var err error
	n.keeper, err = keeper.New(ko)
	check(t, err)
	check(t, n.keeper.Restore())
	n.relay.Follow(n.keeper)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = n.keeper.Run(ctx) })
	running.Go(func() { n.relay.Run(ctx) })
	n.serve()
	n.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		n.stopServer()
	})
	t.Cleanup(n.stop)
	return n
}

// serve opens the listener; stopServer kills it, connections and all.
func (n *node) serve() {
	n.t.Helper()
	var l net.Listener
	eventually(n.t, "the address to be free", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", n.addr)
		return err == nil
	})
	n.addr = l.Addr().String()
	n.url = "https://" + n.addr
	server := n.relay.Server(n.papers.access)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(l, "", "") })
	n.stopServer = sync.OnceFunc(func() {
		_ = server.Close()
		serving.Wait()
	})
}

func (n *node) live() bool { return n.keeper.Status().State == keeper.Live }

// source is what another node follows this one by.
func (n *node) source(t *testing.T) *source.API {
	t.Helper()
	s, err := source.NewAPI(n.papers.config(n.url, "node"), keeper.Relay, source.Selectors{})
	check(t, err)
	t.Cleanup(s.Close)
	return s
}

func (n *node) client(t *testing.T) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(n.papers.config(n.url, "node"))
	check(t, err)
	return c
}

func clientFor(t *testing.T, config *rest.Config) *http.Client {
	t.Helper()
	c, err := rest.HTTPClientFor(config)
	check(t, err)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// apiSource is the lab's API server, under a user agent of the test's own.
func apiSource(t *testing.T, l *lab.Lab, agent string) *source.API {
	t.Helper()
	config := l.RESTConfig(lab.Admin)
	config.UserAgent = agent
	s, err := source.NewAPI(config, keeper.API, source.Selectors{})
	check(t, err)
	t.Cleanup(s.Close)
	return s
}

// asked counts what an API server's audit log has of a user agent, by verb and resource.
func asked(t *testing.T, l *lab.Lab, agent string) map[string]int {
	t.Helper()
	content, err := os.ReadFile(l.AuditLog(0))
	check(t, err)
	count := map[string]int{}
	for line := range bytes.Lines(content) {
		var event struct {
			AuditID   string
			Verb      string
			Stage     string
			UserAgent string
			ObjectRef struct{ Resource string }
		}
		if json.Unmarshal(line, &event) != nil || event.UserAgent != agent || event.Verb == "watch" && event.Stage != "ResponseStarted" {
			continue
		}
		count[event.Verb+" "+event.ObjectRef.Resource]++
	}
	return count
}
