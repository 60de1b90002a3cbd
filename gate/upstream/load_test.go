package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit/law"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream/choice"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/signals"
)

const someMetrics = `# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.5
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 2.5e+08
# TYPE apiserver_current_inflight_requests gauge
apiserver_current_inflight_requests{request_kind="readOnly"} 4
`

// What a server answers decides what a reading is.
func TestLoadResults(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		loadRead:      func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, someMetrics) },
		loadForbidden: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) },
		loadRefused:   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "later", http.StatusTooManyRequests) },
		loadErred:     func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "oh", http.StatusInternalServerError) },
		loadUnreadable: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<html>")
		},
		loadUnreachable: func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, someMetrics)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	}
	for result, answer := range answers {
		t.Run(result, func(t *testing.T) {
			var asked http.Header
			api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = r.Header.Clone()
				answer(w, r)
			}))
			api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
			api.EnableHTTP2 = true
			api.StartTLS()
			defer api.Close()
			l := &loadReader{server: serverOf(t, api), headers: frontProxyHeaders}
			defer l.server.probes.CloseIdleConnections()
			reading, _, got, err := l.read(t.Context())
			if got != result || (err == nil) != (result == loadRead) || (reading != nil) != (result == loadRead) {
				t.Errorf("want %s, got %s, %v, %v", result, got, reading, err)
			}
			if asked.Get("X-Remote-User") != ProbeUser || asked.Get("X-Remote-Group") != monitoringGroup || asked.Get("Accept-Encoding") != "" {
				t.Errorf("asked with %v", asked)
			}
		})
	}
}

func frontProxyHeaders() *identity.Headers {
	return identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{})
}

func serverOf(t *testing.T, api *httptest.Server) *Server {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(api.Certificate())
	parsed, err := url.Parse(api.URL)
	check(t, err)
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	return &Server{
		Name: "api", url: parsed, state: choice.NewServer("api"),
		probes: newTransport(config, &net.Dialer{Timeout: time.Second}, http.HTTP2Config{}),
	}
}

// A server that never answers is late, and what it said before stays.
func TestLoadLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		over := make(chan struct{})
		defer close(over) // a transport goes on dialing when the request has gone
		slow := &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			<-over
			return nil, net.ErrClosed
		}}
		s := &Server{Name: "api", url: &url.URL{Scheme: "https", Host: "api"}, probes: slow, state: choice.NewServer("api")}
		before := &signals.Load{}
		s.load.take(before, loadRead, nil)
		l := &loadReader{server: s, headers: frontProxyHeaders}
		began := time.Now()
		_, _, result, err := l.read(t.Context())
		if result != loadLate || time.Since(began) != loadTimeout {
			t.Errorf("after %s: %s, %v", time.Since(began), result, err)
		}
		if !s.load.take(nil, result, err) || s.load.latest().Last != before || s.load.latest().Failed == nil {
			t.Errorf("kept %+v", s.load.latest())
		}
	})
}

func TestLoadPause(t *testing.T) {
	for name, tc := range map[string]struct {
		bytes int64
		err   error
		want  time.Duration
	}{
		"little costs little":                 {100 << 10, nil, loadFastest},
		"2 MB cost 38 ms, 2 % of two seconds": {2 << 20, nil, 1900 * time.Millisecond},
		"a great deal":                        {50 << 20, nil, loadSlowest},
		"nobody answers":                      {0, context.DeadlineExceeded, loadSlowest / 2},
	} {
		t.Run(name, func(t *testing.T) {
			if got := loadPause(tc.bytes, tc.err); got != tc.want {
				t.Errorf("want %s, got %s", tc.want, got)
			}
		})
	}
}

