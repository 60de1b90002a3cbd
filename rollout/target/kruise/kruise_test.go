package kruise

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/target"
)

const one, two, three = "registry.test/agent:1", "registry.test/agent:2", "registry.test/agent:3"

type rig struct {
	t      *testing.T
	client *kubernetes.Clientset
	kruise *rollouttest.Kruise
	// namespace is a fresh one, name the object's.
	namespace, name string
}

func (r *rig) target(change v1alpha1.AdvancedDaemonSetChange) *Target {
	change.Namespace, change.Name = r.namespace, r.name
	return &Target{Cluster: "lab", Client: r.client, Objects: r.kruise.Objects, Change: change, Run: "run-1"}
}

func (r *rig) patch(image string) *Target {
	return r.target(v1alpha1.AdvancedDaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Patch: rollouttest.Image(image)}})
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) ads() *unstructured.Unstructured {
	r.t.Helper()
	ads, err := r.kruise.Objects.Resource(Resource).Namespace(r.namespace).Get(r.t.Context(), r.name, metav1.GetOptions{})
	r.must(err)
	return ads
}

// letting is what OpenKruise is told now.
func (r *rig) letting() *rollingUpdate {
	r.t.Helper()
	o, err := read(r.ads())
	r.must(err)
	return o.Spec.UpdateStrategy.RollingUpdate
}

func (r *rig) edit(patch string) {
	r.t.Helper()
	r.kruise.Edit(r.t, r.namespace, r.name, patch)
}

func (r *rig) counts() map[string]int { return rollouttest.Images(r.t, r.client, r.namespace, r.name) }

