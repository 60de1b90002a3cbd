package daemonset

import (
	"context"
	"encoding/json"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// enrolledValue is the enrolment label's.
const enrolledValue = "true"

// prepareInstall pins the DaemonSet that is to be made. On 2024-12-11 the new agent came as a new DaemonSet, and its controller
// makes 250 pods at a time on every node there is; a node selector that no node satisfies yet makes it wait for each.
func (t *Target) prepareInstall(ctx context.Context) (target.Pins, error) {
	found, err := t.get(ctx)
	switch {
	case err == nil && found.Annotations[target.RunAnnotation] != t.Run:
		return target.Pins{}, fmt.Errorf("%s exists: leave change.daemonSet.install out to change it", t.where())
	case err != nil && !apierrors.IsNotFound(err):
		return target.Pins{}, err
	}
	ds, err := t.desired()
	if err != nil {
		return target.Pins{}, err
	}
	dry, err := t.tryCreate(ctx, ds)
	if apierrors.IsNotFound(err) && t.MakesNamespace {
		// The namespace comes with the change's manifests; what is asked here is whether the API server takes the template.
		elsewhere := ds.DeepCopy()
		elsewhere.Namespace = metav1.NamespaceDefault
		dry, err = t.tryCreate(ctx, elsewhere)
	}
	if apierrors.IsAlreadyExists(err) && found != nil {
		dry, err = found, nil // made by this run, which died before it could say so
	}
	if err != nil {
		return target.Pins{}, fmt.Errorf("trying to create %s: %w", t.where(), err)
	}
	var pins target.Pins
	pins.After, err = json.Marshal(dry.Spec.Template)
	return pins, err
}

func (t *Target) tryCreate(ctx context.Context, ds *appsv1.DaemonSet) (*appsv1.DaemonSet, error) {
	return t.Client.AppsV1().DaemonSets(ds.Namespace).Create(ctx, ds, metav1.CreateOptions{FieldManager: target.FieldManager, DryRun: []string{metav1.DryRunAll}})
}

func (t *Target) desired() (*appsv1.DaemonSet, error) {
	template, err := t.next(nil)
	if err != nil {
		return nil, err
	}
	if len(template.Labels) == 0 {
		return nil, fmt.Errorf("change.daemonSet.template.metadata.labels: required: the DaemonSet selects its pods by them")
	}
	if template.Spec.NodeSelector == nil {
		template.Spec.NodeSelector = map[string]string{}
	}
	template.Spec.NodeSelector[t.Change.Install.EnrolmentLabel] = enrolledValue
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: t.Change.Namespace, Name: t.Change.Name, Labels: template.Labels},
		Spec:       appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}},
	}
	t.rewrite(ds, *template)
	return ds, nil
}

// create makes the DaemonSet, which runs nowhere yet.
func (t *Target) create(ctx context.Context, pins target.Pins) (*appsv1.DaemonSet, error) {
	ds, err := t.desired()
	if err != nil {
		return nil, err
	}
	made, err := t.Client.AppsV1().DaemonSets(ds.Namespace).Create(ctx, ds, metav1.CreateOptions{FieldManager: target.FieldManager})
	if apierrors.IsAlreadyExists(err) {
		if made, err = t.get(ctx); err == nil && (made.Annotations[target.RunAnnotation] != t.Run || !is(made, pins.After)) {
			return nil, fmt.Errorf("%s was made by somebody else: %w", t.where(), target.ErrForeign)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("creating %s: %w", t.where(), err)
	}
	return made, nil
}

// letGo is true for a DaemonSet as a finished install leaves it: the new template without the enrolment selector.
func (t *Target) letGo(ds *appsv1.DaemonSet, pins target.Pins) bool {
	if t.Change.Install == nil {
		return false
	}
	if _, held := ds.Spec.Template.Spec.NodeSelector[t.Change.Install.EnrolmentLabel]; held {
		return false
	}
	again := ds.DeepCopy()
	if again.Spec.Template.Spec.NodeSelector == nil {
		again.Spec.Template.Spec.NodeSelector = map[string]string{}
	}
	again.Spec.Template.Spec.NodeSelector[t.Change.Install.EnrolmentLabel] = enrolledValue
	return is(again, pins.After)
}

// hold puts the enrolment selector of a finished install in force again, so that nodes can be taken out one by one. Those of the
// run have kept their labels; what has come since, to nodes of later, goes at once.
func (t *Target) hold(ctx context.Context, pins target.Pins) error {
	ds, err := t.mine(ctx, pins)
	if err != nil || !t.letGo(ds, pins) {
		return err
	}
	_, err = t.write(ctx, ds, pins.After)
	return err
}

func (t *Target) enrolment(n *corev1.Node) plan.Enrolment {
	switch {
	case t.Change.Install == nil:
		return plan.NotUsed
	case n.Labels[t.Change.Install.EnrolmentLabel] == enrolledValue:
		return plan.Enrolled
	}
	return plan.NotEnrolled
}

// enrol gives a node the label, or takes it away.
func (t *Target) enrol(ctx context.Context, node string, in bool) error {
	labels := map[string]any{t.Change.Install.EnrolmentLabel: nil}
	if in {
		labels[t.Change.Install.EnrolmentLabel] = enrolledValue
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return err
	}
	t.own().Forget() // it says otherwise now
	_, err = t.Client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: target.FieldManager})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("labelling node %s: %w", node, err)
	}
	return nil
}

// finishInstall drops the selector, unless only selected nodes are meant; under OnDelete that moves no pod. The nodes keep their
// labels, which mean nothing from then on: to take them away would be a write of every node, told to everyone who watches nodes.
func (t *Target) finishInstall(ctx context.Context, ds *appsv1.DaemonSet, back bool) error {
	if back {
		uid := ds.UID
		err := t.Client.AppsV1().DaemonSets(ds.Namespace).Delete(ctx, ds.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("deleting %s: %w", t.where(), err)
		}
		return nil
	}
	if _, held := ds.Spec.Template.Spec.NodeSelector[t.Change.Install.EnrolmentLabel]; !held || t.Selector != nil {
		return nil // done before; or only some nodes are meant, and the selector is what keeps it from the others
	}
	delete(ds.Spec.Template.Spec.NodeSelector, t.Change.Install.EnrolmentLabel)
	delete(ds.Annotations, target.RunAnnotation)
	if _, err := t.Client.AppsV1().DaemonSets(ds.Namespace).Update(ctx, ds, metav1.UpdateOptions{FieldManager: target.FieldManager}); err != nil {
		return fmt.Errorf("dropping the enrolment selector of %s: %w", t.where(), err)
	}
	return nil
}
