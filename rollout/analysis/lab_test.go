package analysis

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

const interval = 300 * time.Millisecond

// analysisOf are the defaults for an interval, with a change.
func analysisOf(t *testing.T, change func(*v1alpha1.RolloutAnalysis)) v1alpha1.RolloutAnalysis {
	t.Helper()
	r := v1alpha1.RolloutAnalysis{ConsecutiveLooks: 3, MaxDataAge: &metav1.Duration{Duration: 5 * time.Second}}
	if change != nil {
		change(&r)
	}
	r.SetDefaults(interval)
	return r
}

// rig is a lab with a DaemonSet under OnDelete, whose second revision runs on one node.
type rig struct {
	t      *testing.T
	lab    *lab.Lab
	client *kubernetes.Clientset
	etcd   []string // its members' URLs
	set    *appsv1.DaemonSet
	update *corev1.Pod
}

func start(t *testing.T) *rig {
	t.Helper()
	var etcd []string
	l := lab.Start(t, lab.Options{Nodes: 5, Pods: 20, Dir: t.TempDir(), EtcdServers: func(_ int, members []string) []string { etcd = members; return members }})
	config := l.RESTConfig(lab.Masters)
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, lab: l, client: client, etcd: etcd}
	labels := map[string]string{"app": "agent"}
	r.set, err = client.AppsV1().DaemonSets("default").Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent"},
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: labels},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.OnDeleteDaemonSetStrategyType},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				Containers: []corev1.Container{{Name: "agent", Image: "agent:1"}}, Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
			}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var pods []corev1.Pod
	testkit.Within(t, "the DaemonSet runs on 5 nodes", 30*time.Second, func() bool { pods = r.ready(); return len(pods) == 5 })
	old := pods[0].Labels[appsv1.ControllerRevisionHashLabelKey]
	patch := []byte(`{"spec":{"template":{"spec":{"containers":[{"name":"agent","image":"agent:2"}]}}}}`)
	if _, err := client.AppsV1().DaemonSets("default").Patch(t.Context(), "agent", types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Pods("default").Delete(t.Context(), pods[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "one node has the second revision", 30*time.Second, func() bool {
		pods := r.ready()
		i := slices.IndexFunc(pods, func(p corev1.Pod) bool { return p.Labels[appsv1.ControllerRevisionHashLabelKey] != old })
		if i < 0 || len(pods) != 5 {
			return false
		}
		r.update = &pods[i]
		return true
	})
	return r
}

func (r *rig) ready() []corev1.Pod {
	pods, err := r.client.CoreV1().Pods("default").List(r.t.Context(), metav1.ListOptions{LabelSelector: "app=agent"})
	if err != nil {
		r.t.Fatal(err)
	}
	return slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return !readyPod(&p) || p.DeletionTimestamp != nil })
}

func (r *rig) cluster() Cluster {
	r.t.Helper()
	config := r.lab.RESTConfig(lab.Masters)
	servers, err := ServersOf(config, strings.TrimPrefix(r.lab.APIServerURL(0), "https://"))
	if err != nil {
		r.t.Fatal(err)
	}
	key := func(name string) string { return filepath.Join(r.lab.PKI().Dir, name) }
	etcd, err := EtcdOf(&rest.Config{TLSClientConfig: rest.TLSClientConfig{CertFile: key("apiserver-etcd.crt"), KeyFile: key("apiserver-etcd.key"), CAFile: key("etcd-ca.crt")}}, r.etcd...)
	if err != nil {
		r.t.Fatal(err)
	}
	return Cluster{Name: "lab", Config: config, Servers: servers, Etcd: etcd, Workload: Labelled{
		Client: r.client, Namespace: "default", Selector: "app=agent", Label: appsv1.ControllerRevisionHashLabelKey,
	}}
}

func (r *rig) analyst(a v1alpha1.RolloutAnalysis, file string, clusters ...Cluster) *Analyst {
	r.t.Helper()
	analyst, err := New(Options{Analysis: a, Interval: interval, File: file, Clusters: clusters, Log: slog.New(slog.NewTextHandler(r.t.Output(), nil))})
	if err != nil {
		r.t.Fatal(err)
	}
	return analyst
}

// runs lets an analyst measure until it is stopped.
func (r *rig) runs(a *Analyst) (stop func()) {
	ctx, cancel := context.WithCancel(r.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	return sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			r.t.Error(err)
		}
	})
}

