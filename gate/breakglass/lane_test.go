package breakglass

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/seakeep/seakeep/internal/pki"
)

func TestMain(m *testing.M) {
	if os.Getenv(reexecEnv) != "" {
		os.Exit(reexecMain())
	}
	goleak.VerifyTestMain(m)
}

func TestIdentityGoesAsTheCertificateSays(t *testing.T) {
	r := newRig(t)
	seen := make(chan http.Header, 1)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if !probing(q) {
			seen <- q.Header.Clone()
		}
		w.WriteHeader(http.StatusOK)
	})
	r.start()
	client, pair := r.engineer(r.breakGlass, pki.Spec{CommonName: "alice", Organizations: []string{"system:masters", "oncall"}})
	request := must(http.NewRequest(http.MethodGet, r.url("/api/v1/namespaces"), nil))(t)
	for name, value := range map[string]string{
		"X-Remote-User": "mallory", "X-Remote-Group": "evil", "X-Remote-Extra-Scopes": "all", "X-Remote-Uid": "7",
		"X_remote_user": "mallory", "Authorization": "Bearer stolen", "Audit-ID": "forged",
	} {
		request.Header.Set(name, value)
	}
	response := must(client.Do(request))(t)
	response.Body.Close()
	header := <-seen
	got := map[string][]string{}
	for name, values := range maps.All(header) {
		if folded := strings.ReplaceAll(strings.ToLower(name), "_", "-"); strings.HasPrefix(folded, "x-remote-") || folded == "authorization" {
			got[name] = values
		}
	}
	slices.Sort(got["X-Remote-Group"])
	want := map[string][]string{
		"X-Remote-User":  {"alice"},
		"X-Remote-Group": {"oncall", "system:masters"},
		"X-Remote-Extra-Authentication.kubernetes.io%2fcredential-Id": got["X-Remote-Extra-Authentication.kubernetes.io%2fcredential-Id"],
		"X-Remote-Extra-Seakeep.dev%2fbreak-Glass-Serial":             {serialText(pair.Cert.SerialNumber)},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("identity headers upstream (-want +got):\n%s", diff)
	}
	if header.Get("Audit-Id") == "forged" {
		t.Error("the client chose its own audit id")
	}
}

// The trick of CVE-2021-31999: naming a header in Connection has a proxy remove it on the way.
func TestConnectionHeaderTrickIsRefused(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if !probing(q) {
			t.Errorf("a request came through: %v", q.Header)
		}
	})
	r.start()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	client.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	client.Transport.(*http.Transport).TLSClientConfig.NextProtos = []string{"http/1.1"}
	for _, trick := range []string{"X-Remote-User", "Impersonate-User", " x-remote-group ,close"} {
		request := must(http.NewRequest(http.MethodGet, r.url("/api/v1/namespaces"), nil))(t)
		request.Header.Set("Connection", trick)
		request.Header.Set("Impersonate-User", "bob")
		response := must(client.Do(request))(t)
		if status := statusOf(t, response); status.Code != http.StatusBadRequest {
			t.Errorf("Connection: %q got %d, want 400", trick, status.Code)
		}
	}
	var refused int
	for _, e := range r.records() {
		if e.Event == eventRefused {
			refused++
		}
	}
	if refused != 3 {
		t.Errorf("%d refusals on record, want 3", refused)
	}
}

