package manifests

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/target"
)

// rig is a lab, and the targets on it.
type rig struct {
	t       *testing.T
	client  *kubernetes.Clientset
	objects *dynamic.DynamicClient
	config  *rest.Config
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// target is a target of its own, as each process has one.
func (r *rig) target(objects ...map[string]any) *Target {
	return &Target{
		Cluster: "lab", Client: r.objects, Run: "run-1", Objects: objects,
		Mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(r.client.Discovery())),
	}
}

func (r *rig) see(to *Target, pins target.Pins) plan.Seen {
	r.t.Helper()
	seen, err := to.See(r.t.Context(), pins)
	r.must(err)
	return seen
}

func configMap(namespace, name string, data map[string]any) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"namespace": namespace, "name": name}, "data": data}
}

func aRoute() *plan.Route {
	return plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 1, All: true}}, MaxUnavailable: 1, Nodes: 1}, []string{unit})
}

func TestManifestsOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	client := rollouttest.Client(t, l)
	objects, err := dynamic.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]func(*rig){
		"forth and back":                            testForthAndBack,
		"what others wrote stays":                   testWhatOthersWroteStays,
		"what cannot be put back":                   testWhatCannotBePutBack,
		"what was deleted in the middle":            testDeletedInTheMiddle,
		"what is deleted just before it is written": testDeletedMeanwhile,
	} {
		t.Run(name, func(t *testing.T) {
			test(&rig{t: t, client: client, objects: objects, config: l.RESTConfig(lab.Masters)})
		})
	}
}

func testForthAndBack(r *rig) {
	t, client, must := r.t, r.client, r.must
	to := r.target(
		map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "made"}},
		configMap("made", "new", map[string]any{"a": "1"}),
		configMap("default", "old", map[string]any{"a": "2", "b": "2"}),
	)
	maps := client.CoreV1().ConfigMaps("default")
	old, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Data: map[string]string{"c": "1"}}, metav1.CreateOptions{FieldManager: "an-admin"})
	must(err)
	_, err = to.Survey(t.Context())
	must(err)
	pins := rollouttest.Begin(r.t, to)
	route := aRoute()
	see := func() plan.Seen { return r.see(to, pins) }
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
	if d := route.Forward(0, see()); !d.Complete {
		t.Errorf("the field is as it was applied: %+v", d)
	}
	if err := to.Move(t.Context(), pins, nil, true); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), ".data.a") || !strings.Contains(err.Error(), "another-admin") {
		t.Errorf("somebody else's field is put back: %v", err)
	}
	_, err = maps.Patch(t.Context(), "old", types.MergePatchType, []byte(`{"data":{"a":null}}`), metav1.PatchOptions{FieldManager: "another-admin"})
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

// image is a Deployment as its manifest says it: how many replicas there are is not.
func image(image string) map[string]any {
	labels := map[string]any{"app": "web"}
	return map[string]any{
		"apiVersion": "apps/v1", "kind": "Deployment", "metadata": map[string]any{"namespace": "default", "name": "web"},
		"spec": map[string]any{"selector": map[string]any{"matchLabels": labels}, "template": map[string]any{
			"metadata": map[string]any{"labels": labels},
			"spec":     map[string]any{"containers": []any{map[string]any{"name": "web", "image": image}}},
		}},
	}
}

