package gate_test

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// TestEmergency is what an operator does in the first minutes: look, block, see it work over a restart, lift.
func TestEmergency(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	operator := emergency.OnSocket(n.Socket())
	defer operator.Close()
	admin, node := n.Client(lab.Admin), n.Client(lab.Node(lab.NodeName(0)))
	get := func(client *kubernetes.Clientset) error {
		_, err := client.CoreV1().Nodes().Get(t.Context(), lab.NodeName(0), metav1.GetOptions{})
		return err
	}
	list := func(client *kubernetes.Clientset) error {
		_, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + lab.NodeName(0)})
		return err
	}
	check(t, get(admin))
	check(t, get(node))

	existing, err := admin.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
	check(t, err)
	watching, err := admin.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: existing.ResourceVersion})
	check(t, err)
	defer watching.Stop()
	block := emergency.Block(v1alpha1.LimitMatch{Users: []string{lab.AdminUser}}, "the replay", time.Minute)
	result, err := operator.Set(t.Context(), block, false)
	check(t, err)
	if err := get(admin); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "the replay") {
		t.Errorf("the request after the answer got %v, want 403 with the reason", err)
	}
	check(t, get(node))
	select {
	case _, open := <-watching.ResultChan():
		if open {
			t.Error("the watch goes on")
		}
	case <-time.After(10 * time.Second):
		t.Error("the open watch was not ended")
	}
	status, err := operator.Status(t.Context())
	check(t, err)
	if len(status.Rejected) == 0 || status.Rejected[0].User != lab.AdminUser || len(status.Rules) != 1 {
		t.Errorf("the status does not name who is rejected: %+v", status)
	}

	// The rule outlives the process that acknowledged it.
	n.Stop()
	n = gatetest.Serve(t, l, n.File)
	admin, node = n.Client(lab.Admin), n.Client(lab.Node(lab.NodeName(0)))
	if err := get(admin); !apierrors.IsForbidden(err) {
		t.Errorf("after a restart: %v, want 403", err)
	}
	if _, err := operator.Lift(t.Context(), result.Rule.ID, "over"); err != nil {
		t.Fatal(err)
	}
	check(t, get(admin))

	// Lockdown: the one who repairs, and what keeps nodes alive.
	lockdown, err := operator.Set(t.Context(), emergency.Lockdown([]string{lab.AdminUser}, nil, "only repairs", time.Minute), false)
	check(t, err)
	check(t, list(admin))
	if err := list(node); !apierrors.IsForbidden(err) {
		t.Errorf("a node lists pods during a lockdown: %v, want 403", err)
	}
	if err := renewLease(t, node, lab.NodeName(0)); err != nil {
		t.Errorf("a node renews its lease during a lockdown: %v", err)
	}
	if _, err := operator.Set(t.Context(), emergency.Passthrough("is it us?", time.Minute), false); err != nil {
		t.Fatal(err)
	}
	check(t, list(node)) // a plain proxy at once
	_, err = operator.Lift(t.Context(), lockdown.Rule.ID, "over")
	check(t, err)
}

func renewLease(t *testing.T, client *kubernetes.Clientset, node string) error {
	t.Helper()
	leases := client.CoordinationV1().Leases(corev1.NamespaceNodeLease)
	lease, err := leases.Get(t.Context(), node, metav1.GetOptions{})
	if err != nil {
		return err
	}
	now := metav1.NowMicro()
	lease.Spec.RenewTime = &now
	_, err = leases.Update(t.Context(), lease, metav1.UpdateOptions{})
	if apierrors.IsConflict(err) { // the simulated kubelet renewed it meanwhile
		return nil
	}
	return err
}
