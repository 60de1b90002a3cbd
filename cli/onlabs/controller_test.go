package onlabs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// hubRig is a rolloutRig whose Rollouts are objects of the small cluster.
type hubRig struct {
	*rolloutRig
	// kubeconfig is the administrator's, account the controller's: with the rights of deploy/rollout, and no others.
	kubeconfig, account string
}

// hubAccount is the controller's service account on the hub.
var hubAccount = lab.User("system:serviceaccount:seakeep:seakeep-rollout", "system:serviceaccounts", "system:serviceaccounts:seakeep")

func newHubRig(t *testing.T, small, large int) *hubRig {
	h := &hubRig{rolloutRig: newRolloutRig(t, small, large)}
	h.kubeconfig, h.account = filepath.Join(h.dir, "small.kubeconfig"), filepath.Join(h.dir, "account.kubeconfig")
	if err := h.labs["small"].WriteKubeconfig(h.account, hubAccount, "", ""); err != nil {
		t.Fatal(err)
	}
	h.deploy("rbac.yaml")
	h.deploy("seakeep.dev_rollouts.yaml")
	// kubectl wait fails at once on a definition that has no conditions yet.
	testkit.Within(t, "the hub serves Rollouts", time.Minute, func() bool {
		_, err := h.try("get", "rollouts.seakeep.dev")
		return err == nil
	})
	return h
}

// deploy applies a file of deploy/rollout.
func (h *hubRig) deploy(file string) {
	h.t.Helper()
	h.kubectl("apply", "--server-side", "-f", filepath.Join("..", "..", "deploy", "rollout", file))
}

func (h *hubRig) try(args ...string) (string, error) {
	args = append([]string{"--kubeconfig", h.kubeconfig, "-n", "seakeep", "--cache-dir", filepath.Join(h.dir, "cache")}, args...)
	out, err := exec.CommandContext(h.t.Context(), filepath.Join(h.labs["small"].BinDir(), "kubectl"), args...).CombinedOutput()
	return string(out), err
}

func (h *hubRig) kubectl(args ...string) string {
	h.t.Helper()
	out, err := h.try(args...)
	if err != nil {
		h.t.Fatalf("kubectl %v: %v\n%s", args, err, out)
	}
	return out
}

func (h *hubRig) read(file string) string {
	h.t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		h.t.Fatal(err)
	}
	return string(data)
}

// object writes the object of a rollout's file, for apply.
func (h *hubRig) object(name string) string {
	h.t.Helper()
	_, rest, _ := strings.Cut(h.read(filepath.Join(h.dir, name+".yaml")), "name: ")
	_, spec, _ := strings.Cut(rest, "\n")
	text := fmt.Sprintf("apiVersion: seakeep.dev/v1alpha1\nkind: Rollout\nmetadata: {name: %s}\nspec:\n  %s\n", name, strings.ReplaceAll(strings.TrimSpace(spec), "\n", "\n  "))
	return h.write(name+".object.yaml", text)
}

// apply makes an object of a rollout's file.
func (h *hubRig) apply(file string) {
	h.t.Helper()
	h.kubectl("apply", "-f", h.object(strings.TrimSuffix(filepath.Base(file), ".yaml")))
}

// controller starts the controller as a process; kill ends it without a word.
func (h *hubRig) controller() (kill func()) {
	h.t.Helper()
	return h.controllerWith().kill
}

// hubProcess is a controller as a process.
type hubProcess struct {
	kill  func()
	ended <-chan error
}

// controllerWith starts the controller with other flags than the rig's; the last of a flag counts.
func (h *hubRig) controllerWith(args ...string) hubProcess {
	h.t.Helper()
	child, ended := h.spawn(append([]string{"rollout", "controller", "--fleet", filepath.Join(h.dir, "fleet.yaml"), "--kubeconfig", h.account, "-n", "seakeep",
		"--every", "200ms", "--lease", "4s", "--timeout", "2s", "--status-every", "200ms", "--retry", "2s", "--leader-lease", "5s", "--metrics", "0", "--health", "0",
		"--state-dir", filepath.Join(h.dir, "state")}, args...)...)
	return hubProcess{kill: func() {
		_ = child.Process.Kill() // ended already, or to be ended
		<-ended
	}, ended: ended}
}