func TestOnlyTheBreakGlassCAIsHeard(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if !probing(q) {
			t.Errorf("a request came through: %s %v", q.URL, q.Header)
		}
	})
	deniedClient, denied := r.engineer(r.breakGlass, pki.Spec{CommonName: "denied"})
	if err := os.WriteFile(r.path("denied"), []byte(strings.ToUpper(serialText(denied.Cert.SerialNumber))+" # lost laptop\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r.start()
	masters, _ := r.engineer(r.cluster, pki.Spec{Organizations: []string{"system:masters"}})
	imposter := must(pki.NewCA("break-glass", time.Hour))(t)
	sameName, _ := r.engineer(imposter, pki.Spec{})
	expired, _ := r.engineer(r.breakGlass, pki.Spec{NotBefore: time.Now().Add(-2 * time.Hour), Lifetime: time.Hour})
	server := must(r.breakGlass.Issue(pki.Spec{CommonName: "alice", Lifetime: time.Hour, Server: true}))(t)
	for name, client := range map[string]*http.Client{
		"no certificate":                       r.client(nil),
		"system:masters of the cluster's CA":   masters,
		"a CA of the same name":                sameName,
		"expired":                              expired,
		"denied serial":                        deniedClient,
		"a serving certificate of the same CA": r.client(server),
	} {
		t.Run(name, func(t *testing.T) {
			response, err := client.Get(r.url("/api/v1/namespaces"))
			if err == nil {
				response.Body.Close()
				t.Errorf("got %s, want no connection", response.Status)
			}
		})
	}
}

func TestDeniedWhileConnected(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Query().Get("watch") == "" {
			return
		}
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-q.Context().Done()
	})
	r.start()
	client, pair := r.engineer(r.breakGlass, pki.Spec{})
	watch := must(client.Get(r.url("/api/v1/pods?watch=true")))(t)
	defer watch.Body.Close()
	if err := os.WriteFile(r.path("denied"), []byte(serialText(pair.Cert.SerialNumber)), 0o600); err != nil {
		t.Fatal(err)
	}
	// The lane's own poll finds it within seconds; the stream ends with an error, because it is cut off.
	if _, err := io.ReadAll(watch.Body); err == nil {
		t.Error("the watch ended as if the API server had ended it")
	}
	response, err := client.Get(r.url("/api/v1/namespaces"))
	if err == nil {
		if status := statusOf(t, response); status.Code != http.StatusUnauthorized {
			t.Errorf("got %d on the open connection, want 401", status.Code)
		}
	}
}

