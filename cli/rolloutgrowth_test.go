package cli

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// The scale gate on a real control plane: nothing is known before the first node, three nodes say what all cost, with room it is
// let and without it is not, and a process that takes over knows what the one before measured.
func TestRolloutGrowthOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: filepath.Join(t.TempDir(), "lab"), Nodes: 9, Pods: 200})
	if err := l.StartAgents(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := l.RESTConfig(lab.Masters)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	servers := []observe.Server{{Name: "lab", URL: l.APIServerURL(0) + "/metrics", Client: metrics}}
	mayView(t, client)
	labels := map[string]string{"app": "agent"}
	_, err = client.AppsV1().DaemonSets("default").Create(t.Context(), &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: map[string]string{"seakeep.dev/agent-verb": "get", "seakeep.dev/agent-period": "100ms", "seakeep.dev/agent-resource": "pods"}},
			Spec:       corev1.PodSpec{NodeSelector: map[string]string{"agent": "on"}, Containers: []corev1.Container{{Name: "a", Image: "registry.example.com/a:1"}}},
		},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	gate := v1alpha1.RolloutScaleGate{
		Metrics: []v1alpha1.ScaleGateMetric{v1alpha1.ScaleRequests}, Capacity: map[string]float64{"Requests": 1000}, MaxUtilization: 0.6, MinClusterSizes: 3,
		Window: &metav1.Duration{Duration: 6 * time.Second},
	}
	change := v1alpha1.RolloutChange{DaemonSet: &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Namespace: "default", Name: "agent"}}}
	file := filepath.Join(t.TempDir(), "state", "forecast.jsonl")
	open := func(gate v1alpha1.RolloutScaleGate) *rolloutGrowth {
		t.Helper()
		g, err := newRolloutGrowth(gate, change, file)
		if err != nil {
			t.Fatal(err)
		}
		g.add("large", client, servers, func(ctx context.Context) (string, error) {
			return observe.Workload{Namespace: "default", Name: "agent"}.ServiceAccount(ctx, client)
		})
		return g
	}
	may := func(g *rolloutGrowth, nodes int) verdict.Finding {
		t.Helper()
		f, err := g.May(t.Context(), "large", nodes)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%d nodes: %s: %s", nodes, f.Verdict, f.Reason)
		return f
	}
	g := open(gate)
	if err := g.Observe(t.Context(), engine.Exposure{Cluster: "large", Nodes: 9}); err != nil {
		t.Fatal(err)
	}
	if f := may(g, 1); f.Verdict != verdict.Unknown {
		t.Errorf("before the first node: %+v", f)
	}
	for _, on := range []int{1, 3} {
		var names []string
		for n := range on {
			names = append(names, lab.NodeName(n))
			if _, err := client.CoreV1().Nodes().Patch(t.Context(), lab.NodeName(n), "application/merge-patch+json", []byte(`{"metadata":{"labels":{"agent":"on"}}}`), metav1.PatchOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		testkit.Within(t, "it runs", time.Minute, func() bool {
			ds, err := client.AppsV1().DaemonSets("default").Get(t.Context(), "agent", metav1.GetOptions{})
			return err == nil && int(ds.Status.NumberReady) == on
		})
		if err := g.Observe(t.Context(), engine.Exposure{Cluster: "large", Nodes: 9, Exposed: names, Component: jail.Component{ServiceAccount: "default/default"}}); err != nil {
			t.Fatal(err)
		}
	}
	if f := may(g, 9); f.Verdict != verdict.Pass || !f.Fresh || !strings.Contains(f.Reason, "on 9 of 9 nodes") {
		t.Errorf("with room: %+v", f)
	}
	if err := g.close(t.Context()); err != nil {
		t.Error(err)
	}
	schemas, err := client.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{LabelSelector: "seakeep.dev/forecast"})
	if err != nil || len(schemas.Items) != 0 {
		t.Errorf("%d flow schemas stay (%v)", len(schemas.Items), err)
	}

	// Another process goes on with what is in the file, and finds no room.
	gate.Capacity = map[string]float64{"Requests": 50}
	again := open(gate)
	if f := may(again, 9); f.Verdict != verdict.Fail || !f.Attributed {
		t.Errorf("without room: %+v", f)
	}
	if err := again.close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := again.May(t.Context(), "elsewhere", 1); err == nil {
		t.Error("a cluster nobody measures is judged")
	}
}

// A death, or a full disk, in the midst of a line: what is added later goes after what is whole.
func TestRolloutGrowthAfterATornLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "state", "forecast.jsonl")
	from := time.Unix(1.7e9, 0).UTC()
	sample := forecast.Sample{Cluster: "c", Nodes: 9, Exposed: 1, From: from, To: from.Add(time.Minute), Cost: map[forecast.Kind]float64{forecast.Requests: 1}}
	for n := range 4 {
		g, err := newRolloutGrowth(v1alpha1.RolloutScaleGate{}, v1alpha1.RolloutChange{}, file)
		if err != nil || len(g.record.Samples) != n {
			t.Fatalf("%d samples are read, want %d: %v", len(g.record.Samples), n, err)
		}
		if err := g.keep(sample); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(`{"cluster":"c","nod`); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