// wait waits until a field of the object is so.
func (h *hubRig) wait(name, field, want string) {
	h.t.Helper()
	got := ""
	defer func() {
		if h.t.Failed() {
			h.t.Logf("%s of %s is %q, want %q", field, name, got, want)
			out, _ := h.try("get", "rollout", name, "-o", "yaml")
			h.t.Log(out)
		}
	}()
	testkit.Within(h.t, field+" of "+name, 90*time.Second, func() bool {
		got, _ = h.try("get", "rollout", name, "-o", "jsonpath={"+field+"}")
		return strings.Contains(got, want)
	})
}

const acceptedReason, acceptedMessage = `.status.conditions[?(@.type=="Accepted")].reason`, `.status.conditions[?(@.type=="Accepted")].message`

// Objects of a hub are carried out as files are: a good change comes to its end, over the death of the controller; a bad one is
// taken back; what is wrong is named; what changes in the middle is refused; what is deleted stands still and can be gone on with.
func TestRolloutControllerOnLabs(t *testing.T) {
	h := newHubRig(t, 4, 6)
	for _, name := range []string{"good", "stuck", "gone"} {
		for cluster, client := range h.clients {
			rollouttest.DaemonSet(t, client, "telemetry", name, h.sizes[cluster])
		}
	}
	kill := h.controller()

	invalid := h.rollout("invalid", agent2, "nodes: {maxSurge: 1}\n")
	h.apply(invalid)
	h.wait("invalid", acceptedReason, "Invalid")
	h.wait("invalid", acceptedMessage, "nodes.maxSurge")
	h.kubectl("delete", "rollout", "invalid", "--timeout=20s")

	good := h.rollout("good", agent2, "")
	h.apply(good)
	h.wait("good", ".status.phase", "Running")
	h.apply(h.rollout("good", agent3, ""))
	h.wait("good", acceptedReason, "SpecChanged")
	kill()
	kill = h.controller()
	h.apply(h.rollout("good", agent2, "")) // as it was
	h.wait("good", ".status.phase", "Completed")
	h.wait("good", `.status.conditions[?(@.type=="Succeeded")].status`, "True")
	h.want("good", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	if out := h.kubectl("get", "rollouts"); !strings.Contains(out, "10/10") || !strings.Contains(out, "VERDICT") {
		t.Errorf("get shows:\n%s", out)
	}

	stuck := h.read(h.rollout("stuck", agent2, "onFailure: {rungs: [{name: freeze}, {name: apf}, {name: revert}]}\n"))
	h.apply(h.write("stuck.yaml", strings.Replace(stuck, `image: "`+agent2+`"`, `image: "`+agent2+`", resources: {requests: {cpu: "9000"}}`, 1)))
	h.wait("stuck", ".status.phase", "RolledBack")
	h.want("stuck", map[string]int{agent1: 4}, map[string]int{agent1: 6})

	// Deleted in the middle: it stands still. Made again, it waits for an order, and goes on.
	gone := h.rollout("gone", agent2, "")
	h.apply(gone)
	testkit.Within(t, "the first node has it", time.Minute, func() bool {
		return rollouttest.Images(t, h.clients["small"], "telemetry", "gone")[agent2] > 0
	})
	h.kubectl("delete", "rollout", "gone", "--timeout=30s")
	stood := rollouttest.Images(t, h.clients["small"], "telemetry", "gone")
	h.apply(gone)
	h.wait("gone", ".status.phase", "Paused")
	h.wait("gone", ".status.reason", "Deleted")
	if now := rollouttest.Images(t, h.clients["small"], "telemetry", "gone"); now[agent2] > stood[agent2]+1 || !cmp.Equal(now[agent1]+now[agent2], 4) {
		t.Errorf("it moved without an object: %v, then %v", stood, now)
	}
	h.kubectl("annotate", "rollout", "gone", "seakeep.dev/order=resume")
	h.wait("gone", ".status.phase", "Completed")
	h.want("gone", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	h.kubectl("annotate", "rollout", "gone", "seakeep.dev/order=rollback")
	h.wait("gone", ".status.phase", "RolledBack")
	h.want("gone", map[string]int{agent1: 4}, map[string]int{agent1: 6})
	if out := h.kubectl("get", "events"); !strings.Contains(out, "OrderTaken") || !strings.Contains(out, "Completed") {
		t.Errorf("the events are:\n%s", out)
	}
	kill()
}
