package onlabs

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab/link"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// moved waits until a node of the small cluster runs the image.
func (h *hubRig) moved(name, image string) {
	h.t.Helper()
	testkit.Within(h.t, "the first node has it", time.Minute, func() bool {
		return rollouttest.Images(h.t, h.clients["small"], "telemetry", name)[image] > 0
	})
}

// daemonSets makes the agents of the names on every cluster.
func (h *hubRig) daemonSets(names ...string) {
	h.t.Helper()
	for _, name := range names {
		for cluster, client := range h.clients {
			rollouttest.DaemonSet(h.t, client, "telemetry", name, h.sizes[cluster])
		}
	}
}

// once wants every pod of a DaemonSet deleted by rollouts the same number of times at most, and that many in all.
func (h *hubRig) once(name string, deletes map[string]int) {
	h.t.Helper()
	for cluster, want := range deletes {
		got := 0
		for pod, times := range h.deletes(cluster, "seakeep-rollout/") {
			if !strings.HasPrefix(pod, "telemetry/"+name+"-") {
				continue
			}
			if got++; times > 1 {
				h.t.Errorf("%s: pod %s was deleted %d times", cluster, pod, times)
			}
		}
		if got != want {
			h.t.Errorf("%s: %d pods of %s were deleted, want %d", cluster, got, name, want)
		}
	}
}

// Two controllers of one namespace: the Lease of the hub lets one work. Two of two namespaces, which the hub's Lease does not keep
// apart: the lease on each cluster does. One without the journal: it begins nothing, and says which run it has not.
func TestRolloutControllersAreFencedOut(t *testing.T) {
	h := newHubRig(t, 4, 6)
	h.daemonSets("good", "fought")
	first := h.controllerWith()
	h.apply(h.rollout("good", agent2, ""))
	h.moved("good", agent2)
	second := h.controllerWith() // the same folder: it waits for the Lease, and then for the journal
	first.kill()
	testkit.Within(t, "the second one leads and goes on", time.Minute, func() bool {
		return rollouttest.Images(t, h.clients["small"], "telemetry", "good")[agent2] > 2
	})
	second.kill()

	// As when a pod comes up with an empty volume.
	lost := h.controllerWith("--state-dir", filepath.Join(h.dir, "empty"))
	h.wait("good", acceptedReason, "JournalLost")
	h.wait("good", acceptedMessage, "is under way and is not in the journal in "+filepath.Join(h.dir, "empty"))
	stood := rollouttest.Images(t, h.clients["small"], "telemetry", "good")
	h.kubectl("annotate", "rollout", "good", "seakeep.dev/order=rollback") // nor is an order taken for a run that it has not
	testkit.Within(t, "the order is refused", 30*time.Second, func() bool {
		out := h.kubectl("get", "events")
		return strings.Contains(out, "OrderRefused") && strings.Contains(out, "there is no run")
	})
	lost.kill()
	if now := rollouttest.Images(t, h.clients["small"], "telemetry", "good"); !cmp.Equal(stood, now) {
		t.Errorf("it moved without its journal: %v, then %v", stood, now)
	}
	again := h.controllerWith()
	h.wait("good", ".status.phase", "Completed")
	h.want("good", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	h.once("good", map[string]int{"small": 4, "large": 6})

	// Two hubs that know nothing of each other, here two namespaces, and the same DaemonSet.
	rollouttest.Namespace(t, h.clients["small"], "rival")
	h.apply(h.rollout("fought", agent2, ""))
	h.moved("fought", agent2)
	h.kubectl("annotate", "rollout", "fought", "seakeep.dev/order=pause") // once it is over the rival may go on
	h.wait("fought", ".status.phase", "Paused")
	rival := h.controllerWith("--kubeconfig", h.kubeconfig, "-n", "rival", "--state-dir", filepath.Join(h.dir, "rival"))
	h.rollout("fought", agent3, "")
	h.kubectl("-n", "rival", "apply", "-f", h.object("fought"))
	testkit.Within(t, "the rival says that it waits", time.Minute, func() bool {
		out, _ := h.try("-n", "rival", "get", "events")
		return strings.Contains(out, "holds the lease: nothing is done here until it is free")
	})
	rival.kill()
	for cluster, client := range h.clients {
		if on := rollouttest.Images(t, client, "telemetry", "fought"); on[agent3] > 0 {
			t.Errorf("%s: the rival moved pods: %v", cluster, on)
		}
	}
	h.kubectl("annotate", "rollout", "fought", "seakeep.dev/order=resume")
	h.wait("fought", ".status.phase", "Completed")
	h.want("fought", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	h.once("fought", map[string]int{"small": 4, "large": 6})
	again.kill()
}

// The hub is cut off while a run is on the way: the run goes on, and the status catches up. For longer than the leader's Lease:
// the controller ends, nothing moves, and the next one goes on.
func TestRolloutControllerWithoutItsHub(t *testing.T) {
	h := newHubRig(t, 4, 6)
	h.daemonSets("short", "long")
	server := strings.TrimPrefix(h.labs["small"].APIServerURL(0), "https://")
	c, err := link.To(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := h.labs["small"].WriteKubeconfig(h.account, hubAccount, "https://"+c.Address(), h.labs["small"].CAFile()); err != nil {
		t.Fatal(err)
	}
	process := h.controllerWith("--leader-lease", "5m")
	h.apply(h.rollout("short", agent2, ""))
	h.moved("short", agent2)
	h.wait("short", ".status.phase", "Running")
	c.Refuse()
	testkit.Within(t, "it is everywhere", 90*time.Second, func() bool {
		return rollouttest.Images(t, h.clients["large"], "telemetry", "short")[agent2] == 6
	})
	if phase := h.kubectl("get", "rollout", "short", "-o", "jsonpath={.status.phase}"); phase != "Running" {
		t.Errorf("the status says %s with the hub cut off", phase)
	}
	c.Restore()
	h.wait("short", ".status.phase", "Completed")
	h.once("short", map[string]int{"small": 4, "large": 6})
	process.kill()
	h.kubectl("-n", "seakeep", "delete", "lease", "seakeep-rollout-controller") // five minutes are not waited for

	process = h.controllerWith()
	h.apply(h.rollout("long", agent2, ""))
	h.moved("long", agent2)
	c.Refuse()
	select {
	case <-process.ended:
	case <-time.After(time.Minute):
		t.Fatal("it goes on without its Lease")
	}
	stood := map[string]map[string]int{}
	for cluster, client := range h.clients {
		stood[cluster] = rollouttest.Images(t, client, "telemetry", "long")
	}
	c.Restore()
	if stood["large"][agent2] > 3 {
		t.Errorf("it came to its end: %v", stood)
	}
	process = h.controllerWith()
	h.wait("long", ".status.phase", "Completed")
	h.want("long", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	h.once("long", map[string]int{"small": 4, "large": 6})
	process.kill()
}