func TestBadFilesLeaveTheGoodOnesInForce(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(http.ResponseWriter, *http.Request) {})
	r.start()
	before := r.lane.trust.current.Load()
	for _, name := range []string{"denied", "ca.crt", "lane.crt", "lane.key"} {
		good := must(os.ReadFile(r.path(name)))(t)
		if err := os.WriteFile(r.path(name), []byte("not a number, not a certificate"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.lane.trust.reload()
		if err := os.WriteFile(r.path(name), good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(r.path("denied")); err != nil {
		t.Fatal(err)
	}
	r.lane.trust.reload()
	if r.lane.trust.current.Load() != before {
		t.Error("bad files are in force")
	}
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	must(client.Get(r.url("/version")))(t).Body.Close()
}

func TestServingCertificateIsReloaded(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(http.ResponseWriter, *http.Request) {})
	r.start()
	next := must(r.cluster.Issue(pki.Spec{CommonName: "next", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Server: true}))(t)
	if err := next.Write(r.path("lane.crt"), r.path("lane.key")); err != nil {
		t.Fatal(err)
	}
	r.lane.trust.reload()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	response := must(client.Get(r.url("/version")))(t)
	response.Body.Close()
	if got := response.TLS.PeerCertificates[0].Subject.CommonName; got != "next" {
		t.Errorf("served with %q, want the new certificate", got)
	}
}

// refusingAddress is a loopback address nobody listens on.
func refusingAddress(t *testing.T) string {
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	return l.Addr().String()
}

func TestDeadUpstreamIsSaidQuickly(t *testing.T) {
	r := newRig(t)
	r.upstream("https://" + refusingAddress(t))
	r.upstream("https://" + refusingAddress(t))
	r.start()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	start := time.Now()
	response := must(client.Post(r.url("/api/v1/namespaces"), "application/json", strings.NewReader("{}")))(t)
	if status := statusOf(t, response); status.Code != http.StatusServiceUnavailable {
		t.Errorf("got %d, want 503: %s", status.Code, status.Message)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestNextAPIServerIsTried(t *testing.T) {
	r := newRig(t)
	r.upstream("https://" + refusingAddress(t))
	bodies := make(chan string, 1)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if !probing(q) {
			bodies <- string(must(io.ReadAll(q.Body))(t))
		}
	})
	r.start()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	response := must(client.Post(r.url("/api/v1/namespaces"), "application/json", strings.NewReader(`{"a":1}`)))(t)
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("got %s", response.Status)
	}
	if body := <-bodies; body != `{"a":1}` {
		t.Errorf("the second API server got the body %q", body)
	}
}

// A request that reached an API server is sent again only when sending it twice changes nothing.
func TestOnlyReadsAreSentTwice(t *testing.T) {
	for method, wantBroken := range map[string]int{http.MethodGet: 0, http.MethodPost: 1} {
		t.Run(method, func(t *testing.T) {
			r := newRig(t)
			var broke, arrived atomic.Int64
			r.apiServer(func(w http.ResponseWriter, q *http.Request) {
				if !probing(q) {
					broke.Add(1)
					panic(http.ErrAbortHandler)
				}
			})
			r.apiServer(func(w http.ResponseWriter, q *http.Request) {
				if !probing(q) {
					arrived.Add(1)
				}
			})
			r.start()
			client, _ := r.engineer(r.breakGlass, pki.Spec{})
			failed := 0
			for range 4 {
				q := must(http.NewRequest(method, r.url("/api/v1/namespaces"), nil))(t)
				if method == http.MethodPost {
					q.Body = io.NopCloser(strings.NewReader("{}"))
				}
				response := must(client.Do(q))(t)
				response.Body.Close()
				if response.StatusCode == http.StatusBadGateway {
					failed++
				} else if response.StatusCode != http.StatusOK {
					t.Errorf("got %s", response.Status)
				}
			}
			// The first goes to the one that breaks off, which is not preferred any more after that.
			if broke.Load() != 1 || failed != wantBroken || arrived.Load() != int64(4-wantBroken) {
				t.Errorf("%d were broken off, %d failed and %d arrived, want 1, %d and %d", broke.Load(), failed, arrived.Load(), wantBroken, 4-wantBroken)
			}
		})
	}
}

func TestWatchEndsCleanlyWhenTheLaneCloses(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if probing(q) {
			return
		}
		io.WriteString(w, "{}\n")
		http.NewResponseController(w).Flush()
		<-q.Context().Done()
	})
	r.start()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	watch := must(client.Get(r.url("/api/v1/pods?watch=true")))(t)
	defer watch.Body.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(watch.Body)
		ended <- err
	}()
	records := r.records()
	if err := <-ended; err != nil {
		t.Errorf("the watch ended with %v, want a clean end", err)
	}
	var events []string
	for _, e := range records {
		events = append(events, e.Event+" "+e.Verb)
	}
	want := []string{"started ", "request watch", "response watch", "stopped "}
	if diff := cmp.Diff(want, events); diff != "" {
		t.Errorf("on record (-want +got):\n%s", diff)
	}
}

func TestAuditTellsWhoDidWhat(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodDelete {
			w.WriteHeader(http.StatusAccepted)
		}
	})
	r.start()
	client, pair := r.engineer(r.breakGlass, pki.Spec{CommonName: "alice"})
	must(client.Get(r.url("/api/v1/namespaces/default/pods/a?pretty=hunter2&limit=5")))(t).Body.Close()
	request := must(http.NewRequest(http.MethodDelete, r.url("/apis/apps/v1/namespaces/telemetry/daemonsets/agent"), nil))(t)
	request.Header.Set("Impersonate-User", "bob")
	must(client.Do(request))(t).Body.Close()
	records := r.records()
	byEvent := map[string][]record{}
	for _, e := range records {
		byEvent[e.Event] = append(byEvent[e.Event], e)
	}
	if n := len(byEvent[eventRequest]); n != 1 {
		t.Fatalf("%d requests recorded before they went, want the DELETE only", n)
	}
	if n := len(byEvent[eventResponse]); n != 2 {
		t.Fatalf("%d responses on record, want 2", n)
	}
	get, del := byEvent[eventResponse][0], byEvent[eventResponse][1]
	if strings.Contains(get.Path, "hunter2") || !strings.Contains(get.Path, "limit=5") {
		t.Errorf("path on record: %q", get.Path)
	}
	if byEvent[eventRequest][0].ID != del.ID || del.ID == "" {
		t.Error("the two records of one request do not share an id")
	}
	got := []any{del.User, del.Serial, del.As, del.Verb, del.APIGroup, del.Resource, del.Namespace, del.Name, del.Code, del.Source, del.Upstream}
	want := []any{"alice", serialText(pair.Cert.SerialNumber), "bob", "delete", "apps", "daemonsets", "telemetry", "agent", 202, "127.0.0.1", "a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on record (-want +got):\n%s", diff)
	}
}

