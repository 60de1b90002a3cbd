package cli

import (
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/forecast/lint"
	"github.com/seakeep/seakeep/rollout/plan"
)

// risksOf lints what a change says of itself: a patch says too little, and rights that the clusters have already are not in it.
func risksOf(change v1alpha1.RolloutChange) ([]plan.Risk, field.ErrorList) {
	path, manifest := field.NewPath("change"), lint.New()
	var errs field.ErrorList
	add := func(object map[string]any, at *field.Path) {
		if err := manifest.Add(object); err != nil {
			errs = append(errs, field.Invalid(at, field.OmitValueType{}, err.Error()))
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
	return planned(manifest.Lint()), errs
}

// planned are a lint's findings as a plan has them.
func planned(found []lint.Risk) []plan.Risk {
	var risks []plan.Risk
	for _, r := range found {
		risks = append(risks, plan.Risk{Name: r.Name, Severity: string(r.Severity), Object: r.Object, Field: r.Field, Why: r.Why, Remedy: r.Remedy})
	}
	return risks
}
