package relay

import (
	"cmp"
	"errors"
	"slices"
	"sort"
	"strconv"
	"sync"

	"github.com/seakeep/seakeep/dns/store"
)

// Errors of a history; the server translates them.
var (
	errUnknown = errors.New("there is no data of this kind yet")
	errAbsent  = errors.New("the source does not have this kind")
	errExpired = errors.New("the version is older than what is remembered")
)

// Bounds of a ring. Changes beyond them are forgotten, and whoever is that far behind lists again.
const (
	maxEntries = 8192
	maxBytes   = 32 << 20
	// maxSnapshots is how many versions of a kind are kept for lists that go on page by page: a pointer an object each.
	maxSnapshots = 16
)

// entry is one change.
type entry struct {
	key      store.Key
	old, new store.Object // nil where there was, or is, none
	// version is what a client that has seen the change may go on from.
	version uint64
	// upTo: clients that are at this version, or before it, have not seen the change. It is version-1 for a change
	// that was watched. A list does not say when what it lacks was deleted; its deletions come first and carry the
	// version before it, and are told again to whoever is at that version.
	upTo uint64
	size int
}

// history is a kind's data and its last changes. It is safe for concurrent use.
type history struct {
	mu sync.Mutex

	known, absent bool
	// epoch grows whenever the data was replaced by data that does not follow from it.
	epoch   uint64
	version uint64
	// foreign is true when version is one of our own making: a static file has none.
	foreign bool
	objects map[store.Key]store.Object

	ring  []entry
	first uint64 // number of ring[0]
	bytes int
	// floor is the oldest version to watch from.
	floor uint64

	changed   chan struct{} // closed at the next change
	snapshots []snapshotOf
}

// snapshotOf is a kind's objects at one version, in order. Nobody changes it.
type snapshotOf struct {
	epoch, version uint64
	// changes is how many changes led to it: deletions that a list brought leave the version as it is.
	changes uint64
	objects []store.Object
}

func newHistory() *history { return &history{changed: make(chan struct{})} }

func parseVersion(text string) uint64 {
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// wake tells those who wait. The caller holds the lock.
func (h *history) wake() {
	close(h.changed)
	h.changed = make(chan struct{})
}

// replace begins an epoch with data from elsewhere. Watches of the one before end.
func (h *history) replace(version string, objects map[store.Key]store.Object) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.replaceLocked(version, objects)
}

func (h *history) replaceLocked(version string, objects map[store.Key]store.Object) {
	h.known, h.absent = true, false
	h.epoch++
	h.version = parseVersion(version)
	h.foreign = h.version == 0
	h.version = max(h.version, 1)
	h.objects = objects
	h.first += uint64(len(h.ring))
	h.ring, h.bytes, h.floor, h.snapshots = nil, 0, h.version, nil
	h.first++ // no number stands for two states
	h.wake()
}

// forget throws the data away: it was not ours to serve.
func (h *history) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.replaceLocked("", nil)
	h.known = false
}

// gone notes that the source does not have the kind.
func (h *history) gone() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.known && h.absent {
		return
	}
	h.replaceLocked("", nil)
	h.absent = true
}

// put takes a changed or new object at its own version. One that says the same as before moves only the version on.
func (h *history) put(o store.Object, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := parseVersion(version)
	if !h.known || v <= h.version {
		return // seen before: another source that is watched from an older version
	}
	before := h.objects[o.Key()]
	h.version = v
	if before == nil || !store.Equal(before, o) {
		h.objects[o.Key()] = o
		h.add(entry{key: o.Key(), old: before, new: o, version: v, upTo: v - 1})
	}
	h.wake()
}

// delete takes a deletion at a version.
func (h *history) delete(key store.Key, version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	v := parseVersion(version)
	before := h.objects[key]
	if !h.known || v < h.version || v == h.version && before == nil {
		return
	}
	if before != nil {
		delete(h.objects, key)
		e := entry{key: key, old: before, version: v, upTo: v - 1}
		if v == h.version { // of another relay's list
			e.upTo = v
		}
		h.add(e)
	}
	h.version = v
	h.wake()
}

// bookmark moves the version on.
func (h *history) bookmark(version string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if v := parseVersion(version); h.known && v > h.version {
		h.version = v
		h.wake()
	}
}

// at is true when the history has come to a version, or went beyond it.
func (h *history) at(version string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.known && !h.absent && !h.foreign && parseVersion(version) <= h.version
}

// listing is a list that is being read. Only what differs is kept of it.
type listing struct {
	h     *history
	seen  map[store.Key]struct{}
	fresh []store.Object
}

func (h *history) begin() *listing { return &listing{h: h, seen: map[store.Key]struct{}{}} }

func (l *listing) add(o store.Object) {
	key := o.Key()
	l.seen[key] = struct{}{}
	l.h.mu.Lock()
	before := l.h.objects[key]
	l.h.mu.Unlock()
	if before == nil || !store.Equal(before, o) {
		l.fresh = append(l.fresh, o)
	}
}