func TestLaneServesWhenAuditCannotBeWritten(t *testing.T) {
	r := newRig(t)
	r.config.AuditFile = r.path("missing/folder/audit.log")
	r.config.MetricsAddress = "127.0.0.1:0"
	r.apiServer(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Warning", `299 - "from upstream"`) })
	r.start()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	response := must(client.Post(r.url("/api/v1/namespaces"), "application/json", strings.NewReader("{}")))(t)
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("got %s, want 200", response.Status)
	}
	if warnings := response.Header.Values("Warning"); !slices.Contains(warnings, unrecordedWarning) || len(warnings) != 2 {
		t.Errorf("warnings %q: want ours beside the API server's", warnings)
	}
	if !strings.Contains(r.stderr.String(), `"verb":"create"`) {
		t.Error("the event is not on standard error")
	}
	health := must(http.Get("http://" + r.lane.MetricsAddress().String() + "/readyz"))(t)
	health.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if health.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz says %s while nothing is on record", health.Status)
	}
}

func TestNewRefuses(t *testing.T) {
	tests := map[string]struct {
		spoil func(t *testing.T, r *rig)
		want  string
	}{
		"front-proxy key others can read": {func(t *testing.T, r *rig) {
			if err := os.Chmod(r.path("proxy.key"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, "owner only"},
		"no client CA":             {func(t *testing.T, r *rig) { r.config.Listen.ClientCAFile = r.path("nothing") }, "nothing"},
		"a client CA that is none": {func(t *testing.T, r *rig) { r.config.Listen.ClientCAFile = r.path("lane.crt") }, "not a CA"},
		"a bad serial": {func(t *testing.T, r *rig) {
			if err := os.WriteFile(r.path("denied"), []byte("12\nxyz\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "line 2"},
		"an address in use": {func(t *testing.T, r *rig) {
			l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
			t.Cleanup(func() { l.Close() })
			r.config.Listen.Address = l.Addr().String()
		}, "in use"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.upstream("https://127.0.0.1:1")
			test.spoil(t, r)
			_, err := New(Options{Config: r.config, Log: discard(), Stderr: io.Discard, Registerer: r.registry, Gatherer: r.registry})
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one that says %q", err, test.want)
			}
		})
	}
}

func TestExpiredServingCertificateIsRefused(t *testing.T) {
	r := newRig(t)
	m := newMetrics(r.registry)
	_, err := newTrust(r.config.Listen, discard(), m, func() time.Time { return time.Now().Add(2 * time.Hour) })
	if err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("got error %v, want one that says expired", err)
	}
}

func TestLiveEndsOnlyWhomTheCheckRefuses(t *testing.T) {
	l := newLive()
	good, bad := []*x509.Certificate{{}}, []*x509.Certificate{{}}
	goodContext, endGood := l.begin(context.Background(), good, true)
	badContext, endBad := l.begin(context.Background(), bad, false)
	l.end(func(chain []*x509.Certificate) error {
		if chain[0] == bad[0] {
			return errDenied
		}
		return nil
	})
	if goodContext.Err() != nil {
		t.Error("a good request was ended")
	}
	if !errors.Is(context.Cause(badContext), errDenied) {
		t.Errorf("the bad request ended with %v", context.Cause(badContext))
	}
	endBad()
	endGood()
	l.wait(context.Background()) // returns, because nothing is in flight
}