func testWhatOthersWroteStays(r *rig) {
	t, must := r.t, r.must
	deployments := r.client.AppsV1().Deployments("default")
	get := func() *appsv1.Deployment {
		t.Helper()
		d, err := deployments.Get(t.Context(), "web", metav1.GetOptions{})
		must(err)
		return d
	}
	// The run before.
	first := r.target(image("registry.test/web:1"))
	must(first.Move(t.Context(), rollouttest.Begin(r.t, first), nil, false))
	_, err := deployments.Patch(t.Context(), "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"A","value":"1"}]}]}}}}`), metav1.PatchOptions{FieldManager: "an-admin"})
	must(err)

	to := r.target(image("registry.test/web:2"))
	pins := rollouttest.Begin(r.t, to)
	must(to.Move(t.Context(), pins, nil, false))
	_, err = deployments.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"labels":{"team":"a"}}}`), metav1.PatchOptions{FieldManager: "another-admin"})
	must(err)
	_, err = deployments.UpdateScale(t.Context(), "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: 5}}, metav1.UpdateOptions{FieldManager: "an-autoscaler"})
	must(err)
	to, route := r.target(image("registry.test/web:2")), aRoute() // as in a new process
	if d := route.Back(r.see(to, pins)); len(d.Moves) != 1 {
		t.Errorf("before the way back: %+v", d)
	}
	must(to.Move(t.Context(), pins, nil, true))
	if d := route.Back(r.see(to, pins)); !d.Complete || len(d.Exposed) > 0 {
		t.Errorf("after the way back: %+v", d)
	}
	d := get()
	container := d.Spec.Template.Spec.Containers[0]
	if *d.Spec.Replicas != 5 || d.Labels["team"] != "a" || container.Image != "registry.test/web:1" || len(container.Env) != 1 {
		t.Errorf("the way back left %d replicas, labels %v, %+v", *d.Spec.Replicas, d.Labels, container)
	}

	// What was put back is the rollout's as before: the next run may change it, and whoever takes it over by force has it.
	pins = rollouttest.Begin(r.t, to)
	must(to.Move(t.Context(), pins, nil, false))
	theirs := &unstructured.Unstructured{Object: image("registry.test/web:3")}
	_, err = r.objects.Resource(appsv1.SchemeGroupVersion.WithResource("deployments")).Namespace("default").Apply(t.Context(), "web", theirs, metav1.ApplyOptions{FieldManager: "another-admin", Force: true})
	must(err)
	for what, err := range map[string]error{
		"seen":     func() error { _, err := to.See(t.Context(), pins); return err }(),
		"applied":  to.Move(t.Context(), pins, nil, false),
		"put back": to.Move(t.Context(), pins, nil, true),
	} {
		if !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), "another-admin") {
			t.Errorf("taken over, and %s: %v", what, err)
		}
	}
	if got := get().Spec.Template.Spec.Containers[0].Image; got != "registry.test/web:3" {
		t.Errorf("somebody else's image was overwritten: %s", got)
	}
	// They put it back themselves: then there is nothing left to do.
	_, err = deployments.Patch(t.Context(), "web", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"registry.test/web:1"}]}}}}`), metav1.PatchOptions{FieldManager: "another-admin"})
	must(err)
	if d := route.Back(r.see(to, pins)); !d.Complete {
		t.Errorf("they have put it back: %+v", d)
	}
}

// A field that the API server keeps under two names stays when its owner lets it go.
func testWhatCannotBePutBack(r *rig) {
	t, must := r.t, r.must
	manifest := func(account string) map[string]any {
		o := image("registry.test/web:1")
		o["metadata"].(map[string]any)["name"] = "account"
		if account != "" {
			must(unstructured.SetNestedField(o, account, "spec", "template", "spec", "serviceAccountName"))
		}
		return o
	}
	first := r.target(manifest(""))
	must(first.Move(t.Context(), rollouttest.Begin(r.t, first), nil, false))
	to := r.target(manifest("other"))
	pins := rollouttest.Begin(r.t, to)
	must(to.Move(t.Context(), pins, nil, false))
	if err := to.Move(t.Context(), pins, nil, true); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), ".serviceAccountName") {
		t.Errorf("that it is left is not said: %v", err)
	}
	_, err := r.client.CoreV1().Secrets("default").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "old"}}, metav1.CreateOptions{})
	must(err)
	secret := map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"namespace": "default", "name": "old"}, "stringData": map[string]any{"a": "1"}}
	if _, err := r.target(secret).Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "change.manifests[0].stringData") || !strings.Contains(err.Error(), "write it as data") {
		t.Errorf("stringData: %v", err)
	}
}

