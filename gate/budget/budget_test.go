package budget

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func TestAccounts(t *testing.T) {
	declarations := []Declaration{
		declare("a/agent", "DaemonSet", "agent", "seats-per-node=0.01"),
		declare("a/agent", "Deployment", "collector", "seats=2"),
		declare("a/agent", "StatefulSet", "broken", "two seats"),
		declare("b/own", "ServiceAccount", "own", "seats=1"),
		declare("b/own", "DaemonSet", "ignored", "seats=50"),
		declare("c/greedy", "DaemonSet", "greedy", "seats=100000"),
		declare("d/broken", "DaemonSet", "broken", "seats=0"),
		declare("e/default", "Deployment", "plain", "seats=0.5"),
	}
	most := v1alpha1.APIBudget{Seats: 10}
	got := map[string]float64{}
	for _, a := range Accounts(declarations, 300, &most) {
		got[a.User] = a.Seats
	}
	want := map[string]float64{
		"system:serviceaccount:a:agent": 5, "system:serviceaccount:b:own": 1, "system:serviceaccount:c:greedy": 10, "system:serviceaccount:e:default": 0.5,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// server is an API server with a few objects, in pages of two.
type server struct {
	broken string // a path that answers 500
	denied string // a path that answers 403
	asked  []string
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, r.URL.Path)
	switch r.URL.Path {
	case s.broken:
		w.WriteHeader(http.StatusInternalServerError)
		return
	case s.denied:
		w.WriteHeader(http.StatusForbidden)
		return
	case "/metrics":
		fmt.Fprint(w, "# HELP go_sched_gomaxprocs_threads x\ngo_goroutines 5\ngo_sched_gomaxprocs_threads 4\nrest 1\n")
		return
	}
	object := func(name, budget string, account string) map[string]any {
		o := map[string]any{"metadata": map[string]any{"namespace": "ns", "name": name, "annotations": map[string]string{"other": "x", v1alpha1.APIBudgetAnnotation: budget}}}
		if account != "" {
			o["spec"] = map[string]any{"template": map[string]any{"spec": map[string]any{"serviceAccountName": account}}}
		}
		return o
	}
	asked := r.URL.Path
	if strings.Contains(asked, "/namespaces/") {
		asked += "?" + r.URL.RawQuery
	}
	hook := func(namespace, name string) map[string]any {
		return map[string]any{"clientConfig": map[string]any{"service": map[string]any{"namespace": namespace, "name": name}}}
	}
	pages := map[string][][]map[string]any{
		configurations[0]: {{{"webhooks": []any{hook("hooks", "policy"), hook("hooks", "policy")}}}, {{"webhooks": []any{map[string]any{"clientConfig": map[string]any{"url": "https://outside"}}}}}},
		configurations[1]: {{{"webhooks": []any{hook("hooks", "gone"), hook("hooks", "external")}}}},
		configurations[2]: {{{"spec": map[string]any{"service": map[string]any{"namespace": "metrics", "name": "server"}}}, {"spec": map[string]any{"group": "local"}}}},
		"/api/v1/namespaces/hooks/services?fieldSelector=metadata.name%3Dpolicy":                      {{{"spec": map[string]any{"selector": map[string]string{"app": "policy", "a": "b"}}}}},
		"/api/v1/namespaces/hooks/services?fieldSelector=metadata.name%3Dexternal":                    {{{"spec": map[string]any{}}}},
		"/api/v1/namespaces/metrics/services?fieldSelector=metadata.name%3Dserver":                    {{{"spec": map[string]any{"selector": map[string]string{"app": "server"}}}}},
		"/api/v1/namespaces/hooks/pods?labelSelector=a%3Db%2Capp%3Dpolicy&limit=20&resourceVersion=0": {{{"spec": map[string]any{"serviceAccountName": "policy"}}, {"spec": map[string]any{"serviceAccountName": "policy"}}, {"spec": map[string]any{}}}},
		"/api/v1/namespaces/metrics/pods?labelSelector=app%3Dserver&limit=20&resourceVersion=0":       {{{"spec": map[string]any{"serviceAccountName": "metrics-server"}}}},
		"/api/v1/serviceaccounts":    {{object("sa", "seats=1", ""), {"metadata": map[string]any{"namespace": "ns", "name": "silent"}}}, {object("sb", "nonsense", "")}},
		"/apis/apps/v1/daemonsets":   {{object("ds", "seats-per-node=0.5", "agent")}},
		"/apis/apps/v1/deployments":  {{object("dep", "seats=2", "")}},
		"/apis/apps/v1/statefulsets": {{}},
		"/api/v1/nodes":              {{object("node", "x", "")}},
	}[asked]
	n := 0
	if next := r.URL.Query().Get("continue"); next != "" {
		_, _ = fmt.Sscan(next, &n)
	}
	meta := map[string]any{}
	if n+1 < len(pages) {
		meta["continue"] = fmt.Sprint(n + 1)
	}
	if r.URL.Path == "/api/v1/nodes" {
		meta["remainingItemCount"] = 299
	}
	var items []map[string]any
	if n < len(pages) {
		items = pages[n]
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"metadata": meta, "items": items})
}

