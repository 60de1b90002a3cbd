package daemonset

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/target"
)

type rig struct {
	t      *testing.T
	client *kubernetes.Clientset
	// namespace is a fresh one, name the object's.
	namespace, name string
}

func (r *rig) target(change v1alpha1.DaemonSetChange) *Target {
	change.Namespace, change.Name = r.namespace, r.name
	return &Target{Cluster: "lab", Client: r.client, Change: change, Run: "run-1"}
}

func (r *rig) patch(image string) *Target {
	return r.target(v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Patch: rollouttest.Image(image)}})
}

func (r *rig) ds() *appsv1.DaemonSet {
	r.t.Helper()
	ds, err := r.client.AppsV1().DaemonSets(r.namespace).Get(r.t.Context(), r.name, metav1.GetOptions{})
	r.must(err)
	return ds
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) edit(kind types.PatchType, patch string) {
	r.t.Helper()
	_, err := r.client.AppsV1().DaemonSets(r.namespace).Patch(r.t.Context(), r.name, kind, []byte(patch), metav1.PatchOptions{FieldManager: "an-admin"})
	r.must(err)
}

// counts are the images of the living pods.
func (r *rig) counts() map[string]int { return rollouttest.Images(r.t, r.client, r.namespace, r.name) }

// play decides and moves until the decision is complete.
func (r *rig) play(to *Target, pins target.Pins, decide func(plan.Seen) plan.Decision, back bool) plan.Decision {
	r.t.Helper()
	d, _ := rollouttest.Play(r.t, to, pins, decide, back)
	return d
}

const one, two, three = "registry.test/agent:1", "registry.test/agent:2", "registry.test/agent:3"

func TestDaemonSetOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 5})
	client := rollouttest.Client(t, l)
	namespace := rollouttest.Fresh(t, client, "telemetry")

	t.Run("forth and back", func(t *testing.T) {
		r := &rig{t: t, client: client, namespace: namespace, name: "forth"}
		rollouttest.DaemonSet(t, client, namespace, r.name, 5)
		to := r.patch(two)
		nodes, err := to.Survey(t.Context())
		r.must(err)
		if len(nodes) != 5 || nodes[0].Zone == "" {
			t.Fatalf("surveyed %+v", nodes)
		}
		before := r.ds()
		pins, err := to.Prepare(t.Context())
		r.must(err)
		if diff := cmp.Diff(before, r.ds()); diff != "" {
			t.Errorf("preparing wrote:\n%s", diff)
		}
		pins, err = to.Begin(t.Context(), pins)
		r.must(err)
		again, err := r.patch(two).Begin(t.Context(), target.Pins{Object: pins.Object, Stable: pins.Stable, Before: pins.Before, After: pins.After, Strategy: pins.Strategy})
		r.must(err)
		if diff := cmp.Diff(pins, again); diff != "" || pins.Stable == "" || pins.Update == "" || pins.Stable == pins.Update {
			t.Errorf("beginning again pins other revisions: %s\n%+v", diff, pins)
		}
		if got := r.ds(); got.Spec.UpdateStrategy.Type != appsv1.OnDeleteDaemonSetStrategyType || got.Annotations[target.RunAnnotation] != "run-1" {
			t.Errorf("written: %+v %v", got.Spec.UpdateStrategy, got.Annotations)
		}
		// The controller has seen it, and nothing moves.
		testkit.Within(t, "the controller has seen the template", 30*time.Second, func() bool { ds := r.ds(); return ds.Status.ObservedGeneration == ds.Generation })
		if diff := cmp.Diff(map[string]int{one: 5}, r.counts()); diff != "" {
			t.Errorf("after the template was written:\n%s", diff)
		}
		route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 1}, {Nodes: 3}, {Nodes: 5, All: true}}, MaxUnavailable: 2}, plan.Order("run-1", nodes))
		for step, want := range []map[string]int{{one: 4, two: 1}, {one: 2, two: 3}} {
			d := r.play(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(step, s) }, false)
			if diff := cmp.Diff(want, r.counts()); diff != "" || len(d.Exposed) != want[two] || len(d.Leaked) > 0 {
				t.Errorf("step %d: %+v\n%s", step, d, diff)
			}
		}
		if at, err := to.Ready(t.Context(), pins); err != nil || time.Since(at) > time.Minute {
			t.Errorf("the newest pod is ready since %v, %v", at, err)
		}
		if c, err := to.Component(t.Context(), pins); err != nil || c.ServiceAccount != namespace+"/forth" || len(c.UpdatePods) != 3 {
			t.Errorf("the component is %+v, %v", c, err)
		}
		// Somebody else's pod of the new revision is a leak: the controller makes it when a pod is deleted by hand.
		seen, err := to.See(t.Context(), pins)
		r.must(err)
		i := slices.IndexFunc(seen.Nodes, func(n plan.SeenNode) bool { return n.Pods[0].Revision == pins.Stable })
		_, pod, _ := strings.Cut(seen.Nodes[i].Pods[0].Name, "/")
		r.must(client.CoreV1().Pods(namespace).Delete(t.Context(), pod, metav1.DeleteOptions{}))
		testkit.Within(t, "the leak is seen", 30*time.Second, func() bool {
			seen, err := to.See(t.Context(), pins)
			r.must(err)
			return cmp.Equal(route.Forward(1, seen).Leaked, []string{seen.Nodes[i].Name})
		})
		// A delete of what is gone already is no error, and no delete of what came after it.
		r.must(to.Move(t.Context(), pins, []plan.Move{{Node: "x", Pod: seen.Nodes[i].Pods[0].Name, UID: seen.Nodes[i].Pods[0].UID}}, false))

		r.must(to.Revert(t.Context(), pins))
		r.must(to.Revert(t.Context(), pins))
		if diff := cmp.Diff(map[string]int{one: 1, two: 4}, r.counts()); diff != "" {
			t.Errorf("reverting moved pods:\n%s", diff)
		}
		r.play(to, pins, route.Back, true)
		testkit.Within(t, "the stable revision runs everywhere", 30*time.Second, func() bool { return cmp.Equal(r.counts(), map[string]int{one: 5}) })
		r.must(to.Finish(t.Context(), pins, true))
		r.must(to.Finish(t.Context(), pins, true))
		after := r.ds()
		if diff := cmp.Diff(before.Spec, after.Spec); diff != "" || after.Annotations[target.RunAnnotation] != "" {
			t.Errorf("the way back left (-before +after):\n%s%v", diff, after.Annotations)
		}
		seen, err = to.See(t.Context(), pins)
		if !errors.Is(err, target.ErrForeign) {
			t.Errorf("after the end it is under RollingUpdate again, and is seen as %+v, %v", seen, err)
		}
	})

	t.Run("what others do", func(t *testing.T) {
		r := &rig{t: t, client: client, namespace: namespace, name: "others"}
		rollouttest.DaemonSet(t, client, namespace, r.name, 5)
		to := r.patch(two)
		pins := rollouttest.Begin(t, to)
		foreign := func(what string) {
			t.Helper()
			if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), "an-admin") {
				t.Errorf("%s: want a foreign change by an-admin, got %v", what, err)
			}
		}
		r.edit(types.MergePatchType, `{"spec":{"updateStrategy":{"type":"RollingUpdate"},"minReadySeconds":3600}}`)
		foreign("the strategy")
		r.edit(types.JSONPatchType, `[{"op":"replace","path":"/spec/updateStrategy","value":{"type":"OnDelete"}}]`)
		if _, err := to.See(t.Context(), pins); err != nil {
			t.Errorf("it is as it was, and %v", err)
		}
		r.edit(types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":"`+three+`"}]}}}}`)
		foreign("the template")
		if err := to.Revert(t.Context(), pins); !errors.Is(err, target.ErrForeign) {
			t.Errorf("somebody else's template is overwritten: %v", err)
		}
		r.must(client.AppsV1().DaemonSets(namespace).Delete(t.Context(), r.name, metav1.DeleteOptions{}))
		if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrGone) {
			t.Errorf("deleted: %v", err)
		}
		// The controller remembers a name's pods on their way, and makes none for a namesake until they are gone.
		testkit.Within(t, "the pods of the deleted one are gone", 30*time.Second, func() bool {
			pods, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{})
			return err == nil && !slices.ContainsFunc(pods.Items, func(p corev1.Pod) bool {
				owner := metav1.GetControllerOf(&p)
				return owner != nil && owner.Name == r.name
			})
		})
		rollouttest.DaemonSet(t, client, namespace, r.name, 5)
		if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrGone) {
			t.Errorf("deleted and made again: %v", err)
		}
	})

	t.Run("refused", func(t *testing.T) {
		r := &rig{t: t, client: client, namespace: namespace, name: "refused"}
		rollouttest.DaemonSet(t, client, namespace, r.name, 5)
		before := r.ds()
		for name, test := range map[string]struct {
			patch map[string]any
			want  string
		}{
			"nothing changes":     {rollouttest.Image(one), "has this template already"},
			"another place":       {map[string]any{"spec": map[string]any{"nodeSelector": map[string]any{"disk": "ssd"}}}, "spec.nodeSelector, which acts on every node at once"},
			"another toleration":  {map[string]any{"spec": map[string]any{"tolerations": []any{map[string]any{"operator": "Exists"}}}}, "spec.tolerations"},
			"a field unknown":     {map[string]any{"spec": map[string]any{"container": []any{}}}, `unknown field "container"`},
			"what the API denies": {map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "other"}}}, "selector"},
		} {
			t.Run(name, func(t *testing.T) {
				to := r.target(v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Patch: test.patch}})
				if _, err := to.Survey(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
			})
		}
		if diff := cmp.Diff(before, r.ds()); diff != "" {
			t.Errorf("a refusal wrote:\n%s", diff)
		}
	})

	t.Run("somebody else makes what is new", func(t *testing.T) {
		r := &rig{t: t, client: client, namespace: namespace, name: "theirs"}
		to := r.target(v1alpha1.DaemonSetChange{
			WorkloadChange: v1alpha1.WorkloadChange{Template: map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": r.name}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "agent", "image": two}}},
			}},
			Install: &v1alpha1.DaemonSetInstall{EnrolmentLabel: "seakeep.dev/enrol-theirs"},
		})
		config := rollouttest.Meanwhile(l.RESTConfig(lab.Masters), func(q *http.Request) bool { return q.Method == http.MethodPost }, func() {
			rollouttest.DaemonSet(t, client, namespace, r.name, 5)
		})
		meanwhile, err := kubernetes.NewForConfig(config)
		r.must(err)
		to.Client = meanwhile
		if _, err := to.Prepare(t.Context()); !apierrors.IsAlreadyExists(err) {
			t.Errorf("between the read and the try: %v", err)
		}
		if _, err := to.Prepare(t.Context()); err == nil || !strings.Contains(err.Error(), "leave change.daemonSet.install out") {
			t.Errorf("after it: %v", err)
		}
	})

	t.Run("first install", func(t *testing.T) {
		r := &rig{t: t, client: client, namespace: namespace, name: "first"}
		change := v1alpha1.DaemonSetChange{
			WorkloadChange: v1alpha1.WorkloadChange{Template: map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": r.name}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "agent", "image": two}}},
			}},
			Install: &v1alpha1.DaemonSetInstall{EnrolmentLabel: "seakeep.dev/enrol-" + namespace},
		}
		install := func() (*Target, target.Pins, *plan.Route) {
			to := r.target(change)
			nodes, err := to.Survey(t.Context())
			r.must(err)
			if len(nodes) != 5 {
				t.Fatalf("surveyed %+v", nodes)
			}
			pins := rollouttest.Begin(t, to)
			// As after a death before the pins were saved.
			again, err := to.Begin(t.Context(), target.Pins{After: pins.After})
			r.must(err)
			if diff := cmp.Diff(pins, again); diff != "" {
				t.Errorf("beginning again:\n%s", diff)
			}
			return to, pins, plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 2}, {Nodes: 5, All: true}}, MaxUnavailable: 2}, plan.Order("run-1", nodes))
		}
		to, pins, route := install()
		r.play(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(0, s) }, false)
		if diff := cmp.Diff(map[string]int{two: 2}, r.counts()); diff != "" {
			t.Errorf("after the first step:\n%s", diff)
		}
		r.must(to.Revert(t.Context(), pins))
		r.play(to, pins, route.Back, true)
		testkit.Within(t, "it runs nowhere", 30*time.Second, func() bool { return len(r.counts()) == 0 })
		r.must(to.Finish(t.Context(), pins, true))
		r.must(to.Finish(t.Context(), pins, true))

		to, pins, route = install()
		for step := range 2 {
			r.play(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(step, s) }, false)
		}
		pods := func() []string { return rollouttest.UIDs(t, client, namespace, r.name) }
		before := pods()
		r.must(to.Finish(t.Context(), pins, false))
		r.must(to.Finish(t.Context(), pins, false))
		testkit.Within(t, "the controller has seen the end", 30*time.Second, func() bool { ds := r.ds(); return ds.Status.ObservedGeneration == ds.Generation })
		if ds := r.ds(); len(ds.Spec.Template.Spec.NodeSelector) > 0 || !cmp.Equal(before, pods()) || len(before) != 5 {
			t.Errorf("at the end the selector is %v, the pods were %v and are %v", ds.Spec.Template.Spec.NodeSelector, before, pods())
		}

		// A slow verdict may take back what is finished, node by node.
		r.must(to.Revert(t.Context(), pins))
		r.must(to.Revert(t.Context(), pins))
		testkit.Within(t, "the controller has seen the selector", 30*time.Second, func() bool { ds := r.ds(); return ds.Status.ObservedGeneration == ds.Generation })
		if !cmp.Equal(before, pods()) {
			t.Errorf("holding it again moved pods: %v, now %v", before, pods())
		}
		r.play(to, pins, route.Back, true)
		testkit.Within(t, "it runs nowhere", 30*time.Second, func() bool { return len(r.counts()) == 0 })
		r.must(to.Finish(t.Context(), pins, true))
		if _, err := client.AppsV1().DaemonSets(namespace).Get(t.Context(), r.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the DaemonSet is still there: %v", err)
		}
	})
}