// looks looks until the verdict is this, and returns how many looks that took.
func (r *rig) looks(a *Analyst, e engine.Exposure, want verdict.Verdict, within time.Duration) (look verdict.Look, n int) {
	r.t.Helper()
	defer func() {
		for _, f := range look.Findings {
			r.t.Logf("%-26s %-8s %s", f.Check, f.Verdict, f.Reason)
		}
	}()
	var at time.Time
	testkit.Within(r.t, fmt.Sprintf("the verdict is %s", want), within, func() bool {
		var err error
		look, err = a.Look(r.t.Context(), e)
		if err != nil {
			r.t.Fatal(err)
		}
		if !look.At.Equal(at) {
			at = look.At
			n++
		}
		return look.Verdict == want
	})
	return look, n
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

func failing(l verdict.Look) []string {
	var names []string
	for _, f := range l.Findings {
		if f.Verdict == verdict.Fail {
			names = append(names, f.Check)
		}
	}
	return names
}

func TestLookOnALab(t *testing.T) {
	r := start(t)
	dns, err := r.lab.StartDNS(t.Context(), lab.DNSOptions{Replicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	cluster := r.cluster()
	cluster.DNS = dns.ClusterAddrs
	analyst := r.analyst(analysisOf(t, func(a *v1alpha1.RolloutAnalysis) {
		a.Workload.ReadyWithin = &metav1.Duration{Duration: time.Second}
	}), "", cluster)
	defer r.runs(analyst)()
	testkit.Within(t, "there is a time before the change", 20*time.Second, func() bool {
		c := analyst.clusters["lab"]
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.history) >= 8
	})
	exposed := engine.Exposure{Cluster: "lab", Stage: "s", Step: 1, Nodes: 5, Planned: 1, Exposed: []string{r.update.Spec.NodeName}, Since: time.Now(), Ready: time.Now(), UpdateRevision: r.update.Labels[appsv1.ControllerRevisionHashLabelKey]}

	t.Run("before the change nodes are asked what they are asked with it, where that is wanted", func(t *testing.T) {
		r.t = t
		asked := func(ahead bool, e engine.Exposure) (nodes map[string]int) {
			var mu sync.Mutex
			nodes = map[string]int{}
			over := r.cluster()
			over.Config = rest.CopyConfig(over.Config)
			over.Config.Wrap(func(next http.RoundTripper) http.RoundTripper {
				return roundTripper(func(q *http.Request) (*http.Response, error) {
					mu.Lock()
					if on, ok := strings.CutPrefix(q.URL.Query().Get("fieldSelector"), "spec.nodeName="); ok {
						nodes["pods of "+on]++
					} else if on, ok := strings.CutPrefix(q.URL.Path, "/api/v1/nodes/"); ok {
						nodes[on]++
					}
					mu.Unlock()
					return next.RoundTrip(q)
				})
			})
			a, err := New(Options{Analysis: analysisOf(t, nil), Interval: interval, Ahead: ahead, Clusters: []Cluster{over}})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := a.Look(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			return nodes
		}
		with, before := asked(true, exposed), engine.Exposure{Cluster: "lab", Nodes: 5}
		if len(with) != 10 {
			t.Errorf("with the change: %v, want 5 nodes and the pods of each", with)
		}
		if diff := cmp.Diff(with, asked(true, before)); diff != "" {
			t.Errorf("before it (-with +before)\n%s", diff)
		}
		if n := asked(false, before); len(n) != 0 {
			t.Errorf("before it, where nothing needs that: %v", n)
		}
	})
	t.Run("a good change passes, and not at the first look", func(t *testing.T) {
		r.t = t
		first, err := analyst.Look(t.Context(), exposed)
		if err != nil || first.Verdict != verdict.Unknown {
			t.Errorf("the first look is %s, %v", first.Verdict, err)
		}
		look, _ := r.looks(analyst, exposed, verdict.Pass, 20*time.Second)
		for _, check := range []string{verdict.CheckReady, checkCPU, checkRejected, checkEtcdLatency, checkEtcdLeader, checkInFlight, checkDNS, "probes.connect", "probes.list", "probes.createPod", "workload.ready", "workload.nodes", "workload.neighbours"} {
			if !slices.ContainsFunc(look.Findings, func(f verdict.Finding) bool { return f.Check == check && f.Verdict == verdict.Pass }) {
				t.Errorf("nothing was found about %s", check)
			}
		}
	})

	t.Run("a crash loop fails and is the change's", func(t *testing.T) {
		r.t = t
		r.patchPod(r.update.Name, func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].RestartCount = 4
			p.Status.ContainerStatuses[0].Ready = false
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
			for i := range p.Status.Conditions {
				if p.Status.Conditions[i].Type == corev1.PodReady {
					p.Status.Conditions[i].Status = corev1.ConditionFalse
				}
			}
		})
		look, n := r.looks(analyst, exposed, verdict.Fail, 20*time.Second)
		if got := failing(look); !slices.Contains(got, "workload.ready") || !slices.Contains(got, "workload.restarts") || !look.Attributed() {
			t.Errorf("failed %v, attributed %t", got, look.Attributed())
		}
		if n < 3 {
			t.Errorf("it took %d looks", n)
		}
		r.patchPod(r.update.Name, func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].RestartCount = 0
			p.Status.ContainerStatuses[0].State = corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
			for i := range p.Status.Conditions {
				p.Status.Conditions[i].Status = corev1.ConditionTrue
			}
		})
		r.looks(analyst, exposed, verdict.Pass, 20*time.Second)
	})

	t.Run("a node that falls sick under the change", func(t *testing.T) {
		r.t = t
		r.patchNode(r.update.Spec.NodeName, corev1.NodeMemoryPressure, corev1.ConditionTrue)
		look, _ := r.looks(analyst, exposed, verdict.Fail, 20*time.Second)
		if got := failing(look); !slices.Contains(got, "workload.nodes") {
			t.Errorf("failed %v", got)
		}
		r.patchNode(r.update.Spec.NodeName, corev1.NodeMemoryPressure, corev1.ConditionFalse)
		r.looks(analyst, exposed, verdict.Pass, 20*time.Second)
	})

	t.Run("one DNS server of two is gone", func(t *testing.T) {
		r.t = t
		if err := dns.Cluster[1].Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		look, _ := r.looks(analyst, exposed, verdict.Fail, 40*time.Second)
		if got := failing(look); !slices.Equal(got, []string{checkDNS}) {
			t.Errorf("failed %v", got)
		}
		if err := dns.Cluster[1].Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.looks(analyst, exposed, verdict.Pass, 20*time.Second)
	})

	t.Run("an API server that hangs fails at once, and nobody is blamed", func(t *testing.T) {
		r.t = t
		server, _ := r.lab.Process(lab.KindAPIServer)
		if err := server.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := server.Signal(syscall.SIGCONT); err != nil {
				t.Error(err)
			}
		}()
		look, _ := r.looks(analyst, exposed, verdict.Fail, time.Minute)
		if got := failing(look); !slices.Contains(got, verdict.CheckReady) || look.Attributed() {
			t.Errorf("failed %v, attributed %t", got, look.Attributed())
		}
		if !look.ControlPlaneFails() {
			t.Error("the control plane does not count as failing")
		}
	})
}

