// Package rollouttest makes what the tests of rollouts roll out, on a lab.
package rollouttest

import (
	"context"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// Client speaks to a lab as its administrator.
func Client(t testing.TB, l *lab.Lab) *kubernetes.Clientset {
	t.Helper()
	config := l.RESTConfig(lab.Masters)
	config.Timeout, config.QPS, config.Burst = 10*time.Second, 200, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// Namespace makes a namespace that lives as long as the test.
func Namespace(t testing.TB, client kubernetes.Interface, name string) {
	t.Helper()
	_, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// Fresh makes a namespace that no other test has, and deletes it with all that is in it when the test ends: tests of a package
// share a lab, and so do their repetitions.
func Fresh(t testing.TB, client kubernetes.Interface, prefix string) string {
	t.Helper()
	made, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix + "-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := client.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), made.Name, metav1.DeleteOptions{})
		if err != nil {
			t.Errorf("deleting namespace %s: %v", made.Name, err)
		}
	})
	return made.Name
}

// Beginner is what a target needs so that a change begins on it.
type Beginner interface {
	Prepare(ctx context.Context) (target.Pins, error)
	Begin(ctx context.Context, pins target.Pins) (target.Pins, error)
}

// Begin begins a change, and returns what is pinned.
func Begin(t testing.TB, to Beginner) target.Pins {
	t.Helper()
	pins, err := to.Prepare(t.Context())
	if err == nil {
		pins, err = to.Begin(t.Context(), pins)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pins
}

// DaemonSet makes the agent of the tests, version 1, and waits until it is ready on that many nodes.
func DaemonSet(t testing.TB, client kubernetes.Interface, namespace, name string, nodes int) *appsv1.DaemonSet {
	t.Helper()
	Namespace(t, client, namespace)
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := client.CoreV1().ServiceAccounts(namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	ds, err := client.AppsV1().DaemonSets(namespace).Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
				Spec:       corev1.PodSpec{ServiceAccountName: name, Containers: []corev1.Container{{Name: "agent", Image: "registry.test/agent:1"}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the DaemonSet is ready", time.Minute, func() bool {
		ds, err = client.AppsV1().DaemonSets(namespace).Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && ds.Status.ObservedGeneration == ds.Generation && int(ds.Status.NumberReady) == nodes
	})
	return ds
}

// Image is a patch of the agent's template that gives it another image.
func Image(image string) map[string]any {
	return map[string]any{"spec": map[string]any{"containers": []any{map[string]any{"name": "agent", "image": image}}}}
}

// Steps is what moves in the tests: an engine.Target.
type Steps interface {
	See(ctx context.Context, pins target.Pins) (plan.Seen, error)
	Move(ctx context.Context, pins target.Pins, moves []plan.Move, back bool) error
}

// Play decides and moves until the decision is complete. Worst is how many nodes were without a ready pod at the worst.
func Play(t testing.TB, to Steps, pins target.Pins, decide func(plan.Seen) plan.Decision, back bool) (d plan.Decision, worst int) {
	t.Helper()
	testkit.Within(t, "the step is complete", time.Minute, func() bool {
		seen, err := to.See(t.Context(), pins)
		if err != nil {
			t.Fatal(err)
		}
		d = decide(seen)
		down := 0
		for _, n := range seen.Nodes {
			if !slices.ContainsFunc(n.Pods, func(p plan.SeenPod) bool { return p.Ready && !p.Terminating }) {
				down++
			}
		}
		worst = max(worst, down)
		if err := to.Move(t.Context(), pins, d.Moves, back); err != nil {
			t.Fatal(err)
		}
		return d.Complete
	})
	return d, worst
}

// UIDs are those of a DaemonSet's pods, sorted.
func UIDs(t testing.TB, client kubernetes.Interface, namespace, name string) []string {
	t.Helper()
	list, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		t.Fatal(err)
	}
	var uids []string
	for _, p := range list.Items {
		uids = append(uids, string(p.UID))
	}
	slices.Sort(uids)
	return uids
}

// Images counts a DaemonSet's living pods by the image they run.
func Images(t testing.TB, client kubernetes.Interface, namespace, name string) map[string]int {
	t.Helper()
	list, err := client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
	if err != nil {
		t.Fatal(err)
	}
	images := map[string]int{}
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			images[p.Spec.Containers[0].Image]++
		}
	}
	return images
}
