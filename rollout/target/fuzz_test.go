package target

import (
	"encoding/json"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Whatever is in a ControllerRevision is read without harm, and it is of no other template than the one that is in it.
func FuzzRevises(f *testing.F) {
	const template = `{"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "agent", "image": "a:1"}]}}`
	f.Add([]byte(`{"spec": {"template": `+template+`}}`), []byte(template))
	f.Add([]byte(`{"spec": {"template": {"$patch": "replace", "spec": {"containers": null}}}}`), []byte(`{}`))
	f.Add([]byte(`{"spec": {"template": null}}`), []byte(`null`))
	f.Add([]byte(`{"spec": null}`), []byte(``))
	f.Fuzz(func(t *testing.T, data, pinned []byte) {
		if !revises(&appsv1.ControllerRevision{Data: runtime.RawExtension{Raw: data}}, pinned) {
			return
		}
		var revision struct {
			Spec struct{ Template corev1.PodTemplateSpec }
		}
		var of corev1.PodTemplateSpec
		if json.Unmarshal(data, &revision) != nil || json.Unmarshal(pinned, &of) != nil || !equality.Semantic.DeepEqual(revision.Spec.Template, of) {
			t.Errorf("%s is no revision of %s", data, pinned)
		}
	})
}

// Whatever a rollout says of a template is refused or is a template, and nothing of it is lost unseen.
func FuzzNextTemplate(f *testing.F) {
	f.Add([]byte(`{"spec": {"containers": [{"name": "agent", "image": "a:2"}]}}`), true)
	f.Add([]byte(`{"spec": {"containers": [{"name": "agent", "$patch": "delete"}], "$setElementOrder/containers": []}}`), true)
	f.Add([]byte(`{"spec": {"volumes": [{"$retainKeys": ["name"], "name": "v"}], "$deleteFromPrimitiveList/finalizers": [1]}}`), true)
	f.Add([]byte(`{"metadata": {"labels": {"app": "a"}}, "spec": null}`), false)
	f.Fuzz(func(t *testing.T, data []byte, patch bool) {
		var said map[string]any
		if json.Unmarshal(data, &said) != nil {
			return
		}
		before := &corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "agent", Image: "a:1", Args: []string{"-a"}}}}}
		change := v1alpha1.WorkloadChange{Template: said}
		if patch {
			change = v1alpha1.WorkloadChange{Patch: said}
		}
		after, err := NextTemplate(change, before)
		if err != nil {
			return
		}
		written, err := json.Marshal(after)
		if err != nil || !IsTemplate(*after, written) {
			t.Errorf("the template is not itself when it is pinned: %s, %v", written, err)
		}
	})
}
