package plan

import (
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/forecast/lint"
)

// risks lints what the change says of itself: a patch says too little, and rights that the clusters have already are not in it.
func (m *maker) risks() {
	change, path, manifest := &m.rollout.Change, field.NewPath("change"), lint.New()
	add := func(object map[string]any, at *field.Path) {
		if err := manifest.Add(object); err != nil {
			m.refuse(at, field.OmitValueType{}, "%v", err)
		}
	}
	for i, object := range change.Manifests {
		add(object, path.Child("manifests").Index(i))
	}
	// An Advanced DaemonSet starts the same pods. Neither has a strategy here: that is the rollout's.
	daemonSet := func(w v1alpha1.WorkloadChange, field string) {
		if w.Template != nil {
			add(map[string]any{
				"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": map[string]any{"namespace": w.Namespace, "name": w.Name},
				"spec": map[string]any{"template": w.Template},
			}, path.Child(field, "template"))
		}
	}
	if d := change.DaemonSet; d != nil {
		daemonSet(d.WorkloadChange, "daemonSet")
	}
	if a := change.AdvancedDaemonSet; a != nil {
		daemonSet(a.WorkloadChange, "advancedDaemonSet")
	}
	m.plan.Risks = manifest.Lint()
}
