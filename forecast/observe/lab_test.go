package observe

import (
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/lab/agents"
	"github.com/seakeep/seakeep/signals"
)

// install makes a DaemonSet of agents that LIST all pods, on the nodes that carry its label.
func install(t *testing.T, client kubernetes.Interface, annotations map[string]string) {
	t.Helper()
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	meta := metav1.ObjectMeta{Name: "telemetry", Namespace: "telemetry"}
	_, err := client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: meta.Namespace}}, metav1.CreateOptions{})
	must(err)
	_, err = client.CoreV1().ServiceAccounts(meta.Namespace).Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
	must(err)
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "telemetry"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: meta.Name, Namespace: meta.Namespace}},
	}, metav1.CreateOptions{})
	must(err)
	labels := map[string]string{"app": "telemetry"}
	_, err = client.AppsV1().DaemonSets(meta.Namespace).Create(ctx, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: labels},
		Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
			Spec: corev1.PodSpec{
				ServiceAccountName: meta.Name, NodeSelector: map[string]string{"telemetry": "on"},
				Containers: []corev1.Container{{Name: "agent", Image: "registry.example.com/telemetry:1"}},
			},
		},
	}}, metav1.CreateOptions{})
	must(err)
}

func enrol(t *testing.T, client kubernetes.Interface, nodes ...int) {
	t.Helper()
	for _, i := range nodes {
		_, err := client.CoreV1().Nodes().Patch(t.Context(), lab.NodeName(i), "application/merge-patch+json", []byte(`{"metadata":{"labels":{"telemetry":"on"}}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// What one and three nodes cost is counted on a real API server by a flow schema of the component's own, and from it follows
// what six cost.
func TestFlowInTheLab(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 6, Pods: 300})
	if err := l.StartAgents(t.Context()); err != nil {
		t.Fatal(err)
	}
	config := l.RESTConfig(lab.Admin)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	install(t, client, map[string]string{agents.AnnotationVerb: "list", agents.AnnotationPeriod: "250ms", agents.AnnotationJitter: "0"})
	workload, err := ParseWorkload("daemonset/telemetry/telemetry")
	if err != nil {
		t.Fatal(err)
	}
	account, err := workload.ServiceAccount(t.Context(), client)
	if err != nil || account != "telemetry/telemetry" {
		t.Fatalf("%q %v", account, err)
	}
	schema := Schema{ServiceAccount: account, Shares: DefaultShares, For: time.Hour}
	if err := schema.Install(t.Context(), client, true); err != nil {
		t.Fatal(err)
	}
	if _, err := client.FlowcontrolV1().FlowSchemas().Get(t.Context(), schema.Name(), metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("a dry run wrote it: %v", err)
	}
	if err := schema.Install(t.Context(), client, false); err != nil {
		t.Fatal(err)
	}
	meter := &Flow{Servers: []Server{{Name: "kube-apiserver", URL: l.APIServerURL(0) + "/metrics", Client: metrics}}, Schema: schema.Name(), Level: schema.Name()}
	place := &DaemonSet{Client: client, Cluster: "lab", Workload: workload, Servers: meter.Servers, Counted: signals.Resource{Resource: "pods"}}
	var samples []forecast.Sample
	// The API server counts its objects once a minute, and learns of the level within moments.
	said := ""
	testkit.Within(t, "the API server counts nodes, and has the level", 2*time.Minute, func() bool {
		e, err := place.Exposure(t.Context())
		if err == nil {
			_, err = meter.Mark(t.Context())
		}
		if now := fmt.Sprint(e, err); now != said {
			said = now
			t.Log(said)
		}
		return err == nil && e.Nodes == 6 && e.Objects >= 300
	})
	measure := func(exposed, windows int) (mean float64) {
		t.Helper()
		testkit.Within(t, "the nodes run it", time.Minute, func() bool {
			e, err := place.Exposure(t.Context())
			return err == nil && e.Exposed == exposed
		})
		n := 0
		err := Samples(t.Context(), meter, place, Hold{Window: 3 * time.Second, Windows: windows, Skip: func(why string) { t.Log(why) }}, func(s forecast.Sample) {
			n++
			mean += s.Cost[forecast.Seats]
			if n > 1 || exposed == 0 { // what started is in the first
				samples = append(samples, s)
			}
			t.Logf("%d nodes: %v %v %s", s.Exposed, s.Cost, s.Server, s.Censored)
		})
		if err != nil || n == 0 {
			t.Fatalf("%d samples, %v", n, err)
		}
		return mean / float64(n)
	}
	measure(0, 2)
	enrol(t, client, 0)
	measure(1, 5)
	enrol(t, client, 1, 2)
	measure(3, 5)
	model, err := forecast.Fit(samples, forecast.Options{Window: 9 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	p := model.Predict(forecast.At{Cluster: "lab", Nodes: 6})
	enrol(t, client, 3, 4, 5)
	seats := measure(6, 4)
	requests := p.Kinds[forecast.Requests]
	if requests.Unbounded || requests.Mean < 22 || requests.Mean > 26 {
		t.Errorf("six agents that ask four times a second are predicted to ask %+v", requests)
	}
	// How long a request holds its seat is a matter of what else the machine does: how near this comes, bench/forecast measures.
	t.Logf("predicted %+v, measured %.4f", p.Kinds[forecast.Seats], seats)
	if i := p.Kinds[forecast.Seats]; i.Unbounded || i.Mean <= 0 || seats <= 0 {
		t.Errorf("seats predicted %+v, measured %.4f", i, seats)
	}
	j := forecast.Judge(p, forecast.Capacity{Kinds: map[forecast.Kind]forecast.Room{forecast.Seats: {Capacity: 100}}})
	if j.Outcome != forecast.Pass || !strings.Contains(j.Reason, "seats") {
		t.Errorf("%+v", j)
	}
	if removed, err := Sweep(t.Context(), client, time.Now()); err != nil || len(removed) > 0 {
		t.Errorf("swept before its time: %v %v", removed, err)
	}
	if removed, err := Sweep(t.Context(), client, time.Now().Add(2*time.Hour)); err != nil || len(removed) != 1 {
		t.Errorf("not swept after it: %v %v", removed, err)
	}
	if err := schema.Remove(t.Context(), client); err != nil {
		t.Errorf("removing what is gone: %v", err)
	}
	_, err = client.FlowcontrolV1().PriorityLevelConfigurations().Get(t.Context(), schema.Name(), metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the level stays: %v", err)
	}
}
