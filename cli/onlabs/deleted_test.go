package onlabs

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// fleetOfHub makes the fleet of Secrets of the hub, read by the controller's own account.
func (h *hubRig) fleetOfHub() {
	h.t.Helper()
	h.kubectl("-n", "clusters", "apply", "--server-side", "-f", filepath.Join("..", "..", "deploy", "rollout", "fleet.yaml"))
	for name := range h.labs {
		whole, err := clientcmd.LoadFromFile(filepath.Join(h.dir, name+".kubeconfig"))
		if err != nil {
			h.t.Fatal(err)
		}
		if err := clientcmdapi.FlattenConfig(whole); err != nil {
			h.t.Fatal(err)
		}
		data, err := clientcmd.Write(*whole)
		if err != nil {
			h.t.Fatal(err)
		}
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"size": name}}, Data: map[string][]byte{"value": data}}
		if _, err := h.clients["small"].CoreV1().Secrets("clusters").Create(h.t.Context(), secret, metav1.CreateOptions{}); err != nil {
			h.t.Fatal(err)
		}
	}
	h.write("fleet.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Fleet\nname: labs\nsecrets: {namespace: clusters}\n")
}

// A Rollout that is deleted while its change is taken back: the way back is gone to its end, over the death of the controller, and
// the object stays until then. One that cannot come to its end is let go by abort, and frozen where it is. The fleet is of the hub.
func TestRolloutDeletedOnTheWayBack(t *testing.T) {
	h := newHubRig(t, 4, 6)
	h.fleetOfHub()
	h.daemonSets("back", "held")
	kill := h.controller()
	h.apply(h.rollout("back", agent2, ""))
	testkit.Within(t, "some nodes have it", time.Minute, func() bool {
		return rollouttest.Images(t, h.clients["small"], "telemetry", "back")[agent2] > 2
	})
	h.kubectl("annotate", "rollout", "back", "seakeep.dev/order=rollback")
	h.wait("back", ".status.phase", "RollingBack")
	h.kubectl("delete", "rollout", "back", "--wait=false")
	kill()
	if out := h.kubectl("get", "rollout", "back", "-o", "jsonpath={.metadata.deletionTimestamp}"); out == "" {
		t.Error("the object does not say that it is deleted")
	}
	kill = h.controller()
	h.kubectl("wait", "--for=delete", "rollout/back", "--timeout=90s")
	h.want("back", map[string]int{agent1: 4}, map[string]int{agent1: 6})

	// A pod that somebody else's finalizer keeps: the way back waits for it, and so does the object.
	h.apply(h.rollout("held", agent2, ""))
	h.moved("held", agent2)
	pod := strings.TrimSpace(h.kubectl("-n", "telemetry", "get", "pods", "-l", "app=held", "-o", `jsonpath={.items[?(@.spec.containers[0].image=="`+agent2+`")].metadata.name}`))
	pod, _, _ = strings.Cut(pod, " ")
	h.kubectl("-n", "telemetry", "patch", "pod", pod, "--type=merge", "-p", `{"metadata":{"finalizers":["example.com/held"]}}`)
	h.kubectl("annotate", "rollout", "held", "seakeep.dev/order=rollback")
	h.wait("held", ".status.phase", "RollingBack")
	h.kubectl("delete", "rollout", "held", "--wait=false")
	testkit.Within(t, "the pod is deleted", time.Minute, func() bool {
		return h.kubectl("-n", "telemetry", "get", "pod", pod, "-o", "jsonpath={.metadata.deletionTimestamp}") != ""
	})
	if out, err := h.try("wait", "--for=delete", "rollout/held", "--timeout=3s"); err == nil {
		t.Errorf("the object is gone before its way back is: %s", out)
	}
	h.kubectl("annotate", "rollout", "held", "seakeep.dev/order=abort")
	h.kubectl("wait", "--for=delete", "rollout/held", "--timeout=60s")
	kill()
	if v := h.status("held"); v.Phase != journal.Aborted {
		t.Errorf("the run ended as %s: %s", v.Phase, v.Message)
	}
	if v := h.status("back"); v.Phase != journal.RolledBack {
		t.Errorf("the run ended as %s: %s", v.Phase, v.Message)
	}
	h.kubectl("-n", "telemetry", "patch", "pod", pod, "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
}
