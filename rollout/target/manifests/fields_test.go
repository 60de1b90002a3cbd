package manifests

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/seakeep/seakeep/rollout/target"
)

// aDeployment has a list of items that have names, one of values, one that is a whole, and numbers.
const aDeployment = `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "finalizers": ["a", "b"], "labels": {"x": "1", "y": "2"}}, "spec": {
	"replicas": 3, "template": {"spec": {"containers": [
		{"name": "web", "image": "web:1", "args": ["-a", "-b"], "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 81, "protocol": "TCP"}]},
		{"name": "beside", "image": "beside:1"}], "volumes": [{"name": "v", "emptyDir": {}}]}}}}`

const someFields = `{"f:metadata": {"f:finalizers": {"v:\"b\"": {}}, "f:labels": {"f:y": {}}}, "f:spec": {"f:replicas": {}, "f:template": {"f:spec": {
	"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:args": {}, "f:image": {}, "f:ports": {"k:{\"containerPort\":81,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}},
		"k:{\"name\":\"gone\"}": {"f:image": {}}},
	"f:volumes": {"k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}}}}}}}`

func decoded(t testing.TB, data string) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal([]byte(data), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func fields(t testing.TB, data string) *fieldpath.Set {
	t.Helper()
	f := &metav1.FieldsV1{}
	f.SetRawBytes([]byte(data))
	set, err := readFields(f)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestOnlySomeFields(t *testing.T) {
	whole, set := decoded(t, aDeployment), fields(t, someFields)
	part := only(set, whole)
	want := decoded(t, `{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "finalizers": ["b"], "labels": {"y": "2"}}, "spec": {
		"replicas": 3, "template": {"spec": {"containers": [
			{"name": "web", "image": "web:1", "args": ["-a", "-b"], "ports": [{"containerPort": 81, "protocol": "TCP"}]}],
			"volumes": [{"name": "v", "emptyDir": {}}]}}}}`)
	if diff := cmp.Diff(want, part); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if d := differing(set, whole, part); len(d) > 0 {
		t.Errorf("a part differs from its whole in %s", list(d))
	}
	changed := decoded(t, aDeployment)
	for _, change := range []func(o map[string]any){
		func(o map[string]any) { o["spec"].(map[string]any)["replicas"] = int64(4) },
		func(o map[string]any) { o["metadata"].(map[string]any)["labels"] = map[string]any{"x": "1"} },
		func(o map[string]any) { o["metadata"].(map[string]any)["finalizers"] = []any{"a"} },
	} {
		change(changed.Object)
	}
	if got, want := list(differing(set, whole, changed)), ".metadata.finalizers[=\"b\"], .metadata.labels.y, .spec.replicas"; got != want {
		t.Errorf("they differ in %s, want %s", got, want)
	}
}

// What an API server says of whose fields are whose, and any object, are read without harm; and a part of a part is that part.
func FuzzFields(f *testing.F) {
	f.Add([]byte(someFields), []byte(aDeployment))
	f.Add([]byte(`{"f:a": {".": {}, "f:b": {}}}`), []byte(`{"a": {}, "metadata": null}`))
	f.Add([]byte(`{"f:a": {"i:0": {}, "v:1": {}, "k:{\"x\":1}": {}}}`), []byte(`{"a": [1, 1.0, {"x": 1, "y": null}]}`))
	f.Fuzz(func(t *testing.T, owned, object []byte) {
		o := &unstructured.Unstructured{}
		if utiljson.Unmarshal(object, &o.Object) != nil || o.Object == nil {
			return
		}
		applied := &metav1.FieldsV1{}
		applied.SetRawBytes(owned)
		w := was{Before: o.Object, Applied: applied}
		if w.read() != nil {
			return
		}
		mine := &unstructured.Unstructured{Object: map[string]any{}}
		mine.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: target.FieldManager, Operation: metav1.ManagedFieldsOperationApply, FieldsV1: applied}})
		if own, err := ownersOf(mine); err != nil || own.ours.Empty() != fields(t, string(owned)).Empty() {
			t.Errorf("our own fields are read as %v, %v", own.ours, err)
		}
		part := only(w.back, o)
		if diff := cmp.Diff(part, only(w.back, part)); diff != "" {
			t.Errorf("(-part +part of it):\n%s", diff)
		}
		_, _ = w.taken(part), onlyNames(o)
	})
}
