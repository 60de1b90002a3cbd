package preflight_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/emergency/preflight"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

func cluster(t *testing.T) *lab.Lab { return lab.Start(t, lab.Options{Nodes: 1}) }

func options(config *rest.Config) preflight.Options {
	return preflight.Options{Config: config, Timeout: 20 * time.Second, Now: time.Now}
}

func gather(t *testing.T, o preflight.Options) *preflight.Facts {
	t.Helper()
	facts, err := preflight.Gather(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return facts
}

// etcd returns the lab's etcd and the credentials for it.
func etcd(t *testing.T, l *lab.Lab) (url string, config *tls.Config) {
	t.Helper()
	file := func(name string) string { return filepath.Join(l.Dir(), "pki", name) }
	roots, err := pki.LoadPool(file("etcd-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(file("apiserver-etcd.crt"), file("apiserver-etcd.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, arg := range args(t, l, "etcd") {
		if url, ok := strings.CutPrefix(arg, "--advertise-client-urls="); ok {
			return url, &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
		}
	}
	t.Fatal("the lab's etcd has no client URL")
	return "", nil
}

// args is a component's command line.
func args(t *testing.T, l *lab.Lab, name string) []string {
	t.Helper()
	process, ok := l.Process(name)
	if !ok {
		t.Fatalf("the lab has no %s", name)
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", process.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
}

func TestGather(t *testing.T) {
	l := cluster(t)
	announce(t, l)
	o := options(l.RESTConfig(lab.Masters))
	url, config := etcd(t, l)
	o.Etcd, o.EtcdTLS = []string{url, "https://127.0.0.1:1"}, config
	o.BreakGlassCA = certificate(t, filepath.Join(l.Dir(), "pki", "break-glass-ca.crt"))
	f := gather(t, o)

	if provider, ok := f.Provider.Get(); !ok || provider.Managed || provider.Name != "self-managed" {
		t.Errorf("provider: %+v, %s", provider, f.Provider.Why())
	}
	flags, ok := f.Flags.Get()
	if diff := cmp.Diff([]string{lab.ServiceAccountIssuer}, flags.Values["service-account-issuer"]); !ok || diff != "" || flags.APIServers != 2 {
		t.Errorf("flags of %d API servers: %s %s", flags.APIServers, diff, f.Flags.Why())
	}
	a, ok := f.Authentication.Get()
	if !ok || len(a.ClientCAs) != 2 || len(a.RequestHeaderCAs) != 1 || !slices.Contains(a.AllowedNames, lab.FrontProxyName) ||
		!slices.Equal(a.UsernameHeaders, []string{"X-Remote-User"}) || !slices.Equal(a.UIDHeaders, []string{"X-Remote-Uid"}) {
		t.Errorf("authentication: %+v, %s", a, f.Authentication.Why())
	}
	known(t, "issuer", f.Issuer, lab.ServiceAccountIssuer)
	known(t, "keys", f.Keys, 1)
	known(t, "anonymous", f.Anonymous, true)
	known(t, "break-glass CA trusted", f.BreakGlassTrusted, true)
	known(t, "may grant impersonation", f.MayGrantImpersonation, true)
	known(t, "may watch endpointslices", f.Rights[preflight.WatchSlices], true)
	if state, ok := f.PriorityAndFairness.Get(); !ok || !state.On || !slices.Contains(state.Versions, "v1") {
		t.Errorf("priority and fairness: %+v, %s", state, f.PriorityAndFairness.Why())
	}
	if about, ok := f.About.Get(); !ok || !about.Features["WatchList"] || about.StorageBytes == 0 {
		t.Errorf("about: %+v, %s", about, f.About.Why())
	}
	if servers, ok := f.APIServers.Get(); !ok || len(servers) != 1 {
		t.Errorf("API servers: %v, %s", servers, f.APIServers.Why())
	}
	if nodes, ok := f.Nodes.Get(); !ok || nodes.Count != 1 {
		t.Errorf("nodes: %+v, %s", nodes, f.Nodes.Why())
	}
	if serving, ok := f.Serving.Get(); !ok || serving.NotAfter.Before(time.Now()) {
		t.Errorf("serving certificate: %+v, %s", serving, f.Serving.Why())
	}
	if i := slices.IndexFunc(f.Clients, func(c preflight.ClientAddress) bool { return c.Who == "kube-proxy" }); i < 0 {
		t.Error("kube-proxy was not looked for")
	} else {
		known(t, "kube-proxy's server", f.Clients[i].Server, "https://192.0.2.10:6443")
	}
	members, ok := f.Etcd.Get()
	if !ok || len(members) != 2 || !members[0].Healthy || !members[0].Leader || members[0].Members != 1 || members[0].QuotaBytes != 4<<30 || members[1].Unreachable == "" {
		t.Errorf("etcd: %+v, %s", members, f.Etcd.Why())
	}

	results, err := preflight.Judge(f)
	if err != nil {
		t.Fatal(err)
	}
	for part, want := range map[preflight.Part]preflight.Status{
		preflight.GateProxy: preflight.Works, preflight.GateActs: preflight.Limited, preflight.BreakGlass: preflight.Works,
		preflight.TokenNames: preflight.Works, preflight.LimitsActions: preflight.Limited, preflight.BypassCount: preflight.Works,
		preflight.EtcdCare: preflight.Uncertain, preflight.Jail: preflight.Works,
	} {
		i := slices.IndexFunc(results, func(r preflight.Result) bool { return r.Part == part })
		if got := results[i]; got.Status != want {
			t.Errorf("%s: want %s, got %+v", part, want, got)
		}
	}
}

func known[T comparable](t *testing.T, what string, f preflight.Fact[T], want T) {
	t.Helper()
	if got, ok := f.Get(); !ok || got != want {
		t.Errorf("%s: want %v, got %v, %s", what, want, got, f.Why())
	}
}

func certificate(t *testing.T, file string) *x509.Certificate {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pki.ParseCerts(data)
	if err != nil {
		t.Fatal(err)
	}
	return certs[0]
}

// announce puts into the cluster what kubeadm leaves there: the API servers' mirror pods, and kube-proxy's kubeconfig.
func announce(t *testing.T, l *lab.Lab) {
	t.Helper()
	client := kubernetes.NewForConfigOrDie(l.RESTConfig(lab.Masters))
	server := args(t, l, "kube-apiserver")
	for i := range 2 {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("kube-apiserver-", i), Namespace: metav1.NamespaceSystem, Labels: map[string]string{"component": "kube-apiserver", "tier": "control-plane"}},
			Spec: corev1.PodSpec{NodeName: "node-0000", Containers: []corev1.Container{{
				Name: "kube-apiserver", Image: "kube-apiserver", Command: slices.Concat(server, []string{fmt.Sprint("--advertise-address=192.0.2.", i)}),
			}}},
		}
		create(t, func() error {
			_, err := client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{})
			return err
		})
	}
	config := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-proxy", Namespace: metav1.NamespaceSystem},
		Data:       map[string]string{"kubeconfig.conf": "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster: {server: \"https://192.0.2.10:6443\"}\n"},
	}
	create(t, func() error {
		_, err := client.CoreV1().ConfigMaps(config.Namespace).Create(t.Context(), config, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() {
		ctx := context.Background()
		for i := range 2 {
			_ = client.CoreV1().Pods(metav1.NamespaceSystem).Delete(ctx, fmt.Sprint("kube-apiserver-", i), *metav1.NewDeleteOptions(0)) // the lab ends with the process
		}
		_ = client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Delete(ctx, "kube-proxy", metav1.DeleteOptions{})
	})
}

// create tries until the namespace's ServiceAccount is there, which the controllers make after the start.
func create(t *testing.T, do func() error) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// What a user without rights is not told is unknown, and nothing is made up in its place.
func TestGatherWithoutRights(t *testing.T) {
	l := cluster(t)
	f := gather(t, options(l.RESTConfig(lab.User("nobody"))))
	known(t, "version", f.Version, "v1.36.3")
	known(t, "user", f.User, "nobody")
	known(t, "may grant impersonation", f.MayGrantImpersonation, false)
	known(t, "may read metrics", f.Rights[preflight.ReadMetrics], false)
	for what, known := range map[string]bool{
		"flags": is(f.Flags), "authentication": is(f.Authentication), "about": is(f.About), "nodes": is(f.Nodes), "provider": is(f.Provider),
		"API servers": is(f.APIServers), "endpoints": is(f.Endpoints), "etcd": is(f.Etcd), "break-glass CA": is(f.BreakGlassTrusted),
	} {
		if known {
			t.Errorf("%s is known to a user without rights", what)
		}
	}
	if why := f.About.Why(); why != "this user may not read /metrics" {
		t.Errorf("why the metrics are unknown: %q", why)
	}
	results, err := preflight.Judge(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Status == preflight.Works && r.Part != preflight.Version && r.Part != preflight.LedgerCosts && r.Part != preflight.TokenNames && r.Part != preflight.Certificates {
			t.Errorf("%s is said to work: %v", r.Part, r.Why)
		}
	}
}

func is[T any](f preflight.Fact[T]) bool { _, known := f.Get(); return known }

func TestGatherRefuses(t *testing.T) {
	l := cluster(t)
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	if _, err := preflight.Gather(t.Context(), options(&rest.Config{Host: closed.URL})); !errors.Is(err, preflight.ErrUnreachable) {
		t.Errorf("nobody listens: %v", err)
	}
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>login</html>") }))
	defer page.Close()
	if _, err := preflight.Gather(t.Context(), options(&rest.Config{Host: page.URL})); !errors.Is(err, preflight.ErrUnreachable) {
		t.Errorf("a login page: %v", err)
	}
	strange := rest.AnonymousClientConfig(l.RESTConfig(lab.Masters))
	strange.BearerToken = "no token of this cluster"
	if _, err := preflight.Gather(t.Context(), options(strange)); err == nil || errors.Is(err, preflight.ErrUnreachable) || !strings.Contains(err.Error(), "credentials") {
		t.Errorf("a credential of another cluster: %v", err)
	}
}

// auditEvent is the part of an audit event that says whether it changes anything.
type auditEvent struct {
	Verb       string                    `json:"verb"`
	RequestURI string                    `json:"requestURI"`
	User       struct{ Username string } `json:"user"`
}

// Whoever runs this before installing anything must be able to believe that it changes nothing: not one key in etcd, and in
// the API server's own audit log nothing but reads, reviews of the user himself, and a dry run.
func TestGatherChangesNothing(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: filepath.Join(t.TempDir(), "lab")})
	url, config := etcd(t, l)
	before := settled(t, url, config)
	o := options(l.RESTConfig(lab.User("preflight", "system:masters")))
	o.Etcd, o.EtcdTLS = []string{url}, config
	gather(t, o)
	if diff := cmp.Diff(before, keys(t, url, config)); diff != "" {
		t.Errorf("keys in etcd, and the revision each was changed in (-before +after):\n%s", diff)
	}

	log, err := os.Open(l.AuditLog(0))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	events := 0
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			continue // one still being written
		}
		if e.User.Username != "preflight" {
			continue
		}
		events++
		reads := e.Verb == "get" || e.Verb == "list"
		asks := e.Verb == "create" && strings.Contains(e.RequestURI, "/selfsubject")
		tries := e.Verb == "create" && strings.Contains(e.RequestURI, "dryRun=All")
		if !reads && !asks && !tries {
			t.Errorf("%s %s is no read", e.Verb, e.RequestURI)
		}
	}
	if events < 20 {
		t.Errorf("the audit log has %d requests of it: the test proves nothing", events)
	}
}

