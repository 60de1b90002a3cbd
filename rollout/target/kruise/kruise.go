// Package kruise steps an Advanced DaemonSet of OpenKruise (apps.kruise.io/v1alpha1) node by node. OpenKruise moves the pods; what
// it may move is said by spec.updateStrategy.rollingUpdate, which is rewritten for each wave:
//
//   - selector names the nodes of the wave, by their kubernetes.io/hostname. OpenKruise replaces old pods on nodes that it matches
//     and nowhere else; without it, it goes by the names of the nodes, the last first, whatever the plan says.
//   - partition, how many nodes keep the old revision, counts every node that is to change: a second bolt on the same door.
//   - maxUnavailable is opened as far as the wave needs. OpenKruise replaces old pods that are not ready outside of it, so it is
//     the selector that keeps to the budget.
//   - paused is true while nothing is let.
//
// A wave that was let is finished by OpenKruise, also when the rollout dies meanwhile; it is never more than the budget. What
// nobody lets does not move.
package kruise

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// Resource is where an API server has Advanced DaemonSets. Every release of OpenKruise serves this version.
var Resource = schema.GroupVersionResource{Group: "apps.kruise.io", Version: "v1alpha1", Resource: "daemonsets"}

// controller is what makes revisions and pods, for people.
const controller = "kruise-controller-manager"

// Target is one Advanced DaemonSet of one cluster. Its methods are called by one goroutine at a time.
type Target struct {
	// Cluster is the cluster's name. Client and Objects speak to it, each request with a time-out of its own.
	Cluster string
	Client  kubernetes.Interface
	Objects dynamic.Interface
	Change  v1alpha1.AdvancedDaemonSetChange
	// Selector selects the nodes; nil: all.
	Selector *metav1.LabelSelector
	// Run is the run's id; UserAgents narrow whose requests the component's are.
	Run        string
	UserAgents []string
	// MakesNamespace is true when manifests beside it make its namespace, which need not exist while the run is planned.
	MakesNamespace bool

	daemons *target.Daemons
}

func (t *Target) where() string {
	return "Advanced DaemonSet " + t.Change.Namespace + "/" + t.Change.Name
}

// own are its nodes and pods.
func (t *Target) own() *target.Daemons {
	if t.daemons == nil {
		t.daemons = &target.Daemons{Cluster: t.Cluster, Client: t.Client, What: t.where(), Namespace: t.Change.Namespace, Nodes: t.Selector, Selector: t.selector}
	}
	return t.daemons
}

func (t *Target) selector(ctx context.Context) (*metav1.LabelSelector, error) {
	ads, err := t.get(ctx)
	if err != nil {
		return nil, err
	}
	return ads.Spec.Selector, nil
}

// Survey says which nodes the change may come to, and writes nothing. It refuses what cannot be stepped: besides what OpenKruise
// refuses, nodes that cannot be told apart by their hostname.
func (t *Target) Survey(ctx context.Context) ([]plan.Node, error) {
	pins, err := t.Prepare(ctx)
	if err != nil {
		return nil, err
	}
	nodes, err := t.own().List(ctx, pins)
	if err != nil {
		return nil, err
	}
	if t.Change.Install == nil {
		if err := distinct(nodes); err != nil {
			return nil, fmt.Errorf("%s: %w", t.where(), err)
		}
	}
	return target.Survey(nodes), nil
}

// distinct refuses nodes that a selector by hostname cannot tell apart.
func distinct(nodes []target.OnNode) error {
	known := map[string]string{}
	for _, n := range nodes {
		host := n.Node.Labels[corev1.LabelHostname]
		if host == "" {
			return fmt.Errorf("node %s has no label %s, by which OpenKruise is told which nodes move", n.Node.Name, corev1.LabelHostname)
		}
		if other, twice := known[host]; twice {
			return fmt.Errorf("nodes %s and %s have the same label %s=%s, by which OpenKruise is told which nodes move", other, n.Node.Name, corev1.LabelHostname, host)
		}
		known[host] = n.Node.Name
	}
	return nil
}

