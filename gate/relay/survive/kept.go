package survive

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
)

// kind is a kept resource as the API server names it.
type kind struct {
	Group      string `json:"group"`
	Version    string `json:"version"`
	Resource   string `json:"resource"`
	Kind       string `json:"kind"`
	Namespaced bool   `json:"namespaced"`
}

func (k *kind) gvk() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

func (k *kind) apiVersion() string {
	return schema.GroupVersion{Group: k.Group, Version: k.Version}.String()
}

// builtIn is true for what this program has types for: it is kept as protobuf and answered as protobuf too.
func (k *kind) builtIn() bool { return scheme.Scheme.Recognizes(k.gvk()) }

// empty returns an object to decode into.
func (k *kind) empty() (runtime.Object, error) {
	if !k.builtIn() {
		return &unstructured.Unstructured{}, nil
	}
	return scheme.Scheme.New(k.gvk())
}

// object is one kept object: encoded, with what selectors ask for. It is not changed.
type object struct {
	namespace, name string
	version         uint64
	labels          labels.Set
	node            string // spec.nodeName, of pods
	raw             []byte // protobuf without an envelope for what is built in, else JSON
}

func (o *object) key() string { return o.namespace + "/" + o.name }

// message is what the generated protobuf code of Kubernetes' types has.
type message interface {
	Marshal() ([]byte, error)
	Unmarshal([]byte) error
}

// encodeObject makes a kept object of one that came from the API server.
func encodeObject(from runtime.Object) (*object, error) {
	accessor, err := meta.Accessor(from)
	if err != nil {
		return nil, err
	}
	o := &object{namespace: accessor.GetNamespace(), name: accessor.GetName(), labels: accessor.GetLabels()}
	if o.name == "" {
		return nil, fmt.Errorf("an object of %T has no name", from)
	}
	if o.version, err = parseVersion(accessor.GetResourceVersion()); err != nil {
		return nil, fmt.Errorf("object %s: %w", o.key(), err)
	}
	switch typed := from.(type) {
	case *unstructured.Unstructured:
		o.raw, err = typed.MarshalJSON()
	case message:
		if pod, ok := from.(*corev1.Pod); ok {
			o.node = pod.Spec.NodeName
		}
		o.raw, err = typed.Marshal()
	default:
		err = fmt.Errorf("%T has no protobuf form", from)
	}
	return o, err
}

// decode is the object as a type.
func (o *object) decode(k *kind) (runtime.Object, error) { return decodeRaw(k, o.raw) }

func decodeRaw(k *kind, raw []byte) (runtime.Object, error) {
	into, err := k.empty()
	if err != nil {
		return nil, err
	}
	switch typed := into.(type) {
	case *unstructured.Unstructured:
		err = typed.UnmarshalJSON(raw)
	case message:
		err = typed.Unmarshal(raw)
	default:
		err = fmt.Errorf("%T has no protobuf form", into)
	}
	return into, err
}

// parseVersion reads a resource version, which is a number that grows (KEP-5504). 0 is none.
func parseVersion(text string) (uint64, error) {
	version, err := strconv.ParseUint(text, 10, 64)
	if err != nil || version == 0 {
		return 0, fmt.Errorf("resource version %q is not a number > 0", text)
	}
	return version, nil
}

// snapshot is a resource's state at one version. It is shared and not changed.
type snapshot struct {
	kind kind
	// version is the newest the API server vouched for, changed the version of the last change in it: whoever saw any
	// version from changed to version has seen this state.
	version, changed uint64
	// confirmed is when that was.
	confirmed time.Time
	// objects are sorted by namespace and name, as the API server lists them.
	objects []*object
}

func byKey(a, b *object) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

func (s *snapshot) find(namespace, name string) *object {
	i, ok := slices.BinarySearchFunc(s.objects, &object{namespace: namespace, name: name}, byKey)
	if !ok {
		return nil
	}
	return s.objects[i]
}

// kept is one resource's newest state. It is what a reflector writes to (cache.ReflectorStore and its extensions), from
// one goroutine; everyone else reads snapshots.
type kept struct {
	mu               sync.Mutex
	kind             kind
	whole            bool // a complete state was had
	version, changed uint64
	confirmed        time.Time
	objects          map[string]*object
	bytes            int64
	shared           *snapshot // of the state as it is; nil after a change
	// revision counts changes, and confirmations apart: what is on disk is compared with them.
	revision uint64
}

