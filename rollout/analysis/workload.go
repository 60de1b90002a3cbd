package analysis

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// Labelled finds a workload's pods by labels.
type Labelled struct {
	Client kubernetes.Interface
	// Namespace and Selector, in the words of a label selector, find all of its pods.
	Namespace, Selector string
	// Label tells the revisions apart: controller-revision-hash for a DaemonSet, pod-template-hash for a Deployment. The
	// exposure says what its values are; without a stable one every other value is.
	Label string
}

// Pods implements Workload.
func (l Labelled) Pods(ctx context.Context, e engine.Exposure) (update, stable []corev1.Pod, err error) {
	pods, err := l.Client.CoreV1().Pods(l.Namespace).List(ctx, metav1.ListOptions{LabelSelector: l.Selector})
	if err != nil {
		return nil, nil, fmt.Errorf("listing the pods of %s: %w", l.Namespace, err)
	}
	for _, p := range pods.Items {
		switch revision := p.Labels[l.Label]; {
		case p.DeletionTimestamp != nil:
		case revision == e.UpdateRevision:
			update = append(update, p)
		case e.StableRevision == "" || revision == e.StableRevision:
			stable = append(stable, p)
		}
	}
	return update, stable, nil
}

// How many nodes are looked at closely: each costs a GET, and a LIST of its pods when neighbours are looked at.
const (
	maxExposedNodes = 20
	maxControlNodes = 40
)

// nodesAge is how old the list of the nodes' names may be.
const nodesAge = 5 * time.Minute

// nodeNames are the cluster's nodes, read as metadata only, from the API server's cache: a LIST of whole nodes every 30 s is what
// this looks out for.
type nodeNames struct {
	at    time.Time
	names []string
}

func (c *cluster) allNodes(ctx context.Context, now time.Time) ([]string, error) {
	c.mu.Lock()
	known := c.nodes
	c.mu.Unlock()
	if len(known.names) > 0 && now.Sub(known.at) < nodesAge {
		return known.names, nil
	}
	list, err := c.names.Resource(schema.GroupVersionResource{Version: "v1", Resource: "nodes"}).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("listing the nodes of %s: %w", c.Name, err)
	}
	known = nodeNames{at: now}
	for _, n := range list.Items {
		known.names = append(known.names, n.Name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = known
	return known.names, nil
}

// judgeWorkload looks at pods and nodes, or at what a record has of them.
func (a *Analyst) judgeWorkload(ctx context.Context, c *cluster, e engine.Exposure, last reading, now time.Time) []verdict.Finding {
	var w verdict.Workload
	var err error
	if a.o.Replay != nil {
		r, ok := a.o.Replay(c.Name)
		if !ok || r.Workload == nil {
			return []verdict.Finding{{Check: "workload.ready", Verdict: verdict.Unknown, Reason: "the record has nothing on the workload", At: now}}
		}
		w = *r.Workload
	} else if w, err = c.lookAtWorkload(ctx, a.o.Analysis.Workload, e, now); err != nil {
		return []verdict.Finding{{Check: "workload.ready", Verdict: verdict.Unknown, Reason: err.Error(), At: now}}
	}
	if a.o.Record != nil {
		a.o.Record(last.record(c.Name, &w))
	}
	c.mu.Lock()
	before := c.seen
	c.seen = &w
	c.mu.Unlock()
	c.sawPods(last.at, w.Count(before, a.o.Analysis.Workload.ReadyWithin.Duration))
	return w.Judge(a.o.Analysis.Workload)
}

// lookAtWorkload looks at the component's pods, at exposed nodes, and at as many and more without it.
func (c *cluster) lookAtWorkload(ctx context.Context, spec v1alpha1.RolloutWorkload, e engine.Exposure, now time.Time) (verdict.Workload, error) {
	w := verdict.Workload{At: now, Since: e.Since, Planned: e.Planned}
	update, stable, err := c.Workload.Pods(ctx, e)
	if err != nil {
		return w, err
	}
	names, err := c.allNodes(ctx, now)
	if err != nil {
		return w, err
	}
	exposed := sets.New(e.Exposed...)
	for _, p := range update {
		if p.Spec.NodeName != "" {
			exposed.Insert(p.Spec.NodeName)
		}
	}
	without := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return exposed.Has(n) })
	own := sets.New[string]()
	for _, p := range slices.Concat(update, stable) {
		own.Insert(p.Namespace + "/" + p.Name)
	}
	w.Update, w.Stable = podsOf(update), podsOf(stable)
	if w.Exposed, err = c.lookAtNodes(ctx, spread(sets.List(exposed), maxExposedNodes), spec, own); err != nil {
		return w, err
	}
	w.Control, err = c.lookAtNodes(ctx, spread(without, maxControlNodes), spec, own)
	return w, err
}

