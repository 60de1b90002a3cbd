package watch

import (
	"bytes"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/frame"
)

// selection is the part of a resource that one subscriber watches.
type selection struct {
	path      string // of the whole resource, over all namespaces
	namespace string
	labels    labels.Selector
	fields    fields.Selector
}

// selectionOf is nil for a watch that cannot be filtered here: without a selector, by fields that are not looked at, of a
// single object, or in an encoding that says less than the object.
func selectionOf(k *key, f *flow.Request) *selection {
	if f.LabelSelector == "" && f.FieldSelector == "" || strings.Contains(k.accept, "as=") || f.Subresource != "" {
		return nil
	}
	root := "/apis/" + f.APIGroup + "/" + f.APIVersion
	if f.APIGroup == "" {
		root = "/api/" + f.APIVersion
	}
	s := &selection{path: root + "/" + f.Resource}
	switch f.Path {
	case s.path:
	case root + "/namespaces/" + f.Namespace + "/" + f.Resource:
		s.namespace = f.Namespace
	default:
		return nil
	}
	var err error
	if s.labels, err = labels.Parse(f.LabelSelector); err != nil {
		return nil // the API server says what is wrong with it
	}
	if s.fields, err = fields.ParseSelector(f.FieldSelector); err != nil {
		return nil
	}
	for _, requirement := range s.fields.Requirements() {
		switch requirement.Field {
		case "metadata.name", "metadata.namespace":
		case "spec.nodeName":
			if f.APIGroup != "" || f.Resource != "pods" {
				return nil
			}
		default:
			return nil
		}
	}
	return s
}

func (s *selection) matches(o *object) bool {
	return o != nil && (s.namespace == "" || o.Namespace == s.namespace) && s.labels.Matches(o.labels) && s.fields.Matches(o)
}

// bytes is the event as the selection sees it, nil when it does not: what enters the selection is added, what leaves it is
// deleted, with the object as it was and the version of the event, as k8s.io/apiserver's cacher has it. The source
// is locked.
func (s *selection) bytes(from *source, e *entry) []byte {
	c := e.change
	if c == nil {
		return e.frame
	}
	now, before := e.kind != frame.Deleted && s.matches(c.now), s.matches(c.before)
	want := frame.Modified
	switch {
	case !now && !before:
		return nil
	case now && !before:
		want = frame.Added
	case before && !now:
		want = frame.Deleted
	}
	if want == e.kind {
		return e.frame
	}
	return from.rewritten(e, want)
}

// rewritten is the event as another type, made once for all who want it.
func (s *source) rewritten(e *entry, as frame.Type) []byte {
	if b := e.change.as[as]; b != nil {
		return b
	}
	contentType := s.header.Get("Content-Type")
	var b []byte
	var err error
	if as == frame.Deleted {
		b, err = frame.AsDeleted(contentType, e.change.before.frame, e.version)
	} else {
		b, err = frame.AsType(contentType, e.frame, as)
	}
	if err != nil {
		panic(fmt.Sprintf("BUG: a frame that was understood cannot be written as %s: %v", as, err))
	}
	if s.hub.o.Budget.Take(len(b)) {
		e.size += len(b)
		s.ring.bytes += len(b)
		e.change.as[as] = b
	}
	return b
}

// object is what is known of one object: as much as selections look at, and its newest frame.
type object struct {
	frame.Object
	labels labels.Set
	frame  []byte
}

// Has implements fields.Fields.
func (o *object) Has(field string) bool { return o.Get(field) != "" }

// Get implements fields.Fields.
func (o *object) Get(field string) string {
	switch field {
	case "metadata.name":
		return o.Name
	case "metadata.namespace":
		return o.Namespace
	case "spec.nodeName":
		return o.NodeName
	}
	return ""
}

// change is what an event changed.
type change struct {
	before, now *object
	as          [frame.Error + 1][]byte // the event written as other types
}

type objectName struct{ namespace, name string }

// objects are the newest state of a resource, for a source that is filtered: an event does not say what the object was
// before it.
type objects struct {
	all   map[objectName]*object
	bytes int
}

// objectOverhead is what an object takes beside its frame, about.
const objectOverhead = 512

func (o *objects) count() int { return len(o.all) }

// apply takes the event in and says what it changed. It fails when there is no memory for the object.
func (o *objects) apply(f *frame.Frame, contentType string, budget Budget) (*change, error) {
	parsed, err := frame.ObjectOf(contentType, f.Bytes)
	if err != nil {
		return nil, err
	}
	now := &object{Object: parsed, labels: parsed.Labels, frame: f.Bytes}
	name := objectName{parsed.Namespace, parsed.Name}
	c := &change{before: o.all[name], now: now}
	if f.Type == frame.Deleted {
		if c.before == nil {
			c.before = now // not known: what the event says of it is what it was
		}
		o.drop(name, budget)
		return c, nil
	}
	size := len(now.frame) + objectOverhead
	if !budget.Take(size) {
		return nil, fmt.Errorf("no memory for the objects of a filtered watch: %d bytes held", o.bytes)
	}
	o.drop(name, budget)
	if o.all == nil {
		o.all = map[objectName]*object{}
	}
	o.all[name] = now
	o.bytes += size
	return c, nil
}

func (o *objects) drop(name objectName, budget Budget) {
	if old := o.all[name]; old != nil {
		size := len(old.frame) + objectOverhead
		o.bytes -= size
		budget.Give(size)
		delete(o.all, name)
	}
}

func (o *objects) clear(budget Budget) {
	budget.Give(o.bytes)
	*o = objects{}
}

// readInitial reads the objects that exist, up to the bookmark that ends them: the ring begins there. It returns what came
// behind that.
func (s *source) readInitial(u *upstreamWatch) (rest []frame.Frame, err error) {
	contentType := u.header.Get("Content-Type")
	s.mu.Lock()
	s.objects.clear(s.hub.o.Budget)
	s.mu.Unlock()
	var version uint64
	take := func(f frame.Frame) bool {
		f.Bytes = bytes.Clone(f.Bytes)
		switch {
		case version != 0:
			rest = append(rest, f)
		case f.Type == frame.Added:
			s.mu.Lock()
			defer s.mu.Unlock()
			_, err = s.objects.apply(&f, contentType, s.hub.o.Budget)
		case f.InitialEventsEnd:
			version = f.Version
		case f.Type != frame.Bookmark:
			err = fmt.Errorf("%s among the initial events of %s", f.Type, s.key.path)
		}
		return err == nil
	}
	for version == 0 {
		readErr := u.read(take)
		if err != nil {
			return nil, err
		}
		if readErr != nil && version == 0 {
			return nil, fmt.Errorf("reading the initial events of %s: %w", s.key.path, readErr)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = newRing(version, s.ring.most, s.ring.budget)
	return rest, nil
}
