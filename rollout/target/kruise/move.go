package kruise

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// letting is the strategy under which OpenKruise may replace old pods on these hosts and nowhere else; on none, it is paused.
func letting(before strategy, hosts []string, partition intstr.IntOrString, unavailable int) strategy {
	paused, most := len(hosts) == 0, intstr.FromInt32(int32(unavailable))
	r := &rollingUpdate{
		Type: standard, MaxUnavailable: &most, Partition: &partition, Paused: &paused,
		// No node is without a hostname: this matches none.
		Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: corev1.LabelHostname, Operator: metav1.LabelSelectorOpDoesNotExist}}},
	}
	if !paused {
		slices.Sort(hosts)
		r.Selector.MatchExpressions[0].Operator, r.Selector.MatchExpressions[0].Values = metav1.LabelSelectorOpIn, hosts
	}
	if old := before.RollingUpdate; old != nil && old.Type != "" && old.Type != surging {
		r.Type = old.Type
	}
	return strategy{Type: rollingUpdateType, RollingUpdate: r}
}

// hosts are those that are let.
func (r *rollingUpdate) hosts() []string {
	if r == nil || r.Selector == nil || len(r.Selector.MatchExpressions) != 1 {
		return nil
	}
	return r.Selector.MatchExpressions[0].Values
}

// notOurs says what is there that letting never writes, "" when nothing is. Whoever narrows what is let is somebody else too:
// nothing would move, and nobody would know why.
func (r *rollingUpdate) notOurs() string {
	paused := r.Paused != nil && *r.Paused
	switch {
	case r.Selector == nil || len(r.Selector.MatchLabels) > 0 || len(r.Selector.MatchExpressions) != 1 || r.Selector.MatchExpressions[0].Key != corev1.LabelHostname:
		return "has another selector of nodes in its update strategy"
	case r.MaxSurge != nil && r.MaxSurge.String() != "0" && r.MaxSurge.String() != "0%":
		return "surges"
	case r.Partition.Type != intstr.Int || r.MaxUnavailable == nil || r.MaxUnavailable.Type != intstr.Int:
		return "has another partition or maxUnavailable"
	}
	switch r.Selector.MatchExpressions[0].Operator {
	case metav1.LabelSelectorOpIn:
		if paused {
			return "was paused"
		}
	case metav1.LabelSelectorOpDoesNotExist:
		if !paused {
			return "is no longer paused"
		}
	default:
		return "has another selector of nodes in its update strategy"
	}
	return ""
}

// has says what a node has, in OpenKruise's eyes: pods of the revision in force, and pods that are to be replaced.
func has(n target.OnNode, inForce string) (updated, old bool) {
	for _, p := range n.Pods {
		switch {
		case leaving(p):
		case target.RevisionOf(p) == inForce:
			updated = true
		default:
			old = true
		}
	}
	return updated, old
}

// leaving is true for a pod that was told to end, or that is being prepared for it by a preDelete hook.
func leaving(p *corev1.Pod) bool {
	return p.DeletionTimestamp != nil || p.Labels["lifecycle.apps.kruise.io/state"] == "PreparingDelete"
}

// grant is what OpenKruise needs to be told for old pods to be replaced on some nodes.
type grant struct {
	// hosts are let. partition keeps the rest; unavailable nodes are there when all that are let are down.
	hosts                  []string
	partition, unavailable int
}

// granting counts as OpenKruise does: nodes with a pod of the revision in force come first, then those without a pod, and then
// those that the selector matches, up to all nodes but the partition; and those that are not served are charged first.
func granting(nodes []target.OnNode, inForce string, let func(host string) bool) grant {
	var g grant
	moved := 0
	for _, n := range nodes {
		updated, old := has(n, inForce)
		host := n.Node.Labels[corev1.LabelHostname]
		switch {
		case !updated && !old:
			moved++
			g.unavailable++
		case updated:
			moved++
			if !slices.ContainsFunc(n.Pods, func(p *corev1.Pod) bool { return !leaving(p) && target.PodReady(p) }) {
				g.unavailable++
			}
		case host != "" && let(host):
			moved++
			g.unavailable++
			g.hosts = append(g.hosts, host)
		}
	}
	g.partition = len(nodes) - moved
	g.unavailable = max(1, g.unavailable)
	return g
}

