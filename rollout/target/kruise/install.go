package kruise

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/intstr"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/util/retry"

	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// What is new is made under the partition: OpenKruise makes pods on all nodes but that many, and takes the nodes by name, the
// first ones first, whatever its selector says. So the plan goes by name too (v1alpha1.AdvancedDaemonSetChange.Install).

// prepareInstall pins the object that is to be made.
func (t *Target) prepareInstall(ctx context.Context) (target.Pins, error) {
	found, err := t.get(ctx)
	switch {
	case err == nil && found.Annotations[target.RunAnnotation] != t.Run:
		return target.Pins{}, fmt.Errorf("%s exists: leave change.advancedDaemonSet.install out to change it", t.where())
	case err != nil && !apierrors.IsNotFound(err):
		return target.Pins{}, err
	}
	desired, err := t.desired()
	if err != nil {
		return target.Pins{}, err
	}
	dry, err := t.make(ctx, desired, metav1.DryRunAll)
	if apierrors.IsNotFound(err) && t.MakesNamespace {
		// The namespace comes with the change's manifests; what is asked here is whether the template is taken.
		elsewhere := desired.DeepCopy()
		elsewhere.SetNamespace(metav1.NamespaceDefault)
		dry, err = t.make(ctx, elsewhere, metav1.DryRunAll)
	}
	if apierrors.IsAlreadyExists(err) && found != nil {
		dry, err = found, nil // made by this run, which died before it could say so
	}
	if err != nil {
		return target.Pins{}, fmt.Errorf("trying to create %s: %w", t.where(), served(err))
	}
	var pins target.Pins
	pins.After, err = dry.template()
	return pins, err
}

func (t *Target) make(ctx context.Context, whole *unstructured.Unstructured, dry ...string) (*object, error) {
	made, err := t.Objects.Resource(Resource).Namespace(whole.GetNamespace()).Create(ctx, whole, metav1.CreateOptions{FieldManager: target.FieldManager, DryRun: dry})
	if err != nil {
		return nil, err
	}
	return read(made)
}

// desired keeps every node back.
func (t *Target) desired() (*unstructured.Unstructured, error) {
	template, err := t.next(nil)
	if err != nil {
		return nil, err
	}
	if len(template.Labels) == 0 {
		return nil, errors.New("change.advancedDaemonSet.template.metadata.labels: required: the DaemonSet selects its pods by them")
	}
	o := object{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: t.Change.Namespace, Name: t.Change.Name, Labels: template.Labels,
			Annotations: map[string]string{target.RunAnnotation: t.Run, progressive: "true"},
		},
		Spec: spec{
			Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: *template,
			UpdateStrategy: keeping(),
		},
	}
	data, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	whole := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(data, &whole.Object); err != nil {
		return nil, err
	}
	whole.SetAPIVersion(Resource.GroupVersion().String())
	whole.SetKind("DaemonSet")
	return whole, nil
}

// create makes the object, which runs nowhere yet.
func (t *Target) create(ctx context.Context, pins target.Pins) (*object, error) {
	desired, err := t.desired()
	if err != nil {
		return nil, err
	}
	made, err := t.make(ctx, desired)
	if apierrors.IsAlreadyExists(err) {
		if made, err = t.get(ctx); err == nil && (made.Annotations[target.RunAnnotation] != t.Run || !made.is(pins.After)) {
			return nil, fmt.Errorf("%s was made by somebody else: %w", t.where(), target.ErrForeign)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", t.where(), err)
	}
	return made, nil
}

// places are the nodes that have a pod, or that OpenKruise makes one on next, in the order of their names; desire is how many
// there could be.
func places(ads *object, nodes []target.OnNode, pins target.Pins) (taken []string, desire int) {
	made := 0
	var free []string
	for _, n := range nodes {
		if n.Fits {
			desire++
		}
		updated, old := has(n, pins.Update)
		switch {
		case updated:
			made++
			taken = append(taken, n.Node.Name)
		case old:
			taken = append(taken, n.Node.Name)
		case n.Fits && len(n.Pods) == 0:
			free = append(free, n.Node.Name)
		}
	}
	slots := desire - min(ads.Spec.UpdateStrategy.RollingUpdate.Partition.IntValue(), desire) - made
	return append(taken, free[:max(0, min(slots, len(free)))]...), desire
}

// seenInstall is the cluster as a plan sees it: a node is let in when OpenKruise has a place for it.
func seenInstall(ads *object, nodes []target.OnNode, pins target.Pins) []plan.SeenNode {
	var taken []string
	if pins.Update != "" {
		taken, _ = places(ads, nodes, pins)
	}
	var seen []plan.SeenNode
	for _, n := range nodes {
		if !n.Meant {
			continue
		}
		one := n.Seen()
		if one.Enrolment = plan.NotEnrolled; slices.Contains(taken, one.Name) {
			one.Enrolment = plan.Enrolled
		}
		seen = append(seen, one)
	}
	return seen
}

// moveInstall gives OpenKruise a place for each node that moves, or takes it away and deletes the pod.
func (t *Target) moveInstall(ctx context.Context, pins target.Pins, moves []plan.Move, back bool) error {
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return t.place(ctx, pins, moves, back) }); err != nil || !back {
		return err
	}
	var errs []error
	for _, m := range moves {
		if m.Pod != "" && ctx.Err() == nil {
			errs = append(errs, t.own().DeletePod(ctx, m))
		}
	}
	return errors.Join(errs...)
}

