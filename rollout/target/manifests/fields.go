package manifests

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"github.com/seakeep/seakeep/rollout/target"
)

// owners say whose the fields of an object are.
type owners struct {
	// ours are those that a rollout applied, others those of everybody else, by name.
	ours   *fieldpath.Set
	others map[string]*fieldpath.Set
}

// ownersOf reads an object's managedFields. What a rollout wrote otherwise than by applying counts as somebody else's, as it does
// for the API server.
func ownersOf(o *unstructured.Unstructured) (owners, error) {
	own := owners{ours: fieldpath.NewSet(), others: map[string]*fieldpath.Set{}}
	for _, m := range o.GetManagedFields() {
		if m.FieldsV1 == nil {
			continue
		}
		fields, err := readFields(m.FieldsV1)
		if err != nil {
			return own, fmt.Errorf("reading which fields of %s are %s's: %w", where(o), m.Manager, err)
		}
		if m.Manager == target.FieldManager && m.Operation == metav1.ManagedFieldsOperationApply && m.Subresource == "" {
			own.ours = own.ours.Union(fields)
			continue
		}
		if before := own.others[m.Manager]; before != nil {
			fields = before.Union(fields)
		}
		own.others[m.Manager] = fields
	}
	return own, nil
}

func readFields(of *metav1.FieldsV1) (*fieldpath.Set, error) {
	set := fieldpath.NewSet()
	if err := set.FromJSON(of.GetRawReader()); err != nil {
		return nil, err
	}
	return set, nil
}

// besides names the others who own a field, sorted; nil when nobody does.
func (w owners) besides(path fieldpath.Path) []string {
	var names []string
	for name, fields := range w.others {
		if fields.Has(path) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// differing are the fields of a set in which two objects differ. A field that is a map or a list counts by what the set has below it.
func differing(set *fieldpath.Set, a, b *unstructured.Unstructured) []fieldpath.Path {
	var paths []fieldpath.Path
	set.Leaves().Iterate(func(path fieldpath.Path) {
		x, inA := at(a.Object, path)
		y, inB := at(b.Object, path)
		if inA != inB || inA && !value.Equals(value.NewValueInterface(x), value.NewValueInterface(y)) {
			paths = append(paths, path.Copy())
		}
	})
	return paths
}

// at is what a value has at a path; false when it has nothing there.
func at(v any, path fieldpath.Path) (any, bool) {
	for _, element := range path {
		if element.FieldName != nil {
			fields, _ := v.(map[string]any)
			field, found := fields[*element.FieldName]
			if !found {
				return nil, false
			}
			v = field
			continue
		}
		items, _ := v.([]any)
		i := slices.IndexFunc(items, func(item any) bool { return isItem(item, element) })
		if i < 0 {
			return nil, false
		}
		v = items[i]
	}
	return v, true
}

// isItem says whether an item of a list is the one that is meant: by the fields that name it, or by its value.
func isItem(item any, element fieldpath.PathElement) bool {
	switch {
	case element.Value != nil:
		return value.Equals(value.NewValueInterface(item), *element.Value)
	case element.Key != nil:
		fields, is := item.(map[string]any)
		return is && !slices.ContainsFunc(*element.Key, func(f value.Field) bool {
			has, found := fields[f.Name]
			return !found || !value.Equals(value.NewValueInterface(has), f.Value)
		})
	}
	return false
}

// only is what of an object a set has: what to apply for the fields of the set to be as they are in this object.
func only(set *fieldpath.Set, o *unstructured.Unstructured) *unstructured.Unstructured {
	kept, _ := within(set, o.Object).(map[string]any)
	part := &unstructured.Unstructured{Object: kept}
	if kept == nil {
		part.Object = map[string]any{}
	}
	part.SetGroupVersionKind(o.GroupVersionKind())
	part.SetName(o.GetName())
	part.SetNamespace(o.GetNamespace())
	return part.DeepCopy()
}

func within(set *fieldpath.Set, v any) any {
	switch v := v.(type) {
	case map[string]any:
		kept := map[string]any{}
		for name, field := range v {
			if part, has := under(set, fieldpath.FieldNameElement(name), field); has {
				kept[name] = part
			}
		}
		return kept
	case []any:
		kept := []any{}
		for _, item := range v {
			for element := range elements(set) {
				if !isItem(item, element) {
					continue
				}
				if part, has := under(set, element, item); has {
					kept = append(kept, named(part, item, element))
				}
				break
			}
		}
		return kept
	}
	return nil
}

// under is what of a field or an item the set has. Of one that the set has parts of, an empty one is kept only if it was empty.
func under(set *fieldpath.Set, element fieldpath.PathElement, v any) (any, bool) {
	below, parts := set.Children.Get(element)
	if !parts || below.Empty() {
		return v, set.Members.Has(element)
	}
	switch part := within(below, v).(type) {
	case map[string]any:
		whole, _ := v.(map[string]any)
		return part, len(part) > 0 || len(whole) == 0 && set.Members.Has(element)
	case []any:
		whole, _ := v.([]any)
		return part, len(part) > 0 || len(whole) == 0 && set.Members.Has(element)
	}
	return v, set.Members.Has(element)
}

// elements are the items that a set has.
func elements(set *fieldpath.Set) func(yield func(fieldpath.PathElement) bool) {
	return func(yield func(fieldpath.PathElement) bool) {
		for element := range set.Members.All() {
			if element.FieldName == nil && !yield(element) {
				return
			}
		}
		for element := range set.Children.All() {
			if element.FieldName == nil && !set.Members.Has(element) && !yield(element) {
				return
			}
		}
	}
}

// named gives a part of an item the fields by which it is known.
func named(part, item any, element fieldpath.PathElement) any {
	fields, is := part.(map[string]any)
	whole, _ := item.(map[string]any)
	if is && element.Key != nil {
		for _, f := range *element.Key {
			fields[f.Name] = whole[f.Name]
		}
	}
	return part
}

// list names fields for people, the first three of them.
func list(paths []fieldpath.Path) string {
	var names []string
	for _, path := range paths {
		names = append(names, path.String())
	}
	if more := len(names) - 3; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), more)
	}
	return strings.Join(names, ", ")
}
