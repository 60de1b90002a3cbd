package survive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"crypto/tls"

	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/identity/tokens"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/gate/relay/survive"
	"github.com/seakeep/seakeep/gate/upstream"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// secret is in a Secret of every lab here, and must never be in a kept file.
const secret = "c2VjcmV0LW9mLXRoZS1zaGlw"

// options of a front.
type options struct {
	survive v1alpha1.RelaySurvive
	// ahead is how far the clock of the verifier of tokens is ahead.
	ahead  time.Duration
	spread time.Duration
}

// front is a gate's standard lane as far as it matters here: identity, the store, else forwarding.
type front struct {
	*survive.Store
	URL      string
	registry *prometheus.Registry
	log      *logged
	stop     func()
}

// openFront serves with what is in the folder.
func openFront(t testing.TB, l *lab.Lab, dir string, o options) *front {
	t.Helper()
	if o.survive.Resources == nil {
		o.survive.Resources = v1alpha1.SurviveDefaults
	}
	set := func(d **metav1.Duration, def time.Duration) {
		if *d == nil {
			*d = &metav1.Duration{Duration: def}
		}
	}
	set(&o.survive.After, time.Second)
	set(&o.survive.GrantTTL, 24*time.Hour)
	if o.spread == 0 {
		o.spread = 2 * time.Second
	}
	n := &front{registry: prometheus.NewRegistry(), log: &logged{}}
	log := slog.New(slog.NewTextHandler(io.MultiWriter(n.log, t.Output()), nil))
	proxy := gatetest.Proxy(t, l)
	own := proxy.Own(gatetest.RelayUser)
	var store *survive.Store
	reviewer, err := access.New(access.Options{
		Upstream: own, Log: log, Registerer: n.registry, Recorder: recorder{&store},
		Reviews: v1alpha1.RelayReviews{AuthorizationTTL: &metav1.Duration{Duration: 10 * time.Second}, TokenTTL: &metav1.Duration{Duration: time.Minute}},
	})
	check(t, err)
	store, err = survive.New(survive.Options{
		Upstream: own, Survive: o.survive, Reviewer: reviewer, Dir: dir, Spread: o.spread, Log: log, Registerer: n.registry,
	})
	check(t, err)
	n.Store = store
	clients, err := pki.LoadPool(l.PKI().ClientCA)
	check(t, err)
	clock := func() time.Time { return time.Now().Add(o.ahead) }
	verifier, err := tokens.New(tokens.Options{Clock: clock, Log: log, ServiceAccounts: &v1alpha1.ServiceAccountKeys{
		Issuers: []string{lab.ServiceAccountIssuer}, KeyFiles: []string{l.PKI().ServiceAccountKey},
	}})
	check(t, err)
	who := identity.New(identity.Options{ClientCAs: clients, Tokens: verifier, Clock: time.Now})
	headers := identity.NewHeaders(v1alpha1.FrontProxy, v1alpha1.RequestHeaders{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if headers.Strip(r) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		caller, err := who.Authenticate(r)
		if err != nil {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		f, err := flow.Classify(r, caller, flow.Standard, time.Now())
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if store.Serve(w, r, f, func(upstream.Result) {}) {
			return
		}
		observed := &observing{ResponseWriter: w, tell: sync.OnceFunc(func() {})}
		observed.tell = sync.OnceFunc(func() { store.Observed(r, f, observed.code) })
		proxy.Serve(observed, r, f, func(result upstream.Result) {
			if result.Err != nil {
				store.Failed(result.Err)
			} else {
				store.Answered()
			}
		})
	}))
	certificate, err := tls.LoadX509KeyPair(l.PKI().ServingCert, l.PKI().ServingKey)
	check(t, err)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: identity.ClientAuth, MinVersion: tls.VersionTLS12}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	server.StartTLS()
	n.URL = server.URL
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { reviewer.Run(ctx) })
	running.Go(func() { store.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		server.CloseClientConnections()
		server.Close()
	})
	t.Cleanup(n.stop)
	return n
}

type recorder struct{ store **survive.Store }

func (r recorder) Reviewed(who userInfo, f *flow.Request, allowed bool) {
	if s := *r.store; s != nil {
		s.Reviewed(who, f, allowed)
	}
}

// observing tells of an answer's status as soon as it is known: a watch's end is far away.
type observing struct {
	http.ResponseWriter
	code int
	tell func()
}

func (o *observing) WriteHeader(code int) {
	o.code = code
	o.tell()
	o.ResponseWriter.WriteHeader(code)
}
func (o *observing) Unwrap() http.ResponseWriter { return o.ResponseWriter }

// logged is a log that can be read while it is written.
type logged struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// ship is a lab and what is in it.
type ship struct {
	*lab.Lab
	t     testing.TB
	admin *kubernetes.Clientset
}

