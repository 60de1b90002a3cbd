package watch

import (
	"sort"

	"github.com/seakeep/seakeep/gate/relay/frame"
)

// Budget is the memory that answers and events for readers may take in the whole process. It is safe for concurrent use.
type Budget interface {
	// Take takes n bytes, or none and returns false.
	Take(n int) bool
	// Give gives back what was taken.
	Give(n int)
}

// entry is one event as it is kept.
type entry struct {
	kind    frame.Type
	version uint64 // of an Error: the version the API server was asked from, or had told last
	frame   []byte // as the API server wrote it
	change  *change
	size    int
}

// entryOverhead is what an entry takes beside its frame, about.
const entryOverhead = 96

// ring keeps the newest events of one watch, in the order of the API server. It is pure: the caller locks.
//
// floor and head are versions: every event in (floor, head] is here, what is older was let go, what is newer has not
// come. Entries are numbered from 0 as they come; a reader's position is such a number and a version.
type ring struct {
	entries     []entry // circular
	first       uint64  // the number of the oldest
	count       int
	floor, head uint64
	event       uint64 // the version of the newest event that is no bookmark
	bytes       int
	most        limits
	budget      Budget
}

type limits struct{ entries, bytes int }

func newRing(from uint64, most limits, budget Budget) ring {
	return ring{floor: from, head: from, most: most, budget: budget}
}

// append adds what the API server sent next, and lets go of the oldest where the bounds want it. It is false when
// there is no memory for it at all: then no reader can have it.
func (r *ring) append(e entry) bool {
	e.size = len(e.frame) + entryOverhead
	if e.change != nil && e.change.before != nil {
		e.size += len(e.change.before.frame) // what an update replaced is only held here
	}
	for r.count > 0 && (r.count >= r.most.entries || r.bytes+e.size > r.most.bytes) {
		r.evict()
	}
	r.head = max(r.head, e.version)
	if e.kind != frame.Bookmark && e.kind != frame.Error {
		r.event = e.version
	}
	for !r.budget.Take(e.size) {
		if r.count == 0 {
			r.first++
			r.forget(&e)
			return false
		}
		r.evict()
	}
	if r.count == len(r.entries) {
		grown := make([]entry, min(max(16, 2*r.count), max(r.count+1, r.most.entries)))
		for i := range r.count {
			grown[(r.first+uint64(i))%uint64(len(grown))] = *r.at(r.first + uint64(i))
		}
		r.entries = grown
	}
	r.count++
	*r.at(r.first + uint64(r.count) - 1) = e
	r.bytes += e.size
	return true
}

// at returns the entry of that number, which is in the ring.
func (r *ring) at(number uint64) *entry { return &r.entries[number%uint64(len(r.entries))] }

func (r *ring) end() uint64 { return r.first + uint64(r.count) }

func (r *ring) evict() {
	e := r.at(r.first)
	r.forget(e)
	r.bytes -= e.size
	r.budget.Give(e.size)
	*e = entry{}
	r.first++
	r.count--
}

// forget raises the floor: an event let go is missed by whoever has not had it, a bookmark is not.
func (r *ring) forget(e *entry) {
	if e.kind != frame.Bookmark && e.kind != frame.Error {
		r.floor = e.version
	}
}

// clear gives all memory back.
func (r *ring) clear() {
	for r.count > 0 {
		r.evict()
	}
	r.entries = nil
}

// position is how far a reader has come: it has had, or did not want, every entry before next, and knows of everything up
// to version.
type position struct {
	next    uint64
	version uint64
}

// seek returns the position of a reader that knows of everything up to version, which may be newer than what came
// here. It is false when events after version were let go or never were here: such a reader has to catch up first.
func (r *ring) seek(version uint64) (position, bool) {
	if version < r.floor {
		return position{}, false
	}
	n := sort.Search(r.count, func(i int) bool {
		e := r.at(r.first + uint64(i))
		return e.version > version || e.version == version && e.kind == frame.Error
	})
	return position{next: r.first + uint64(n), version: version}, true
}

// turn is what a reader finds at its position.
type turn int

const (
	nothing   turn = iota // until something comes
	delivery              // the entry is for it
	lost                  // it was too slow: an event it has not had was let go
	elsewhere             // the watch failed at a version older than what the reader knows: that says nothing of the reader's
)

// next returns the next entry for the reader and moves it on.
func (r *ring) next(p *position, bookmarks bool) (*entry, turn) {
	if p.next < r.first {
		if r.floor > p.version {
			return nil, lost
		}
		p.next = r.first
	}
	for p.next < r.end() {
		e := r.at(p.next)
		switch {
		case e.kind == frame.Error && e.version < p.version:
			return nil, elsewhere
		case e.kind == frame.Error:
			p.next++
			return e, delivery
		case e.version < p.version, e.version == p.version && e.kind != frame.Bookmark, e.kind == frame.Bookmark && !bookmarks:
			p.next++
			p.version = max(p.version, e.version)
		default:
			p.next++
			p.version = e.version
			return e, delivery
		}
	}
	return nil, nothing
}
