package manifests

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/target"
)

func TestManifestsOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	client := rollouttest.Client(t, l)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	objects, err := dynamic.NewForConfig(l.RESTConfig(lab.Masters))
	must(err)
	to := &Target{
		Cluster: "lab", Client: objects, Run: "run-1", Mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
		Objects: []map[string]any{
			{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "made"}},
			{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "new", "namespace": "made"}, "data": map[string]any{"a": "1"}},
			{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "old", "namespace": "default"}, "data": map[string]any{"a": "2", "b": "2"}},
		},
	}
	maps := client.CoreV1().ConfigMaps("default")
	old, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Data: map[string]string{"c": "1"}}, metav1.CreateOptions{FieldManager: "an-admin"})
	must(err)
	_, err = to.Survey(t.Context())
	must(err)
	pins, err := to.Prepare(t.Context())
	must(err)
	pins, err = to.Begin(t.Context(), pins)
	must(err)
	route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 1, All: true}}, MaxUnavailable: 1, Nodes: 1}, []string{unit})
	see := func() plan.Seen {
		t.Helper()
		seen, err := to.See(t.Context(), pins)
		must(err)
		return seen
	}
	data := func() map[string]string {
		t.Helper()
		m, err := maps.Get(t.Context(), "old", metav1.GetOptions{})
		must(err)
		return m.Data
	}
	if d := route.Forward(0, see()); len(d.Moves) != 1 || len(d.Exposed) != 0 {
		t.Errorf("before: %+v", d)
	}
	// Half of it, as after a death in the middle: it is to be moved, whichever way.
	_, err = to.apply(t.Context(), to.object(0), false)
	must(err)
	half := see()
	if forward, back := route.Forward(0, half), route.Back(half); len(forward.Moves) != 1 || len(back.Moves) != 1 {
		t.Errorf("half applied: forth %+v, back %+v", forward, back)
	}
	must(to.Move(t.Context(), pins, nil, false))
	if d := route.Forward(0, see()); !d.Complete || len(d.Exposed) != 1 {
		t.Errorf("applied: %+v", d)
	}
	if diff := cmp.Diff(map[string]string{"a": "2", "b": "2", "c": "1"}, data()); diff != "" {
		t.Error(diff)
	}
	if _, err := to.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "like this already") {
		t.Errorf("there already: %v", err)
	}

	// Somebody else takes a field over.
	_, err = maps.Patch(t.Context(), "old", types.MergePatchType, []byte(`{"data":{"a":"3"}}`), metav1.PatchOptions{FieldManager: "another-admin"})
	must(err)
	if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), "another-admin") {
		t.Errorf("somebody else's field: %v", err)
	}
	if _, err := to.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), `change.manifests[2]`) || !strings.Contains(err.Error(), "another-admin") {
		t.Errorf("somebody else's field: %v", err)
	}
	_, err = maps.Patch(t.Context(), "old", types.MergePatchType, []byte(`{"data":{"a":"2"}}`), metav1.PatchOptions{FieldManager: "another-admin"})
	must(err)

	must(to.Move(t.Context(), pins, nil, true))
	must(to.Move(t.Context(), pins, nil, true))
	if diff := cmp.Diff(old.Data, data()); diff != "" {
		t.Errorf("put back (-before +after):\n%s", diff)
	}
	if _, err := client.CoreV1().ConfigMaps("made").Get(t.Context(), "new", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what was new is left: %v", err)
	}
	to.Objects = []map[string]any{{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "x"}}}
	if _, err := to.Survey(t.Context()); err == nil || !strings.Contains(err.Error(), "does not serve") {
		t.Errorf("a kind nobody serves: %v", err)
	}
}
