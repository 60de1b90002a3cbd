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

	// back is true once the way back has begun, applied is what was applied, by its place in Objects: as far as this process knows.
	back    bool
	applied map[int]bool
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
	if apierrors.HasStatusCause(err, metav1.CauseTypeFieldManagerConflict) {
		const what = "applying %s: somebody else owns a field of it: change it where they keep it, or have them let it go: %w: %w"
		return nil, fmt.Errorf(what, where(o), err, target.ErrForeign)
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

// makes is true when one of the objects is the namespace of o, also of one that names none.
func (t *Target) makes(o *unstructured.Unstructured) bool {
	_, namespace, err := t.place(o)
	if err != nil {
		return false // who applies it says why
	}
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
		if apierrors.IsNotFound(err) && t.makes(o) {
			err, made = nil, o
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("change.manifests[%d]: %w", i, err))
			continue
		}
		w := was{}
		if _, has := o.Object["stringData"]; has && found != nil && o.GetKind() == "Secret" {
			const what = "change.manifests[%d].stringData: %s exists, and what the API server makes of it could not be put back: write it as data"
			errs = append(errs, fmt.Errorf(what, i, where(o)))
			continue
		}
		if found != nil {
			if w, err = asItWas(found, made); err != nil {
				errs = append(errs, fmt.Errorf("change.manifests[%d]: %w", i, err))
				continue
			}
		}
		before = append(before, w)
		changes = changes || found == nil || len(differing(w.touched, found, made)) > 0
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

// Begin implements engine.Target. To apply is to move, so that nothing is written yet.
func (t *Target) Begin(_ context.Context, pins target.Pins) (target.Pins, error) {
	pins.Update = target.Revision(pins.After)
	return pins, nil
}

// stand is how one object stands.
type stand struct {
	// applied: to apply it again would change nothing. before: it is as it was before, in what the change touches.
	applied, before bool
	// ending: it was told to end, and is there still. gone is why there is nothing to put back any more.
	ending bool
	gone   error
}

// See implements engine.Target: the change is there when to apply every object again would change none. What is half applied,
// as after a death in the middle, runs both revisions: it is to be moved, whichever way. What waits for an object to end is under
// way. An object that went with its namespace does not run the change; when it was the last that could, there is nothing left.
func (t *Target) See(ctx context.Context, pins target.Pins) (plan.Seen, error) {
	seen := plan.Seen{Update: pins.Update, Stable: pins.Stable}
	before, err := t.before(pins)
	if err != nil {
		return seen, err
	}
	applied, exposed, ending := 0, 0, 0
	var gone error
	for i := range t.Objects {
		s, err := t.stand(ctx, t.object(i), before[i])
		switch {
		case err != nil:
			return seen, err
		case s.gone != nil:
			gone = s.gone
		case !s.before:
			exposed++
		}
		if s.applied {
			applied++
		}
		if s.ending && !s.before {
			ending++
		}
	}
	if gone != nil && exposed == 0 && !t.back {
		return seen, gone
	}
	node := plan.SeenNode{Name: unit, Ready: true}
	waits := exposed > 0 && ending == exposed
	if exposed > 0 {
		pod := plan.SeenPod{Name: unit, UID: pins.Update, Revision: pins.Update, Ready: applied == len(t.Objects), Terminating: waits}
		node.Pods = append(node.Pods, pod)
	}
	if applied < len(t.Objects) {
		node.Pods = append(node.Pods, plan.SeenPod{Name: unit, UID: pins.Stable, Revision: pins.Stable, Ready: true, Terminating: waits})
	}
	seen.Nodes = []plan.SeenNode{node}
	return seen, nil
}

func (t *Target) stand(ctx context.Context, o *unstructured.Unstructured, w was) (s stand, err error) {
	found, err := t.live(ctx, o)
	switch {
	case err != nil:
		return s, err
	case found == nil && w.Before == nil:
		s.before = true
		return s, nil
	case found == nil:
		if err = t.remake(ctx, o, w, true); errors.Is(err, target.ErrGone) {
			s.gone, err = err, nil
		}
		return s, err
	case found.GetDeletionTimestamp() != nil:
		s.ending = true
		return s, nil
	}
	s.before = w.Before != nil && len(differing(w.touched, found, w.object())) == 0
	made, err := t.apply(ctx, o, true)
	if errors.Is(err, target.ErrForeign) {
		if w.Before != nil {
			return s, w.taken(found) // what is not ours any more may be as it was before
		}
		return s, err
	}
	if err != nil {
		return s, err
	}
	now, err := asItWas(found, made)
	s.applied = err == nil && len(differing(now.touched, found, made)) == 0
	return s, err
}

// Ready implements engine.Target: what is applied has no readiness that is known.
func (t *Target) Ready(context.Context, target.Pins) (time.Time, error) { return time.Time{}, nil }

// Move implements engine.Target. What existed before and was deleted since is not made by applying: a manifest may say a few fields
// only. What somebody else made since is not applied to either: the way back would delete it.
func (t *Target) Move(ctx context.Context, pins target.Pins, _ []plan.Move, back bool) error {
	if back {
		return t.restore(ctx, pins)
	}
	before, err := t.before(pins)
	if err != nil {
		return err
	}
	for i := range t.Objects {
		o := t.object(i)
		found, err := t.live(ctx, o)
		switch existed := before[i].Before != nil; {
		case err != nil:
			return err
		case existed && found == nil:
			return fmt.Errorf("%s was deleted in the middle of the run: %w", where(o), target.ErrForeign)
		case found == nil && t.applied[i]:
			delete(t.applied, i) // whoever resumes the run wants it again
			return fmt.Errorf("%s was applied, and was deleted since: %w", where(o), target.ErrForeign)
		case existed:
			o.SetUID(found.GetUID()) // or to apply would make it, if it is deleted just now
		case !existed && found != nil:
			if err := theirs(o, found); err != nil {
				return err
			}
		}
		_, err = t.apply(ctx, o, false)
		if noNamespace(err) {
			err = fmt.Errorf("%w (its namespace was deleted in the middle of the run): %w", err, target.ErrForeign)
		}
		if err != nil {
			return err
		}
		if t.applied == nil {
			t.applied = map[int]bool{}
		}
		t.applied[i] = true
	}
	return nil
}

// Revert implements engine.Target: to move back is to revert.
func (t *Target) Revert(context.Context, target.Pins) error {
	t.back = true
	return nil
}

// Finish implements engine.Target: nothing was written besides the objects.
func (t *Target) Finish(context.Context, target.Pins, bool) error { return nil }

// Rights implements engine.Target: what there was is put back, what is new is deleted.
func (t *Target) Rights(pins target.Pins) ([]authorizationv1.ResourceAttributes, error) {
	before, err := t.before(pins)
	if err != nil {
		return nil, err
	}
	var rights []authorizationv1.ResourceAttributes
	for i := range t.Objects {
		o := t.object(i)
		resource, namespace, err := t.place(o)
		if err != nil {
			return nil, err
		}
		// Who may not make again what is deleted in the middle has a way back all the same: it pauses and says so.
		verbs := []string{"get", "patch"}
		if before[i].Before == nil {
			verbs = append(verbs, "create", "delete")
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