func (t *Target) place(ctx context.Context, pins target.Pins, moves []plan.Move, back bool) error {
	ads, err := t.stepped(ctx, pins)
	if err != nil {
		return err
	}
	if back {
		return t.keep(ctx, ads, everyNode)
	}
	nodes, err := t.own().List(ctx, pins)
	if err != nil {
		return err
	}
	taken, desire := places(ads, nodes, pins)
	for _, m := range moves {
		if !slices.Contains(taken, m.Node) {
			taken = append(taken, m.Node)
		}
	}
	return t.keep(ctx, ads, intstr.FromInt32(int32(max(0, desire-len(taken)))))
}

// keep writes the partition.
func (t *Target) keep(ctx context.Context, ads *object, partition intstr.IntOrString) error {
	s := ads.Spec.UpdateStrategy
	if *s.RollingUpdate.Partition == partition {
		return nil
	}
	s.RollingUpdate.Partition = &partition
	if err := ads.setStrategy(s); err != nil {
		return err
	}
	if _, err := t.update(ctx, ads); err != nil {
		return fmt.Errorf("writing the partition of %s: %w", t.where(), err)
	}
	return nil
}

// revertInstall keeps every node back; the pods that are there are deleted one by one after, and then the object. A run that was
// finished has let go of it: it is held again.
func (t *Target) revertInstall(ctx context.Context, pins target.Pins) error {
	ads, err := t.mine(ctx, pins)
	if err != nil {
		return err
	}
	if held, err := t.stepped(ctx, pins); err == nil && *held.Spec.UpdateStrategy.RollingUpdate.Partition == everyNode {
		return nil
	}
	ads.annotate(target.RunAnnotation, t.Run)
	ads.annotate(progressive, "true")
	if err := ads.setStrategy(keeping()); err != nil {
		return err
	}
	if _, err := t.update(ctx, ads); err != nil {
		return fmt.Errorf("keeping every node back from %s: %w", t.where(), err)
	}
	return nil
}

// keeping keeps every node back from what is new. A pause would not: OpenKruise makes pods under it.
func keeping() strategy {
	one, never := intstr.FromInt32(1), false
	return strategy{Type: rollingUpdateType, RollingUpdate: &rollingUpdate{Type: standard, MaxUnavailable: &one, Partition: &everyNode, Paused: &never}}
}

// finishInstall lets all nodes have a pod, new ones too, and pauses updates, so that a template that somebody writes later moves
// nothing by itself. After the way back it deletes the object.
func (t *Target) finishInstall(ctx context.Context, pins target.Pins, back bool) error {
	ads, err := t.get(ctx)
	switch {
	case apierrors.IsNotFound(err) && back:
		return nil
	case err != nil:
		return err
	case string(ads.UID) != pins.Object:
		return fmt.Errorf("%s is another object of the same name: %w", t.where(), target.ErrGone)
	case back:
		err := t.Objects.Resource(Resource).Namespace(ads.Namespace).Delete(ctx, ads.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &ads.UID}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting %s: %w", t.where(), err)
		}
		return nil
	case ads.Annotations[target.RunAnnotation] != t.Run:
		return nil // finished before
	}
	s, paused, none := ads.Spec.UpdateStrategy, true, intstr.FromInt32(0)
	if s.RollingUpdate == nil {
		return t.foreign(ads, "has another update strategy")
	}
	s.RollingUpdate.Partition, s.RollingUpdate.Paused = &none, &paused
	if err := ads.setStrategy(s); err != nil {
		return err
	}
	ads.annotate(progressive, "")
	ads.annotate(target.RunAnnotation, "")
	if _, err := t.update(ctx, ads); err != nil {
		return fmt.Errorf("finishing %s: %w", t.where(), err)
	}
	return nil
}
