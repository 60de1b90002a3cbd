package manifests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/seakeep/seakeep/rollout/target"
)

// was is one object as it was before.
type was struct {
	// Before is the object with its managedFields, nil where there was none.
	Before map[string]any `json:"before"`
	// Applied are the fields that the change applies, as managedFields say them.
	Applied *metav1.FieldsV1 `json:"applied,omitempty"`

	// touched are the fields that the change touches: those it applies, and those that a change before it applied and this one
	// leaves out. back are those of them that are applied on the way back: what belonged to rollouts before, and what is theirs now
	// and was nobody's. What was somebody else's too is let go of, and stays theirs.
	touched, back *fieldpath.Set
}

// asItWas pins an object that is there, and made, what applying makes of it.
func asItWas(found, made *unstructured.Unstructured) (was, error) {
	own, err := ownersOf(made)
	if err != nil {
		return was{}, err
	}
	applied, err := own.ours.ToJSON()
	if err != nil {
		return was{}, err
	}
	w := was{Before: kept(found), Applied: &metav1.FieldsV1{}}
	w.Applied.SetRawBytes(applied)
	return w, w.read()
}

// read completes what was pinned.
func (w *was) read() error {
	if w.Before == nil {
		return nil
	}
	if w.Applied == nil {
		return fmt.Errorf("%s was pinned without the fields that the change applies: abort the run, and put it back by hand", where(w.object()))
	}
	applied, err := readFields(w.Applied)
	if err != nil {
		return fmt.Errorf("reading the pinned fields of %s: %w", where(w.object()), err)
	}
	own, err := ownersOf(w.object())
	if err != nil {
		return err
	}
	others := fieldpath.NewSet()
	for _, fields := range own.others {
		others = others.Union(fields)
	}
	w.touched = applied.Union(own.ours)
	w.back = applied.Difference(others).Union(own.ours)
	return nil
}

// object is the object as it was before.
func (w was) object() *unstructured.Unstructured { return &unstructured.Unstructured{Object: w.Before} }

// kept is what of an object is pinned: not what the API server keeps of it by itself.
func kept(o *unstructured.Unstructured) map[string]any {
	o = o.DeepCopy()
	delete(o.Object, "status")
	for _, name := range []string{"uid", "resourceVersion", "generation", "creationTimestamp", "selfLink"} {
		unstructured.RemoveNestedField(o.Object, "metadata", name)
	}
	return o.Object
}