// keys returns each key's revision. Leases are renewed by the components all the time and are left out.
func keys(t *testing.T, url string, config *tls.Config) map[string]string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config.Clone(), DisableKeepAlives: true}}
	// From the first key to the last, both "\0" in base64.
	response, err := client.Post(url+"/v3/kv/range", "application/json", bytes.NewReader([]byte(`{"key":"AA==","range_end":"AA==","keys_only":true}`)))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct {
		KVs []struct {
			Key         []byte `json:"key"`
			ModRevision string `json:"mod_revision"`
		} `json:"kvs"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || len(answer.KVs) < 100 {
		t.Fatalf("%d keys in etcd, %v", len(answer.KVs), err)
	}
	revisions := map[string]string{}
	for _, kv := range answer.KVs {
		if !strings.Contains(string(kv.Key), "/leases/") {
			revisions[string(kv.Key)] = kv.ModRevision
		}
	}
	return revisions
}

// settled waits until the cluster's own components have stopped changing things after the start.
func settled(t *testing.T, url string, config *tls.Config) map[string]string {
	t.Helper()
	last := keys(t, url, config)
	same := 0
	for {
		select {
		case <-t.Context().Done():
			t.Fatal("the cluster does not come to rest")
		case <-time.After(500 * time.Millisecond):
		}
		now := keys(t, url, config)
		if cmp.Equal(last, now) {
			if same++; same == 6 {
				return now
			}
			continue
		}
		last, same = now, 0
	}
}
