package watch

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/gate/relay/frame"
)

// source is one upstream watch and what it told. Its goroutine (run) is the only writer; subscribers read under the lock.
type source struct {
	hub    *Hub
	key    key
	from   uint64
	since  time.Time
	ctx    context.Context
	cancel context.CancelFunc

	// For Status.
	received, delivered, dropped atomic.Int64

	// opened is closed when the API server has answered for the first time, or the source has ended without.
	opened chan struct{}

	mu   sync.Mutex
	ring ring
	// header is of the API server's answer, set before opened is closed.
	header http.Header
	// news is closed, and replaced, when something comes while somebody waits.
	news    chan struct{}
	waiting bool
	// started is the version from which on every event was seen, 0 before the first answer.
	started    uint64
	live       bool
	readers    int
	catchingUp int
	idle       *time.Timer // while nobody reads
	resumed    int
	retired    bool // nobody joins any more
	starved    bool // the newest event found no memory
	ended      *ending
	objects    objects
}

// ending is how a source ended.
type ending struct {
	cause string
	// refusal is the API server's answer to the first request, when it was not 200.
	refusal *refusal
	err     error
	version uint64 // that an ERROR event was about
}

// Causes of an end: values of the label "cause".
const (
	endIdle     = "idle"     // nobody followed any more
	endError    = "error"    // an ERROR event, which is the last entry of the ring
	endRefused  = "refused"  // the API server answered the watch with an error
	endOutage   = "outage"   // it could not be resumed for too long
	endGarbled  = "garbled"  // what came is not understood, or ran backwards
	endFlushed  = "flushed"  // versions ran backwards
	endStarved  = "starved"  // filtered: no memory for the objects
	endShutdown = "shutdown" // the gate is stopping
)

func newSource(h *Hub, k key, from uint64) *source {
	s := &source{
		hub: h, key: k, from: from, since: time.Now(), readers: 1,
		opened: make(chan struct{}), news: make(chan struct{}),
		ring: newRing(from, limits{h.o.Events, h.o.Bytes}, h.o.Budget),
	}
	s.ctx, s.cancel = context.WithCancel(h.ctx)
	h.metrics.sources.Inc()
	return s
}

// join adds a subscriber; it is false when the source has ended, or would have nothing to give.
func (s *source) join() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended != nil || s.retired {
		return false
	}
	s.readers++
	s.busy()
	return true
}

// leave is join's opposite. The watch goes on for a while without anyone.
func (s *source) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.readers--
	if s.readers > 0 {
		return
	}
	if s.ended != nil {
		s.ring.clear()
		return
	}
	if s.retired || s.hub.idle.Add(1) > mostIdle {
		if !s.retired {
			s.hub.idle.Add(-1)
		}
		s.end(ending{cause: endIdle})
		return
	}
	s.idle = time.AfterFunc(s.hub.o.Linger, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.readers == 0 {
			s.end(ending{cause: endIdle})
		}
	})
}

// busy ends the state of a source that nobody reads.
func (s *source) busy() {
	if s.idle != nil {
		s.idle.Stop()
		s.idle = nil
		s.hub.idle.Add(-1)
	}
}

// retire keeps others from joining a source that began at a version the API server has not come to, minutes later: one
// client's nonsense, or a version from before a restore. Who reads it goes on, or has come back elsewhere. It is true
// when the source is retired.
func (s *source) retire(told uint64) bool {
	if !s.retired && told < s.ring.floor && s.ring.event == 0 && time.Since(s.since) > retireAfter {
		s.retired = true
		s.hub.o.Log.Warn("A watch began at a version that does not come, and is not shared any more", "path", s.key.path, "version", s.ring.floor, "bookmark", told)
	}
	return s.retired
}

// retireAfter is more than the API server's time between bookmarks, which is a minute.
const retireAfter = 3 * time.Minute

// catching counts subscribers that catch up.
func (s *source) catching(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchingUp += n
}

// finish ends the source, once. Its subscribers read what is in the ring and end then.
func (s *source) finish(e ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(e)
}

func (s *source) end(e ending) {
	if s.ended != nil {
		return
	}
	s.ended = &e
	s.busy()
	s.live = false
	s.cancel()
	s.tell()
	s.hub.metrics.ends.WithLabelValues(e.cause).Inc()
}

// tell wakes whoever waits for news.
func (s *source) tell() {
	if s.waiting {
		close(s.news)
		s.news = make(chan struct{})
		s.waiting = false
	}
}

// open says that the API server has answered.
func (s *source) open(header http.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.header == nil {
		s.header = header
	}
	if s.started == 0 {
		s.started = s.ring.head
	}
	s.live = true
	s.openedOnce()
}

func (s *source) openedOnce() {
	select {
	case <-s.opened:
	default:
		close(s.opened)
	}
}

// add keeps the events that came together; it is false when the source is to end.
func (s *source) add(batch []frame.Frame) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.tell()
	for i := range batch {
		f := &batch[i]
		e := entry{kind: f.Type, version: f.Version, frame: f.Bytes}
		if f.Type == frame.Error {
			e.version = s.ring.head
			if !s.ring.append(e) {
				s.starved = true
			}
			s.end(ending{cause: endError, version: e.version})
			return false
		}
		// Versions of one watch grow; a bookmark may repeat the newest. Else etcd was restored, or this is no order.
		if f.Version < s.ring.head || f.Version == s.ring.head && f.Type != frame.Bookmark {
			s.end(ending{cause: endGarbled, err: fmt.Errorf("version %d came after %d", f.Version, s.ring.head)})
			return false
		}
		if s.key.filtered && f.Type != frame.Bookmark {
			change, err := s.objects.apply(f, s.header.Get("Content-Type"), s.hub.o.Budget)
			if err != nil {
				s.end(ending{cause: endStarved, err: err})
				return false
			}
			e.change = change
		}
		s.starved = !s.ring.append(e)
	}
	return true
}

// newest is from where the watch is resumed.
func (s *source) newest() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ring.head
}

func (s *source) current(version uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.live && s.ended == nil && s.started <= version && s.ring.event <= version
}

func (s *source) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Status{
		Group: s.key.group, Resource: s.key.resource, Path: s.key.path, LabelSelector: s.key.labels, FieldSelector: s.key.fields, Accept: s.key.accept,
		Filtered: s.key.filtered, Objects: s.objects.count(), Readers: s.readers, CatchingUp: s.catchingUp, Live: s.live,
		Events: s.ring.count, Bytes: s.ring.bytes + s.objects.bytes, Floor: s.ring.floor, Head: s.ring.head, Received: s.received.Load(), Delivered: s.delivered.Load(), Dropped: s.dropped.Load(), Since: s.since, Resumed: s.resumed,
	}
}