// to sends every request to the test's server.
type to struct{ url string }

func (t to) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme, r.URL.Host = "http", strings.TrimPrefix(t.url, "http://")
	return http.DefaultTransport.RoundTrip(r)
}

func reading(t *testing.T, dir string, s *server, changed func(*Cluster)) *Reading {
	t.Helper()
	ts := httptest.NewServer(s)
	t.Cleanup(ts.Close)
	return New(Options{
		Upstream: to{ts.URL}, StateDir: dir, Settings: func() Settings { return Settings{Refresh: time.Minute, Declarations: true} },
		Changed: changed, Registerer: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
}

func TestReading(t *testing.T) {
	dir := t.TempDir()
	var last *Cluster
	s := &server{}
	r := reading(t, dir, s, func(c *Cluster) { last = c })
	if err := r.read(t.Context(), Settings{Declarations: true}); err != nil {
		t.Fatal(err)
	}
	if last.Nodes != 300 || last.Processors != 4 || len(last.Declarations) != 4 {
		t.Errorf("%+v", last)
	}
	accounts := Accounts(last.Declarations, last.Nodes, nil)
	if len(accounts) != 3 || accounts[0].User != "system:serviceaccount:ns:agent" || accounts[0].Seats != 150 || accounts[1].User != "system:serviceaccount:ns:default" {
		t.Errorf("%+v", accounts)
	}
	// What cannot be read again stays, over a restart too.
	s.broken = "/apis/apps/v1/deployments"
	if err := r.read(t.Context(), Settings{Declarations: true}); err == nil {
		t.Error("no error")
	}
	again := reading(t, dir, &server{denied: "/api/v1/nodes"}, func(c *Cluster) { last = c })
	if len(last.Declarations) != 4 || last.Nodes != 300 {
		t.Errorf("after a restart: %+v", last)
	}
	if err := again.read(t.Context(), Settings{}); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("denied: %v", err)
	}
	if _, err := again.Now(); err == nil {
		t.Error("the failure is not told")
	}
	if matches, _ := filepath.Glob(filepath.Join(dir, "api-budgets.json*")); len(matches) == 0 {
		t.Error("nothing is kept")
	}
}

// Without budgets only the size is read.
func TestReadingOfTheSize(t *testing.T) {
	s := &server{}
	r := reading(t, t.TempDir(), s, func(*Cluster) {})
	if err := r.read(t.Context(), Settings{}); err != nil {
		t.Fatal(err)
	}
	if err := r.read(t.Context(), Settings{}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(s.asked, " "); got != "/api/v1/nodes /metrics /api/v1/nodes" {
		t.Errorf("asked for %s", got)
	}
}

// Whom API servers call is who stands behind the Services that configurations name; what is gone or outside is nobody.
func TestCallees(t *testing.T) {
	var last *Cluster
	s := &server{}
	r := reading(t, t.TempDir(), s, func(c *Cluster) { last = c })
	if err := r.read(t.Context(), Settings{Callees: true}); err != nil {
		t.Fatal(err)
	}
	want := []Callee{
		{"system:serviceaccount:hooks:default", "hooks/policy"}, {"system:serviceaccount:hooks:policy", "hooks/policy"},
		{"system:serviceaccount:metrics:metrics-server", "metrics/server"},
	}
	if diff := cmp.Diff(want, last.Callees); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	s.denied = configurations[2]
	if err := r.read(t.Context(), Settings{Callees: true}); err == nil || len(last.Callees) != 3 {
		t.Errorf("what was known is lost: %v, %v", err, last.Callees)
	}
}

func TestRunEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	read := make(chan *Cluster, 10)
	r := reading(t, t.TempDir(), &server{}, func(c *Cluster) { read <- c })
	<-read // what was kept: nothing
	done := make(chan struct{})
	go func() { r.Run(ctx); close(done) }()
	if c := <-read; c.Nodes != 300 {
		t.Errorf("%+v", c)
	}
	cancel()
	<-done
}

func TestProcessorsRefusesNonsense(t *testing.T) {
	for _, body := range []string{"", "go_sched_gomaxprocs_threads 0\n", "go_sched_gomaxprocs_threads NaN\n", "go_sched_gomaxprocs_threads x\n", strings.Repeat("x", 2<<20)} {
		ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		r := reader{to{ts.URL}}
		if n, err := r.processors(t.Context()); err == nil {
			t.Errorf("%.40q: %d", body, n)
		}
		ts.Close()
	}
}