// DNS was well before the change, says a process that was killed: so what breaks after its death is the change's. Who has measured
// nothing before it cannot say so.
func TestRestartOnALab(t *testing.T) {
	r := start(t)
	dns, err := r.lab.StartDNS(t.Context(), lab.DNSOptions{Replicas: 2})
	if err != nil {
		t.Fatal(err)
	}
	cluster := r.cluster()
	cluster.DNS = dns.ClusterAddrs
	spec := analysisOf(t, func(a *v1alpha1.RolloutAnalysis) { a.Workload.ReadyWithin = &metav1.Duration{Duration: time.Second} })
	file := filepath.Join(t.TempDir(), "state", "readings.jsonl")
	first := r.analyst(spec, file, cluster)
	stop := r.runs(first)
	defer stop()
	testkit.Within(t, "there is a time before the change", 20*time.Second, func() bool {
		c := first.clusters["lab"]
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.history) >= 8
	})
	exposed := engine.Exposure{Cluster: "lab", Stage: "s", Step: 1, Nodes: 5, Planned: 1, Exposed: []string{r.update.Spec.NodeName}, Since: time.Now(), Ready: time.Now(), UpdateRevision: r.update.Labels[appsv1.ControllerRevisionHashLabelKey]}
	r.looks(first, exposed, verdict.Pass, 30*time.Second)
	stop()

	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r.t.Logf("a reading is %d bytes, as: %s", len(data)/max(1, bytes.Count(data, []byte("\n"))), data[bytes.LastIndexByte(data[:len(data)-1], '\n')+1:])
	second, blank := r.analyst(spec, file, cluster), r.analyst(spec, "", cluster)
	before, _ := second.clusters["lab"].split(time.Now())
	if len(before) < 7 || len(values(before, checkCPU)) == 0 || second.clusters["lab"].exposedAt.IsZero() {
		t.Fatalf("%d readings from before the change, which came at %s", len(before), second.clusters["lab"].exposedAt)
	}
	if look, err := second.Look(t.Context(), exposed); err != nil || look.Verdict != verdict.Unknown {
		t.Errorf("the first look after the restart: %s: %s, %v", look.Verdict, look.Why(), err)
	}
	r.looks(second, exposed, verdict.Pass, 30*time.Second)
	if err := dns.Cluster[1].Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		*Analyst
		own bool
	}{"who knows what was before": {second, true}, "who does not": {blank, false}} {
		look, _ := r.looks(tc.Analyst, exposed, verdict.Fail, 40*time.Second)
		if got := failing(look); !slices.Equal(got, []string{checkDNS}) || look.Attributed() != tc.own {
			t.Errorf("%s: failed %v, attributed %t", name, got, look.Attributed())
		}
	}
}

func (r *rig) patchPod(name string, change func(*corev1.Pod)) {
	r.t.Helper()
	pod, err := r.client.CoreV1().Pods("default").Get(r.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	change(pod)
	if _, err := r.client.CoreV1().Pods("default").UpdateStatus(r.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) patchNode(name string, condition corev1.NodeConditionType, status corev1.ConditionStatus) {
	r.t.Helper()
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"conditions": []map[string]any{{"type": condition, "status": status, "lastTransitionTime": metav1.Now(), "reason": "Test"}}}})
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.client.CoreV1().Nodes().PatchStatus(r.t.Context(), name, patch); err != nil {
		r.t.Fatal(err)
	}
}