// on are the nodes that run an image.
func (r *rig) on(image string) []string {
	r.t.Helper()
	list, err := r.client.CoreV1().Pods(r.namespace).List(r.t.Context(), metav1.ListOptions{LabelSelector: "app=" + r.name})
	r.must(err)
	nodes := []string{}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil && p.Spec.Containers[0].Image == image {
			nodes = append(nodes, p.Spec.NodeName)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// begun prepares and begins, each twice, as after a death before the pins were saved.
func (r *rig) begun(to *Target) target.Pins {
	r.t.Helper()
	prepared, err := to.Prepare(r.t.Context())
	r.must(err)
	pins, err := to.Begin(r.t.Context(), prepared)
	r.must(err)
	again, err := to.Begin(r.t.Context(), prepared)
	r.must(err)
	if diff := cmp.Diff(pins, again); diff != "" || pins.Update == "" || pins.Stable == pins.Update {
		r.t.Errorf("beginning again pins other revisions: %s\n%+v", diff, pins)
	}
	return pins
}

// step plays a step until it is complete, and says how many nodes were without a ready pod at the worst.
func (r *rig) step(to *Target, pins target.Pins, decide func(plan.Seen) plan.Decision, back bool) (d plan.Decision, worst int) {
	r.t.Helper()
	return rollouttest.Play(r.t, to, pins, decide, back)
}

func rolling(fields map[string]any) map[string]any {
	return map[string]any{"type": "RollingUpdate", "rollingUpdate": fields}
}

func TestAdvancedDaemonSetOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 6})
	client := rollouttest.Client(t, l)
	namespace := rollouttest.Fresh(t, client, "telemetry")
	stand := rollouttest.StartKruise(t, l)
	newRig := func(t *testing.T, name string) *rig {
		return &rig{t: t, client: client, kruise: stand, namespace: namespace, name: name}
	}

	t.Run("forth and back, in the plan's order", func(t *testing.T) {
		r := newRig(t, "forth")
		before := stand.DaemonSet(t, namespace, r.name, 6, rolling(map[string]any{"maxUnavailable": "100%", "rollingUpdateType": "Standard"}))
		to := r.patch(two)
		nodes, err := to.Survey(t.Context())
		r.must(err)
		if len(nodes) != 6 || nodes[0].Zone == "" {
			t.Fatalf("surveyed %+v", nodes)
		}
		if diff := cmp.Diff(before.Object["spec"], r.ads().Object["spec"]); diff != "" {
			t.Errorf("surveying wrote:\n%s", diff)
		}
		pins := r.begun(to)
		if s := r.letting(); !*s.Paused || *s.Partition != everyNode || len(s.hosts()) > 0 || s.notOurs() != "" {
			t.Errorf("the template was written under %+v", s)
		}
		// OpenKruise has made the revision, and nothing moves.
		if diff := cmp.Diff(map[string]int{one: 6}, r.counts()); diff != "" {
			t.Errorf("after the template was written:\n%s", diff)
		}
		order := plan.Order("run-1", nodes)
		route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 1}, {Nodes: 3}, {Nodes: 6, All: true}}, MaxUnavailable: 2}, order)
		for step, n := range []int{1, 3} {
			d, worst := r.step(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(step, s) }, false)
			want := slices.Sorted(slices.Values(order[:n]))
			if diff := cmp.Diff(want, r.on(two)); diff != "" || len(d.Leaked) > 0 || worst > 2 {
				t.Errorf("step %d: %+v, at the worst %d nodes were down\n%s", step, d, worst, diff)
			}
			if got := r.letting().Partition.IntValue(); got != 6-n {
				t.Errorf("step %d: the partition keeps %d of 6 nodes", step, got)
			}
		}
		if at, err := to.Ready(t.Context(), pins); err != nil || time.Since(at) > time.Minute {
			t.Errorf("the newest pod is ready since %v, %v", at, err)
		}
		if c, err := to.Component(t.Context(), pins); err != nil || c.ServiceAccount != namespace+"/forth" || len(c.UpdatePods) != 3 {
			t.Errorf("the component is %+v, %v", c, err)
		}
		// A pod that is deleted by hand comes back with the new template: a leak. What is let is let beside it.
		leaked := order[5]
		list, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + r.name})
		r.must(err)
		for _, p := range list.Items {
			if p.Spec.NodeName == leaked {
				r.must(client.CoreV1().Pods(namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}))
			}
		}
		testkit.Within(t, "the leak is seen", 30*time.Second, func() bool {
			seen, err := to.See(t.Context(), pins)
			r.must(err)
			return cmp.Equal(route.Forward(1, seen).Leaked, []string{leaked})
		})

		r.must(to.Revert(t.Context(), pins))
		r.must(to.Revert(t.Context(), pins))
		if diff := cmp.Diff(map[string]int{one: 2, two: 4}, r.counts()); diff != "" {
			t.Errorf("reverting moved pods:\n%s", diff)
		}
		if _, worst := r.step(to, pins, route.Back, true); worst > 2 {
			t.Errorf("on the way back %d nodes were down", worst)
		}
		testkit.Within(t, "the stable revision runs everywhere", 30*time.Second, func() bool { return cmp.Equal(r.counts(), map[string]int{one: 6}) })
		r.must(to.Finish(t.Context(), pins, true))
		r.must(to.Finish(t.Context(), pins, true))
		after := r.ads()
		if diff := cmp.Diff(before.Object["spec"], after.Object["spec"]); diff != "" || len(after.GetAnnotations()) > 0 {
			t.Errorf("the way back left (-before +after):\n%s%v", diff, after.GetAnnotations())
		}
		if seen, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrForeign) {
			t.Errorf("after the end it is under its own strategy again, and is seen as %+v, %v", seen, err)
		}
	})

	t.Run("to the end, within the budget, with what OpenKruise had on", func(t *testing.T) {
		r := newRig(t, "whole")
		stand.DaemonSet(t, namespace, r.name, 6, rolling(map[string]any{"maxUnavailable": int64(1), "maxSurge": int64(0), "paused": true}))
		r.edit(`{"metadata":{"annotations":{"daemonset.kruise.io/progressive-create-pod":"true"}}}`)
		to := r.patch(two)
		pins := r.begun(to)
		nodes, err := to.Survey(t.Context())
		if !errors.Is(err, target.ErrNothing) {
			t.Errorf("the change is there: %+v, %v", nodes, err)
		}
		list, err := to.own().List(t.Context(), pins)
		r.must(err)
		route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 6, All: true}}, MaxUnavailable: 3}, plan.Order("run-1", target.Survey(list)))
		if d, worst := r.step(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(0, s) }, false); worst > 3 || len(d.Exposed) != 6 {
			t.Errorf("%d nodes were down at the worst: %+v", worst, d)
		}
		r.must(to.Finish(t.Context(), pins, false))
		ads := r.ads()
		if s := r.letting(); s.Selector != nil || s.Partition != nil || !*s.Paused || ads.GetAnnotations()[progressive] != "true" || ads.GetAnnotations()[target.RunAnnotation] != "" {
			t.Errorf("at the end it is under %+v, %v", s, ads.GetAnnotations())
		}
		if diff := cmp.Diff(map[string]int{two: 6}, r.counts()); diff != "" {
			t.Error(diff)
		}
	})

	t.Run("nodes that are not meant keep the old revision", func(t *testing.T) {
		r := newRig(t, "meant")
		stand.DaemonSet(t, namespace, r.name, 6, rolling(map[string]any{"maxUnavailable": int64(1)}))
		to := r.patch(two)
		to.Selector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
			{Key: corev1.LabelHostname, Operator: metav1.LabelSelectorOpIn, Values: []string{lab.NodeName(1), lab.NodeName(4)}},
		}}
		pins := r.begun(to)
		route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 2, All: true}}, MaxUnavailable: 1}, []string{lab.NodeName(4), lab.NodeName(1)})
		r.step(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(0, s) }, false)
		r.must(to.Finish(t.Context(), pins, false))
		want := []string{lab.NodeName(1), lab.NodeName(4)}
		if got := r.letting().Selector; !cmp.Equal(got, to.Selector) {
			t.Errorf("left under the selector %v", got)
		}
		// OpenKruise goes on by itself now. A change that it acts on shows that it has had the time to.
		r.edit(`{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":"` + three + `"}]}}}}`)
		testkit.Within(t, "it has gone on", time.Minute, func() bool { return cmp.Equal(r.on(three), want) })
		if got := r.on(one); len(got) != 4 {
			t.Errorf("only %v keep the old revision", got)
		}
	})

	t.Run("OpenKruise dies and comes back", func(t *testing.T) {
		r := newRig(t, "dead")
		stand.DaemonSet(t, namespace, r.name, 6, rolling(map[string]any{"maxUnavailable": int64(1)}))
		to := r.patch(two)
		pins := r.begun(to)
		route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 3}, {Nodes: 6, All: true}}, MaxUnavailable: 2}, []string{
			lab.NodeName(3), lab.NodeName(0), lab.NodeName(5), lab.NodeName(1), lab.NodeName(2), lab.NodeName(4),
		})
		stand.Stop()
		see := func() plan.Decision {
			seen, err := to.See(t.Context(), pins)
			r.must(err)
			return route.Forward(0, seen)
		}
		d := see()
		r.must(to.Move(t.Context(), pins, d.Moves, false))
		// What was let and does not move is on its way: it is charged, nothing more is let, and the deadline is for it.
		for range 2 {
			if d = see(); len(d.InFlight) != 2 || len(d.Moves) > 0 || d.Complete || len(d.Exposed) > 0 {
				t.Errorf("with OpenKruise dead: %+v", d)
			}
			r.must(to.Move(t.Context(), pins, d.Moves, false))
		}
		// A pod is lost meanwhile: the wave is let again, as wide as it must be now.
		list, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + r.name})
		r.must(err)
		for _, p := range list.Items {
			if p.Spec.NodeName == lab.NodeName(4) {
				r.must(client.CoreV1().Pods(namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}))
			}
		}
		stand.Resume(t)
		r.step(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(0, s) }, false)
		want := []string{lab.NodeName(0), lab.NodeName(3), lab.NodeName(4), lab.NodeName(5)}
		testkit.Within(t, "the step and what was lost run the change", 30*time.Second, func() bool { return cmp.Equal(r.on(two), want) })
	})

	t.Run("what others do", func(t *testing.T) {
		r := newRig(t, "others")
		stand.DaemonSet(t, namespace, r.name, 6, rolling(map[string]any{"maxUnavailable": int64(1)}))
		to := r.patch(two)
		pins := r.begun(to)
		foreign := func(what, want string) {
			t.Helper()
			if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrForeign) || !strings.Contains(err.Error(), "an-admin") || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: want a foreign change by an-admin, got %v", what, err)
			}
			if err := to.Move(t.Context(), pins, []plan.Move{{Node: lab.NodeName(0)}}, false); !errors.Is(err, target.ErrForeign) {
				t.Errorf("%s: it is moved on: %v", what, err)
			}
		}
		held := r.ads().Object["spec"].(map[string]any)["updateStrategy"]
		for what, test := range map[string]struct{ patch, want string }{
			"unpaused":      {`{"spec":{"updateStrategy":{"rollingUpdate":{"paused":false}}}}`, "no longer paused"},
			"no selector":   {`{"spec":{"updateStrategy":{"rollingUpdate":{"selector":null}}}}`, "another selector"},
			"a surge":       {`{"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":1}}}}`, "surges"},
			"a percentage":  {`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":"0%"}}}}`, "another partition"},
			"another type":  {`{"spec":{"updateStrategy":{"type":"OnDelete","rollingUpdate":null}}}`, "another update strategy"},
			"no partition":  {`{"spec":{"updateStrategy":{"rollingUpdate":{"partition":null}}}}`, "another update strategy"},
			"another image": {`{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":"` + three + `"}]}}}}`, "neither the one from before"},
		} {
			// Nothing is moved by what others write while it is held back.
			stand.Stop()
			r.edit(test.patch)
			foreign(what, test.want)
			fresh := r.ads()
			r.must(unstructured.SetNestedField(fresh.Object, held, "spec", "updateStrategy"))
			var was map[string]any
			o, err := read(fresh)
			r.must(err)
			r.must(o.setTemplate(pins.After))
			was = o.whole.Object
			_, err = stand.Objects.Resource(Resource).Namespace(namespace).Update(t.Context(), &unstructured.Unstructured{Object: was}, metav1.UpdateOptions{FieldManager: "an-admin"})
			r.must(err)
			stand.Resume(t)
			if _, err := to.See(t.Context(), pins); err != nil {
				t.Errorf("%s: it is as it was, and %v", what, err)
			}
		}
		// A human pauses in the middle of a wave.
		r.must(to.Move(t.Context(), pins, []plan.Move{{Node: lab.NodeName(2)}}, false))
		r.edit(`{"spec":{"updateStrategy":{"rollingUpdate":{"paused":true}}}}`)
		foreign("paused", "was paused")
		r.edit(`{"spec":{"updateStrategy":{"rollingUpdate":{"paused":false}}}}`)
		testkit.Within(t, "the wave is finished", 30*time.Second, func() bool { return cmp.Equal(r.on(two), []string{lab.NodeName(2)}) })
		// GitOps puts the old template back.
		stand.Stop()
		o, err := read(r.ads())
		r.must(err)
		r.must(o.setTemplate(pins.Before))
		_, err = stand.Objects.Resource(Resource).Namespace(namespace).Update(t.Context(), o.whole, metav1.UpdateOptions{FieldManager: "an-admin"})
		r.must(err)
		if err := to.Move(t.Context(), pins, []plan.Move{{Node: lab.NodeName(0)}}, false); !errors.Is(err, target.ErrForeign) {
			t.Errorf("with the old template in force it is moved on: %v", err)
		}
		stand.Resume(t)
		r.must(stand.Objects.Resource(Resource).Namespace(namespace).Delete(t.Context(), r.name, metav1.DeleteOptions{}))
		if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrGone) {
			t.Errorf("deleted: %v", err)
		}
	})

	t.Run("refused", func(t *testing.T) {
		r := newRig(t, "refused")
		stand.DaemonSet(t, namespace, r.name, 6, rolling(map[string]any{"maxUnavailable": int64(1)}))
		before := r.ads()
		for name, test := range map[string]struct {
			patch map[string]any
			want  string
		}{
			"nothing changes":    {rollouttest.Image(one), "has this template already"},
			"another place":      {map[string]any{"spec": map[string]any{"nodeSelector": map[string]any{"disk": "ssd"}}}, "spec.nodeSelector, which acts on every node at once"},
			"a field unknown":    {map[string]any{"spec": map[string]any{"container": []any{}}}, `unknown field "container"`},
			"labels of another":  {map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": "other"}}}, "does not match the labels"},
			"another toleration": {map[string]any{"spec": map[string]any{"tolerations": []any{map[string]any{"operator": "Exists"}}}}, "spec.tolerations"},
		} {
			to := r.target(v1alpha1.AdvancedDaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Patch: test.patch}})
			if _, err := to.Survey(t.Context()); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: got %v, want %q", name, err, test.want)
			}
		}
		if diff := cmp.Diff(before, r.ads()); diff != "" {
			t.Errorf("a refusal wrote:\n%s", diff)
		}
	})

	t.Run("first install", func(t *testing.T) {
		r := newRig(t, "first")
		change := v1alpha1.AdvancedDaemonSetChange{
			WorkloadChange: v1alpha1.WorkloadChange{Template: map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": r.name}},
				"spec":     map[string]any{"containers": []any{map[string]any{"name": "agent", "image": two}}},
			}},
			Install: &v1alpha1.AdvancedDaemonSetInstall{},
		}
		names := func(n int) []string {
			var all []string
			for i := range n {
				all = append(all, lab.NodeName(i))
			}
			return all
		}
		install := func() (*Target, target.Pins, *plan.Route) {
			to := r.target(change)
			nodes, err := to.Survey(t.Context())
			r.must(err)
			if len(nodes) != 6 {
				t.Fatalf("surveyed %+v", nodes)
			}
			pins := r.begun(to)
			return to, pins, plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 1}, {Nodes: 3}, {Nodes: 6, All: true}}, MaxUnavailable: 2}, names(6))
		}
		to, pins, route := install()
		if got := r.counts(); len(got) > 0 {
			t.Errorf("made, and it runs already: %v", got)
		}
		for step, n := range []int{1, 3} {
			r.step(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(step, s) }, false)
			if diff := cmp.Diff(names(n), r.on(two)); diff != "" {
				t.Errorf("step %d:\n%s", step, diff)
			}
		}
		r.must(to.Revert(t.Context(), pins))
		r.must(to.Revert(t.Context(), pins))
		r.step(to, pins, route.Back, true)
		testkit.Within(t, "it runs nowhere", 30*time.Second, func() bool { return len(r.counts()) == 0 })
		r.must(to.Finish(t.Context(), pins, true))
		r.must(to.Finish(t.Context(), pins, true))
		if _, err := stand.Objects.Resource(Resource).Namespace(namespace).Get(t.Context(), r.name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("it is left: %v", err)
		}

		to, pins, route = install()
		// Somebody lets pods on every node.
		stand.Stop()
		r.edit(`{"metadata":{"annotations":{"daemonset.kruise.io/progressive-create-pod":null}}}`)
		if _, err := to.See(t.Context(), pins); !errors.Is(err, target.ErrForeign) {
			t.Errorf("somebody lets pods on every node: %v", err)
		}
		r.edit(`{"metadata":{"annotations":{"daemonset.kruise.io/progressive-create-pod":"true"}}}`)
		stand.Resume(t)
		for step := range 3 {
			r.step(to, pins, func(s plan.Seen) plan.Decision { return route.Forward(step, s) }, false)
		}
		uids := func() []string { return rollouttest.UIDs(t, client, namespace, r.name) }
		before := uids()
		r.must(to.Finish(t.Context(), pins, false))
		r.must(to.Finish(t.Context(), pins, false))
		if s := r.letting(); s.Partition.IntValue() != 0 || !*s.Paused || len(r.ads().GetAnnotations()) > 0 || !cmp.Equal(before, uids()) || len(before) != 6 {
			t.Errorf("at the end it is under %+v, %v; the pods were %v and are %v", s, r.ads().GetAnnotations(), before, uids())
		}
		// What is done can be taken back still.
		r.must(to.Revert(t.Context(), pins))
		r.must(to.Revert(t.Context(), pins))
		r.step(to, pins, route.Back, true)
		testkit.Within(t, "it runs nowhere again", 30*time.Second, func() bool { return len(r.counts()) == 0 })
		r.must(to.Finish(t.Context(), pins, true))
	})
}