// Replace implements cache.ReflectorStore: the state is what was listed.
func (k *kept) Replace(list []any, version string) error {
	number, err := parseVersion(version)
	if err != nil {
		return fmt.Errorf("listing: %w", err)
	}
	objects := make(map[string]*object, len(list))
	var bytes int64
	for _, item := range list {
		o, err := encodeObject(item.(runtime.Object))
		if err != nil {
			return err
		}
		objects[o.key()] = o
		bytes += int64(len(o.raw))
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.objects, k.bytes, k.whole = objects, bytes, true
	// What was deleted before this version is not known, so nobody who saw an older one is known to have seen this state.
	k.changed = number
	k.confirm(number)
	k.revised()
	return nil
}

// Add implements cache.ReflectorStore.
func (k *kept) Add(item any) error { return k.Update(item) }

// Update implements cache.ReflectorStore.
func (k *kept) Update(item any) error {
	o, err := encodeObject(item.(runtime.Object))
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if old := k.objects[o.key()]; old != nil {
		k.bytes -= int64(len(old.raw))
	}
	k.objects[o.key()] = o
	k.bytes += int64(len(o.raw))
	k.changed = o.version
	k.confirm(o.version)
	k.revised()
	return nil
}

// Delete implements cache.ReflectorStore. The object carries the version of its deletion.
func (k *kept) Delete(item any) error {
	accessor, err := meta.Accessor(item)
	if err != nil {
		return err
	}
	version, err := parseVersion(accessor.GetResourceVersion())
	if err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	key := (&object{namespace: accessor.GetNamespace(), name: accessor.GetName()}).key()
	if old := k.objects[key]; old != nil {
		k.bytes -= int64(len(old.raw))
		delete(k.objects, key)
	}
	k.changed = version
	k.confirm(version)
	k.revised()
	return nil
}

// Bookmark implements cache.ReflectorBookmarkStore: nothing changed up to the version.
func (k *kept) Bookmark(version string) error {
	number, err := parseVersion(version)
	if err != nil {
		return nil // one that says nothing
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.confirm(number)
	k.shared = nil
	return nil
}

// Resync implements cache.ReflectorStore.
func (k *kept) Resync() error { return nil }

func (k *kept) confirm(version uint64) { k.version, k.confirmed = version, time.Now() }

func (k *kept) revised() {
	k.shared = nil
	k.revision++
}

// snapshot is the state now, nil when there is none.
func (k *kept) snapshot() *snapshot {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.snapshotLocked()
}

func (k *kept) snapshotLocked() *snapshot {
	if !k.whole {
		return nil
	}
	if k.shared == nil {
		objects := make([]*object, 0, len(k.objects))
		for _, o := range k.objects {
			objects = append(objects, o)
		}
		slices.SortFunc(objects, byKey)
		k.shared = &snapshot{kind: k.kind, version: k.version, changed: k.changed, confirmed: k.confirmed, objects: objects}
	}
	return k.shared
}

// restore takes a state from disk, unless there is a live one.
func (k *kept) restore(s *snapshot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.whole {
		return
	}
	k.kind, k.whole = s.kind, true
	k.version, k.changed, k.confirmed = s.version, s.changed, s.confirmed
	k.objects, k.bytes = make(map[string]*object, len(s.objects)), 0
	for _, o := range s.objects {
		k.objects[o.key()] = o
		k.bytes += int64(len(o.raw))
	}
	k.shared = s
}

// become takes the kind that is to be followed; what was kept in another version goes.
func (k *kept) become(found *kind) {
	k.mu.Lock()
	different := k.kind != *found
	k.mu.Unlock()
	if different {
		k.drop()
		k.mu.Lock()
		k.kind = *found
		k.mu.Unlock()
	}
}

// drop forgets everything: it was another cluster's.
func (k *kept) drop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	// Its reflector may go on for a while, with objects that are not a whole.
	k.objects, k.bytes, k.whole, k.shared = map[string]*object{}, 0, false, nil
	k.version, k.changed = 0, 0
	k.revision++
}
