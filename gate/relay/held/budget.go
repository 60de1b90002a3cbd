// Package held holds bytes that many readers read at their own pace: one writer appends, each reader sees everything from
// its beginning on, and what all have read is given back. All bodies of a process share one budget; at its bound what
// is only kept is dropped first, then the readers who are furthest behind, and never is anything held beyond it.
package held

import (
	"sync"
	"sync/atomic"
)

// Budget is how many bytes may be held. It is safe for concurrent use.
type Budget struct {
	max  atomic.Int64
	used atomic.Int64

	mu    sync.Mutex
	freed chan struct{} // closed when something was given back; nil while nobody waits
	evict func() bool
}

// NewBudget returns a budget of max bytes. evict is asked for room when there is none: it drops something that is only
// kept for requests to come and says whether it found anything. It may be nil, and is called without any lock held.
func NewBudget(most int64, evict func() bool) *Budget {
	b := &Budget{evict: evict}
	b.max.Store(most)
	return b
}

// SetMax changes the bound. What is held beyond a smaller one stays until it is read.
func (b *Budget) SetMax(most int64) { b.max.Store(most) }

// Max is the bound in bytes.
func (b *Budget) Max() int64 { return b.max.Load() }

// Used is how many bytes are taken.
func (b *Budget) Used() int64 { return b.used.Load() }

// Tight is true when less than an eighth is left: new work should not be begun.
func (b *Budget) Tight() bool { return b.used.Load() > b.max.Load()/8*7 }

// Take takes n bytes if they are there.
func (b *Budget) Take(n int) bool {
	if b.used.Add(int64(n)) <= b.max.Load() {
		return true
	}
	b.used.Add(int64(-n))
	return false
}

// TakeEvicting is Take that makes room by dropping what is only kept.
func (b *Budget) TakeEvicting(n int) bool {
	for !b.Take(n) {
		if b.evict == nil || !b.evict() {
			return false
		}
	}
	return true
}

// Give gives n bytes back.
func (b *Budget) Give(n int) {
	b.used.Add(int64(-n))
	b.mu.Lock()
	if b.freed != nil {
		close(b.freed)
		b.freed = nil
	}
	b.mu.Unlock()
}

// Freed is closed the next time bytes are given back.
func (b *Budget) Freed() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.freed == nil {
		b.freed = make(chan struct{})
	}
	return b.freed
}
