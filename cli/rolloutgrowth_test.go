package cli

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/fleet"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// The scale gate on a real control plane: nothing is known before the first node, three nodes say what all cost, with room it is
// let and without it is not, and a process that takes over knows what the one before measured.
func TestRolloutGrowthOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: filepath.Join(t.TempDir(), "lab"), Nodes: probeFrom, Pods: 200})
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
		g.add(&growthCluster{name: "large", client: client, servers: servers, account: func(ctx context.Context) (string, error) {
			return observe.Workload{Namespace: "default", Name: "agent"}.ServiceAccount(ctx, client)
		}})
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
	if err := g.Observe(t.Context(), engine.Exposure{Cluster: "large", Nodes: probeFrom}); err != nil {
		t.Fatal(err)
	}
	if f := may(g, 1); f.Verdict != verdict.Unknown {
		t.Errorf("before the first node: %+v", f)
	}
	for _, on := range []int{1, 3, 4} {
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
		if err := g.Observe(t.Context(), engine.Exposure{Cluster: "large", Nodes: probeFrom, Exposed: names, Component: jail.Component{ServiceAccount: "default/default"}}); err != nil {
			t.Fatal(err)
		}
		// The first three run under a narrower cap than those who follow.
		want := int32(observe.ProbeShares)
		if on > v1alpha1.MaxFirstStep {
			want = observe.DefaultShares
		}
		levels, err := client.FlowcontrolV1().PriorityLevelConfigurations().List(t.Context(), metav1.ListOptions{LabelSelector: "seakeep.dev/forecast"})
		if err != nil || len(levels.Items) != 1 || *levels.Items[0].Spec.Limited.NominalConcurrencyShares != want {
			t.Errorf("with %d nodes the cap is not %d shares: %+v, %v", on, want, levels, err)
		}
	}
	if f := may(g, probeFrom); f.Verdict != verdict.Pass || !f.Fresh || !strings.Contains(f.Reason, "on 30 of 30 nodes") {
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
	if f := may(again, probeFrom); f.Verdict != verdict.Fail || !f.Attributed {
		t.Errorf("without room: %+v", f)
	}
	if err := again.close(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := again.May(t.Context(), "elsewhere", 1); err == nil {
		t.Error("a cluster nobody measures is judged")
	}
}

// Bytes are judged by what a real gate counts of the component: none without it, three nodes say what all cost, and what goes round
// the gate is no sample rather than no bytes.
func TestRolloutGrowthByAGate(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: filepath.Join(t.TempDir(), "lab")})
	lane := gatetest.Open(t, l, gatetest.Options{})
	client := gatetest.Clientset(t, lane.Direct(lab.Masters))
	config := lane.Direct(lab.Masters)
	metrics, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	const answer = 20_000 // bytes, about
	grantReading(t, client)
	_, err = client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "large"}, Data: map[string]string{"x": strings.Repeat("x", answer)}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// The component asks ten times a second on each node.
	component := lab.User("system:serviceaccount:default:default", "system:serviceaccounts", "system:serviceaccounts:default")
	ask := func(config *rest.Config, nodes int) (stop func()) {
		asking, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		agent := gatetest.Clientset(t, config)
		for range nodes {
			all.Go(func() {
				tick := time.NewTicker(100 * time.Millisecond)
				defer tick.Stop()
				for {
					select {
					case <-asking.Done():
						return
					case <-tick.C:
					}
					if _, err := agent.CoreV1().ConfigMaps("default").Get(asking, "large", metav1.GetOptions{}); err != nil && asking.Err() == nil {
						t.Errorf("the component is answered %v", err)
						return
					}
				}
			})
		}
		return func() { cancel(); all.Wait() }
	}
	gate := v1alpha1.RolloutScaleGate{
		Metrics: []v1alpha1.ScaleGateMetric{v1alpha1.ScaleBytes, v1alpha1.ScaleWatches}, Capacity: map[string]float64{"Bytes": 100e6}, MaxUtilization: 0.6, MinClusterSizes: 3,
		Window: &metav1.Duration{Duration: 6 * time.Second},
	}
	change := v1alpha1.RolloutChange{DaemonSet: &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Namespace: "default", Name: "agent"}}}
	file := filepath.Join(t.TempDir(), "forecast.jsonl")
	open := func() *rolloutGrowth {
		t.Helper()
		g, err := newRolloutGrowth(gate, change, file)
		if err != nil {
			t.Fatal(err)
		}
		url, ledger := emergency.OnSocket(lane.Socket()).HTTP()
		g.add(&growthCluster{
			name: "large", client: client, servers: []observe.Server{{Name: "lab", URL: config.Host + "/metrics", Client: metrics}},
			gates:   []observe.Ledger{{Name: "gate", URL: url, Client: ledger}},
			account: func(context.Context) (string, error) { return "default/default", nil },
		})
		return g
	}
	exposed := func(n int) engine.Exposure {
		e := engine.Exposure{Cluster: "large", Nodes: 9, Component: jail.Component{ServiceAccount: "default/default"}}
		for i := range n {
			e.Exposed = append(e.Exposed, lab.NodeName(i))
		}
		return e
	}
	g := open()
	for _, on := range []int{0, 1, 3} {
		stop := ask(lane.Config(component), on)
		err := g.Observe(t.Context(), exposed(on))
		stop()
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := g.May(t.Context(), "large", 9)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("with room: %s: %s, %+v", f.Verdict, f.Reason, f.Figures)
	if f.Verdict != verdict.Pass || !strings.Contains(f.Reason, "bytes") || !strings.Contains(f.Reason, "on 9 of 9 nodes") {
		t.Errorf("with room: %+v", f)
	}
	// Three nodes asked at most thirty times a second for as long as they were measured.
	for _, s := range g.record.Samples {
		if most := float64(s.Exposed) * 10 * 1.5 * answer; s.Cost[forecast.Bytes] > most || s.Exposed > 0 && s.Cost[forecast.Bytes] < answer {
			t.Errorf("%d nodes cost %.0f B/s", s.Exposed, s.Cost[forecast.Bytes])
		}
		if _, everybodys := s.Server[forecast.Watches]; everybodys || s.Cost[forecast.Watches] != 0 {
			t.Errorf("watches are counted %v, of everybody %t", s.Cost[forecast.Watches], everybodys)
		}
	}

	// Round the gate nothing counts its bytes.
	stop := ask(lane.Direct(component), 3)
	err = g.Observe(t.Context(), exposed(3))
	stop()
	if err == nil || !strings.Contains(err.Error(), "round the gates") {
		t.Errorf("round the gate: %v", err)
	}
	if err := g.close(t.Context()); err != nil {
		t.Error(err)
	}

	// Another process finds no room, and knows why.
	gate.Capacity["Bytes"] = 100_000
	again := open()
	if f, err = again.May(t.Context(), "large", 9); err != nil || f.Verdict != verdict.Fail || !f.Attributed || !strings.Contains(f.Reason, "bytes") {
		t.Errorf("without room: %+v %v", f, err)
	}
	if err := again.close(t.Context()); err != nil {
		t.Error(err)
	}
}

