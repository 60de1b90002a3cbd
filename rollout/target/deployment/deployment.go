// Package deployment changes a Deployment on a cluster as a whole: its own rolling update does the stepping there. What a rollout
// adds is the order of the clusters, the looks between them, and the way back.
package deployment

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// unit is the one thing that moves.
const unit = "deployment"

// Target is one Deployment of one cluster. Its methods are called by one goroutine at a time.
type Target struct {
	// Cluster is the cluster's name, Client speaks to it, each request with a time-out of its own.
	Cluster string
	Client  kubernetes.Interface
	Change  v1alpha1.WorkloadChange
	// Run is the run's id; UserAgents narrow whose requests the component's are.
	Run        string
	UserAgents []string
}

func (t *Target) where() string { return "Deployment " + t.Change.Namespace + "/" + t.Change.Name }

// Survey implements engine.Target: there is one thing to move.
func (t *Target) Survey(ctx context.Context) ([]plan.Node, error) {
	_, err := t.Prepare(ctx)
	return []plan.Node{{Name: unit}}, err
}

func (t *Target) get(ctx context.Context) (*appsv1.Deployment, error) {
	d, err := t.Client.AppsV1().Deployments(t.Change.Namespace).Get(ctx, t.Change.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.where(), err)
	}
	return d, nil
}

// Prepare implements engine.Target.
func (t *Target) Prepare(ctx context.Context) (target.Pins, error) {
	var pins target.Pins
	d, err := t.get(ctx)
	if err != nil {
		return pins, err
	}
	if d.Spec.Paused {
		return pins, fmt.Errorf("%s is paused: resume it first", t.where())
	}
	next, err := target.NextTemplate(t.Change, &d.Spec.Template)
	if err != nil {
		return pins, fmt.Errorf("change.deployment.%w", err)
	}
	changed := d.DeepCopy()
	changed.Spec.Template = *next
	dry, err := t.Client.AppsV1().Deployments(d.Namespace).Update(ctx, changed, metav1.UpdateOptions{FieldManager: target.FieldManager, DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return pins, fmt.Errorf("trying the new template on %s: %w", t.where(), err)
	}
	if equality.Semantic.DeepEqual(dry.Spec.Template, d.Spec.Template) {
		return pins, fmt.Errorf("%s has this template already: %w", t.where(), target.ErrNothing)
	}
	pins.Object = string(d.UID)
	if pins.Before, err = json.Marshal(d.Spec.Template); err != nil {
		return pins, err
	}
	if pins.After, err = json.Marshal(dry.Spec.Template); err != nil {
		return pins, err
	}
	pins.Stable = target.Revision(pins.Before)
	return pins, nil
}

// Begin implements engine.Target. To write the template is to move, so that nothing is written yet.
func (t *Target) Begin(ctx context.Context, pins target.Pins) (target.Pins, error) {
	_, err := t.mine(ctx, pins)
	pins.Update = target.Revision(pins.After)
	return pins, err
}

// mine reads the Deployment and refuses one that is not as it was pinned.
func (t *Target) mine(ctx context.Context, pins target.Pins) (*appsv1.Deployment, error) {
	d, err := t.get(ctx)
	if err := pins.Pinned(t.where(), d, err); err != nil {
		return nil, err
	}
	if !is(d, pins.Before) && !is(d, pins.After) {
		return nil, target.Foreign(t.where(), target.NeitherTemplate, d)
	}
	return d, nil
}

func is(d *appsv1.Deployment, pinned json.RawMessage) bool {
	return target.IsTemplate(d.Spec.Template, pinned)
}

// See implements engine.Target.
func (t *Target) See(ctx context.Context, pins target.Pins) (plan.Seen, error) {
	seen := plan.Seen{Update: pins.Update, Stable: pins.Stable}
	d, err := t.mine(ctx, pins)
	if err != nil {
		return seen, err
	}
	pod := plan.SeenPod{Name: t.Change.Namespace + "/" + t.Change.Name, UID: pins.Object, Revision: pins.Stable, Ready: complete(d)}
	if is(d, pins.After) {
		pod.Revision = pins.Update
	}
	seen.Nodes = []plan.SeenNode{{Name: unit, Ready: true, Pods: []plan.SeenPod{pod}}}
	return seen, nil
}

// complete is true when every replica is of the template in force, and available: as kubectl rollout status counts.
func complete(d *appsv1.Deployment) bool {
	replicas := int32(1)
	if d.Spec.Replicas != nil {
		replicas = *d.Spec.Replicas
	}
	s := d.Status
	return s.ObservedGeneration >= d.Generation && s.UpdatedReplicas == replicas && s.Replicas == replicas && s.AvailableReplicas == replicas
}

// Ready implements engine.Target: when the Deployment last progressed to being complete.
func (t *Target) Ready(ctx context.Context, _ target.Pins) (time.Time, error) {
	d, err := t.get(ctx)
	if err != nil || !complete(d) {
		return time.Time{}, err
	}
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			return c.LastUpdateTime.Time, nil
		}
	}
	return time.Time{}, nil
}

