package beside

import (
	"errors"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/restmapper"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/target/daemonset"
	"github.com/seakeep/seakeep/rollout/target/manifests"
)

// rig is a lab, and what goes beside the agent there.
type rig struct {
	t       *testing.T
	client  *kubernetes.Clientset
	objects *dynamic.DynamicClient
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// role is a ClusterRole, which no namespace takes along.
func role(name string) map[string]any {
	return map[string]any{
		"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": map[string]any{"name": name},
		"rules": []any{map[string]any{"apiGroups": []any{""}, "resources": []any{"pods"}, "verbs": []any{"list"}}},
	}
}

// target is a target of its own, as each process has one.
func (r *rig) target(change v1alpha1.DaemonSetChange, objects ...map[string]any) *Target {
	return &Target{
		Manifests: &manifests.Target{
			Cluster: "lab", Client: r.objects, Namespace: change.Namespace, Run: "run-1", Objects: objects,
			Mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(r.client.Discovery())),
		},
		Workload: &daemonset.Target{Cluster: "lab", Client: r.client, Run: "run-1", MakesNamespace: change.Install != nil, Change: change},
	}
}

// gone waits for the workload to be seen to be gone.
func (r *rig) gone(to *Target, pins target.Pins, what string) {
	r.t.Helper()
	testkit.Within(r.t, "it is seen to be gone", time.Minute, func() bool {
		_, err := to.See(r.t.Context(), pins)
		return errors.Is(err, target.ErrGone) && strings.Contains(err.Error(), what)
	})
}

func (r *rig) wantNoRole(name string) {
	r.t.Helper()
	if _, err := r.client.RbacV1().ClusterRoles().Get(r.t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		r.t.Errorf("rights are left in the cluster: %v", err)
	}
}

func TestBesideOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Nodes: 2})
	client := rollouttest.Client(t, l)
	objects, err := dynamic.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}

	t.Run("a first install loses the namespace that came with it", func(t *testing.T) {
		r := &rig{t: t, client: client, objects: objects}
		const namespace = "made"
		change := v1alpha1.DaemonSetChange{
			WorkloadChange: v1alpha1.WorkloadChange{Namespace: namespace, Name: "first", Template: map[string]any{
				"metadata": map[string]any{"labels": map[string]any{"app": "first"}},
				"spec":     map[string]any{"serviceAccountName": "first", "containers": []any{map[string]any{"name": "agent", "image": "registry.test/agent:1"}}},
			}},
			Install: &v1alpha1.DaemonSetInstall{EnrolmentLabel: "seakeep.dev/enrol-first"},
		}
		fresh := func() *Target {
			return r.target(change,
				map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": namespace}},
				map[string]any{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": map[string]any{"name": "first"}}, role("first"))
		}
		to := fresh()
		nodes, err := to.Survey(t.Context())
		r.must(err)
		pins := rollouttest.Begin(r.t, to)
		route := plan.NewRoute(plan.Leg{Steps: []plan.Step{{Nodes: 1}, {Nodes: 2, All: true}}, MaxUnavailable: 1, Nodes: 2}, plan.Order("run-1", nodes))
		rollouttest.Play(t, to, pins, func(s plan.Seen) plan.Decision { return route.Forward(0, s) }, false)

		r.must(client.CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}))
		r.gone(to, pins, "DaemonSet made/first")
		// What is there still, while the namespace goes and after, is taken back.
		r.must(fresh().Finish(t.Context(), pins, true))
		r.wantNoRole("first")
		testkit.Within(t, "the namespace is gone", time.Minute, func() bool {
			_, err := client.CoreV1().Namespaces().Get(t.Context(), namespace, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		r.must(fresh().Finish(t.Context(), pins, true))
	})

	t.Run("the workload is deleted", func(t *testing.T) {
		r := &rig{t: t, client: client, objects: objects}
		namespace := rollouttest.Fresh(t, client, "telemetry")
		rollouttest.DaemonSet(t, client, namespace, "agent", 2)
		change := v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Namespace: namespace, Name: "agent", Patch: rollouttest.Image("registry.test/agent:2")}}
		to := r.target(change, role("agent"))
		pins := rollouttest.Begin(r.t, to)
		r.must(client.AppsV1().DaemonSets(namespace).Delete(t.Context(), "agent", metav1.DeleteOptions{}))
		r.gone(to, pins, "DaemonSet "+namespace+"/agent")
		if err := to.Finish(t.Context(), pins, false); !errors.Is(err, target.ErrGone) {
			t.Errorf("the good end of what is gone: %v", err)
		}
		r.must(to.Finish(t.Context(), pins, true))
		r.wantNoRole("agent")
	})
}
