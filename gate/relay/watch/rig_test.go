package watch_test

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/watch"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// budget is memory for events, counted.
type budget struct{ taken, most atomic.Int64 }

func (b *budget) Take(n int) bool {
	if b.taken.Add(int64(n)) > b.most.Load() {
		b.taken.Add(int64(-n))
		return false
	}
	return true
}

func (b *budget) Give(n int) { b.taken.Add(int64(-n)) }

// rig is a hub in front of a real API server, behind the smallest handler there can be: watches from a version are
// followed, everything else is forwarded.
type rig struct {
	t        testing.TB
	lab      *lab.Lab
	hub      *watch.Hub
	upstream *switchable
	budget   *budget
	registry *prometheus.Registry
	server   *httptest.Server
	direct   *kubernetes.Clientset

	filter    bool
	recheck   func(context.Context) (bool, error)
	forwarded atomic.Int64 // watches the hub did not take
	followed  atomic.Int64 // watches it took
}

// switchable is the way to the API server, which can be cut.
type switchable struct {
	http.RoundTripper
	opened atomic.Int64 // watches asked for
	mu     sync.Mutex
	down   error
	cut    []context.CancelFunc
}

var errDown = errors.New("the API server cannot be reached")

func (s *switchable) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	down := s.down
	ctx, cancel := context.WithCancel(r.Context())
	s.cut = append(s.cut, cancel)
	s.mu.Unlock()
	if down != nil {
		return nil, down
	}
	s.opened.Add(1)
	return s.RoundTripper.RoundTrip(r.WithContext(ctx))
}

// set makes the API server unreachable, or reachable again; what is under way is cut.
func (s *switchable) set(down error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	for _, cancel := range s.cut {
		cancel()
	}
	s.cut = nil
}

func newRig(t testing.TB, l *lab.Lab, o watch.Options, http2 bool) *rig {
	t.Helper()
	config := l.RESTConfig(lab.Masters)
	transport, err := rest.TransportFor(config)
	check(t, err)
	target, err := url.Parse(config.Host)
	check(t, err)
	g := &rig{t: t, lab: l, budget: &budget{}, registry: prometheus.NewRegistry()}
	g.budget.most.Store(256 << 20)
	g.upstream = &switchable{RoundTripper: toServer{transport, target}}
	o.Upstream, o.Budget, o.Registerer, o.Log = g.upstream, g.budget, g.registry, slog.New(slog.NewTextHandler(t.Output(), nil))
	g.hub = watch.New(o)
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
	}
	g.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.follow(w, r) {
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	g.server.EnableHTTP2 = http2
	g.server.StartTLS()
	g.direct, err = kubernetes.NewForConfig(config)
	check(t, err)
	t.Cleanup(func() {
		g.hub.Close()
		g.server.CloseClientConnections()
		g.server.Close()
		// Handlers of HTTP/2 end a little after their connection.
		testkit.Within(t, "all of the budget is given back", 10*time.Second, func() bool { return g.budget.taken.Load() == 0 })
	})
	return g
}

type toServer struct {
	http.RoundTripper
	url *url.URL
}

func (s toServer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = s.url.Scheme, s.url.Host
	return s.RoundTripper.RoundTrip(r)
}

// follow is what the relay does with a watch.
func (g *rig) follow(w http.ResponseWriter, r *http.Request) bool {
	f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Now())
	if err != nil || f.Verb != "watch" || f.InitialEvents {
		return false
	}
	query := r.URL.Query()
	from, err := strconv.ParseUint(query.Get("resourceVersion"), 10, 64)
	if err != nil || from == 0 {
		return false
	}
	seconds, _ := strconv.Atoi(query.Get("timeoutSeconds"))
	bookmarks, _ := strconv.ParseBool(query.Get("allowWatchBookmarks"))
	g.followed.Add(1) // before it is over: most still run when they are counted
	err = g.hub.Follow(w, r, f, from, watch.Subscriber{
		Bookmarks: bookmarks, Timeout: time.Duration(seconds) * time.Second, Filter: g.filter, Recheck: g.recheck,
	})
	var notShared *watch.NotSharedError
	if errors.As(err, &notShared) {
		g.followed.Add(-1)
		g.forwarded.Add(1)
		g.t.Logf("forwarding %s: %v", r.URL, err)
		return false
	}
	return true
}

// config is a client's way through the hub.
func (g *rig) config() *rest.Config {
	c := &rest.Config{Host: g.server.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	return c
}

// counter reads a metric without labels.
func (g *rig) counter(name string) float64 {
	g.t.Helper()
	families, err := g.registry.Gather()
	check(g.t, err)
	for _, family := range families {
		if family.GetName() == name {
			m := family.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	g.t.Fatalf("there is no metric %s", name)
	return 0
}
