// Package manifests applies objects of Kubernetes on a cluster, all at once, by server-side apply. A field that somebody else
// owns is never taken: the API server says whose it is, and the rollout is refused before it begins.
package manifests

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// unit is the one thing that moves.
const unit = "manifests"

// Target is a list of objects on one cluster. Its methods are called by one goroutine at a time.
type Target struct {
	Cluster string
	Client  dynamic.Interface
	// Mapper says what resource a kind is.
	Mapper meta.RESTMapper
	// Objects are applied in their order, and taken back in the other.
	Objects []map[string]any
	// Namespace is where those are that name none.
	Namespace string
	Run       string
}

// was is one object as it was before, null where there was none.
type was struct {
	Before map[string]any `json:"before"`
}

// Survey implements engine.Target.
func (t *Target) Survey(ctx context.Context) ([]plan.Node, error) {
	_, err := t.Prepare(ctx)
	return []plan.Node{{Name: unit}}, err
}

func (t *Target) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	resource, namespace, err := t.place(o)
	if err != nil || namespace == "" {
		return t.Client.Resource(resource), err
	}
	return t.Client.Resource(resource).Namespace(namespace), nil
}

// place is what resource an object is, and in which namespace; "" for one that is in none.
func (t *Target) place(o *unstructured.Unstructured) (resource schema.GroupVersionResource, namespace string, err error) {
	kind := o.GroupVersionKind()
	mapping, err := t.Mapper.RESTMapping(kind.GroupKind(), kind.Version)
	switch {
	case err != nil:
		return resource, "", fmt.Errorf("%s: the cluster does not serve %s: %w", where(o), kind, err)
	case mapping.Scope.Name() == meta.RESTScopeNameRoot:
		return mapping.Resource, "", nil
	}
	return mapping.Resource, cmp.Or(o.GetNamespace(), t.Namespace, metav1.NamespaceDefault), nil
}

func where(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + " " + o.GetName()
	}
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

func (t *Target) object(i int) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: t.Objects[i]}
	return o.DeepCopy()
}

// apply applies one object; dry only tries. A namespace that is made by an object before it is not there when it is tried.
func (t *Target) apply(ctx context.Context, o *unstructured.Unstructured, dry bool) (*unstructured.Unstructured, error) {
	r, err := t.resource(o)
	if err != nil {
		return nil, err
	}
	options := metav1.ApplyOptions{FieldManager: target.FieldManager}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	made, err := r.Apply(ctx, o.GetName(), o, options)
	if apierrors.IsConflict(err) {
		return nil, fmt.Errorf("applying %s: somebody else owns a field of it: change it where they keep it, or have them let it go: %w", where(o), err)
	}
	if err != nil {
		return nil, fmt.Errorf("applying %s: %w", where(o), err)
	}
	return made, nil
}

func (t *Target) live(ctx context.Context, o *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	r, err := t.resource(o)
	if err != nil {
		return nil, err
	}
	found, err := r.Get(ctx, o.GetName(), metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", where(o), err)
	}
	return found, nil
}

// makes is true when one of the objects is the namespace of o.
func (t *Target) makes(namespace string) bool {
	return slices.ContainsFunc(t.Objects, func(other map[string]any) bool {
		u := &unstructured.Unstructured{Object: other}
		return u.GetKind() == "Namespace" && u.GetName() == namespace
	})
}

// Prepare implements engine.Target: it remembers what there is, and tries what is to be. Nothing to change is refused.
func (t *Target) Prepare(ctx context.Context) (target.Pins, error) {
	pins, changes, err := t.prepare(ctx)
	if err == nil && !changes {
		err = fmt.Errorf("change.manifests: every object is like this already: %w", target.ErrNothing)
	}
	return pins, err
}

// Try is Prepare for manifests that go with a workload: they may be there already.
func (t *Target) Try(ctx context.Context) (target.Pins, error) {
	pins, _, err := t.prepare(ctx)
	return pins, err
}

func (t *Target) prepare(ctx context.Context) (pins target.Pins, changes bool, err error) {
	var errs []error
	var before []was
	for i := range t.Objects {
		o := t.object(i)
		found, err := t.live(ctx, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("change.manifests[%d]: %w", i, err))
			continue
		}
		made, err := t.apply(ctx, o, true)
		if apierrors.IsNotFound(err) && t.makes(o.GetNamespace()) {
			err, made = nil, o
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("change.manifests[%d]: %w", i, err))
			continue
		}
		w := was{}
		if found != nil {
			w.Before = kept(found)
		}
		before = append(before, w)
		changes = changes || found == nil || !t.same(i, found, made)
	}
	if err := errors.Join(errs...); err != nil {
		return pins, false, err
	}
	if pins.Before, err = json.Marshal(before); err != nil {
		return pins, false, err
	}
	if pins.After, err = json.Marshal(t.Objects); err != nil {
		return pins, false, err
	}
	pins.Stable = target.Revision(pins.Before)
	return pins, changes, nil
}

// kept is what of an object is put back: not what the API server keeps of it by itself.
func kept(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	delete(o.Object, "status")
	for _, name := range []string{"managedFields", "resourceVersion", "generation", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(o.Object, "metadata", name)
	}
	return o.Object
}