// Move implements engine.Target.
func (t *Target) Move(ctx context.Context, pins target.Pins, _ []plan.Move, back bool) error {
	to := pins.After
	if back {
		to = pins.Before
	}
	var next corev1.PodTemplateSpec
	if err := json.Unmarshal(to, &next); err != nil {
		return fmt.Errorf("reading the pinned template of %s: %w", t.where(), err)
	}
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d, err := t.mine(ctx, pins)
		if err != nil || is(d, to) {
			return err
		}
		d.Spec.Template = next
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[target.RunAnnotation] = t.Run
		if _, err := t.Client.AppsV1().Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{FieldManager: target.FieldManager}); err != nil {
			return fmt.Errorf("writing the template of %s: %w", t.where(), err)
		}
		return nil
	})
}

// Revert implements engine.Target: to move back is to revert.
func (t *Target) Revert(context.Context, target.Pins) error { return nil }

// Finish implements engine.Target.
func (t *Target) Finish(ctx context.Context, pins target.Pins, _ bool) error {
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d, err := t.mine(ctx, pins)
		if err != nil || d.Annotations[target.RunAnnotation] != t.Run {
			return err
		}
		delete(d.Annotations, target.RunAnnotation)
		if _, err := t.Client.AppsV1().Deployments(d.Namespace).Update(ctx, d, metav1.UpdateOptions{FieldManager: target.FieldManager}); err != nil {
			return fmt.Errorf("finishing %s: %w", t.where(), err)
		}
		return nil
	})
}

// Rights implements engine.Target.
func (t *Target) Rights(target.Pins) ([]authorizationv1.ResourceAttributes, error) {
	own := authorizationv1.ResourceAttributes{Group: "apps", Resource: "deployments", Namespace: t.Change.Namespace, Name: t.Change.Name}
	sets := authorizationv1.ResourceAttributes{Group: "apps", Resource: "replicasets", Namespace: t.Change.Namespace}
	pods := authorizationv1.ResourceAttributes{Resource: "pods", Namespace: t.Change.Namespace}
	return slices.Concat(target.Verbs(own, "get", "update"), target.Verbs(sets, "list"), target.Verbs(pods, "list")), nil
}

// Component implements engine.Target.
func (t *Target) Component(ctx context.Context, pins target.Pins) (jail.Component, error) {
	c := jail.Component{Cluster: t.Cluster, Kind: "Deployment", Namespace: t.Change.Namespace, Name: t.Change.Name, UserAgents: t.UserAgents, Rollout: t.Run}
	if err := pins.Describe(&c); err != nil || pins.Update == "" {
		return c, err
	}
	update, _, err := t.Pods(ctx, pins)
	for _, p := range update {
		c.UpdatePods = append(c.UpdatePods, p.Namespace+"/"+p.Name)
	}
	return c, err
}

// Pods are the pods of the new template and those of the one before that are not ending, for those who judge them.
func (t *Target) Pods(ctx context.Context, pins target.Pins) (update, stable []corev1.Pod, err error) {
	d, err := t.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	options := metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(d.Spec.Selector)}
	sets, err := t.Client.AppsV1().ReplicaSets(d.Namespace).List(ctx, options)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the ReplicaSets of %s: %w", t.where(), err)
	}
	pods, err := t.Client.CoreV1().Pods(d.Namespace).List(ctx, options)
	if err != nil {
		return nil, nil, fmt.Errorf("reading the pods of %s: %w", t.where(), err)
	}
	isUpdate := map[string]bool{}
	for i := range sets.Items {
		s := &sets.Items[i]
		if owner := metav1.GetControllerOf(s); owner != nil && string(owner.UID) == pins.Object {
			isUpdate[string(s.UID)] = sameTemplate(s.Spec.Template, pins.After)
		}
	}
	for _, p := range pods.Items {
		owner := metav1.GetControllerOf(&p)
		if owner == nil || p.DeletionTimestamp != nil {
			continue
		}
		if of, ours := isUpdate[string(owner.UID)]; ours && of {
			update = append(update, p)
		} else if ours {
			stable = append(stable, p)
		}
	}
	return update, stable, nil
}

// sameTemplate compares a ReplicaSet's template, which has the hash as a label, with a pinned one.
func sameTemplate(template corev1.PodTemplateSpec, pinned json.RawMessage) bool {
	template = *template.DeepCopy()
	delete(template.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return target.IsTemplate(template, pinned)
}
