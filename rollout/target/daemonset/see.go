package daemonset

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// See reads the cluster: which pods of which revision are on which node. It is read afresh each time, never counted on.
func (t *Target) See(ctx context.Context, pins target.Pins) (plan.Seen, error) {
	seen := plan.Seen{Update: pins.Update, Stable: pins.Stable}
	if _, err := t.stepped(ctx, pins); err != nil {
		return seen, err
	}
	there, err := t.list(ctx, pins)
	if err != nil {
		return seen, err
	}
	for _, n := range there {
		one := plan.SeenNode{Name: n.node.Name, Ready: nodeReady(n.node), Enrolment: t.enrolment(n.node)}
		for _, p := range n.pods {
			one.Pods = append(one.Pods, plan.SeenPod{
				Name: p.Namespace + "/" + p.Name, UID: string(p.UID), Revision: p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey],
				Ready: podReady(p), Terminating: p.DeletionTimestamp != nil,
			})
		}
		seen.Nodes = append(seen.Nodes, one)
	}
	return seen, nil
}

// Ready is when the newest ready pod of the update revision became so; zero when there is none.
func (t *Target) Ready(ctx context.Context, pins target.Pins) (time.Time, error) {
	pods, err := t.pods(ctx, labels.Set{appsv1.DefaultDaemonSetUniqueLabelKey: pins.Update}.AsSelector(), pins)
	var newest time.Time
	for _, p := range pods {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && c.LastTransitionTime.After(newest) {
				newest = c.LastTransitionTime.Time
			}
		}
	}
	return newest, err
}

// onNode is a node, with the DaemonSet's pods on it.
type onNode struct {
	node *corev1.Node
	pods []*corev1.Pod
}

// list returns the nodes that the change may come to: those that run a pod of the DaemonSet or could, and are selected. Nodes
// that run a pod of the update revision are always among them.
func (t *Target) list(ctx context.Context, pins target.Pins) ([]onNode, error) {
	nodes, err := t.readNodes(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := t.pods(ctx, labels.Everything(), pins)
	if err != nil {
		return nil, err
	}
	var template corev1.PodTemplateSpec
	if err := json.Unmarshal(pins.After, &template); err != nil {
		return nil, fmt.Errorf("reading the pinned template of %s: %w", t.where(), err)
	}
	if t.Change.Install != nil {
		delete(template.Spec.NodeSelector, t.Change.Install.EnrolmentLabel)
	}
	fits := fitting(&template)
	selector := labels.Everything()
	if t.Selector != nil {
		if selector, err = metav1.LabelSelectorAsSelector(t.Selector); err != nil {
			return nil, fmt.Errorf("nodes.selector: %w", err)
		}
	}
	byNode := map[string][]*corev1.Pod{}
	for i := range pods {
		p := &pods[i]
		if name := nodeOf(p); name != "" && !over(p) {
			byNode[name] = append(byNode[name], p)
		}
	}
	var all []onNode
	for i := range nodes {
		n := &nodes[i]
		there := byNode[n.Name]
		exposed := pins.Update != "" && slices.ContainsFunc(there, func(p *corev1.Pod) bool {
			return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == pins.Update
		})
		selected := selector.Matches(labels.Set(n.Labels)) && n.DeletionTimestamp == nil
		if exposed || selected && (len(there) > 0 || fits(n)) {
			all = append(all, onNode{node: n, pods: there})
		}
	}
	return all, nil
}

// fitting says on which nodes the DaemonSet controller keeps a pod of this template.
func fitting(template *corev1.PodTemplateSpec) func(*corev1.Node) bool {
	pod := &corev1.Pod{ObjectMeta: template.ObjectMeta, Spec: *template.Spec.DeepCopy()}
	// What the controller lets every daemon tolerate (AddOrUpdateDaemonPodTolerations).
	for key, effect := range map[string]corev1.TaintEffect{
		corev1.TaintNodeNotReady: corev1.TaintEffectNoExecute, corev1.TaintNodeUnreachable: corev1.TaintEffectNoExecute,
		corev1.TaintNodeDiskPressure: corev1.TaintEffectNoSchedule, corev1.TaintNodeMemoryPressure: corev1.TaintEffectNoSchedule,
		corev1.TaintNodePIDPressure: corev1.TaintEffectNoSchedule, corev1.TaintNodeUnschedulable: corev1.TaintEffectNoSchedule,
	} {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect})
	}
	if pod.Spec.HostNetwork {
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
	}
	affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
	return func(n *corev1.Node) bool {
		if pod.Spec.NodeName != "" && pod.Spec.NodeName != n.Name {
			return false
		}
		if match, err := affinity.Match(n); err != nil || !match {
			return false
		}
		for i := range n.Spec.Taints {
			taint := &n.Spec.Taints[i]
			if taint.Effect != corev1.TaintEffectPreferNoSchedule && !tolerates(pod, taint) {
				return false
			}
		}
		return true
	}
}

