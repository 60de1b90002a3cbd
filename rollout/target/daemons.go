package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
)

// Daemons are the pods of a workload that runs one on each node, and those nodes: what is read alike of a native DaemonSet and of
// OpenKruise's. Its methods are called by one goroutine at a time.
type Daemons struct {
	// Cluster is the cluster's name, Client speaks to it, each request with a time-out of its own.
	Cluster string
	Client  kubernetes.Interface
	// What names the workload for people, Namespace is where its pods are.
	What, Namespace string
	// Selector reads what the workload selects its pods by. It is asked once, because it cannot change.
	Selector func(context.Context) (*metav1.LabelSelector, error)
	// Nodes selects the nodes that the change may come to; nil: all.
	Nodes *metav1.LabelSelector
	// Enrolment, if set, is a node selector of the template by which a rollout lets nodes in one by one: a node that has not got
	// the label yet could run it.
	Enrolment string

	selector labels.Selector
	nodes    nodeList
}

// nodesFor is how long a list of nodes is used again: the list of a large cluster is not read every second by those who are
// there to protect it.
const nodesFor = 10 * time.Second

type nodeList struct {
	at    time.Time
	items []corev1.Node
}

// OnNode is a node that runs a pod of the workload or could, with its pods there.
type OnNode struct {
	Node *corev1.Node
	Pods []*corev1.Pod
	// Fits is whether the template may run there. Meant is whether the change may come there: it is selected, or runs it already.
	Fits, Meant bool
}

// Seen is the node as a plan sees it.
func (n OnNode) Seen() plan.SeenNode {
	one := plan.SeenNode{Name: n.Node.Name, Ready: nodeReady(n.Node)}
	for _, p := range n.Pods {
		one.Pods = append(one.Pods, plan.SeenPod{
			Name: p.Namespace + "/" + p.Name, UID: string(p.UID), Revision: RevisionOf(p),
			Ready: PodReady(p), Terminating: p.DeletionTimestamp != nil,
		})
	}
	return one
}

