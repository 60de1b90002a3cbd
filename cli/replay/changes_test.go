package replay

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/catalog"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// everyChange is a change that does all harm there is.
const everyChange = `apiVersion: seakeep.dev/v1alpha1
kind: Drill
name: every-change
title: A change that does all harm there is
target: {kind: Lab}
parameters: {nodes: 5, pods: 20, factor: 1}
fixtures: {services: 2, agent: true}
phases: [{name: baseline, at: -1s}, {name: change, at: 0s}]
timeline:
- name: new-version
  at: 0s
  action: {update: {version: "1", nodes: 2, annotations: {seakeep.dev/agent-verb: get, seakeep.dev/agent-period: 100ms}}}
- {name: sick-pods, after: new-version, action: {podStatus: {of: new-version, state: CrashLoop}}}
- {name: sick-nodes, after: new-version, action: {nodeCondition: {of: new-version, type: MemoryPressure}}}
- {name: sick-neighbours, after: new-version, action: {neighbours: {of: new-version}}}
- {name: slow-writes, after: new-version, action: {webhook: {delay: 300ms}}}
- {name: no-dns, after: new-version, action: {component: {name: dns-1, op: Stop}}}
probes: [{admin: {}}]
end: {at: 10m}
`

// world is what a test sees of a lab that a change harms.
type world struct {
	t      *testing.T
	lab    *lab.Lab
	client *kubernetes.Clientset
}

func (w world) pods(ctx context.Context, namespace string) []corev1.Pod {
	w.t.Helper()
	list, err := w.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

func ready(p corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
}

// changed are the nodes that run the change, and how many of its pods are reported to crash.
func (w world) changed(ctx context.Context, namespace string) (nodes map[string]bool, crashing int) {
	nodes = map[string]bool{}
	for _, p := range w.pods(ctx, namespace) {
		if p.Spec.Containers[0].Image != fixtures.AgentImage("1") {
			continue
		}
		nodes[p.Spec.NodeName] = true
		if s := p.Status.ContainerStatuses; len(s) > 0 && s[0].State.Waiting != nil && s[0].RestartCount > 0 && !ready(p) {
			crashing++
		}
	}
	return nodes, crashing
}

// sick are the nodes that are reported to be.
func (w world) sick(ctx context.Context) map[string]bool {
	w.t.Helper()
	list, err := w.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	sick := map[string]bool{}
	for _, n := range list.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeMemoryPressure && c.Status == corev1.ConditionTrue {
				sick[n.Name] = true
			}
		}
	}
	return sick
}

// neighbours counts the pods of the cluster's own on nodes that are ready, and that are not.
func (w world) neighbours(ctx context.Context, on map[string]bool, namespace string) (well, bad int) {
	for _, p := range w.pods(ctx, "") {
		switch {
		case !on[p.Spec.NodeName] || p.Namespace == namespace:
		case ready(p):
			well++
		default:
			bad++
		}
	}
	return well, bad
}

func (w world) dnsRuns() bool {
	p, ok := w.lab.Process(lab.KindDNS + "-1")
	return ok && p.PID() != 0
}