// suffices is true when a strategy lets at least what a grant needs. What it does not let, because the cluster is not as it was
// when it was written, was not told to move.
func (r *rollingUpdate) suffices(g grant) bool {
	return r.Partition.IntValue() <= g.partition && r.MaxUnavailable.IntValue() >= g.unavailable
}

// See reads the cluster: which pods of which revision are on which node. A pod that OpenKruise was told to replace and has not
// yet is on its way: it is charged to the budget, and the deadline is for it too.
func (t *Target) See(ctx context.Context, pins target.Pins) (plan.Seen, error) {
	seen := plan.Seen{Update: pins.Update, Stable: pins.Stable}
	ads, err := t.stepped(ctx, pins)
	if err != nil {
		return seen, err
	}
	nodes, err := t.own().List(ctx, pins)
	if err != nil {
		return seen, err
	}
	if t.Change.Install != nil {
		seen.Nodes = seenInstall(ads, nodes, pins)
		return seen, nil
	}
	told := t.told(ads, nodes, pins)
	for _, n := range nodes {
		if !n.Meant {
			continue
		}
		one := n.Seen()
		for i, p := range n.Pods {
			one.Pods[i].Terminating = leaving(p) || told[n.Node.Labels[corev1.LabelHostname]] && target.RevisionOf(p) != inForce(ads, pins)
		}
		seen.Nodes = append(seen.Nodes, one)
	}
	return seen, nil
}

// inForce is the revision of which OpenKruise makes pods now.
func inForce(ads *object, pins target.Pins) string {
	if ads.is(pins.After) {
		return pins.Update
	}
	return pins.Stable
}

// told are the hosts on which OpenKruise was told to replace a pod, and has not yet.
func (t *Target) told(ads *object, nodes []target.OnNode, pins target.Pins) map[string]bool {
	told := map[string]bool{}
	if pins.Update == "" {
		return told
	}
	rolling := ads.Spec.UpdateStrategy.RollingUpdate
	g := granting(nodes, inForce(ads, pins), func(host string) bool { return slices.Contains(rolling.hosts(), host) })
	if !rolling.suffices(g) {
		return told
	}
	for _, host := range g.hosts {
		told[host] = true
	}
	return told
}

// Move lets nodes move: forth, or back. What was let before and has not moved yet stays let.
func (t *Target) Move(ctx context.Context, pins target.Pins, moves []plan.Move, back bool) error {
	if t.Change.Install != nil {
		return t.moveInstall(ctx, pins, moves, back)
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error { return t.let(ctx, pins, moves, back) })
}

func (t *Target) let(ctx context.Context, pins target.Pins, moves []plan.Move, back bool) error {
	ads, err := t.stepped(ctx, pins)
	if err != nil {
		return err
	}
	if ads.is(pins.After) == back {
		return t.foreign(ads, "has the other one of the two pod templates in force")
	}
	nodes, err := t.own().List(ctx, pins)
	if err != nil {
		return err
	}
	let := t.told(ads, nodes, pins)
	var errs []error
	for _, n := range nodes {
		host := n.Node.Labels[corev1.LabelHostname]
		moves := slices.ContainsFunc(moves, func(m plan.Move) bool { return m.Node == n.Node.Name })
		switch {
		case moves && host == "":
			errs = append(errs, fmt.Errorf("node %s has no label %s, by which OpenKruise is told which nodes move", n.Node.Name, corev1.LabelHostname))
		case moves:
			let[host] = true
		case !n.Seen().Ready:
			delete(let, host) // its kubelet would not end the pod
		}
	}
	g := granting(nodes, inForce(ads, pins), func(host string) bool { return let[host] })
	if len(g.hosts) == 0 {
		return errors.Join(errs...) // moved meanwhile
	}
	next := letting(ads.Spec.UpdateStrategy, g.hosts, intstr.FromInt32(int32(g.partition)), g.unavailable)
	if equality.Semantic.DeepEqual(next, ads.Spec.UpdateStrategy) {
		return errors.Join(errs...)
	}
	if err := ads.setStrategy(next); err != nil {
		return err
	}
	if _, err := t.update(ctx, ads); err != nil {
		return fmt.Errorf("letting %d nodes move by %s: %w", len(g.hosts), t.where(), err)
	}
	return errors.Join(errs...)
}