// same compares two states of object i. Annotations that the rollout does not write are left out: controllers keep notes there.
func (t *Target) same(i int, a, b *unstructured.Unstructured) bool {
	named := t.object(i).GetAnnotations()
	compared := func(o *unstructured.Unstructured) map[string]any {
		rest := &unstructured.Unstructured{Object: kept(o)}
		annotations := rest.GetAnnotations()
		for key := range annotations {
			if _, ours := named[key]; !ours {
				delete(annotations, key)
			}
		}
		if rest.SetAnnotations(annotations); len(annotations) == 0 {
			unstructured.RemoveNestedField(rest.Object, "metadata", "annotations")
		}
		return rest.Object
	}
	return equality.Semantic.DeepEqual(compared(a), compared(b))
}

// Begin implements engine.Target. To apply is to move, so that nothing is written yet.
func (t *Target) Begin(_ context.Context, pins target.Pins) (target.Pins, error) {
	pins.Update = target.Revision(pins.After)
	return pins, nil
}

// See implements engine.Target: the change is there when to apply every object again would change none. What is half applied,
// as after a death in the middle, runs both revisions: it is to be moved, whichever way.
func (t *Target) See(ctx context.Context, pins target.Pins) (plan.Seen, error) {
	seen := plan.Seen{Update: pins.Update, Stable: pins.Stable}
	var before []was
	if err := json.Unmarshal(pins.Before, &before); err != nil {
		return seen, fmt.Errorf("reading what was there before: %w", err)
	}
	applied, untouched := 0, 0
	for i := range t.Objects {
		o := t.object(i)
		found, err := t.live(ctx, o)
		if err != nil {
			return seen, err
		}
		old := before[i].Before
		if found == nil {
			if old == nil {
				untouched++
			}
			continue
		}
		if old != nil && t.same(i, found, &unstructured.Unstructured{Object: old}) {
			untouched++
		}
		made, err := t.apply(ctx, o, true)
		if apierrors.IsConflict(err) {
			return seen, fmt.Errorf("%w: %w", target.ErrForeign, err)
		}
		if err != nil {
			return seen, err
		}
		if t.same(i, found, made) {
			applied++
		}
	}
	node := plan.SeenNode{Name: unit, Ready: true}
	if untouched < len(t.Objects) {
		node.Pods = append(node.Pods, plan.SeenPod{Name: unit, UID: pins.Update, Revision: pins.Update, Ready: applied == len(t.Objects)})
	}
	if applied < len(t.Objects) {
		node.Pods = append(node.Pods, plan.SeenPod{Name: unit, UID: pins.Stable, Revision: pins.Stable, Ready: true})
	}
	seen.Nodes = []plan.SeenNode{node}
	return seen, nil
}

// Ready implements engine.Target: what is applied has no readiness that is known.
func (t *Target) Ready(context.Context, target.Pins) (time.Time, error) { return time.Time{}, nil }

// Move implements engine.Target.
func (t *Target) Move(ctx context.Context, pins target.Pins, _ []plan.Move, back bool) error {
	if back {
		return t.restore(ctx, pins)
	}
	for i := range t.Objects {
		if _, err := t.apply(ctx, t.object(i), false); err != nil {
			return err
		}
	}
	return nil
}

// restore puts back what there was, the last object first, and deletes what there was not.
func (t *Target) restore(ctx context.Context, pins target.Pins) error {
	var before []was
	if err := json.Unmarshal(pins.Before, &before); err != nil {
		return fmt.Errorf("reading what was there before: %w", err)
	}
	for i := len(t.Objects) - 1; i >= 0; i-- {
		o := t.object(i)
		found, err := t.live(ctx, o)
		if err != nil || found == nil {
			if err != nil {
				return err
			}
			continue
		}
		r, err := t.resource(o)
		if err != nil {
			return err
		}
		if before[i].Before == nil {
			uid := found.GetUID()
			if err := r.Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("deleting %s: %w", where(o), err)
			}
			continue
		}
		old := &unstructured.Unstructured{Object: before[i].Before}
		if t.same(i, found, old) {
			continue
		}
		old.SetResourceVersion(found.GetResourceVersion())
		if _, err := r.Update(ctx, old, metav1.UpdateOptions{FieldManager: target.FieldManager}); err != nil {
			return fmt.Errorf("putting %s back: %w", where(o), err)
		}
	}
	return nil
}

// Revert implements engine.Target: to move back is to revert.
func (t *Target) Revert(context.Context, target.Pins) error { return nil }

// Finish implements engine.Target: nothing was written besides the objects.
func (t *Target) Finish(context.Context, target.Pins, bool) error { return nil }

// Rights implements engine.Target: what there was is put back, what is new is deleted.
func (t *Target) Rights(pins target.Pins) ([]authorizationv1.ResourceAttributes, error) {
	var before []was
	if err := json.Unmarshal(pins.Before, &before); err != nil {
		return nil, fmt.Errorf("reading what was there before: %w", err)
	}
	var rights []authorizationv1.ResourceAttributes
	for i := range t.Objects {
		o := t.object(i)
		resource, namespace, err := t.place(o)
		if err != nil {
			return nil, err
		}
		verbs := []string{"get", "patch", "update"}
		if before[i].Before == nil {
			verbs = []string{"get", "patch", "create", "delete"}
		}
		of := authorizationv1.ResourceAttributes{Group: resource.Group, Resource: resource.Resource, Namespace: namespace, Name: o.GetName()}
		rights = append(rights, target.Verbs(of, verbs...)...)
	}
	return rights, nil
}

// Component implements engine.Target. Objects have no ServiceAccount that could be held back.
func (t *Target) Component(context.Context, target.Pins) (jail.Component, error) {
	return jail.Component{Cluster: t.Cluster, Kind: "Manifests", Rollout: t.Run}, nil
}
