package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// mayView lets the pods of the namespace default read.
func mayView(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	_, err := client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "default-view"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: "default", Namespace: "default"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// The verbs against a real control plane: a DaemonSet is measured where it runs, nothing stays of what it was measured with, and
// the cluster's shape is one that a lab can be built from.
func TestForecastOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: filepath.Join(t.TempDir(), "lab"), Nodes: 3, Pods: 30})
	if err := l.StartAgents(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	mayView(t, client)
	labels := map[string]string{"app": "agent"}
	_, err = client.AppsV1().DaemonSets("default").Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"seakeep.dev/agent-verb": "get", "seakeep.dev/agent-period": "100ms"}},
			Spec:       corev1.PodSpec{NodeSelector: map[string]string{"agent": "on"}, Containers: []corev1.Container{{Name: "a", Image: "registry.example.com/a:1"}}},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	kubeconfig, samples := filepath.Join(dir, "kubeconfig"), filepath.Join(dir, "samples.jsonl")
	if err := l.WriteKubeconfig(kubeconfig, lab.Admin, "", ""); err != nil {
		t.Fatal(err)
	}
	measure := func(more ...string) (int, string, string) {
		return command(t, "", append([]string{"forecast", "--kubeconfig", kubeconfig, "--workload", "daemonset/default/agent", "--cluster", "lab", "--nodes", "3",
			"--samples", samples, "--hold", "6s", "--window", "2s", "--period", "100ms"}, more...)...)
	}
	if code, stdout, stderr := measure("--dry-run"); code != ExitOK || !strings.Contains(stdout, "can be made") {
		t.Fatalf("dry run: exit code %d: %s%s", code, stdout, stderr)
	}
	if code, stdout, stderr := measure(); code != ExitFindings || !strings.Contains(stdout, "without the component only") {
		t.Fatalf("on none: exit code %d: %s%s", code, stdout, stderr)
	}
	for i, on := range []int{1, 3} {
		for n := range on {
			if _, err := client.CoreV1().Nodes().Patch(t.Context(), lab.NodeName(n), "application/merge-patch+json", []byte(`{"metadata":{"labels":{"agent":"on"}}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		testkit.Within(t, "it runs", time.Minute, func() bool {
			ds, err := client.AppsV1().DaemonSets("default").Get(t.Context(), "agent", metav1.GetOptions{})
			return err == nil && int(ds.Status.NumberReady) == on
		})
		code, stdout, stderr := measure("-o", "json")
		var report forecastReport
		if err := json.Unmarshal([]byte(stdout), &report); err != nil {
			t.Fatalf("on %d: exit code %d, %v: %s%s", on, code, err, stdout, stderr)
		}
		row := report.Clusters[0]
		requests := row.Prediction.Kinds[forecast.Requests]
		t.Logf("on %d: %s: %s", on, row.Judgement.Outcome, row.Judgement.Reason)
		if i == 1 && (requests.Unbounded || requests.Mean < 24 || requests.Mean > 32 || row.Judgement.Outcome == forecast.Fail) {
			t.Errorf("three agents that ask ten times a second: %+v, %+v", requests, row.Judgement)
		}
		if room := row.Capacity.Kinds[forecast.CPU]; room.Capacity < 1 || row.Capacity.Kinds[forecast.Seats].Capacity < 100 {
			t.Errorf("the API server has %+v", row.Capacity)
		}
	}
	schemas, err := client.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{LabelSelector: "seakeep.dev/forecast"})
	if err != nil || len(schemas.Items) != 0 {
		t.Errorf("%d flow schemas stay (%v)", len(schemas.Items), err)
	}

	// Every cluster of the fleet is asked about with the room it has; one that does not answer is Unknown.
	members := filepath.Join(dir, "fleet.yaml")
	nowhere := filepath.Join(dir, "nowhere")
	if err := l.WriteKubeconfig(nowhere, lab.Admin, "https://127.0.0.1:1", l.CAFile()); err != nil {
		t.Fatal(err)
	}
	text := "apiVersion: seakeep.dev/v1alpha1\nkind: Fleet\nname: all\nclusters:\n- {name: lab, kubeconfig: " + kubeconfig + "}\n- {name: gone, kubeconfig: " + nowhere + "}\n"
	if err := os.WriteFile(members, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := command(t, "", "forecast", "--samples", samples, "--period", "100ms", "--cluster", "lab", "--fleet", members, "-o", "json")
	var asked forecastReport
	if err := json.Unmarshal([]byte(stdout), &asked); err != nil || code != ExitFindings || len(asked.Clusters) != 2 {
		t.Fatalf("the fleet: exit code %d, %v: %s%s", code, err, stdout, stderr)
	}
	if gone := asked.Clusters[1]; gone.Cluster != "gone" || gone.Judgement.Outcome != forecast.Unknown || !strings.Contains(gone.Judgement.Reason, "cannot be read") {
		t.Errorf("%+v", gone)
	}

	// The API server counts each kind of object once a minute.
	file := filepath.Join(dir, "shape.yaml")
	var shaped string
	shape := &v1alpha1.ClusterShape{}
	testkit.Within(t, "a shape", 2*time.Minute, func() bool {
		code, stdout, _ := command(t, "", "forecast", "shape", "--kubeconfig", kubeconfig, "--for", "1s")
		if code != ExitOK {
			return false
		}
		shaped = stdout
		if err := os.WriteFile(file, []byte(shaped), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if shape, _, err = config.LoadKind[*v1alpha1.ClusterShape](file, nil); err != nil {
			t.Fatal(err)
		}
		return shape.Count("", "pods") >= 30
	})
	if shape.Count("", "nodes") != 3 || shape.Count("", "pods") < 30 || bytes.Contains([]byte(shaped), []byte("agent")) {
		t.Errorf("the shape:\n%s", shaped)
	}
	var f labUpFlags
	f.shape, f.options.Dir = file, dir
	if err := f.parse(); err != nil || f.options.Nodes != 3 || f.options.Pods < 30 || f.options.PodBytes < 2000 {
		t.Errorf("a lab of it: %+v %v", f.options, err)
	}
}