// launch starts a control plane of its own, with something of every kind that is kept and a Secret that is not.
func launch(t testing.TB, o lab.Options) *ship {
	t.Helper()
	o.Dir = t.TempDir()
	l := lab.Start(t, o)
	gatetest.GrantRelay(t, l)
	s := &ship{Lab: l, t: t, admin: gatetest.Clientset(t, l.RESTConfig(lab.Masters))}
	_, err := s.admin.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "treasure"}, StringData: map[string]string{"key": secret}}, metav1.CreateOptions{})
	check(t, err)
	for _, name := range []string{"bow", "mast", "stern"} {
		s.service("default", name, map[string]string{"part": name})
	}
	s.service("kube-system", "keel", map[string]string{"part": "keel"})
	return s
}

func (s *ship) service(namespace, name string, labels map[string]string) {
	s.t.Helper()
	_, err := s.admin.CoreV1().Services(namespace).Create(s.t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "rope", Port: 80}}, Selector: labels},
	}, metav1.CreateOptions{})
	check(s.t, err)
}

// account makes a ServiceAccount that may read what kube-proxy reads, and returns a client's configuration with its token.
func (s *ship) account(name string) *rest.Config {
	s.t.Helper()
	ctx := s.t.Context()
	_, err := s.admin.CoreV1().ServiceAccounts("default").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	check(s.t, err)
	_, err = s.admin.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"services", "nodes", "namespaces", "pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: []string{"list", "watch"}},
	}}, metav1.CreateOptions{})
	check(s.t, err)
	_, err = s.admin.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "default", Name: name}},
	}, metav1.CreateOptions{})
	check(s.t, err)
	made, err := s.admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, name, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(s.t, err)
	return &rest.Config{BearerToken: made.Status.Token, TLSClientConfig: rest.TLSClientConfig{CAFile: s.CAFile()}, QPS: -1, UserAgent: name}
}

// at is the client's configuration at a front.
func at(c *rest.Config, n *front) *rest.Config {
	c = rest.CopyConfig(c)
	c.Host = n.URL
	return c
}

// sink ends the control plane at one blow.
func (s *ship) sink() {
	s.t.Helper()
	for _, p := range s.Processes() {
		p.Kill()
	}
	for _, p := range s.Processes() {
		check(s.t, p.Stop(s.t.Context())) // and nobody starts it again
	}
}

// raise starts etcd and the API server again.
func (s *ship) raise() {
	s.t.Helper()
	for _, name := range []string{lab.KindEtcd, lab.KindAPIServer} {
		p, ok := s.Process(name)
		if !ok {
			s.t.Fatalf("no %s", name)
		}
		check(s.t, p.Start(s.t.Context()))
	}
}

// asked counts the requests in the API server's audit log, from an offset, by verb.
func (s *ship) asked(since int64, user, resource string) map[string]int {
	s.t.Helper()
	log, err := os.ReadFile(s.AuditLog(0))
	check(s.t, err)
	seen := map[string]int{}
	ids := map[string]bool{}
	for line := range bytes.Lines(log[since:]) {
		var event struct {
			AuditID, Verb  string
			User           struct{ Username string }
			ObjectRef      struct{ Resource string }
			ResponseStatus struct{ Code int }
		}
		if json.Unmarshal(line, &event) != nil || ids[event.AuditID] || event.User.Username != user || event.ObjectRef.Resource != resource {
			continue
		}
		ids[event.AuditID] = true
		seen[event.Verb]++
	}
	return seen
}

func (s *ship) auditLength() int64 {
	info, err := os.Stat(s.AuditLog(0))
	check(s.t, err)
	return info.Size()
}

// noSecrets holds that nothing kept has the secret in it, packed or not.
func noSecrets(t testing.TB, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "relay-*"))
	check(t, err)
	if len(files) == 0 {
		t.Error("nothing was kept")
	}
	for _, file := range files {
		info, err := os.Stat(file)
		check(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
		data, err := os.ReadFile(file)
		check(t, err)
		for _, text := range []string{string(data), unpacked(data)} {
			for _, word := range []string{secret, "treasure", "eyJhbGciOi"} {
				if strings.Contains(text, word) {
					t.Errorf("%s has %q in it", file, word)
				}
			}
		}
	}
}

// requests counts what a client sends.
type requests struct {
	next http.RoundTripper
	mu   sync.Mutex
	n    map[string]int
	all  atomic.Int64
}

func (r *requests) RoundTrip(in *http.Request) (*http.Response, error) {
	what := "list"
	switch q := in.URL.Query(); {
	case q.Get("sendInitialEvents") == "true":
		what = "watchlist"
	case q.Get("watch") != "":
		what = "watch"
	}
	r.mu.Lock()
	r.n[what]++
	r.mu.Unlock()
	r.all.Add(1)
	return r.next.RoundTrip(in)
}

func (r *requests) counts() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	copied := map[string]int{}
	for k, v := range r.n {
		copied[k] = v
	}
	return copied
}

// client trusts the front and shows no certificate.
func (n *front) client(testing.TB) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // a front of our own, on loopback
	}}
}

// copied is a copy of a state folder.
func copied(t testing.TB, dir string) string {
	t.Helper()
	to := t.TempDir()
	check(t, os.CopyFS(to, os.DirFS(dir)))
	return to
}

// freePort is one nobody listens on now.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
