package access_test

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/gate/relay/access"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// cluster is the control plane the tests of this package share, as long as they do not break it.
func cluster(t testing.TB) *lab.Lab { return lab.Start(t, lab.Options{Nodes: 2}) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is an Access in front of a lab.
type rig struct {
	*access.Access
	lab      *lab.Lab
	admin    *kubernetes.Clientset
	registry *prometheus.Registry
	recorded *recorder
	log      *bytes.Buffer
	t        testing.TB
}

// open starts an Access with the rights of deploy/relay/rbac.yaml. When the test ends nothing of it may be left.
func open(t testing.TB, l *lab.Lab, reviews v1alpha1.RelayReviews) *rig {
	t.Helper()
	gatetest.GrantRelay(t, l)
	admin := gatetest.Clientset(t, l.RESTConfig(lab.Masters))
	before := gatetest.Snapshot()
	t.Cleanup(func() { before.Verify(t) })
	r := &rig{lab: l, admin: admin, registry: prometheus.NewRegistry(), recorded: &recorder{}, log: &bytes.Buffer{}, t: t}
	set := func(d **metav1.Duration, def time.Duration) {
		if *d == nil {
			*d = &metav1.Duration{Duration: def}
		}
	}
	set(&reviews.AuthorizationTTL, 10*time.Second)
	set(&reviews.TokenTTL, time.Minute)
	var err error
	r.Access, err = access.New(access.Options{
		Upstream: gatetest.Own(t, l, gatetest.RelayUser), Reviews: reviews, Recorder: r.recorded, Registerer: r.registry,
		Log: slog.New(slog.NewTextHandler(&locked{w: r.log}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r
}

func ttl(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }

// locked lets goroutines share a writer.
type locked struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// recorder remembers what it was told of reviews.
type recorder struct {
	mu    sync.Mutex
	heard []string
}

func (r *recorder) Reviewed(who user.Info, f *flow.Request, allowed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	word := "may not"
	if allowed {
		word = "may"
	}
	r.heard = append(r.heard, strings.Join([]string{who.GetName(), word, f.Verb, f.Resource, f.Namespace}, " "))
}

func (r *recorder) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.heard...)
}

// request is what the corridor would make of a request for the target.
func request(t testing.TB, caller flow.Caller, token, target string) (*http.Request, *flow.Request) {
	t.Helper()
	u, err := url.Parse(target)
	check(t, err)
	r := (&http.Request{Method: http.MethodGet, URL: u, Header: http.Header{}, RemoteAddr: "192.0.2.7:4242"}).WithContext(t.Context())
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
		caller.Bearer = true
	}
	f, err := flow.Classify(r, caller, flow.Standard, time.Now())
	check(t, err)
	return r, f
}

func certificate(id lab.Identity) flow.Caller {
	return flow.Caller{User: id.String(), Groups: append(id.Groups(), "system:authenticated"), Certainty: flow.CertificateVerified}
}

// may asks for the target as the identity of a certificate.
func (r *rig) may(caller flow.Caller, target string) (bool, error) {
	r.t.Helper()
	in, f := request(r.t, caller, "", target)
	who, err := r.Identify(r.t.Context(), in, f)
	check(r.t, err)
	return r.Allowed(r.t.Context(), who, f)
}

// account is a new ServiceAccount in default.
func (r *rig) account() string {
	r.t.Helper()
	made, err := r.admin.CoreV1().ServiceAccounts("default").Create(r.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "agent-" + marker()}}, metav1.CreateOptions{})
	check(r.t, err)
	return made.Name
}

func (r *rig) token(account string) string {
	r.t.Helper()
	made, err := r.admin.CoreV1().ServiceAccounts("default").CreateToken(r.t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(r.t, err)
	return made.Status.Token
}

// let binds a subject to a new role that lists pods everywhere, and returns how to take that back.
func (r *rig) let(kind, namespace, name string) (revoke func()) {
	r.t.Helper()
	ctx, rbac := r.t.Context(), r.admin.RbacV1()
	meta := metav1.ObjectMeta{Name: "test-" + marker()}
	_, err := rbac.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
	}}, metav1.CreateOptions{})
	check(r.t, err)
	_, err = rbac.ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: kind, Namespace: namespace, Name: name}},
	}, metav1.CreateOptions{})
	check(r.t, err)
	return func() { check(r.t, rbac.ClusterRoleBindings().Delete(ctx, meta.Name, metav1.DeleteOptions{})) }
}

func marker() string { return strings.ReplaceAll(uuid.NewString(), "-", "")[:12] }

// reviews counts the reviews that the API server's audit log has of the relay's user, since the offset.
func (r *rig) reviews(since int64) (tokens, accesses int) {
	r.t.Helper()
	last := marker()
	if _, err := r.admin.CoreV1().ConfigMaps("default").Get(r.t.Context(), last, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		r.t.Fatalf("asking for what is not there: %v", err)
	}
	testkit.Within(r.t, "the audit log has our last request", 20*time.Second, func() bool {
		log, err := os.ReadFile(r.lab.AuditLog(0))
		check(r.t, err)
		log = log[since:]
		if !bytes.Contains(log, []byte(last)) {
			return false
		}
		tokens, accesses = 0, 0
		for line := range bytes.Lines(log) {
			var event struct {
				Stage      string
				RequestURI string
				User       struct{ Username string }
			}
			if json.Unmarshal(line, &event) != nil || event.Stage != "ResponseComplete" || event.User.Username != gatetest.RelayUser {
				continue
			}
			switch event.RequestURI {
			case "/apis/authentication.k8s.io/v1/tokenreviews":
				tokens++
			case "/apis/authorization.k8s.io/v1/subjectaccessreviews":
				accesses++
			}
		}
		return true
	})
	return tokens, accesses
}

// auditLength is where the audit log ends now.
func (r *rig) auditLength() int64 {
	info, err := os.Stat(r.lab.AuditLog(0))
	check(r.t, err)
	return info.Size()
}

// counted reads one of the reviews counters.
func (r *rig) counted(kind, result string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	check(r.t, err)
	for _, family := range families {
		if family.GetName() != "seakeep_gate_relay_reviews_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, pair := range m.GetLabel() {
				labels[pair.GetName()] = pair.GetValue()
			}
			if labels["kind"] == kind && labels["result"] == result {
				return m.GetCounter().GetValue()
			}
		}
	}
	r.t.Fatalf("no counter for %s, %s", kind, result)
	return 0
}