func TestLoadEvidence(t *testing.T) {
	now := time.Unix(1.7e9, 0)
	load := Load{
		Name: "a", Serving: true, Quorum: false,
		Last: &signals.Load{
			APIServer:  signals.APIServer{Read: now, ResidentBytes: 500, InFlightReadOnly: 3},
			Processors: 2, MemoryLimit: 1000, HeapFreeBytes: 100,
		},
		Change: signals.LoadChange{
			Change:      signals.Change{Seconds: 2, CPUSeconds: 3, TooMany: 4, Rejected: 2},
			EtcdSeconds: 1, EtcdRequests: 100,
		},
	}
	want := law.Server{Name: "a", Serving: true, Reading: &law.Reading{
		At: now, Over: 2 * time.Second, CPU: 1.5, CPUBound: 2, Resident: 400, MemoryBound: 1000, InFlight: 3, TooMany: 2,
		EtcdLatency: 10 * time.Millisecond, EtcdRequests: 100, NoLeader: true,
	}}
	if diff := cmp.Diff(want, load.Evidence(0, 0)); diff != "" {
		t.Errorf("evidence (-want +got):\n%s", diff)
	}
	want.Reading.CPUBound, want.Reading.MemoryBound = 4, 4000
	if diff := cmp.Diff(want, load.Evidence(4, 4000)); diff != "" {
		t.Errorf("evidence with configured bounds (-want +got):\n%s", diff)
	}
	if got := (&Load{Name: "b"}).Evidence(4, 4000); got.Reading != nil {
		t.Errorf("of a server that said nothing: %+v", got)
	}
}

// A real API server is read by the rights it gives the group system:monitoring, and by no other; without them it says
// nothing, and the metrics say why.
func TestLoadOfARealServer(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 5, Pods: 50})
	pair, err := tls.LoadX509KeyPair(l.PKI().FrontProxyCert, l.PKI().FrontProxyKey)
	check(t, err)
	registry := prometheus.NewRegistry()
	k := NewKeeper(registry, slog.New(slog.DiscardHandler))
	g, err := k.Prepare([]Options{{Name: "api", URL: l.APIServerURL(0), CAFile: l.CAFile(), ProxyCertificate: &pair, ServerName: "localhost"}})
	check(t, err)
	k.Use(g, frontProxyHeaders(), 10)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { k.Run(ctx); close(ended) }()
	defer func() { cancel(); <-ended; k.Close() }()
	if loads := k.Loads(time.Now()); len(loads) != 1 || loads[0].Last != nil || !loads[0].Serving {
		t.Fatalf("before anybody asks: %+v", loads)
	}
	k.FollowLoad(true)
	until := func(what string, is func(Load) bool) Load {
		t.Helper()
		deadline := time.After(time.Minute)
		for {
			if load := k.Loads(time.Now())[0]; is(load) {
				return load
			}
			select {
			case <-deadline:
				t.Fatalf("never %s: %+v", what, k.Loads(time.Now())[0])
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	load := until("two readings", func(l Load) bool { return l.Change.Seconds > 0 })
	if load.Last.Processors < 1 || load.Last.ResidentBytes < 50<<20 || load.Change.CPUSeconds <= 0 || load.Last.MemoryLimit != 0 || len(load.Last.Watches) == 0 {
		t.Errorf("it says %+v, changed by %+v", load.Last, load.Change)
	}
	until("etcd", func(l Load) bool { return l.Change.EtcdRequests > 0 && l.Change.EtcdLatency() > 0 })
	evidence := load.Evidence(0, 0)
	decision := law.New(law.Config{Min: 4, Max: 600, Initial: 40}).Tick(time.Now(), law.Evidence{Servers: []law.Server{evidence}})
	if !decision.Healthy || !decision.Servers[0].Fresh || decision.ListBytes < 16<<20 {
		t.Errorf("the law decides %+v", decision)
	}

	admin, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	check(t, err)
	check(t, admin.RbacV1().ClusterRoleBindings().Delete(t.Context(), "system:monitoring", metav1.DeleteOptions{}))
	until("forbidden", func(l Load) bool { return l.Failed != nil && strings.Contains(l.Failed.Error(), "403") })
	gathered, err := testutil.CollectAndFormat(k.metrics, expfmt.TypeTextPlain, "seakeep_gate_upstream_load_readings_total")
	check(t, err)
	if !bytes.Contains(gathered, []byte(`result="forbidden"`)) {
		t.Errorf("the metrics say:\n%s", gathered)
	}
	k.FollowLoad(false)
}