// tolerates is Toleration.ToleratesTaint without the numeric operators, which no taint of a node is compared with today.
func tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	return slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool {
		switch {
		case t.Effect != "" && t.Effect != taint.Effect, t.Key != "" && t.Key != taint.Key:
			return false
		case t.Operator == corev1.TolerationOpExists:
			return true
		}
		return t.Key != "" && t.Value == taint.Value && (t.Operator == "" || t.Operator == corev1.TolerationOpEqual)
	})
}

// readNodes lists the nodes from the API server's cache, and uses the list for a while.
func (t *Target) readNodes(ctx context.Context) ([]corev1.Node, error) {
	if time.Since(t.nodes.at) < nodesFor {
		return t.nodes.items, nil
	}
	list, err := t.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("reading the nodes of %s: %w", t.Cluster, err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	t.nodes = nodeList{at: time.Now(), items: list.Items}
	return list.Items, nil
}

// pods lists the DaemonSet's own pods, as recent as etcd is: a pod that was deleted must be seen to end, or it is deleted again.
func (t *Target) pods(ctx context.Context, more labels.Selector, pins target.Pins) ([]corev1.Pod, error) {
	if pins.Object == "" {
		return nil, nil // it does not exist yet
	}
	if t.selector == nil {
		if _, err := t.get(ctx); err != nil {
			return nil, err
		}
	}
	requirements, _ := more.Requirements()
	list, err := t.Client.CoreV1().Pods(t.Change.Namespace).List(ctx, metav1.ListOptions{LabelSelector: t.selector.Add(requirements...).String()})
	if err != nil {
		return nil, fmt.Errorf("reading the pods of %s: %w", t.where(), err)
	}
	mine := list.Items[:0]
	for _, p := range list.Items {
		if owner := metav1.GetControllerOf(&p); owner != nil && string(owner.UID) == pins.Object {
			mine = append(mine, p)
		}
	}
	return mine, nil
}

// nodeOf is where a pod runs or is to: the controller writes it as an affinity, before the scheduler has seen the pod.
func nodeOf(p *corev1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, f := range term.MatchFields {
				if f.Key == metav1.ObjectNameField && len(f.Values) == 1 {
					return f.Values[0]
				}
			}
		}
	}
	return ""
}

// over is true for a pod that ended by itself; the controller replaces it.
func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

func podReady(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// Pods are the pods of the update revision and those of the stable one that are not ending, for those who judge them.
func (t *Target) Pods(ctx context.Context, pins target.Pins) (update, stable []corev1.Pod, err error) {
	pods, err := t.pods(ctx, labels.Everything(), pins)
	for _, p := range pods {
		switch revision := p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]; {
		case p.DeletionTimestamp != nil || revision == "":
		case revision == pins.Update:
			update = append(update, p)
		case revision == pins.Stable:
			stable = append(stable, p)
		}
	}
	return update, stable, err
}