// Prepare pins what there is and what is to be, and writes nothing.
func (t *Target) Prepare(ctx context.Context) (target.Pins, error) {
	if t.Change.Install != nil {
		return t.prepareInstall(ctx)
	}
	ads, err := t.get(ctx)
	if err != nil {
		return target.Pins{}, err
	}
	next, err := t.next(&ads.Spec.Template)
	if err != nil {
		return target.Pins{}, err
	}
	if err := target.PlacedAlike(&ads.Spec.Template, next, "change.advancedDaemonSet.install"); err != nil {
		return target.Pins{}, fmt.Errorf("%s: %w", t.where(), err)
	}
	if err := selects(ads.Spec.Selector, next); err != nil {
		return target.Pins{}, fmt.Errorf("%s: %w", t.where(), err)
	}
	pins := target.Pins{Object: string(ads.UID)}
	if pins.Before, err = ads.template(); err != nil {
		return target.Pins{}, err
	}
	if pins.Strategy, err = ads.held(); err != nil {
		return target.Pins{}, err
	}
	after, err := json.Marshal(next)
	if err != nil {
		return target.Pins{}, err
	}
	// OpenKruise's webhooks fill in what is left out, and say what is wrong, before anything is written.
	if err := t.rewrite(ads, after); err != nil {
		return target.Pins{}, err
	}
	dry, err := t.update(ctx, ads, metav1.DryRunAll)
	if err != nil {
		return target.Pins{}, fmt.Errorf("trying the new template on %s: %w", t.where(), err)
	}
	if pins.After, err = dry.template(); err != nil {
		return target.Pins{}, err
	}
	if dry.is(pins.Before) {
		return target.Pins{}, fmt.Errorf("%s has this template already: %w", t.where(), target.ErrNothing)
	}
	pins.Stable, err = t.revision(ctx, ads, pins.Before)
	return pins, err
}

// selects refuses a template that the workload would not select: without its webhooks, OpenKruise takes it, and makes pods that
// it does not find again.
func selects(by *metav1.LabelSelector, template *corev1.PodTemplateSpec) error {
	selector, err := metav1.LabelSelectorAsSelector(by)
	if err != nil {
		return fmt.Errorf("its selector: %w", err)
	}
	if !selector.Matches(labels.Set(template.Labels)) {
		return fmt.Errorf("its selector, %s, does not match the labels of the new template (%s)", selector, labels.Set(template.Labels))
	}
	return nil
}

// next is the new template, as the file says it.
func (t *Target) next(before *corev1.PodTemplateSpec) (*corev1.PodTemplateSpec, error) {
	after, err := target.NextTemplate(t.Change.WorkloadChange, before)
	if err != nil {
		return nil, fmt.Errorf("change.advancedDaemonSet.%w", err)
	}
	return after, nil
}

// revision waits for OpenKruise to have made a revision of the template, and returns its name.
func (t *Target) revision(ctx context.Context, ads *object, template json.RawMessage) (string, error) {
	return t.own().AwaitRevision(ctx, ads.UID, ads.Spec.Selector, template, controller)
}

// Begin writes the new template and lets nothing, in one update, so that OpenKruise never sees the one without the other. It pins
// the revision.
func (t *Target) Begin(ctx context.Context, pins target.Pins) (target.Pins, error) {
	var ads *object
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() (err error) {
		ads, err = t.begin(ctx, pins)
		return err
	})
	if err != nil {
		return pins, err
	}
	pins.Object = string(ads.UID)
	pins.Update, err = t.revision(ctx, ads, pins.After)
	return pins, err
}

func (t *Target) begin(ctx context.Context, pins target.Pins) (*object, error) {
	if t.Change.Install != nil && pins.Object == "" {
		return t.create(ctx, pins)
	}
	ads, err := t.mine(ctx, pins)
	if err != nil || ads.is(pins.After) {
		return ads, err
	}
	return t.put(ctx, ads, pins.After)
}

// put puts a template in force and lets nothing, against the version that was read.
func (t *Target) put(ctx context.Context, ads *object, template json.RawMessage) (*object, error) {
	if err := t.rewrite(ads, template); err != nil {
		return nil, err
	}
	written, err := t.update(ctx, ads)
	if err != nil {
		return nil, fmt.Errorf("writing the template of %s: %w", t.where(), err)
	}
	return written, nil
}

// mine reads the object and refuses it when it is not the one that was pinned, with one of the two templates that were.
func (t *Target) mine(ctx context.Context, pins target.Pins) (*object, error) {
	ads, err := t.get(ctx)
	if err := pins.Pinned(t.where(), ads, err); err != nil {
		return nil, err
	}
	if !ads.is(pins.Before) && !ads.is(pins.After) {
		return nil, t.foreign(ads, target.NeitherTemplate)
	}
	return ads, nil
}

func (t *Target) foreign(ads *object, why string) error {
	return target.Foreign(t.where(), why, ads)
}

