package replay

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/lab/agents"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
)

// processRollout is the rollout's name among the lab's processes.
const processRollout = "rollout"

// countEvery is how often it is counted on how many nodes the change is.
const countEvery = 500 * time.Millisecond

// rollouts carries changes out as `seakeep rollout run` does, instead of applying them at once. One for a run.
type rollouts struct {
	executable string
	scenario   *v1alpha1.Drill
	// small is the change with its cost made small.
	small bool
	// dns are the cluster's DNS servers.
	dns []string

	began   time.Time
	stateOf string
	process *lab.Process

	counting sync.WaitGroup
	stop     context.CancelFunc
	mu       sync.Mutex
	exposed  map[string]bool // nodes that ever had a pod of the change
	looked   time.Time       // by over
}

// bakes is how long a rollout is watched at most, in incident time: it holds each of seven steps for longer than the caches live.
const bakes = 10 * time.Hour

// rolledOut is the scenario as it goes when the change is rolled out in steps: there is nothing that an operator would have to
// delete, and it is over when the rollout is, for whose nodes an update waits.
func rolledOut(d *v1alpha1.Drill) *v1alpha1.Drill {
	own := *d
	gone := map[string]bool{}
	own.Timeline = slices.DeleteFunc(slices.Clone(d.Timeline), func(s v1alpha1.DrillStep) bool {
		gone[s.Name] = s.Mitigates || gone[s.After]
		return gone[s.Name]
	})
	for i := range own.Timeline {
		if own.Timeline[i].Action.Update != nil {
			own.Timeline[i].Timeout = &metav1.Duration{Duration: bakes}
		}
	}
	own.Phases = slices.DeleteFunc(slices.Clone(d.Phases), func(p v1alpha1.DrillPhase) bool { return p.After != "" })
	own.End = v1alpha1.DrillEnd{At: metav1.Duration{Duration: bakes}}
	return &own
}

// RollOut implements drill.RollerOut: a DaemonSet that is to be applied is rolled out, with what stands beside it.
func (t *labTarget) RollOut(ctx context.Context, manifests []string) (bool, error) {
	if t.rollouts == nil {
		return false, nil
	}
	t.rollouts.dns = t.dns.Cluster
	return t.rollouts.begin(ctx, t.lab, manifests)
}

// RolledOut implements drill.RollerOut.
func (t *labTarget) RolledOut() bool { return t.rollouts != nil && t.rollouts.over() }

// makeSmall is what the change's author could have done: an agent reads its own node's pods. What it does and how often stays.
func makeSmall(set *unstructured.Unstructured) error {
	return unstructured.SetNestedField(set.Object, agents.ScopeNode, "spec", "template", "metadata", "annotations", agents.AnnotationScope)
}

func (r *rollouts) begin(ctx context.Context, l *lab.Lab, manifests []string) (bool, error) {
	var set *unstructured.Unstructured
	var beside []map[string]any
	for _, text := range manifests {
		object := map[string]any{}
		if err := yaml.UnmarshalStrict([]byte(text), &object); err != nil {
			return true, fmt.Errorf("reading a manifest: %w", err)
		}
		if u := (&unstructured.Unstructured{Object: object}); u.GetKind() == "DaemonSet" {
			set = u
			continue
		}
		beside = append(beside, object)
	}
	if set == nil {
		return false, nil
	}
	if r.small {
		if err := makeSmall(set); err != nil {
			return true, fmt.Errorf("making the change's cost small: %w", err)
		}
	}
	dir := filepath.Join(l.Dir(), processRollout)
	r.stateOf = filepath.Join(dir, "state")
	if err := os.MkdirAll(r.stateOf, 0o700); err != nil {
		return true, err
	}
	url, caFile := l.Server()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.Admin, url, caFile); err != nil {
		return true, err
	}
	host, err := hostOf(l.APIServerURL(0))
	if err != nil {
		return true, err
	}
	file := filepath.Join(dir, "rollout.yaml")
	if err := os.WriteFile(file, r.files(set, beside, kubeconfig, host), 0o600); err != nil {
		return true, err
	}
	if err := r.count(l, set); err != nil {
		return true, err
	}
	r.mu.Lock()
	r.began = time.Now()
	r.mu.Unlock()
	r.process, err = l.Run(ctx, lab.ProcessSpec{Name: processRollout, Path: r.executable, Args: []string{
		"rollout", "run", "-f", file, "--state-dir", r.stateOf, "--every", "500ms",
	}})
	return true, err
}

