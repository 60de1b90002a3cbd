package kruise

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"github.com/seakeep/seakeep/rollout/target"
)

// progressive is the annotation under which OpenKruise keeps to the partition when it makes pods too, which OpenKruise 1.9 keeps as
// spec.scaleStrategy.partitionedScaling of v1beta1.
const progressive = "daemonset.kruise.io/progressive-create-pod"

// What is written of a strategy.
const (
	rollingUpdateType = "RollingUpdate"
	standard          = "Standard"
	surging           = "Surging" // an old word for Standard, which needs a surge
)

// everyNode is a partition that keeps every node back, however many there are or come. It is no percentage: OpenKruise takes
// those of the nodes it counted last, which are none for an object that is new.
var everyNode = intstr.FromInt32(math.MaxInt32)

// object is an Advanced DaemonSet: what a rollout reads of it, and the whole of it as it was read, so that what this version
// does not know is written back as it was.
type object struct {
	metav1.ObjectMeta `json:"metadata"`
	Spec              spec `json:"spec"`

	whole *unstructured.Unstructured
}

type spec struct {
	Selector       *metav1.LabelSelector  `json:"selector,omitempty"`
	Template       corev1.PodTemplateSpec `json:"template"`
	UpdateStrategy strategy               `json:"updateStrategy,omitempty"`
}

type strategy struct {
	Type          string         `json:"type,omitempty"`
	RollingUpdate *rollingUpdate `json:"rollingUpdate,omitempty"`
}

type rollingUpdate struct {
	Type           string                `json:"rollingUpdateType,omitempty"`
	MaxUnavailable *intstr.IntOrString   `json:"maxUnavailable,omitempty"`
	MaxSurge       *intstr.IntOrString   `json:"maxSurge,omitempty"`
	Selector       *metav1.LabelSelector `json:"selector,omitempty"`
	Partition      *intstr.IntOrString   `json:"partition,omitempty"`
	Paused         *bool                 `json:"paused,omitempty"`
}

func read(whole *unstructured.Unstructured) (*object, error) {
	o := &object{whole: whole}
	data, err := whole.MarshalJSON()
	if err == nil {
		err = json.Unmarshal(data, o)
	}
	if err != nil {
		return nil, fmt.Errorf("reading Advanced DaemonSet %s/%s: %w", whole.GetNamespace(), whole.GetName(), err)
	}
	return o, nil
}

// get reads the object.
func (t *Target) get(ctx context.Context) (*object, error) {
	whole, err := t.Objects.Resource(Resource).Namespace(t.Change.Namespace).Get(ctx, t.Change.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.where(), served(err))
	}
	return read(whole)
}

// served says more when the API server has no such kind at all, which it answers like an object that is not there.
func served(err error) error {
	if apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return fmt.Errorf("%w (%s): is OpenKruise installed there?", err, Resource.GroupVersion())
	}
	return err
}

// update writes the object against the version that was read. OpenKruise writes its status all the time, so that who calls it
// reads and tries again on a conflict.
func (t *Target) update(ctx context.Context, o *object, dry ...string) (*object, error) {
	whole, err := t.Objects.Resource(Resource).Namespace(t.Change.Namespace).Update(ctx, o.whole, metav1.UpdateOptions{FieldManager: target.FieldManager, DryRun: dry})
	if err != nil {
		return nil, err
	}
	return read(whole)
}

// is compares the template with a pinned one.
func (o *object) is(pinned json.RawMessage) bool { return target.IsTemplate(o.Spec.Template, pinned) }

// template is the template as it is written, with what this version does not know.
func (o *object) template() (json.RawMessage, error) {
	template, _, err := unstructured.NestedMap(o.whole.Object, "spec", "template")
	if err != nil {
		return nil, err
	}
	return json.Marshal(template)
}

func (o *object) setTemplate(template json.RawMessage) error {
	var raw map[string]any
	if err := utiljson.Unmarshal(template, &raw); err != nil {
		return fmt.Errorf("reading a pinned template: %w", err)
	}
	if err := json.Unmarshal(template, &o.Spec.Template); err != nil {
		return fmt.Errorf("reading a pinned template: %w", err)
	}
	return o.set(raw, "spec", "template")
}

func (o *object) setStrategy(s strategy) error {
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&s)
	if err != nil {
		return err
	}
	o.Spec.UpdateStrategy = s
	return o.set(raw, "spec", "updateStrategy")
}

// set sets a field, whose numbers must be as unstructured objects keep them: of Kubernetes' decoder of JSON. The whole is this
// object's own, nobody else reads it.
func (o *object) set(value any, path ...string) error {
	return unstructured.SetNestedField(o.whole.Object, value, path...)
}

// annotate sets an annotation, or takes it away.
func (o *object) annotate(key, value string) {
	annotations := o.whole.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	if annotations[key] = value; value == "" {
		delete(annotations, key)
	}
	o.whole.SetAnnotations(annotations)
	o.Annotations = annotations
}

// heldBefore is what there was before the run: the strategy as it was written, and whether pods are made progressively.
type heldBefore struct {
	UpdateStrategy map[string]any `json:"updateStrategy"`
	Progressive    string         `json:"progressive,omitempty"`
}

// held is the strategy from before, to be pinned.
func (o *object) held() (json.RawMessage, error) {
	strategy, _, err := unstructured.NestedMap(o.whole.Object, "spec", "updateStrategy")
	if err != nil {
		return nil, err
	}
	return json.Marshal(heldBefore{UpdateStrategy: strategy, Progressive: o.Annotations[progressive]})
}

// restore puts a pinned strategy back.
func (o *object) restore(pinned json.RawMessage) error {
	var before heldBefore
	if err := utiljson.Unmarshal(pinned, &before); err != nil {
		return err
	}
	o.annotate(progressive, before.Progressive)
	if before.UpdateStrategy == nil {
		unstructured.RemoveNestedField(o.whole.Object, "spec", "updateStrategy")
		o.Spec.UpdateStrategy = strategy{}
		return nil
	}
	data, err := json.Marshal(before.UpdateStrategy)
	if err != nil {
		return err
	}
	o.Spec.UpdateStrategy = strategy{}
	if err := json.Unmarshal(data, &o.Spec.UpdateStrategy); err != nil {
		return err
	}
	return o.set(before.UpdateStrategy, "spec", "updateStrategy")
}

// rewrite puts a template in force and lets nothing. How pods are updated, in place or by new ones, stays as it was; a surge does
// not: it would have two pods of an agent on a node, and is outside of every budget when the old pod is not ready.
func (t *Target) rewrite(o *object, template json.RawMessage) error {
	if err := o.setTemplate(template); err != nil {
		return err
	}
	o.annotate(target.RunAnnotation, t.Run)
	// With it, OpenKruise would make no pod on a node that lost its own while the partition keeps every node back.
	o.annotate(progressive, "")
	return o.setStrategy(letting(o.Spec.UpdateStrategy, nil, everyNode, 1))
}