func TestEveryChangeOnALab(t *testing.T) {
	d, _, err := config.LoadKind[*v1alpha1.Drill]("-", strings.NewReader(everyChange))
	if err != nil {
		t.Fatal(err)
	}
	l := lab.Start(t, lab.Options{Nodes: d.Parameters.Nodes, Pods: *d.Parameters.Pods, Dir: filepath.Join(t.TempDir(), "lab")})
	target := &labTarget{lab: l, serving: 1}
	if err := fixtures.Prepare(t.Context(), d, target); err != nil {
		t.Fatal(err)
	}
	if err := target.startDNS(t.Context(), d, None); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAgents(t.Context()); err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		t.Fatal(err)
	}
	rollouttest.DaemonSet(t, client, "default", "neighbour", d.Parameters.Nodes) // the scheduler need not give every node one
	w, ctx, ns := world{t: t, lab: l, client: client}, t.Context(), d.Fixtures.Namespace

	playing, stop := context.WithCancel(ctx)
	var result *drill.Result
	progress := make(chan string, 100)
	ended := make(chan error, 1)
	go func() {
		defer close(ended)
		var err error
		result, err = drill.Run(playing, d, target, drill.Options{
			NewAction: catalog.NewAction, NewProbe: catalog.NewProbe, Progress: func(line string) {
				select {
				case progress <- line:
				default:
				}
			},
		})
		ended <- err
	}()
	var seen string // when it was last looked
	defer func() {
		stop()
		for range ended {
		}
		if !t.Failed() {
			return
		}
		t.Log("seen last: " + seen)
		close(progress)
		for line := range progress {
			t.Log(line)
		}
	}()
	webhooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	var nodes map[string]bool
	testkit.Within(t, "two nodes run a change that harms all it can", time.Minute, func() bool {
		var crashing int
		nodes, crashing = w.changed(ctx, ns)
		well, bad := w.neighbours(ctx, nodes, ns)
		_, err := webhooks.Get(ctx, "seakeep-drill", metav1.GetOptions{})
		stats, asked := l.AgentStats(ctx)
		seen = fmt.Sprintf("changed %v, %d crash, neighbours %d well and %d not, webhook: %v, DNS runs: %t, agents: %+v, %v", nodes, crashing, well, bad, err, w.dnsRuns(), stats, asked)
		return len(nodes) == 2 && crashing == 2 && well == 0 && bad > 0 && err == nil && !w.dnsRuns() && asked == nil && stats.OK > 0
	})
	if sick := w.sick(ctx); !maps.Equal(sick, nodes) {
		t.Errorf("the nodes %v are sick, and %v run the change", sick, nodes)
	}
	began := time.Now()
	if _, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "slow"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 300*time.Millisecond {
		t.Errorf("a write took %v with a webhook of 300 ms", took)
	}

	// The nodes' kubelets report what they believe; the drill does so again.
	for node := range nodes {
		patch := []byte(`{"status": {"conditions": [{"type": "MemoryPressure", "status": "False"}]}}`)
		if _, err := client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Within(t, "the nodes are sick again", time.Minute, func() bool { return maps.Equal(w.sick(ctx), nodes) })

	// One node is rid of the change: its harm goes, and that of the other stays.
	w.takeBackOne(ctx, ns)
	testkit.Within(t, "a node without the change is well again", time.Minute, func() bool {
		left, _ := w.changed(ctx, ns)
		healed := map[string]bool{}
		for node := range nodes {
			if !left[node] {
				healed[node] = true
			}
		}
		_, bad := w.neighbours(ctx, healed, ns)
		return len(left) == 1 && maps.Equal(w.sick(ctx), left) && bad == 0
	})

	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if len(result.Problems) > 0 {
		t.Errorf("problems: %q", result.Problems)
	}
	if sick := w.sick(ctx); len(sick) > 0 {
		t.Errorf("the nodes %v are sick after the drill", sick)
	}
	if _, err := webhooks.Get(ctx, "seakeep-drill", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the webhook is there after the drill: %v", err)
	}
	if !w.dnsRuns() {
		t.Error("DNS does not run after the drill")
	}
	testkit.Within(t, "the neighbours are well again", time.Minute, func() bool {
		_, bad := w.neighbours(ctx, nodes, ns)
		return bad == 0
	})
}

// takeBackOne puts the old version back on one node of the change.
func (w world) takeBackOne(ctx context.Context, ns string) {
	w.t.Helper()
	_, err := w.client.AppsV1().DaemonSets(ns).Patch(ctx, fixtures.Agent, types.ApplyPatchType, fixtures.AgentVersion(ns, v1alpha1.AgentVersion, nil), metav1.PatchOptions{FieldManager: fixtures.AgentManager, Force: new(true)})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, p := range w.pods(ctx, ns) {
		if p.Spec.Containers[0].Image == fixtures.AgentImage("1") {
			if err := w.client.CoreV1().Pods(ns).Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
				w.t.Fatal(err)
			}
			return
		}
	}
	w.t.Fatal("no node runs the change")
}
