package rollouttest

import (
	"bytes"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	_ "embed"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// fleetCRDs is a schema of our own, with the fields that a rollout reads and writes.
//
//go:embed kubefleet.yaml
var fleetCRDs []byte

// KubeFleet plays what KubeFleet does with approval requests: it asks, reads the answer, and accepts it. It is not the real one; what
// it does was written down from KubeFleet's source (pkg/controllers/updaterun, of August 2026).
type KubeFleet struct{ objects dynamic.Interface }

var (
	clusterApprovalRequests = schema.GroupVersionResource{Group: "placement.kubernetes-fleet.io", Version: "v1beta1", Resource: "clusterapprovalrequests"}
	approvalRequests        = schema.GroupVersionResource{Group: "placement.kubernetes-fleet.io", Version: "v1beta1", Resource: "approvalrequests"}
)

// ServeKubeFleet serves approval requests on a lab.
func ServeKubeFleet(t testing.TB, l *lab.Lab) *KubeFleet {
	t.Helper()
	objects, err := dynamic.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	for _, text := range bytes.Split(fleetCRDs, []byte("\n---\n")) {
		var crd unstructured.Unstructured
		if err := yaml.Unmarshal(text, &crd.Object); err != nil {
			t.Fatal(err)
		}
		if _, err := objects.Resource(crds).Create(t.Context(), &crd, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, served := range []schema.GroupVersionResource{clusterApprovalRequests, approvalRequests} {
		testkit.Within(t, served.Resource+" are served", 30*time.Second, func() bool {
			_, err := objects.Resource(served).List(t.Context(), metav1.ListOptions{})
			return err == nil
		})
	}
	return &KubeFleet{objects: objects}
}

func (k *KubeFleet) in(namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return k.objects.Resource(clusterApprovalRequests)
	}
	return k.objects.Resource(approvalRequests).Namespace(namespace)
}

// Ask makes a request as an update run does, of the cluster when there is no namespace. Task is afterStage or beforeStage; change
// may be nil.
func (k *KubeFleet) Ask(t testing.TB, namespace, name, updateRun, stage, task string, change func(*unstructured.Unstructured)) {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"parentStageRollout": updateRun, "targetStage": stage}}}
	u.SetAPIVersion("placement.kubernetes-fleet.io/v1beta1")
	u.SetKind("ClusterApprovalRequest")
	if namespace != "" {
		u.SetKind("ApprovalRequest")
	}
	u.SetName(name)
	u.SetLabels(map[string]string{
		"kubernetes-fleet.io/targetUpdateRun": updateRun, "kubernetes-fleet.io/targetUpdatingStage": stage,
		"kubernetes-fleet.io/taskType": task, "kubernetes-fleet.io/isLatestUpdateRunApproval": "true",
	})
	if change != nil {
		change(u)
	}
	if _, err := k.in(namespace).Create(t.Context(), u, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Delete asks for a request to be deleted.
func (k *KubeFleet) Delete(t testing.TB, namespace, name string) {
	t.Helper()
	if err := k.in(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Say sets a condition of a request, as KubeFleet or a human does.
func (k *KubeFleet) Say(t testing.TB, namespace, name string, condition metav1.Condition) {
	t.Helper()
	u := k.Read(t, namespace, name)
	conditions := k.conditions(t, u)
	meta.SetStatusCondition(&conditions, condition)
	var raw []any
	for i := range conditions {
		one, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&conditions[i])
		if err != nil {
			t.Fatal(err)
		}
		raw = append(raw, one)
	}
	u.Object["status"] = map[string]any{"conditions": raw}
	if _, err := k.in(namespace).UpdateStatus(t.Context(), u, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// Read is a request as it is.
func (k *KubeFleet) Read(t testing.TB, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	u, err := k.in(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Condition is a condition of a request as KubeFleet reads it: one of another generation is none. It is nil then.
func (k *KubeFleet) Condition(t testing.TB, namespace, name, kind string) *metav1.Condition {
	t.Helper()
	u := k.Read(t, namespace, name)
	c := meta.FindStatusCondition(k.conditions(t, u), kind)
	if c == nil || c.ObservedGeneration != u.GetGeneration() {
		return nil
	}
	return c
}

// Approved is what KubeFleet waits for.
func (k *KubeFleet) Approved(t testing.TB, namespace, name string) bool {
	t.Helper()
	c := k.Condition(t, namespace, name, "Approved")
	return c != nil && c.Status == metav1.ConditionTrue
}

func (k *KubeFleet) conditions(t testing.TB, u *unstructured.Unstructured) []metav1.Condition {
	t.Helper()
	var of struct {
		Status struct {
			Conditions []metav1.Condition `json:"conditions"`
		} `json:"status"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"status": u.Object["status"]}, &of); err != nil {
		t.Fatal(err)
	}
	return of.Status.Conditions
}