// files are the Rollout and the Fleet, as a user would write them. What caches and people take is divided by the factor; what
// machines take is not.
func (r *rollouts) files(set *unstructured.Unstructured, beside []map[string]any, kubeconfig, server string) []byte {
	ttl := time.Duration(float64(r.scenario.DNS.TTL.Duration) / r.scenario.Parameters.Factor)
	const interval = 2 * time.Second
	// Three periods of an agent that asks every ten seconds: the forecast wants two requests of each node after its start, and in
	// two periods a single node was seen to make one.
	window := metav1.Duration{Duration: 35 * time.Second}
	fleet := v1alpha1.Fleet{TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindFleet}, Name: "replay"}
	fleet.Clusters = []v1alpha1.FleetCluster{{Name: "largest", Labels: map[string]string{"stage": "production"}, Kubeconfig: kubeconfig, Servers: []string{server}, DNS: r.dns}}
	template, _, _ := unstructured.NestedMap(set.Object, "spec", "template") // what is wrong with it the rollout says
	rollout := v1alpha1.Rollout{TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRollout}, Name: set.GetName()}
	rollout.Change.Manifests = beside
	rollout.Change.DaemonSet = &v1alpha1.DaemonSetChange{}
	rollout.Change.DaemonSet.Namespace, rollout.Change.DaemonSet.Name = set.GetNamespace(), set.GetName()
	if _, whole, _ := unstructured.NestedMap(set.Object, "spec", "selector"); whole {
		rollout.Change.DaemonSet.Install, rollout.Change.DaemonSet.Template = &v1alpha1.DaemonSetInstall{}, template
	} else { // a new version of one that is there
		rollout.Change.DaemonSet.Patch = template
	}
	rollout.Stages = []v1alpha1.RolloutStage{{Name: "production", LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"stage": "production"}}}}
	rollout.Interval = &metav1.Duration{Duration: interval}
	if slices.ContainsFunc(r.scenario.Probes, func(p v1alpha1.DrillProbe) bool { return p.DNS != nil }) {
		rollout.Analysis.DNS.Mode = v1alpha1.Disabled // the drill itself asks for names, past the caches and through them
	}
	rollout.ScaleGate.Window = &window
	rollout.Bake.Factor = 1.5
	// What people wait for besides, ten minutes, is divided as all they wait for: the caches' share is the longer one.
	rollout.Bake.MinDuration = &metav1.Duration{Duration: ttl*3/2 + window.Duration}
	rollout.Bake.CacheTTLs = []v1alpha1.RolloutCacheTTL{{Name: "resolvers", TTL: metav1.Duration{Duration: ttl}}}
	text := new(bytes.Buffer)
	for i, object := range []any{fleet, rollout} {
		data, err := yaml.Marshal(object)
		if err != nil {
			panic("BUG: a rollout does not encode: " + err.Error())
		}
		if i > 0 {
			text.WriteString("---\n")
		}
		text.Write(data)
	}
	return text.Bytes()
}

// count notes every node that has a pod of the change, seen past everything that stands in front of the API server.
func (r *rollouts) count(l *lab.Lab, set *unstructured.Unstructured) error {
	client, err := kubernetes.NewForConfig(l.RESTConfig(lab.Masters))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	r.stop, r.exposed = stop, map[string]bool{}
	template, _, _ := unstructured.NestedStringMap(set.Object, "spec", "template", "metadata", "labels")
	selector, namespace, image := labels.Set(template).String(), set.GetNamespace(), imageOf(set)
	r.counting.Go(func() {
		tick := time.NewTicker(countEvery)
		defer tick.Stop()
		for {
			pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector, ResourceVersion: "0"})
			if err == nil {
				r.mu.Lock()
				for i := range pods.Items {
					if node := pods.Items[i].Spec.NodeName; node != "" && pods.Items[i].Spec.Containers[0].Image == image {
						r.exposed[node] = true
					}
				}
				r.mu.Unlock()
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return nil
}

// imageOf is the image of a DaemonSet's first container.
func imageOf(set *unstructured.Unstructured) string {
	containers, _, _ := unstructured.NestedSlice(set.Object, "spec", "template", "spec", "containers")
	if len(containers) == 0 {
		return ""
	}
	first, _ := containers[0].(map[string]any)
	image, _ := first["image"].(string)
	return image
}

// view is how the rollout stands, as it last wrote it.
func (r *rollouts) view() (engine.View, error) {
	var view engine.View
	runs, err := journal.Views(r.stateOf)
	if err == nil && len(runs) != 1 {
		err = fmt.Errorf("%d runs, not one: %w", len(runs), journal.ErrNoRun)
	}
	if err == nil {
		err = journal.ReadView(r.stateOf, runs[0], &view)
	}
	return view, err
}

// over says whether nothing more comes of the rollout unless a human says so.
func (r *rollouts) over() bool {
	r.mu.Lock()
	early := r.began.IsZero() || time.Since(r.looked) < time.Second
	if !early {
		r.looked = time.Now()
	}
	r.mu.Unlock()
	if early {
		return false
	}
	view, err := r.view()
	return err == nil && view.Phase != journal.Running && view.Phase != journal.RollingBack
}

// outcome ends the counting and says what became of the change; nil when nothing was rolled out.
func (r *rollouts) outcome(nodes int) (*drill.Rollout, error) {
	if r == nil || r.began.IsZero() {
		return nil, nil
	}
	r.stop()
	r.counting.Wait()
	view, err := r.view()
	if err != nil {
		return nil, fmt.Errorf("reading how the rollout stands: %w", err)
	}
	o := &drill.Rollout{ExposedNodes: len(r.exposed), Nodes: nodes, Phase: string(view.Phase), Reason: view.Message, Undecided: view.Phase == journal.Running}
	for _, e := range view.Events {
		if e.Type != journal.Warning || !strings.HasPrefix(e.Message, string(journal.RollingBack)) && !strings.HasPrefix(e.Message, string(journal.Paused)) {
			continue
		}
		stopped := e.At.Sub(r.began)
		o.Stopped, o.Reason = &stopped, e.Message
		break
	}
	return o, nil
}