// grantReading lets everybody who is known read ConfigMaps.
func grantReading(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}}
	meta := metav1.ObjectMeta{Name: "agent"}
	if _, err := client.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: meta, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := client.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.GroupKind, Name: "system:serviceaccounts"}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// A scale gate that is to judge bytes where no gate counts them is refused with its field, before anything is written.
func TestRolloutRefusesBytesWithoutAGate(t *testing.T) {
	r := &v1alpha1.Rollout{Name: "agent"}
	r.Change.DaemonSet = &v1alpha1.DaemonSetChange{}
	r.ScaleGate.Metrics = []v1alpha1.ScaleGateMetric{v1alpha1.ScaleSeats, v1alpha1.ScaleBytes}
	p := &plan.Plan{Stages: []plan.Stage{{Legs: []plan.Leg{{Cluster: "a"}, {Cluster: "b"}}}, {Legs: []plan.Leg{{Cluster: "b"}}}}}
	gates := []v1alpha1.FleetGate{{Socket: "/run/gate.sock"}}
	known := map[string]fleet.Cluster{"a": {Name: "a", Gates: gates}, "b": {Name: "b"}, "elsewhere": {Name: "elsewhere"}}
	err := refuseUncounted(r, p, known)
	if err == nil || !strings.Contains(err.Error(), "scaleGate.metrics[1]") || !strings.HasSuffix(err.Error(), "no gate of b") {
		t.Errorf("refused with %v", err)
	}
	for name, change := range map[string]func(){
		"all have gates":          func() { known["b"] = fleet.Cluster{Name: "b", Gates: gates} },
		"bytes are not judged":    func() { r.ScaleGate.Metrics = r.ScaleGate.Metrics[:1] },
		"there is no scale gate":  func() { r.ScaleGate.Mode = v1alpha1.Disabled },
		"the change has no nodes": func() { r.Change = v1alpha1.RolloutChange{Deployment: &v1alpha1.WorkloadChange{}} },
	} {
		was, had := *r, maps.Clone(known)
		change()
		if err := refuseUncounted(r, p, known); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		*r, known = was, had
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