func testDeletedInTheMiddle(r *rig) {
	t, client, must := r.t, r.client, r.must
	ctx := t.Context()
	stays, goes := rollouttest.Fresh(t, client, "stays"), "goes"
	rollouttest.Namespace(t, client, goes)
	var old *corev1.ConfigMap
	for _, namespace := range []string{stays, goes} {
		var err error
		old, err = client.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "old"}, Data: map[string]string{"c": "1"}}, metav1.CreateOptions{FieldManager: "an-admin"})
		must(err)
	}
	both := []map[string]any{
		configMap(stays, "old", map[string]any{"a": "2"}), configMap(goes, "old", map[string]any{"a": "2"}), configMap(stays, "new", map[string]any{"a": "2"}),
	}
	to, route := r.target(both...), aRoute()
	alone := r.target(configMap(goes, "old", map[string]any{"a": "2"}))
	pins, alonePins := rollouttest.Begin(r.t, to), rollouttest.Begin(r.t, alone)
	// Somebody else makes what was to be new.
	theirs, err := client.CoreV1().ConfigMaps(stays).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "new"}, Data: map[string]string{"b": "1"}}, metav1.CreateOptions{FieldManager: "an-admin"})
	must(err)
	for _, back := range []bool{false, true} {
		if err := to.Move(ctx, pins, nil, back); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), "an-admin") {
			t.Errorf("what somebody else made is the run's (back: %v): %v", back, err)
		}
	}
	must(client.CoreV1().ConfigMaps(stays).Delete(ctx, theirs.Name, metav1.DeleteOptions{}))
	must(to.Move(ctx, pins, nil, false))

	// Whoever deletes what is new is not fought: only who resumes the run has it applied again.
	must(client.CoreV1().ConfigMaps(stays).Delete(ctx, "new", metav1.DeleteOptions{}))
	if err := to.Move(ctx, pins, nil, false); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), "ConfigMap "+stays+"/new") {
		t.Errorf("what was deleted is applied again: %v", err)
	}
	must(to.Move(ctx, pins, nil, false))

	must(client.CoreV1().ConfigMaps(stays).Delete(ctx, "old", metav1.DeleteOptions{}))
	if err := to.Move(ctx, pins, nil, false); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), "ConfigMap "+stays+"/old") {
		t.Errorf("what was deleted is made again from a part of it: %v", err)
	}
	must(client.CoreV1().Namespaces().Delete(ctx, goes, metav1.DeleteOptions{}))
	testkit.Within(t, "the namespace is gone", time.Minute, func() bool {
		_, err := client.CoreV1().Namespaces().Get(ctx, goes, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if _, err := alone.See(ctx, alonePins); !errors.Is(err, target.ErrGone) || !strings.Contains(err.Error(), "ConfigMap goes/old") {
		t.Errorf("nothing is left of it: %v", err)
	}

	// What is new waits for somebody else before it ends.
	_, err = client.CoreV1().ConfigMaps(stays).Patch(ctx, "new", types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/wait"]}}`), metav1.PatchOptions{FieldManager: "an-admin"})
	must(err)
	to = r.target(both...)
	moves := 0
	testkit.Within(t, "the way back waits for the last object to end", time.Minute, func() bool {
		d := route.Back(r.see(to, pins))
		if len(d.Moves) > 0 {
			moves++
			must(to.Move(ctx, pins, d.Moves, true))
		}
		return len(d.InFlight) == 1
	})
	if moves != 1 {
		t.Errorf("the way back moved %d times", moves)
	}
	_, err = client.CoreV1().ConfigMaps(stays).Patch(ctx, "new", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{FieldManager: "an-admin"})
	must(err)
	testkit.Within(t, "the way back ends", time.Minute, func() bool {
		d := route.Back(r.see(to, pins))
		return d.Complete && len(d.Exposed) == 0
	})
	again, err := client.CoreV1().ConfigMaps(stays).Get(ctx, "old", metav1.GetOptions{})
	must(err)
	if diff := cmp.Diff(old.Data, again.Data); diff != "" || len(again.ManagedFields) != 1 || again.ManagedFields[0].Manager != "an-admin" {
		t.Errorf("made again (-before +after):\n%s%+v", diff, again.ManagedFields)
	}
}

// To apply would make an object of a part of one.
func testDeletedMeanwhile(r *rig) {
	t, must := r.t, r.must
	maps := r.client.CoreV1().ConfigMaps("default")
	for _, back := range []bool{false, true} {
		_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "just"}, Data: map[string]string{"c": "1"}}, metav1.CreateOptions{})
		must(err)
		to := r.target(configMap("default", "just", map[string]any{"a": "2"}))
		pins := rollouttest.Begin(r.t, to)
		if back {
			must(to.Move(t.Context(), pins, nil, false))
		}
		deletes := rollouttest.Meanwhile(r.config, func(q *http.Request) bool { return q.Method == http.MethodPatch }, func() {
			must(maps.Delete(t.Context(), "just", metav1.DeleteOptions{}))
		})
		objects, err := dynamic.NewForConfig(deletes)
		must(err)
		to.Client = objects
		if err := to.Move(t.Context(), pins, nil, back); !apierrors.IsConflict(err) || errors.Is(err, target.ErrForeign) {
			t.Errorf("back: %v: %v", back, err)
		}
		if made, err := maps.Get(t.Context(), "just", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("back: %v: it was made of %v, %v", back, made.Data, err)
		}
	}
}
