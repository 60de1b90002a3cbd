package hub

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/seakeep/seakeep/rollout/answer"
)

func TestUpdateRunOf(t *testing.T) {
	for text, want := range map[string]string{
		"clusterstagedupdaterun/web-7": "clusterstagedupdaterun/web-7", "stagedupdaterun/web": "stagedupdaterun/web",
		"web-7": "", "stagedupdaterun/": "", "stagedupdaterun/a/b": "", "approvalrequest/a": "", "stagedupdaterun/A": "",
	} {
		if run, err := updateRunOf(text); (err == nil) != (want != "") || err == nil && run.String() != want {
			t.Errorf("%q is %v, %v", text, run, err)
		}
	}
}

// Whatever a request holds, it is answered only when it is open, of the update run, and asks one of the two questions; and an answer
// changes nothing but its conditions.
func FuzzRequests(f *testing.F) {
	f.Add([]byte(`{"metadata":{"generation":2,"labels":{"kubernetes-fleet.io/taskType":"beforeStage"}},"spec":{"parentStageRollout":"web","targetStage":"eu"},"status":{"conditions":[{"type":"Approved","status":"True","observedGeneration":1}]}}`))
	f.Add([]byte(`{"spec":{"parentStageRollout":"web","targetStage":"eu"},"status":{"conditions":[{"type":"Approved","status":"False","message":"no"}]}}`))
	f.Add([]byte(`{"spec":{"parentStageRollout":"web","targetStage":"eu"},"status":{"conditions":[{"type":"ApprovalAccepted","status":"True"}]}}`))
	f.Add([]byte(`{"spec":{"parentStageRollout":"web"},"status":null,"metadata":{"labels":null,"deletionTimestamp":"2026-01-01T00:00:00Z"}}`))
	f.Add([]byte(`{"spec":[],"status":{"conditions":"x"},"metadata":7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		u := new(unstructured.Unstructured)
		if err := json.Unmarshal(data, &u.Object); err != nil || u.Object == nil {
			return
		}
		before := u.DeepCopy()
		open, left, ours, err := requestOf(u, updateRun{"stagedupdaterun", "web"})
		if open == nil {
			return
		}
		parent, _, _ := unstructured.NestedString(u.Object, "spec", "parentStageRollout")
		task := open.about.Task
		if parent != "web" || left != "" || ours || err != nil || task != answer.After && task != answer.Before || meta.IsStatusConditionTrue(open.conditions, accepted) || meta.IsStatusConditionFalse(open.conditions, approved) {
			t.Errorf("%+v is open: %q, %t, %v", open, left, ours, err)
		}
		meta.SetStatusCondition(&open.conditions, metav1.Condition{Type: approved, Status: metav1.ConditionTrue, Reason: "RolloutPassed"})
		if err := putConditions(u, open.conditions); err != nil {
			return // a status that is no object
		}
		if again, _, _, err := requestOf(u, updateRun{"stagedupdaterun", "web"}); err != nil || again != nil && u.GetGeneration() == 0 {
			t.Errorf("answered, it is %+v, %v", again, err)
		}
		for _, object := range []*unstructured.Unstructured{before, u} {
			unstructured.RemoveNestedField(object.Object, "status", "conditions")
		}
		delete(before.Object, "status")
		delete(u.Object, "status")
		if diff := cmp.Diff(before.Object, u.Object); diff != "" {
			t.Errorf("more than conditions changed (-was +is):\n%s", diff)
		}
	})
}