// List returns the nodes that run a pod of the workload or could, sorted by name. They are read afresh each time, but for the
// nodes themselves.
func (d *Daemons) List(ctx context.Context, pins Pins) ([]OnNode, error) {
	nodes, err := d.readNodes(ctx)
	if err != nil {
		return nil, err
	}
	pods, err := d.Pods(ctx, labels.Everything(), pins)
	if err != nil {
		return nil, err
	}
	var template corev1.PodTemplateSpec
	if err := json.Unmarshal(pins.After, &template); err != nil {
		return nil, fmt.Errorf("reading the pinned template of %s: %w", d.What, err)
	}
	delete(template.Spec.NodeSelector, d.Enrolment)
	fits := fitting(&template)
	selector := labels.Everything()
	if d.Nodes != nil {
		if selector, err = metav1.LabelSelectorAsSelector(d.Nodes); err != nil {
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
	var all []OnNode
	for i := range nodes {
		n := &nodes[i]
		one := OnNode{Node: n, Pods: byNode[n.Name], Fits: fits(n)}
		one.Meant = selector.Matches(labels.Set(n.Labels)) && n.DeletionTimestamp == nil ||
			pins.Update != "" && slices.ContainsFunc(one.Pods, func(p *corev1.Pod) bool { return RevisionOf(p) == pins.Update })
		if one.Fits || len(one.Pods) > 0 {
			all = append(all, one)
		}
	}
	return all, nil
}

// Survey names the nodes that the change may come to, and where they are.
func Survey(nodes []OnNode) []plan.Node {
	var all []plan.Node
	for _, n := range nodes {
		if n.Meant {
			all = append(all, plan.Node{Name: n.Node.Name, Zone: n.Node.Labels[corev1.LabelTopologyZone]})
		}
	}
	return all
}

// fitting says on which nodes the controller keeps a pod of this template. OpenKruise's asks the same as the native one.
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
func (d *Daemons) readNodes(ctx context.Context) ([]corev1.Node, error) {
	if time.Since(d.nodes.at) < nodesFor {
		return d.nodes.items, nil
	}
	list, err := d.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return nil, fmt.Errorf("reading the nodes of %s: %w", d.Cluster, err)
	}
	slices.SortFunc(list.Items, func(a, b corev1.Node) int { return strings.Compare(a.Name, b.Name) })
	d.nodes = nodeList{at: time.Now(), items: list.Items}
	return list.Items, nil
}

// Forget lets the nodes be read again, after one was changed.
func (d *Daemons) Forget() { d.nodes = nodeList{} }

// Pods lists the workload's own pods, as recent as etcd is: a pod that was deleted must be seen to end, or it is deleted again. They
// are asked for at once, not in pages: API servers answer that from their cache since Kubernetes 1.31 (KEP-2340), and read pages from
// etcd.
func (d *Daemons) Pods(ctx context.Context, more labels.Selector, pins Pins) ([]corev1.Pod, error) {
	if pins.Object == "" {
		return nil, nil // it does not exist yet
	}
	if d.selector == nil {
		selector, err := d.Selector(ctx)
		if err != nil {
			return nil, err
		}
		if d.selector, err = metav1.LabelSelectorAsSelector(selector); err != nil {
			return nil, fmt.Errorf("reading the selector of %s: %w", d.What, err)
		}
	}
	requirements, _ := more.Requirements()
	list, err := d.Client.CoreV1().Pods(d.Namespace).List(ctx, metav1.ListOptions{LabelSelector: d.selector.Add(requirements...).String()})
	if err != nil {
		return nil, fmt.Errorf("reading the pods of %s: %w", d.What, err)
	}
	mine := list.Items[:0]
	for _, p := range list.Items {
		if owner := metav1.GetControllerOf(&p); owner != nil && string(owner.UID) == pins.Object {
			mine = append(mine, p)
		}
	}
	return mine, nil
}

// Updated lists the pods of the update revision.
func (d *Daemons) Updated(ctx context.Context, pins Pins) ([]corev1.Pod, error) {
	return d.Pods(ctx, labels.Set{appsv1.DefaultDaemonSetUniqueLabelKey: pins.Update}.AsSelector(), pins)
}

// Component completes what the ladder must know of the workload: what its template says, and the pods of the update revision.
func (d *Daemons) Component(ctx context.Context, pins Pins, c jail.Component) (jail.Component, error) {
	if err := pins.Describe(&c); err != nil || pins.Update == "" {
		return c, err
	}
	pods, err := d.Updated(ctx, pins)
	for _, p := range pods {
		c.UpdatePods = append(c.UpdatePods, p.Namespace+"/"+p.Name)
	}
	return c, err
}

// Ready is when the newest ready pod of the update revision became so; zero when there is none.
func (d *Daemons) Ready(ctx context.Context, pins Pins) (time.Time, error) {
	pods, err := d.Updated(ctx, pins)
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

// ByRevision are the pods of the update revision and those of the stable one that are not ending, for those who judge them.
func (d *Daemons) ByRevision(ctx context.Context, pins Pins) (update, stable []corev1.Pod, err error) {
	pods, err := d.Pods(ctx, labels.Everything(), pins)
	for _, p := range pods {
		switch revision := RevisionOf(&p); {
		case p.DeletionTimestamp != nil || revision == "":
		case revision == pins.Update:
			update = append(update, p)
		case revision == pins.Stable:
			stable = append(stable, p)
		}
	}
	return update, stable, err
}

// DeletePod deletes the pod of a move. One that is gone already, or another one, is left alone: somebody else has moved it.
func (d *Daemons) DeletePod(ctx context.Context, m plan.Move) error {
	namespace, name, _ := strings.Cut(m.Pod, "/")
	uid := types.UID(m.UID)
	err := d.Client.CoreV1().Pods(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("deleting pod %s on %s: %w", m.Pod, m.Node, err)
	}
	return nil
}

// AwaitRevision waits for the controller to have made a revision of the template, and returns its name.
func (d *Daemons) AwaitRevision(ctx context.Context, object types.UID, selector *metav1.LabelSelector, template json.RawMessage, controller string) (string, error) {
	selects, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return "", fmt.Errorf("reading the selector of %s: %w", d.What, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		list, err := d.Client.AppsV1().ControllerRevisions(d.Namespace).List(ctx, metav1.ListOptions{LabelSelector: selects.String()})
		if err != nil {
			return "", fmt.Errorf("reading the revisions of %s: %w", d.What, err)
		}
		for i := range list.Items {
			r := &list.Items[i]
			if owner := metav1.GetControllerOf(r); owner != nil && owner.UID == object && revises(r, template) {
				return r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey], nil
			}
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for the %s to make a revision of %s: %w; is it running?", controller, d.What, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// revises says whether a revision, which is a patch of the template, is of this template.
func revises(r *appsv1.ControllerRevision, template json.RawMessage) bool {
	var data struct {
		Spec struct {
			Template json.RawMessage `json:"template"`
		} `json:"spec"`
	}
	if json.Unmarshal(r.Data.Raw, &data) != nil {
		return false
	}
	var of corev1.PodTemplateSpec
	return json.Unmarshal(data.Spec.Template, &of) == nil && IsTemplate(of, template)
}

// Rights are those that a way back needs for what is here, and for these verbs on the pods besides.
func (d *Daemons) Rights(pods ...string) []authorizationv1.ResourceAttributes {
	return slices.Concat(
		Verbs(authorizationv1.ResourceAttributes{Resource: "nodes"}, "list"),
		Verbs(authorizationv1.ResourceAttributes{Resource: "pods", Namespace: d.Namespace}, append(pods, "list")...),
		Verbs(authorizationv1.ResourceAttributes{Group: "apps", Resource: "controllerrevisions", Namespace: d.Namespace}, "list"),
	)
}

// IsTemplate compares a template with a pinned one.
func IsTemplate(template corev1.PodTemplateSpec, pinned json.RawMessage) bool {
	var other corev1.PodTemplateSpec
	return len(pinned) > 0 && json.Unmarshal(pinned, &other) == nil && equality.Semantic.DeepEqual(template, other)
}

// PlacedAlike refuses templates that differ in where pods may run. The controllers act on these at once, whatever holds their
// updates back: they delete pods from nodes that no longer fit, and start some on all that now do. instead is what to do.
func PlacedAlike(before, after *corev1.PodTemplateSpec, instead string) error {
	var errs []error
	for _, f := range []struct {
		name string
		a, b any
	}{
		{"nodeSelector", before.Spec.NodeSelector, after.Spec.NodeSelector},
		{"affinity", before.Spec.Affinity, after.Spec.Affinity},
		{"tolerations", before.Spec.Tolerations, after.Spec.Tolerations},
		{"nodeName", before.Spec.NodeName, after.Spec.NodeName},
	} {
		if !equality.Semantic.DeepEqual(f.a, f.b) {
			errs = append(errs, fmt.Errorf("the new template changes spec.%s, which acts on every node at once: change it by itself, or roll a new one out beside this one (%s)", f.name, instead))
		}
	}
	return errors.Join(errs...)
}

// RevisionOf is the revision that a pod is of, "" when nobody says.
func RevisionOf(p *corev1.Pod) string { return p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] }

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

// PodReady is true for a pod that is ready and passes its readiness gates: the kubelet's own word lags behind a gate that was
// just closed, as OpenKruise does before it updates a pod in place.
func PodReady(p *corev1.Pod) bool {
	is := func(kind corev1.PodConditionType) bool {
		return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == kind && c.Status == corev1.ConditionTrue
		})
	}
	return is(corev1.PodReady) && !slices.ContainsFunc(p.Spec.ReadinessGates, func(g corev1.PodReadinessGate) bool { return !is(g.ConditionType) })
}

func nodeReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}
