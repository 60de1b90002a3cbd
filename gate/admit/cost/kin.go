package cost

import (
	"container/list"
	"strings"
	"time"
)

// kin are the learned shapes that ask for the same objects in different forms: where one was never seen, another tells more
// than any rule.
type kin struct {
	members []member // a few, at most one for each form
}

type member struct {
	form  form
	entry *entry
}

// form is what a shape's kin differ in.
type form struct {
	media   Media
	version Version
	gzip    bool
	initial bool
}

// entry is what was learned of one shape.
type entry struct {
	shape Shape
	seen  time.Time
	// seconds follows only what an unloaded control plane takes, bytes the answers, uncompressed.
	seconds, bytes tracker
	// calm is where seconds stood after the last sample without congestion, and congested says that one with it followed.
	calm      float64
	congested bool
	recency   *list.Element
}

// split takes a shape apart. A watch's initial events are a LIST in another form.
func split(s Shape) (Shape, form) {
	f := form{media: s.Media, version: s.Version, gzip: s.Gzip, initial: s.InitialEvents}
	s.Media, s.Version, s.Gzip = 0, 0, false
	if s.InitialEvents && s.Verb == "watch" {
		s.Verb, s.InitialEvents = "list", false
	}
	return s, f
}

func (k *kin) find(f form) *entry {
	for i := range k.members {
		if k.members[i].form == f {
			return k.members[i].entry
		}
	}
	return nil
}

// nearest returns the member whose form is most like f, and of which has learned what is asked for; nil if there is none.
func (k *kin) nearest(f form, has func(*entry) bool) *entry {
	var best *entry
	least := 0
	for i := range k.members {
		m := &k.members[i]
		if !has(m.entry) {
			continue
		}
		if d := f.distance(m.form); best == nil || d < least {
			best, least = m.entry, d
		}
	}
	return best
}

// distance weighs what differs by how far one is from telling the other: events are wrapped objects and come one by one;
// another media type is another size; compression takes time; the version only says where from.
func (f form) distance(other form) int {
	d := 0
	if f.initial != other.initial {
		d += 8
	}
	if f.media != other.media {
		d += 4
	}
	if f.gzip != other.gzip {
		d += 2
	}
	if f.version != other.version {
		d++
	}
	return d
}

// table holds the learned shapes, at most most of them: the one that was not seen for longest makes room.
type table struct {
	most   int
	kins   map[Shape]*kin
	recent *list.List // of *entry, the latest seen first
}

func newTable(most int) table {
	return table{most: most, kins: map[Shape]*kin{}, recent: list.New()}
}

// add makes an entry for a shape that has none.
func (t *table) add(s Shape) *entry {
	// The strings may be parts of a request line of any length, and would keep all of it.
	s.Verb, s.Group, s.Resource, s.Subresource = strings.Clone(s.Verb), strings.Clone(s.Group), strings.Clone(s.Resource), strings.Clone(s.Subresource)
	if t.recent.Len() >= t.most {
		t.forget(t.recent.Back().Value.(*entry))
	}
	common, f := split(s)
	k := t.kins[common]
	if k == nil {
		k = &kin{}
		t.kins[common] = k
	}
	e := &entry{shape: s}
	e.recency = t.recent.PushFront(e)
	k.members = append(k.members, member{form: f, entry: e})
	return e
}

func (t *table) forget(e *entry) {
	t.recent.Remove(e.recency)
	common, f := split(e.shape)
	k := t.kins[common]
	for i := range k.members {
		if k.members[i].form == f {
			k.members[i] = k.members[len(k.members)-1]
			k.members[len(k.members)-1] = member{}
			k.members = k.members[:len(k.members)-1]
			break
		}
	}
	if len(k.members) == 0 {
		delete(t.kins, common)
	}
}