// before is what was pinned of each object.
func (t *Target) before(pins target.Pins) ([]was, error) {
	var before []was
	err := utiljson.Unmarshal(pins.Before, &before)
	if err == nil && len(before) != len(t.Objects) {
		err = fmt.Errorf("%d objects are pinned, and the change has %d", len(before), len(t.Objects))
	}
	for i := range before {
		if err == nil {
			err = before[i].read()
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was there before: %w", err)
	}
	return before, nil
}

// taken is ErrForeign when a field would have to be put back that is not the rollout's alone any more: somebody else changed it
// since, or relies on what the change made of it.
func (w was) taken(found *unstructured.Unstructured) error {
	own, err := ownersOf(found)
	if err != nil {
		return err
	}
	var paths []fieldpath.Path
	by := map[string]bool{}
	for _, path := range differing(w.touched, found, w.object()) {
		if _, there := at(found.Object, path); !there {
			continue // nobody has it
		}
		others := own.besides(path)
		if len(others) == 0 && own.ours.Has(path) {
			continue
		}
		paths = append(paths, path)
		for _, name := range others {
			by[name] = true
		}
	}
	if len(paths) == 0 {
		return nil
	}
	whose := "nobody says whose they are"
	if len(by) > 0 {
		whose = "they belong to " + strings.Join(slices.Sorted(maps.Keys(by)), ", ") + " too or instead"
	}
	const what = "%s: %s cannot be put back, %s: undo it there, or have them let it go: %w"
	return fmt.Errorf(what, where(found), list(paths), whose, target.ErrForeign)
}

// restore puts back what there was, the last object first, and deletes what there was not. Of what is there only the fields of the
// rollout are put back, by applying what they were: whatever others wrote meanwhile stays.
func (t *Target) restore(ctx context.Context, pins target.Pins) error {
	t.back = true
	before, err := t.before(pins)
	if err != nil {
		return err
	}
	for i := len(t.Objects) - 1; i >= 0; i-- {
		if err := t.putBack(ctx, t.object(i), before[i]); err != nil {
			return err
		}
	}
	return nil
}

func (t *Target) putBack(ctx context.Context, o *unstructured.Unstructured, w was) error {
	found, err := t.live(ctx, o)
	switch {
	case err != nil:
		return err
	case found == nil && w.Before == nil:
		return nil
	case found == nil:
		if err := t.remake(ctx, o, w, false); !errors.Is(err, target.ErrGone) {
			return err
		}
		return nil
	case found.GetDeletionTimestamp() != nil:
		return nil // what comes after its end is seen then
	case w.Before == nil:
		return t.remove(ctx, o, found)
	}
	if err := w.taken(found); err != nil {
		return err
	}
	part := only(w.back, w.object())
	part.SetUID(found.GetUID()) // or to apply would make an object of a part, if it is deleted just now
	made, err := t.apply(ctx, part, false)
	if err != nil {
		return err
	}
	if left := differing(w.touched, made, w.object()); len(left) > 0 {
		const what = "%s: %s were put back and are not as they were, the API server or a webhook keeps them so: %w"
		return fmt.Errorf(what, where(found), list(left), target.ErrForeign)
	}
	return nil
}

// remove deletes an object that is new.
func (t *Target) remove(ctx context.Context, o, found *unstructured.Unstructured) error {
	if err := theirs(o, found); err != nil {
		return err
	}
	r, err := t.resource(found)
	if err != nil {
		return err
	}
	uid := found.GetUID()
	err = r.Delete(ctx, found.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting %s: %w", where(found), err)
	}
	return nil
}

// theirs is ErrForeign for an object that was not there before, and of which nothing is the rollout's: somebody else made it, or has
// taken all of it over. Of a manifest that says a name and no more, as of a namespace, nothing is anybody's.
func theirs(o, found *unstructured.Unstructured) error {
	own, err := ownersOf(found)
	if err != nil || !own.ours.Empty() || onlyNames(o) {
		return err
	}
	return target.Foreign(where(found), "was not there before, and nothing of it is the rollout's", found)
}

// onlyNames is true for a manifest that says nothing but which object it is.
func onlyNames(o *unstructured.Unstructured) bool {
	rest := o.DeepCopy().Object
	for _, path := range [][]string{{"apiVersion"}, {"kind"}, {"metadata", "name"}, {"metadata", "namespace"}} {
		unstructured.RemoveNestedField(rest, path...)
	}
	metadata, _ := rest["metadata"].(map[string]any)
	return len(rest) == 1 && len(metadata) == 0
}

// remake makes an object again that was deleted in the middle of the run, whole as it was before; dry only tries. It is ErrGone when
// its namespace is gone. To make it is to own all of it, so that the fields are given back to whose they were: else the next change
// would be refused for what the rollout itself owns.
func (t *Target) remake(ctx context.Context, o *unstructured.Unstructured, w was, dry bool) error {
	r, err := t.resource(o)
	if err != nil {
		return err
	}
	old := w.object().DeepCopy()
	old.SetManagedFields(nil)
	options := metav1.CreateOptions{FieldManager: target.FieldManager}
	if dry {
		options.DryRun = []string{metav1.DryRunAll}
	}
	made, err := r.Create(ctx, old, options)
	switch {
	case noNamespace(err):
		return fmt.Errorf("%s, with its namespace: %w", where(o), target.ErrGone)
	case apierrors.IsInvalid(err), apierrors.IsForbidden(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%s was deleted in the middle of the run, and cannot be made again: %w: %w", where(o), err, target.ErrForeign)
	case err != nil:
		return fmt.Errorf("making %s again: %w", where(o), err)
	case dry:
		return nil
	}
	metadata := map[string]any{"uid": made.GetUID(), "managedFields": w.object().GetManagedFields()}
	patch, err := json.Marshal(map[string]any{"metadata": metadata})
	if err != nil {
		return err
	}
	if _, err := r.Patch(ctx, o.GetName(), types.MergePatchType, patch, metav1.PatchOptions{FieldManager: target.FieldManager}); err != nil {
		return fmt.Errorf("giving the fields of %s back: %w", where(o), err)
	}
	return nil
}

// noNamespace is true when an object cannot be there because its namespace, or its kind, is not, or is being deleted.
func noNamespace(err error) bool {
	return apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}
