package kruise

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/target"
)

// Whatever an API server says is an Advanced DaemonSet is read without harm, and what was there before is put back as it was
// written, also what this version does not know.
func FuzzRead(f *testing.F) {
	for _, spec := range []string{
		`{"selector": {"matchLabels": {"app": "a"}}, "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "agent", "image": "a:1"}]}},
			"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"rollingUpdateType": "Standard", "maxUnavailable": "10%", "partition": 3, "paused": true, "new": [1.5],
			"selector": {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b", "a"]}]}}}}`,
		`{"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": "50%", "maxSurge": 1, "selector": {}}}}`,
		`{"updateStrategy": {"type": "OnDelete"}, "template": null}`, `{"updateStrategy": null}`, `{"updateStrategy": {}}`, `[]`, `null`,
	} {
		f.Add([]byte(`{"apiVersion": "apps.kruise.io/v1alpha1", "kind": "DaemonSet", "metadata": {"namespace": "a", "name": "b"}, "spec": ` + spec + `}`))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		whole := &unstructured.Unstructured{}
		if whole.UnmarshalJSON(data) != nil {
			return
		}
		o, err := read(whole)
		if err != nil {
			return
		}
		pins := target.Pins{Stable: "1", Update: "2"}
		nodes := nodesOf("a=1 b=2! c= d=1-")
		for _, install := range []*v1alpha1.AdvancedDaemonSetInstall{nil, {}} {
			to := &Target{Change: v1alpha1.AdvancedDaemonSetChange{Install: install}}
			switch {
			case to.notStepped(o) != "":
			case install == nil:
				to.told(o, nodes, pins)
			default:
				seenInstall(o, nodes, pins)
			}
		}
		written := whole.DeepCopy()
		template, err := o.template()
		if err != nil {
			return
		}
		held, err := o.held()
		if err != nil {
			return
		}
		if (&Target{Run: "run-1"}).rewrite(o, template) != nil {
			return
		}
		if why := o.Spec.UpdateStrategy.RollingUpdate.notOurs(); why != "" {
			t.Errorf("what was written %s", why)
		}
		if err := o.restore(held); err != nil {
			t.Fatalf("what was held is not put back: %v", err)
		}
		before, _, _ := unstructured.NestedMap(written.Object, "spec", "updateStrategy")
		after, _, _ := unstructured.NestedMap(o.whole.Object, "spec", "updateStrategy")
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("put back (-before +after):\n%s", diff)
		}
	})
}