// stepped is mine for the time in which the run says what may move.
func (t *Target) stepped(ctx context.Context, pins target.Pins) (*object, error) {
	ads, err := t.mine(ctx, pins)
	if err != nil || pins.Update == "" {
		return ads, err
	}
	if what := t.notStepped(ads); what != "" {
		return nil, t.foreign(ads, what)
	}
	return ads, nil
}

// notStepped says what is there that a run which says what may move never writes, "" when nothing is.
func (t *Target) notStepped(ads *object) string {
	switch s := ads.Spec.UpdateStrategy; {
	case t.Change.Install != nil && ads.Annotations[progressive] != "true":
		return "makes pods on every node: its annotation " + progressive + " is gone"
	case s.Type != rollingUpdateType || s.RollingUpdate == nil || s.RollingUpdate.Partition == nil:
		return "has another update strategy"
	case t.Change.Install == nil:
		return s.RollingUpdate.notOurs()
	}
	return ""
}

// Revert puts the template from before back in force, and lets nothing: the pods are moved after. What is new is not made on any
// further node.
func (t *Target) Revert(ctx context.Context, pins target.Pins) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if t.Change.Install != nil {
			return t.revertInstall(ctx, pins)
		}
		ads, err := t.mine(ctx, pins)
		if err != nil || ads.is(pins.Before) {
			return err
		}
		_, err = t.put(ctx, ads, pins.Before)
		return err
	})
}

// Rights are those that the way back needs.
func (t *Target) Rights(target.Pins) ([]authorizationv1.ResourceAttributes, error) {
	own := authorizationv1.ResourceAttributes{Group: Resource.Group, Resource: Resource.Resource, Namespace: t.Change.Namespace, Name: t.Change.Name}
	if t.Change.Install == nil {
		return append(t.own().Rights(), target.Verbs(own, "get", "update")...), nil
	}
	return append(t.own().Rights("delete"), target.Verbs(own, "get", "create", "update", "delete")...), nil
}

// Finish ends the run on this cluster: the strategy from before is put back, and what the run wrote for itself is taken away.
func (t *Target) Finish(ctx context.Context, pins target.Pins, back bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		if t.Change.Install != nil {
			return t.finishInstall(ctx, pins, back)
		}
		return t.finish(ctx, pins, back)
	})
}

func (t *Target) finish(ctx context.Context, pins target.Pins, back bool) error {
	ads, err := t.mine(ctx, pins)
	if err != nil || ads.Annotations[target.RunAnnotation] != t.Run {
		return err // or finished before
	}
	if err := ads.restore(pins.Strategy); err != nil {
		return fmt.Errorf("reading the pinned strategy of %s: %w", t.where(), err)
	}
	if rolling := ads.Spec.UpdateStrategy.RollingUpdate; !back && t.Selector != nil && rolling != nil && rolling.Selector == nil {
		// Nodes that are not meant keep the old revision: OpenKruise would roll them now.
		rolling.Selector = t.Selector
		if err := ads.setStrategy(ads.Spec.UpdateStrategy); err != nil {
			return err
		}
	}
	ads.annotate(target.RunAnnotation, "")
	if _, err := t.update(ctx, ads); err != nil {
		return fmt.Errorf("finishing %s: %w", t.where(), err)
	}
	return nil
}

// Ready is when the newest ready pod of the update revision became so; zero when there is none.
func (t *Target) Ready(ctx context.Context, pins target.Pins) (time.Time, error) {
	return t.own().Ready(ctx, pins)
}

// Pods are the pods of the update revision and those of the stable one that are not ending, for those who judge them.
func (t *Target) Pods(ctx context.Context, pins target.Pins) (update, stable []corev1.Pod, err error) {
	return t.own().ByRevision(ctx, pins)
}

// Component is the workload as the ladder must know it.
func (t *Target) Component(ctx context.Context, pins target.Pins) (jail.Component, error) {
	return t.own().Component(ctx, pins, jail.Component{
		Cluster: t.Cluster, Kind: "Advanced DaemonSet", Namespace: t.Change.Namespace, Name: t.Change.Name, UserAgents: t.UserAgents, Rollout: t.Run,
	})
}

// ServiceAccount is whom the workload runs as now, namespace/name.
func (t *Target) ServiceAccount(ctx context.Context) (string, error) {
	ads, err := t.get(ctx)
	if err != nil {
		return "", err
	}
	return target.Account(t.Change.Namespace, ads.Spec.Template.Spec), nil
}