// lookAhead asks what a look asks once the change is there, and says nothing of it.
func (c *cluster) lookAhead(ctx context.Context, spec v1alpha1.RolloutWorkload, now time.Time) {
	if names, err := c.allNodes(ctx, now); err == nil {
		_, _ = c.lookAtNodes(ctx, spread(names, maxControlNodes), spec, nil)
	}
}

// spread picks the same nodes each time, and not the first by name: those are often of one zone.
func spread(names []string, most int) []string {
	hash := func(s string) uint64 { h := fnv.New64a(); h.Write([]byte(s)); return h.Sum64() }
	picked := slices.SortedFunc(slices.Values(names), func(a, b string) int { return cmp.Compare(hash(a), hash(b)) })
	return picked[:min(len(picked), most)]
}

func podsOf(pods []corev1.Pod) []verdict.Pod {
	out := make([]verdict.Pod, 0, len(pods))
	for _, p := range pods {
		v := verdict.Pod{Name: p.Namespace + "/" + p.Name, Node: p.Spec.NodeName, Created: p.CreationTimestamp.Time, Ready: readyPod(&p), Failed: p.Status.Phase == corev1.PodFailed}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			v.Restarts += int(s.RestartCount)
			if s.State.Waiting != nil && s.State.Waiting.Reason != "ContainerCreating" && s.State.Waiting.Reason != "PodInitializing" {
				v.Waiting = s.State.Waiting.Reason
			}
		}
		out = append(out, v)
	}
	return out
}

func readyPod(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// lookAtNodes reads nodes from the API server's cache, side by side.
func (c *cluster) lookAtNodes(ctx context.Context, names []string, spec v1alpha1.RolloutWorkload, own sets.Set[string]) ([]verdict.Node, error) {
	nodes := make([]verdict.Node, len(names))
	errs := make([]error, len(names))
	var all sync.WaitGroup
	slots := make(chan struct{}, 8)
	for i, name := range names {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			nodes[i], errs[i] = c.lookAtNode(ctx, name, spec, own)
		})
	}
	all.Wait()
	found := nodes[:0]
	for i := range nodes {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if nodes[i].Name != "" {
			found = append(found, nodes[i])
		}
	}
	return found, nil
}

func (c *cluster) lookAtNode(ctx context.Context, name string, spec v1alpha1.RolloutWorkload, own sets.Set[string]) (verdict.Node, error) {
	node, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		return verdict.Node{}, nil // deleted since
	}
	if err != nil {
		return verdict.Node{}, fmt.Errorf("reading the node %s: %w", name, err)
	}
	out := verdict.Node{Name: name, Bad: map[string]time.Time{}}
	for _, condition := range node.Status.Conditions {
		healthy := corev1.ConditionFalse
		if condition.Type == corev1.NodeReady {
			healthy = corev1.ConditionTrue
		}
		if slices.Contains(spec.Conditions, string(condition.Type)) && condition.Status != healthy {
			out.Bad[string(condition.Type)] = condition.LastTransitionTime.Time
		}
	}
	if spec.Neighbours != v1alpha1.Enabled {
		return out, nil
	}
	pods, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name, ResourceVersion: "0"})
	if err != nil {
		return verdict.Node{}, fmt.Errorf("listing the pods of the node %s: %w", name, err)
	}
	for _, p := range pods.Items {
		if own.Has(p.Namespace+"/"+p.Name) || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
			continue
		}
		out.Others++
		if !readyPod(&p) {
			out.OthersNotReady++
		}
	}
	return out, nil
}
