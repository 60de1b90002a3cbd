package store

import (
	"sync"
	"sync/atomic"
	"time"
)

// Change is one object put, replaced (Old and New) or removed (New nil).
type Change struct {
	Kind Kind
	Key  Key
	Old  Object
	New  Object
}

// Changes is what a subscriber is told. Whole means that everything may have changed and List is empty: read it all
// again.
type Changes struct {
	Whole bool
	List  []Change
}

// Zone says which zone's records a time of change is about, as CoreDNS's serial numbers do.
type Zone uint8

// The zones. Internal is the cluster's zone, External what k8s_external serves, ClusterSet the multicluster zones.
const (
	Internal Zone = iota
	External
	ClusterSet
	// ZoneCount is how many there are.
	ZoneCount = 3
)

// Store holds the data that is served. View, Sequence, Modified and Subscribe are safe for concurrent use; the other
// methods change the data and belong to one goroutine, the writer.
type Store struct {
	view     atomic.Pointer[View]
	sequence atomic.Uint64
	modified [ZoneCount]atomic.Int64
	now      func() time.Time

	mu          sync.Mutex
	subscribers map[int]func(Changes)
	next        int

	// Of the writer.
	counts [KindCount]int
	edits  uint64
}

// New returns an empty store. The clock gives the times that Modified returns.
func New(now func() time.Time) *Store {
	s := &Store{now: now, subscribers: map[int]func(Changes){}}
	s.view.Store(newView())
	return s
}

// View returns the data served now.
func (s *Store) View() *View { return s.view.Load() }

// Sequence grows with every change, after the change can be seen and before subscribers are told. Who computes an
// answer outside of a subscriber's call and keeps it does so: takes the sequence, reads the View, computes, and then,
// under the lock that its own subscriber takes to drop answers, keeps the answer only if the sequence is still the
// same. Then no answer made of old data outlives the call that drops it.
func (s *Store) Sequence() uint64 { return s.sequence.Load() }

// Modified is when a zone's records last changed, in Unix seconds; 0 is never. It never runs backwards, whatever the
// clock does, because secondaries take a smaller serial for older data.
func (s *Store) Modified(zone Zone) int64 { return s.modified[zone].Load() }

// SetModified raises the time of change to a restored one.
func (s *Store) SetModified(zone Zone, unix int64) {
	if unix > s.modified[zone].Load() {
		s.modified[zone].Store(unix)
	}
}

// Subscribe calls changed after every change, on the writer's goroutine, in order, once the change can be seen. It
// must be quick and must not call the store's writing methods. Calls may still come while cancel runs, none after it
// returned. The first call comes with the next change: subscribe, then read.
func (s *Store) Subscribe(changed func(Changes)) (cancel func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.next
	s.next++
	s.subscribers[id] = changed
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.subscribers, id)
	}
}

// Put stores an object, in the place of one of the same kind and key. When that one says the same, it stays and Put
// returns false: nothing changed.
func (s *Store) Put(o Object) bool {
	c, changed := s.View().put(o)
	if changed {
		s.count(c)
		s.publish(Changes{List: []Change{c}})
	}
	return changed
}

// Delete removes an object; it is false when there was none.
func (s *Store) Delete(kind Kind, key Key) bool {
	c, changed := s.View().delete(kind, key)
	if changed {
		s.count(c)
		s.publish(Changes{List: []Change{c}})
	}
	return changed
}

// Count is how many objects of a kind there are.
func (s *Store) Count(kind Kind) int { return s.counts[kind] }

func (s *Store) count(c Change) {
	switch {
	case c.Old == nil:
		s.counts[c.Kind]++
	case c.New == nil:
		s.counts[c.Kind]--
	}
}

func (s *Store) publish(changes Changes) {
	s.edits++
	now := s.now().Unix()
	touched := touchedZones(changes)
	for zone := range touched {
		if touched[zone] && now > s.modified[zone].Load() {
			s.modified[zone].Store(now)
		}
	}
	s.sequence.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, changed := range s.subscribers {
		changed(changes)
	}
}

// Fork begins a draft: a copy of the data that shares every object, to be changed unseen and then published in one
// swap. Between Fork and Publish the store itself must not be changed.
func (s *Store) Fork() *Draft {
	return &Draft{store: s, view: s.View().fork(), counts: s.counts, edits: s.edits, changes: map[changeKey]Change{}}
}

// Fresh begins a draft with nothing in it, for a whole data set from elsewhere.
func (s *Store) Fresh() *Draft { return &Draft{store: s, view: newView(), edits: s.edits} }

// Publish makes the draft's data the data that is served, at one instant, and tells the subscribers.
func (s *Store) Publish(d *Draft) {
	if d.store != s || d.edits != s.edits || d.published {
		panic("BUG: the store was changed behind the draft's back")
	}
	d.published = true
	s.counts = d.counts
	s.view.Store(d.view)
	s.publish(d.take())
}

// Draft is a fork of a store, of the writer's goroutine.
type Draft struct {
	store     *Store
	view      *View
	counts    [KindCount]int
	edits     uint64
	published bool
	// changes are merged by object: the first Old, the last New. Nil when there are too many to list.
	changes map[changeKey]Change
}

type changeKey struct {
	kind Kind
	key  Key
}

// maxListed bounds the changes that are listed one by one; beyond it reading everything again is cheaper than the list.
const maxListed = 20_000

// View returns the draft's data.
func (d *Draft) View() *View { return d.view }

// Put is as Store.Put.
func (d *Draft) Put(o Object) bool { return d.note(d.view.put(o)) }

// Delete is as Store.Delete.
func (d *Draft) Delete(kind Kind, key Key) bool { return d.note(d.view.delete(kind, key)) }

// Count is how many objects of a kind the draft has.
func (d *Draft) Count(kind Kind) int { return d.counts[kind] }

func (d *Draft) note(c Change, changed bool) bool {
	if !changed {
		return false
	}
	switch {
	case c.Old == nil:
		d.counts[c.Kind]++
	case c.New == nil:
		d.counts[c.Kind]--
	}
	if d.changes == nil {
		return true
	}
	k := changeKey{c.Kind, c.Key}
	if first, ok := d.changes[k]; ok {
		c.Old = first.Old
	}
	d.changes[k] = c
	if len(d.changes) > maxListed {
		d.changes = nil
	}
	return true
}

// take returns the changes that are left once those that cancelled out are dropped.
func (d *Draft) take() Changes {
	if d.changes == nil {
		return Changes{Whole: true}
	}
	var list []Change
	for _, c := range d.changes {
		if c.Old == nil && c.New == nil || c.Old != nil && c.New != nil && Equal(c.Old, c.New) {
			continue
		}
		list = append(list, c)
	}
	d.changes = nil
	return Changes{List: list}
}
