package failover_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// TestErrorsDoNotAttract puts a server that answers 500 at once, and says that it is ready, beside two good ones: the
// cheapest way to have the fewest requests under way is to fail them.
func TestErrorsDoNotAttract(t *testing.T) {
	w := newWorld(t)
	pair, err := tls.LoadX509KeyPair(w.PKI().ServingCert, w.PKI().ServingKey)
	check(t, err)
	var asked atomic.Int64
	failing := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			return
		}
		asked.Add(1)
		rw.WriteHeader(http.StatusInternalServerError)
		_, _ = rw.Write([]byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"out of order","code":500}`))
	}))
	failing.EnableHTTP2 = true
	failing.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	failing.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	failing.StartTLS()
	t.Cleanup(failing.Close)

	servers := append(w.upstreams()[:2], upstream{"failing", failing.URL})
	n := gatetest.Serve(t, w.Lab, w.configure(t, "", servers...))
	defer w.leave(t, n)
	defer failing.CloseClientConnections()
	client := n.HTTP(true, n.Certificate(lab.Admin))
	for { // until one goes where it is taken
		r, err := client.Post(n.URL+"/api/v1/namespaces", "application/json", strings.NewReader(`{"metadata":{"name":"`+namespace+`"}}`))
		check(t, err)
		check(t, r.Body.Close())
		if r.StatusCode != http.StatusInternalServerError {
			break
		}
	}
	asked.Store(0)
	v := judge(t, (&storm{t: t, client: client, url: n.URL}).run(100, window))
	if share := float64(asked.Load()) / float64(v.offered); share > 0.03 {
		t.Errorf("%.1f %% of the requests went to who fails them, want ≤ 3 %%", 100*share)
	}
}

// TestServersChangeLive takes an API server out of the configuration and puts it back while a watch is open there and
// writes go on: nothing is cut, and the others' connections and state stay as they are.
func TestServersChangeLive(t *testing.T) {
	w := newWorld(t)
	file := w.configure(t, "", w.upstreams()...)
	n := gatetest.Serve(t, w.Lab, file)
	defer w.leave(t, n)
	client := n.HTTP(true, n.Certificate(lab.Admin))
	makeNamespace(t, client, n.URL)
	text, err := os.ReadFile(file)
	check(t, err)

	// One is without its etcd: what is known of it must survive the reload.
	w.etcd[1].Silence()
	within(t, 10*time.Second, "the second is out", func() bool {
		return metric(t, n, "seakeep_gate_upstream_in_ratio", "server-1", "quorum") == 0
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var lines []*bufio.Reader
	for range 2 { // one on each of the other two
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+"/api/v1/namespaces/"+namespace+"/configmaps?watch=true", nil)
		check(t, err)
		response, err := client.Do(r)
		check(t, err)
		defer response.Body.Close()
		lines = append(lines, bufio.NewReader(response.Body))
	}
	if metric(t, n, "seakeep_gate_upstream_streams", "server-2") != 1 {
		t.Fatal("no watch is open at the third")
	}
	writer := &storm{t: t, client: client, url: n.URL}
	results := make(chan []*sent)
	go func() { results <- writer.run(writes, 5*time.Second) }()
	n.Replace(w.with(t, string(text), w.upstreams()[:2]...))
	within(t, 10*time.Second, "the third is not in use", func() bool {
		return metric(t, n, "seakeep_gate_upstream_in_ratio", "server-2", "serving") == 0
	})
	if metric(t, n, "seakeep_gate_upstream_in_ratio", "server-1", "quorum") != 0 {
		t.Error("the reload forgot that the second has no etcd")
	}
	n.Replace(string(text))
	within(t, 10*time.Second, "the third is in use again", func() bool {
		return metric(t, n, "seakeep_gate_upstream_in_ratio", "server-2", "serving") == 1
	})
	all := <-results
	if v := judge(t, all); v.failed > 0 {
		t.Errorf("%d writes failed", v.failed)
	}
	w.once(t, all)
	for i, watch := range lines {
		events := 0
		for events < len(all) {
			line, err := watch.ReadString('\n')
			if err != nil {
				t.Fatalf("watch %d ended after %d events of %d: %v", i, events, len(all), err)
			}
			if strings.Contains(line, `"ADDED"`) && strings.Contains(line, fmt.Sprintf("w-%s-", names())) {
				events++
			}
		}
	}
}
