package onlabs

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

const approvingReason, approvingMessage = `.status.conditions[?(@.type=="Approving")].reason`, `.status.conditions[?(@.type=="Approving")].message`

// KubeFleet's requests are approved when the stage that they ask for passes, and at no other time; what is not ours to answer stays
// as it is. The controller has the rights of deploy/rollout and no others.
func TestRolloutControllerAnswersKubeFleet(t *testing.T) {
	h := newHubRig(t, 3, 4)
	h.deploy("kubefleet.yaml")
	for cluster, client := range h.clients {
		rollouttest.DaemonSet(t, client, "telemetry", "asked", h.sizes[cluster])
	}
	kill := h.controller()
	// The one task holds the run before its first stage, the other after it, and has finished clusters looked at each second.
	file := strings.Replace(h.read(h.rollout("asked", agent2, "")), "{name: first, ", "{name: first, beforeStageTasks: [{type: Approval}], afterStageTasks: [{type: Analysis, waitTime: 1h}], ", 1)
	h.apply(h.write("asked.yaml", file))
	h.kubectl("annotate", "rollout", "asked", "seakeep.dev/approval-for=somekind/run-1")
	h.wait("asked", approvingReason, "Invalid")
	h.kubectl("annotate", "rollout", "asked", "--overwrite", "seakeep.dev/approval-for=clusterstagedupdaterun/run-1")
	h.wait("asked", approvingReason, "NotServed")

	k := rollouttest.ServeKubeFleet(t, h.labs["small"])
	h.wait("asked", approvingReason, "NoRequests") // found by itself
	refused := metav1.Condition{Type: "Approved", Status: metav1.ConditionFalse, ObservedGeneration: 1, Reason: "No", Message: "not today"}
	taken := metav1.Condition{Type: "ApprovalAccepted", Status: metav1.ConditionTrue, ObservedGeneration: 1, Reason: "ApprovalRequestApprovalAccepted", Message: "m"}
	k.Ask(t, "", "run-1-refused", "run-1", "first", "afterStage", nil)
	k.Say(t, "", "run-1-refused", refused)
	k.Ask(t, "", "run-1-accepted", "run-1", "first", "afterStage", nil)
	k.Say(t, "", "run-1-accepted", taken)
	k.Ask(t, "", "run-1-older", "run-1", "first", "afterStage", func(u *unstructured.Unstructured) {
		labels := u.GetLabels()
		labels["kubernetes-fleet.io/isLatestUpdateRunApproval"] = "false"
		u.SetLabels(labels)
	})
	k.Ask(t, "", "run-1-lies", "run-1", "first", "afterStage", func(u *unstructured.Unstructured) {
		u.Object["spec"].(map[string]any)["parentStageRollout"] = "run-2"
	})
	k.Ask(t, "", "run-2-after-first", "run-2", "first", "afterStage", nil)
	k.Ask(t, "", "run-1-gone", "run-1", "first", "afterStage", func(u *unstructured.Unstructured) { u.SetFinalizers([]string{"example.com/held"}) })
	k.Delete(t, "", "run-1-gone")
	k.Ask(t, "", "run-1-after-third", "run-1", "third", "afterStage", nil)
	k.Ask(t, "", "run-1-before-first", "run-1", "first", "beforeStage", nil)
	k.Ask(t, "", "run-1-before-second", "run-1", "second", "sometime", nil)
	k.Ask(t, "seakeep", "run-1-after-first", "run-1", "first", "afterStage", nil)
	untouched := map[string]string{}
	for _, name := range []string{"run-1-refused", "run-1-accepted", "run-1-older", "run-1-lies", "run-2-after-first", "run-1-gone", "run-1-after-third", "run-1-before-first", "run-1-before-second"} {
		untouched[name] = k.Read(t, "", name).GetResourceVersion()
	}

	// Asked before the stage is done: told why, and approved by the look that passes.
	k.Ask(t, "", "run-1-after-first", "run-1", "first", "afterStage", nil)
	h.wait("asked", approvingMessage, "run-1-after-first: Unknown: small: stage first is not done there")
	h.kubectl("annotate", "rollout", "asked", "seakeep.dev/order=approve")
	approved := func(what, namespace, name string) metav1.Condition {
		t.Helper()
		testkit.Within(t, what, 90*time.Second, func() bool { return k.Approved(t, namespace, name) })
		return *k.Condition(t, namespace, name, "Approved")
	}
	c := approved("the stage's request is approved", "", "run-1-after-first")
	if c.Reason != "RolloutPassed" || !strings.Contains(c.Message, "after stage first, rollout seakeep/asked passes in run asked-") || c.ObservedGeneration != 1 {
		t.Errorf("approved by %+v", c)
	}
	if on := rollouttest.Images(t, h.clients["small"], "telemetry", "asked"); on[agent2] != 3 {
		t.Errorf("approved with %v on the stage's cluster", on)
	}
	// What was accepted stays so, and one write was all: the next rounds find nothing to do.
	k.Say(t, "", "run-1-after-first", taken)
	untouched["run-1-after-first"] = k.Read(t, "", "run-1-after-first").GetResourceVersion()

	// Killed, and asked while nobody is there.
	kill()
	k.Ask(t, "", "run-1-again", "run-1", "first", "", nil) // an older KubeFleet's, without a task
	k.Say(t, "", "run-1-again", metav1.Condition{Type: "Approved", Status: metav1.ConditionTrue, Reason: "ByHand", Message: "no generation: KubeFleet does not read it"})
	if k.Approved(t, "", "run-1-again") {
		t.Fatal("approved with nobody there")
	}
	kill = h.controller()
	approved("what was asked meanwhile is approved", "", "run-1-again")
	for request, want := range map[string]string{
		"run-1-refused": "somebody refused it: not today", "run-1-after-third": "Unknown: the run has no such stage",
		"run-1-before-first": "Unknown: no stage comes before it", "run-1-before-second": `label kubernetes-fleet.io/taskType is "sometime"`,
	} {
		h.wait("asked", approvingMessage, request+": "+want)
	}
	for name, want := range untouched {
		if got := k.Read(t, "", name); got.GetResourceVersion() != want {
			t.Errorf("%s was written to: %v", name, got.Object)
		}
	}
	if k.Approved(t, "seakeep", "run-1-after-first") {
		t.Error("a request of another kind of update run was approved")
	}

	// Two that name it: neither decides. Paused: what the looks say does not count.
	h.apply(h.rollout("other", agent2, ""))
	h.kubectl("annotate", "rollout", "other", "seakeep.dev/approval-for=clusterstagedupdaterun/run-1")
	h.wait("asked", approvingReason, "Ambiguous")
	h.kubectl("annotate", "rollout", "other", "seakeep.dev/approval-for-")
	h.kubectl("annotate", "rollout", "asked", "seakeep.dev/order=pause")
	h.wait("asked", ".status.phase", "Paused")
	k.Ask(t, "", "run-1-paused", "run-1", "first", "afterStage", nil)
	h.wait("asked", approvingMessage, "run-1-paused: Unknown")
	if k.Approved(t, "", "run-1-paused") {
		t.Error("approved while paused")
	}
	h.kubectl("annotate", "rollout", "asked", "seakeep.dev/order=resume")
	approved("resumed, it is approved", "", "run-1-paused")

	// A namespaced update run, of this namespace only.
	rollouttest.Namespace(t, h.clients["small"], "elsewhere")
	k.Ask(t, "elsewhere", "run-1-after-first", "run-1", "first", "afterStage", nil)
	h.kubectl("annotate", "rollout", "asked", "--overwrite", "seakeep.dev/approval-for=stagedupdaterun/run-1")
	approved("the namespace's request is approved", "seakeep", "run-1-after-first")
	h.wait("asked", approvingReason, "Approved")
	if k.Approved(t, "elsewhere", "run-1-after-first") {
		t.Error("a request of another namespace was approved")
	}
	if out := h.kubectl("get", "events"); !strings.Contains(out, "Approved") {
		t.Errorf("the events are:\n%s", out)
	}

	// Taken back: Fail, which approves nothing; over: nobody looks any more.
	h.kubectl("annotate", "rollout", "asked", "seakeep.dev/order=rollback")
	h.wait("asked", ".status.phase", "RolledBack")
	k.Ask(t, "seakeep", "run-1-late", "run-1", "first", "afterStage", nil)
	h.wait("asked", approvingReason, "NotLooking")
	if k.Approved(t, "seakeep", "run-1-late") {
		t.Error("approved after the change was taken back")
	}
	kill()
}
