package jail

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// writer plays what cli joins.
type writer struct{ *apf.Writer }

func (w writer) Jail(ctx context.Context, account, reason string, length time.Duration, dryRun bool) error {
	_, err := w.Writer.Jail(ctx, apf.Jail{ServiceAccount: account, For: length, Reason: reason}, dryRun)
	return err
}

func (w writer) Unjail(ctx context.Context, account string) error {
	if err := w.Writer.Unjail(ctx, apf.Jail{ServiceAccount: account}.Name()); err != nil && !errors.Is(err, apf.ErrNoJail) {
		return err
	}
	return nil
}

// rig is a lab with a component that lists all pods, under a service account of its own.
type rig struct {
	t         *testing.T
	lab       *lab.Lab
	client    *kubernetes.Clientset
	component Component
	agent     *kubernetes.Clientset
}

func start(t *testing.T) *rig {
	t.Helper()
	l := lab.Start(t, lab.Options{Nodes: 5, Pods: 20, Dir: t.TempDir()})
	config := l.RESTConfig(lab.Masters)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, lab: l, client: client, component: Component{Cluster: "lab", Kind: "DaemonSet", Namespace: "telemetry", Name: "agent", ServiceAccount: "telemetry/agent", Rollout: "r-1"}}
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err = client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "telemetry"}}, metav1.CreateOptions{})
	must(err)
	_, err = client.CoreV1().ServiceAccounts("telemetry").Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "agent"}}, metav1.CreateOptions{})
	must(err)
	_, err = client.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods", "nodes"}, Verbs: []string{"get", "list", "watch"}}}}, metav1.CreateOptions{})
	must(err)
	ref := rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "agent"}
	account := rbacv1.Subject{Kind: rbacv1.ServiceAccountKind, Namespace: "telemetry", Name: "agent"}
	others := []rbacv1.Subject{{Kind: rbacv1.GroupKind, APIGroup: rbacv1.GroupName, Name: "readers"}, account, {Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "somebody"}}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "agent", Annotations: map[string]string{"note": "kept"}}, RoleRef: ref, Subjects: others}, metav1.CreateOptions{})
	must(err)
	_, err = client.RbacV1().RoleBindings("default").Create(ctx, &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, RoleRef: ref, Subjects: []rbacv1.Subject{account}}, metav1.CreateOptions{})
	must(err)
	hour := int64(3600)
	token, err := client.CoreV1().ServiceAccounts("telemetry").CreateToken(ctx, "agent", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}}, metav1.CreateOptions{})
	must(err)
	own := rest.AnonymousClientConfig(config)
	own.BearerToken, own.QPS = token.Status.Token, -1
	r.agent, err = kubernetes.NewForConfig(own)
	must(err)
	testkit.Within(t, "the component may list", 20*time.Second, func() bool { return r.list() == nil })
	return r
}

// list is what the component does: once, without the client's own patience.
func (r *rig) list() error {
	ctx, cancel := context.WithTimeout(r.t.Context(), 2*time.Second)
	defer cancel()
	return r.agent.CoreV1().RESTClient().Get().AbsPath("/api/v1/pods").MaxRetries(0).Do(ctx).Error()
}

// dispatched is how many requests of a FlowSchema were let through.
func (r *rig) dispatched(schema string) (n float64) {
	r.t.Helper()
	body, err := r.client.Discovery().RESTClient().Get().AbsPath("/metrics").DoRaw(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if line := lines.Text(); strings.HasPrefix(line, "apiserver_flowcontrol_dispatched_requests_total{") && strings.Contains(line, `"`+schema+`"`) {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
				r.t.Fatal(err)
			}
			n += v
		}
	}
	return n
}

