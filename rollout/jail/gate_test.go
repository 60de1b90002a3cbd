package jail

import (
	"context"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// oneGate plays what cli joins.
type oneGate struct{ *emergency.Gate }

func (g oneGate) Set(ctx context.Context, rule v1alpha1.EmergencyRule, dryRun bool) error {
	_, err := g.Gate.Set(ctx, &rule, dryRun)
	return err
}

func (g oneGate) Rules(ctx context.Context) ([]v1alpha1.EmergencyRule, error) {
	status, err := g.Status(ctx)
	if err != nil {
		return nil, err
	}
	return status.Rules, nil
}

func (g oneGate) Lift(ctx context.Context, id, reason string) error {
	_, err := g.Gate.Lift(ctx, id, reason)
	return err
}

// TestGateRungOnALab blocks the update's pod and not the stable one's, which run under one service account.
func TestGateRungOnALab(t *testing.T) {
	r := start(t)
	pod := func(name string) {
		t.Helper()
		_, err := r.client.CoreV1().Pods("telemetry").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{ServiceAccountName: "agent", NodeName: lab.NodeName(0), Containers: []corev1.Container{{Name: "agent", Image: "agent:1"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	pod("agent-new")
	pod("agent-old")
	lane := gatetest.Open(t, r.lab, gatetest.Options{})
	operator := emergency.OnSocket(lane.Socket())
	defer operator.Close()
	client := func(name string) *kubernetes.Clientset {
		t.Helper()
		bound, err := r.client.CoreV1().Pods("telemetry").Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		hour := int64(3600)
		token, err := r.client.CoreV1().ServiceAccounts("telemetry").CreateToken(t.Context(), "agent", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			ExpirationSeconds: &hour, BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: name, UID: bound.UID},
		}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		config := rest.AnonymousClientConfig(lane.Config(lab.Admin))
		config.BearerToken = token.Status.Token
		return gatetest.Clientset(t, config)
	}
	updated, stable := client("agent-new"), client("agent-old")
	list := func(c *kubernetes.Clientset) error {
		_, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{Limit: 1})
		return err
	}
	testkit.Within(t, "both pods list through the gate", 10*time.Second, func() bool { return list(updated) == nil && list(stable) == nil })

	rung := Gate{oneGate{operator}}
	if err := rung.Prove(t.Context(), r.component); err != nil {
		t.Fatal(err)
	}
	if rules, err := (oneGate{operator}).Rules(t.Context()); err != nil || len(rules) != 0 {
		t.Errorf("the proof left %d rules, %v", len(rules), err)
	}
	if err := rung.Do(t.Context(), r.component, "a test", time.Hour); err == nil {
		t.Error("without a pod of the update there is something to block")
	}
	c := r.component
	c.UpdatePods = []string{"telemetry/agent-new"}
	for range 2 {
		if err := rung.Do(t.Context(), c, "p99 of writes is 3s\nand more", time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if rules, err := (oneGate{operator}).Rules(t.Context()); err != nil || len(rules) != 1 {
		t.Errorf("done twice there are %d rules, %v", len(rules), err)
	}
	if err := list(updated); !apierrors.IsForbidden(err) {
		t.Errorf("the update's pod got %v, want 403", err)
	}
	if err := list(stable); err != nil {
		t.Errorf("the stable revision's pod got %v", err)
	}
	other := c
	other.Rollout = "r-2"
	if err := rung.Undo(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	if err := list(updated); !apierrors.IsForbidden(err) {
		t.Errorf("another rollout's undo freed it: %v", err)
	}
	if err := rung.Undo(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := list(updated); err != nil {
		t.Errorf("after the undo: %v", err)
	}
}