// end makes the list's data the history's: as changes that lead there where they can be told, else as a new epoch.
func (l *listing) end(version string) {
	h := l.h
	h.mu.Lock()
	defer h.mu.Unlock()
	v := parseVersion(version)
	slices.SortFunc(l.fresh, func(a, b store.Object) int { return cmp.Compare(a.ResourceVersion(), b.ResourceVersion()) })
	follows := h.known && !h.absent && !h.foreign && v >= h.version && len(l.fresh) < maxEntries/2 &&
		(len(l.fresh) == 0 || l.fresh[0].ResourceVersion() > h.version && l.fresh[len(l.fresh)-1].ResourceVersion() <= v)
	if !follows {
		objects := make(map[store.Key]store.Object, len(l.seen))
		for key := range l.seen {
			if o := h.objects[key]; o != nil {
				objects[key] = o
			}
		}
		for _, o := range l.fresh {
			objects[o.Key()] = o
		}
		h.replaceLocked(version, objects)
		return
	}
	before := h.version
	for key, o := range h.objects {
		if _, there := l.seen[key]; !there {
			delete(h.objects, key)
			h.add(entry{key: key, old: o, version: before, upTo: before})
		}
	}
	for _, o := range l.fresh {
		at := o.ResourceVersion()
		h.add(entry{key: o.Key(), old: h.objects[o.Key()], new: o, version: at, upTo: at - 1})
		h.objects[o.Key()] = o
	}
	h.version = v
	h.wake()
}

// add puts a change into the ring. The caller holds the lock.
func (h *history) add(e entry) {
	e.size = sizeOf(e.old) + sizeOf(e.new)
	h.ring = append(h.ring, e)
	h.bytes += e.size
	drop := 0
	for len(h.ring)-drop > maxEntries || h.bytes > maxBytes && len(h.ring)-drop > 1 {
		h.bytes -= h.ring[drop].size
		h.floor = max(h.floor, h.ring[drop].upTo+1)
		drop++
	}
	if drop > 0 {
		clear(h.ring[:drop]) // let go of the objects now, of the array when it is next made larger
		h.ring = h.ring[drop:]
		h.first += uint64(drop)
	}
}

func sizeOf(o store.Object) int {
	if s, ok := o.(*store.EndpointSlice); ok {
		return 300 + len(s.Packed())
	}
	return 300
}

// snapshot returns the objects in the order of their keys, at one version.
func (h *history) snapshot() (snapshotOf, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.usable(); err != nil {
		return snapshotOf{}, err
	}
	changes := h.first + uint64(len(h.ring))
	if n := len(h.snapshots); n > 0 && h.snapshots[n-1].changes == changes {
		h.snapshots[n-1].version = h.version
		return h.snapshots[n-1], nil
	}
	s := snapshotOf{epoch: h.epoch, version: h.version, changes: changes, objects: make([]store.Object, 0, len(h.objects))}
	for _, o := range h.objects {
		s.objects = append(s.objects, o)
	}
	slices.SortFunc(s.objects, func(a, b store.Object) int { return compareKeys(a.Key(), b.Key()) })
	if len(h.snapshots) >= maxSnapshots {
		h.snapshots = slices.Delete(h.snapshots, 0, 1)
	}
	h.snapshots = append(h.snapshots, s)
	return s, nil
}

// snapshotAt is a snapshot that was taken before, for the next page of a list.
func (h *history) snapshotAt(epoch, changes uint64) (snapshotOf, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.snapshots {
		if s.epoch == epoch && s.changes == changes {
			return s, nil
		}
	}
	return snapshotOf{}, errExpired
}

func (h *history) usable() error {
	switch {
	case !h.known:
		return errUnknown
	case h.absent:
		return errAbsent
	}
	return nil
}

// get returns one object, and the history's version.
func (h *history) get(key store.Key) (store.Object, uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.objects[key], h.version, h.usable()
}

// current is the version now; 0 when there is none.
func (h *history) current() uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.usable() != nil {
		return 0
	}
	return h.version
}

// cursor is where a watcher is.
type cursor struct {
	epoch, next uint64
	// after is the version the watch began from; it may be ahead of ours, and then what came before it is not told.
	after uint64
}

// since returns a cursor that goes on after a version.
func (h *history) since(version uint64) (cursor, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.usable(); err != nil {
		return cursor{}, err
	}
	if version < h.floor {
		return cursor{}, errExpired
	}
	i := sort.Search(len(h.ring), func(i int) bool { return h.ring[i].upTo >= version })
	return cursor{epoch: h.epoch, next: h.first + uint64(i), after: version}, nil
}

// next hands out at most limit changes, and the version they lead to; without any, the channel is closed when there
// may be one.
func (h *history) next(c *cursor, limit int) (changes []entry, version uint64, changed <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.usable(); err != nil {
		return nil, 0, nil, err
	}
	if c.epoch != h.epoch || c.next < h.first {
		return nil, 0, nil, errExpired
	}
	for _, e := range h.ring[c.next-h.first:] {
		if len(changes) == limit {
			break
		}
		c.next++
		if e.upTo >= c.after {
			changes = append(changes, e)
		}
	}
	version = max(h.version, c.after)
	if c.next < h.first+uint64(len(h.ring)) { // not at the end: no more than what was handed out is known
		version = 0
	}
	return changes, version, h.changed, nil
}

// compareKeys is the order of lists, which is etcd's.
func compareKeys(a, b store.Key) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}