func TestAPFRungOnALab(t *testing.T) {
	r := start(t)
	rung := APF{writer{apf.NewWriter(apf.Options{Client: r.client, Holder: "test", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})}}
	name := apf.Jail{ServiceAccount: r.component.ServiceAccount}.Name()

	if err := rung.Prove(t.Context(), r.component); err != nil {
		t.Fatal(err)
	}
	if _, err := r.client.FlowcontrolV1().FlowSchemas().Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the proof left something behind: %v", err)
	}
	if err := r.list(); err != nil {
		t.Errorf("after the proof the component cannot list: %v", err)
	}
	started := time.Now()
	for range 2 { // again is the same as once
		if err := rung.Do(t.Context(), r.component, "a test", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Within(t, "the component is in jail", 15*time.Second, func() bool { return r.list() != nil })
	t.Logf("in jail %s after the measure began", time.Since(started).Round(time.Millisecond))
	before := r.dispatched(name)
	refused := 0
	for range 3 {
		if err := r.list(); err == nil {
			t.Error("a request of the component was answered")
		} else {
			refused++
		}
	}
	if after := r.dispatched(name); after != before || refused != 3 {
		t.Errorf("%v requests of the component were dispatched", after-before)
	}
	if _, err := r.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{Limit: 1}); err != nil {
		t.Errorf("others cannot list: %v", err)
	}
	if err := rung.Undo(t.Context(), r.component); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the component is free", 15*time.Second, func() bool { return r.list() == nil })
	for _, get := range []func() error{
		func() error {
			_, err := r.client.FlowcontrolV1().FlowSchemas().Get(t.Context(), name, metav1.GetOptions{})
			return err
		},
		func() error {
			_, err := r.client.FlowcontrolV1().PriorityLevelConfigurations().Get(t.Context(), apf.JailLevel, metav1.GetOptions{})
			return err
		},
	} {
		if err := get(); !apierrors.IsNotFound(err) {
			t.Errorf("something is left behind: %v", err)
		}
	}
	if err := rung.Undo(t.Context(), r.component); err != nil {
		t.Errorf("taking back what is not there: %v", err)
	}

	common := r.component
	common.ServiceAccount = "telemetry/default"
	if err := rung.Prove(t.Context(), common); err == nil || !strings.Contains(err.Error(), "of its own") {
		t.Errorf("the account of everything in the namespace may be jailed: %v", err)
	}
}

func TestRBACRungOnALab(t *testing.T) {
	r := start(t)
	rung := RBAC{Client: r.client}
	state := func() map[string]any {
		t.Helper()
		cluster, err := r.client.RbacV1().ClusterRoleBindings().Get(t.Context(), "agent", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		local, err := r.client.RbacV1().RoleBindings("default").Get(t.Context(), "agent", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return map[string]any{"cluster": cluster.Subjects, "cluster notes": cluster.Annotations, "local": local.Subjects, "local notes": local.Annotations}
	}
	was := state()
	if err := rung.Prove(t.Context(), r.component); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(was, state()); diff != "" {
		t.Errorf("the proof changed something (-was +is):\n%s", diff)
	}
	started := time.Now()
	for range 2 {
		if err := rung.Do(t.Context(), r.component, "a test", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Within(t, "the component gets 403", 10*time.Second, func() bool { return apierrors.IsForbidden(r.list()) })
	t.Logf("403 %s after the measure began", time.Since(started).Round(time.Millisecond))
	cut := state()
	if n := len(cut["cluster"].([]rbacv1.Subject)); n != 2 {
		t.Errorf("the others in the binding are %d, want 2", n)
	}
	// Another rollout's undo, and one after this process died: only the annotation knows.
	other := r.component
	other.Rollout = "r-2"
	if err := rung.Undo(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cut, state()); diff != "" {
		t.Errorf("another rollout took it back (-was +is):\n%s", diff)
	}
	if err := (RBAC{Client: r.client}).Undo(t.Context(), r.component); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the component may list again", 10*time.Second, func() bool { return r.list() == nil })
	if diff := cmp.Diff(was, state()); diff != "" {
		t.Errorf("it was not put back as it was (-was +is):\n%s", diff)
	}

	t.Run("somebody changed the binding meanwhile", func(t *testing.T) {
		if err := rung.Do(t.Context(), r.component, "a test", time.Hour); err != nil {
			t.Fatal(err)
		}
		b, err := r.client.RbacV1().ClusterRoleBindings().Get(t.Context(), "agent", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		b.Subjects = append(b.Subjects, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: "newcomer"})
		if _, err := r.client.RbacV1().ClusterRoleBindings().Update(t.Context(), b, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := rung.Undo(t.Context(), r.component); err != nil {
			t.Fatal(err)
		}
		got := state()["cluster"].([]rbacv1.Subject)
		var names []string
		for _, s := range got {
			names = append(names, s.Name)
		}
		if diff := cmp.Diff([]string{"readers", "somebody", "newcomer", "agent"}, names); diff != "" {
			t.Errorf("subjects (-want +got):\n%s", diff)
		}
	})

	t.Run("who may not is told before", func(t *testing.T) {
		weak, err := kubernetes.NewForConfig(r.lab.RESTConfig(lab.User("weak")))
		if err != nil {
			t.Fatal(err)
		}
		if err := (RBAC{Client: weak}).Prove(t.Context(), r.component); !apierrors.IsForbidden(errors.Unwrap(err)) {
			t.Errorf("want 403, got %v", err)
		}
		nobody := r.component
		nobody.ServiceAccount = "telemetry/other"
		if err := rung.Prove(t.Context(), nobody); err == nil || !strings.Contains(err.Error(), "no binding names") {
			t.Errorf("an account without bindings: %v", err)
		}
	})
}
