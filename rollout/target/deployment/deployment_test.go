package deployment

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/target"
)

func TestDeploymentOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 3, Pods: 8})
	client := rollouttest.Client(t, l)
	at := l.Deployments()[0]
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	before, err := client.AppsV1().Deployments(at.Namespace).Get(t.Context(), at.Name, metav1.GetOptions{})
	must(err)
	container := before.Spec.Template.Spec.Containers[0].Name
	patch := func(image string) map[string]any {
		return map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": container, "image": image}}}}
	}
	to := &Target{Cluster: "lab", Client: client, Change: v1alpha1.WorkloadChange{Namespace: at.Namespace, Name: at.Name, Patch: patch("registry.test/web:2")}, Run: "run-1"}
	nodes, err := to.Survey(t.Context())
	must(err)
	if len(nodes) != 1 {
		t.Errorf("surveyed %+v", nodes)
	}
	pins := rollouttest.Begin(t, to)
	route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 1, All: true}}, MaxUnavailable: 1, Nodes: 1}, []string{unit})
	play := func(decide func(plan.Seen) plan.Decision, back bool) {
		t.Helper()
		testkit.Within(t, "it is done", time.Minute, func() bool {
			seen, err := to.See(t.Context(), pins)
			must(err)
			d := decide(seen)
			if len(d.Moves) > 0 {
				must(to.Move(t.Context(), pins, d.Moves, back))
			}
			return d.Complete
		})
	}
	play(func(s plan.Seen) plan.Decision { return route.Forward(0, s) }, false)
	update, stable, err := to.Pods(t.Context(), pins)
	must(err)
	if len(update) == 0 || len(stable) != 0 || update[0].Spec.Containers[0].Image != "registry.test/web:2" {
		t.Errorf("%d pods are new, %d old", len(update), len(stable))
	}
	if c, err := to.Component(t.Context(), pins); err != nil || len(c.UpdatePods) != len(update) {
		t.Errorf("the component is %+v, %v", c, err)
	}
	if ready, err := to.Ready(t.Context(), pins); err != nil || time.Since(ready) > time.Minute {
		t.Errorf("ready since %v, %v", ready, err)
	}
	play(route.Back, true)
	must(to.Finish(t.Context(), pins, true))
	after, err := client.AppsV1().Deployments(at.Namespace).Get(t.Context(), at.Name, metav1.GetOptions{})
	must(err)
	if diff := cmp.Diff(before.Spec, after.Spec); diff != "" || after.Annotations[target.RunAnnotation] != "" {
		t.Errorf("left (-before +after):\n%s%v", diff, after.Annotations)
	}
	_, err = client.AppsV1().Deployments(at.Namespace).Patch(t.Context(), at.Name, types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"`+container+`","image":"registry.test/web:3"}]}}}}`), metav1.PatchOptions{FieldManager: "an-admin"})
	must(err)
	if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrForeign) {
		t.Errorf("somebody else's template: %v", err)
	}
	must(client.AppsV1().Deployments(at.Namespace).Delete(t.Context(), at.Name, metav1.DeleteOptions{}))
	if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrGone) {
		t.Errorf("deleted: %v", err)
	}
}
