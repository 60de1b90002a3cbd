// Package commit decides which requests share which read of the API server: group commit, as databases use it for their
// log. It is pure: requests and the ends of reads go in, decisions come out; the caller reads and holds its lock.
//
// The rule: for one key at most one read runs and one waits. A request for the most recent state shares only a read that
// starts after it arrived, so its answer is never older than it is, whatever the API server's own answer to it alone
// would have been; and the number of reads does not depend on the number of requests. A request that leaves the age to the
// server (resourceVersion=0, or not older than a version) may also share what was read before, but never gets an older
// state than somebody got for the same key (kubernetes/kubernetes#59848 is what clients suffer who go back in time).
package commit

import "time"

// Class is what a read asks of the API server.
type Class int

const (
	// Recent reads ask for the most recent state (resourceVersion unset): a quorum read, or a cache that proved it is
	// up to date (KEP-2340).
	Recent Class = iota
	// Cached reads ask for any state not older than Floor; the API server answers from its watch cache, without etcd.
	Cached
	classes
)

// Ask is one request.
type Ask struct {
	Class Class
	// NotBelow is the oldest version a Cached request takes; 0: any.
	NotBelow uint64
	// MaxAge lets a Recent request share a read that started up to so long before it arrived; 0: none.
	MaxAge time.Duration
}

// Batch is one read of the API server and the requests that share it. The caller may keep what belongs to it in Data.
type Batch[T any] struct {
	Class Class
	// Floor is the version a Cached read asks for at least; 0: any. Set when it starts.
	Floor uint64
	// Started is when the read started; zero while it waits.
	Started time.Time
	// Members is how many requests share it now, and Joined how many ever did.
	Members, Joined int
	// Data is the caller's.
	Data T

	version uint64
	// served is what had been served for the key when the read started: a Recent read that comes back with less says
	// that versions ran backwards.
	served   uint64
	finished bool
	whole    bool // from its first byte on it can still be given to one more
}

// Version is the state's resourceVersion, 0 while it is not known.
func (b *Batch[T]) Version() uint64 { return b.version }

// Finished is true when the read has ended.
func (b *Batch[T]) Finished() bool { return b.finished }

// Action is what a request is to do.
type Action int

const (
	// Start: begin the batch's read now; then as Share.
	Start Action = iota
	// Share: the answer is the batch's, as soon as it comes.
	Share
)

// Key is the state of one key. It is not safe for concurrent use.
type Key[T any] struct {
	running, waiting [classes]*Batch[T]
	newest           *Batch[T]
	served           uint64
	fresh            func() *Batch[T]
}

// New returns the state of a key; fresh makes the batches, with the caller's part filled.
func New[T any](fresh func() *Batch[T]) *Key[T] { return &Key[T]{fresh: fresh} }

// Served is the newest version that was served.
func (k *Key[T]) Served() uint64 { return k.served }

// Newest is the newest whole answer that is kept, nil if none is.
func (k *Key[T]) Newest() *Batch[T] { return k.newest }

// Waiting is how many requests wait for a read that has not started.
func (k *Key[T]) Waiting() int {
	n := 0
	for c := range classes {
		if b := k.waiting[c]; b != nil {
			n += b.Members
		}
	}
	return n
}

// Idle is true when no read runs or waits and no answer is kept.
func (k *Key[T]) Idle() bool {
	for c := range classes {
		if k.running[c] != nil || k.waiting[c] != nil {
			return false
		}
	}
	return k.newest == nil
}

// Join gives a request its batch. current says whether a kept answer may still be given to a request that leaves the age
// to the server; it is asked only about complete answers. Whoever joined must Leave.
func (k *Key[T]) Join(now time.Time, ask Ask, current func(*Batch[T]) bool) (*Batch[T], Action) {
	if ask.Class == Cached && ask.NotBelow > k.served {
		// The client saw more elsewhere. Asking for that version would let one client's invented number fail the batch
		// of all others, so it takes the most recent state and looks at its version.
		ask = Ask{Class: Recent}
	}
	if b := k.newest; b != nil && k.mayReplay(b, now, ask, current) {
		return b.join(), Share
	}
	if b := k.running[ask.Class]; b == nil {
		b = k.start(ask.Class, now)
		return b.join(), Start
	} else if k.mayShareRunning(b, now, ask) {
		return b.join(), Share
	}
	if k.waiting[ask.Class] == nil {
		b := k.fresh()
		b.Class = ask.Class
		k.waiting[ask.Class] = b
	}
	return k.waiting[ask.Class].join(), Share
}

func (b *Batch[T]) join() *Batch[T] {
	b.Members++
	b.Joined++
	return b
}

// mayReplay says whether a complete answer will do.
func (k *Key[T]) mayReplay(b *Batch[T], now time.Time, ask Ask, current func(*Batch[T]) bool) bool {
	if b.version < k.served {
		return false
	}
	if ask.Class == Recent {
		// How old a Cached answer is nobody knows: the replica that gave it may have lagged.
		return b.Class == Recent && youngEnough(b, now, ask.MaxAge)
	}
	return current(b)
}

// mayShareRunning says whether a read under way will do.
func (k *Key[T]) mayShareRunning(b *Batch[T], now time.Time, ask Ask) bool {
	if !b.whole {
		return false
	}
	if ask.Class == Recent {
		// A read that started before something newer was served may come back with less.
		return youngEnough(b, now, ask.MaxAge) && (b.version >= k.served && b.version > 0 || b.served == k.served)
	}
	return b.Floor >= k.served || b.version >= k.served && b.version > 0
}

func youngEnough[T any](b *Batch[T], now time.Time, maxAge time.Duration) bool {
	return maxAge > 0 && now.Sub(b.Started) <= maxAge
}

func (k *Key[T]) start(c Class, now time.Time) *Batch[T] {
	b := k.waiting[c]
	if b == nil {
		b = k.fresh()
		b.Class = c
	}
	k.waiting[c] = nil
	b.Started, b.whole, b.served = now, true, k.served
	if c == Cached {
		b.Floor = k.served
	}
	k.running[c] = b
	return b
}

// Leave takes a request out of its batch; abandoned is true when nobody needs the batch any more: a read that runs may be
// stopped, and must still be Ended.
func (k *Key[T]) Leave(b *Batch[T]) (abandoned bool) {
	if b.Members--; b.Members > 0 {
		return false
	}
	if k.waiting[b.Class] == b {
		k.waiting[b.Class] = nil
		return true
	}
	return b != k.newest
}

// Torn says that the batch's answer no longer begins at its beginning: nobody else can join it.
func (k *Key[T]) Torn(b *Batch[T]) {
	b.whole = false
	if k.newest == b {
		k.newest = nil
	}
}

// Learned says which version a running batch's answer has, before anybody is given it. backwards is true when the API
// server's state is older than what was served: etcd was restored, and everything known of the resource is void.
func (k *Key[T]) Learned(b *Batch[T], version uint64) (backwards bool) {
	b.version = version
	if b.Class == Recent && version > 0 && version < b.served {
		k.Reset()
		b.version, k.served = version, version
		return true
	}
	k.served = max(k.served, version)
	return false
}

// Reset forgets what was served and kept. Reads under way may still be given to those who wait for them, to nobody else.
func (k *Key[T]) Reset() {
	k.served, k.newest = 0, nil
	for c := range classes {
		if b := k.running[c]; b != nil {
			b.whole, b.served = false, 0
		}
	}
}

// Ended says that a batch's read is over. An answer that is complete, and worth keeping for requests to come, is kept
// unless a newer one is; dropped is the one it took the place of, if any. next is the batch whose read is to start now, nil if
// none waits.
func (k *Key[T]) Ended(b *Batch[T], now time.Time, keep bool) (kept bool, dropped, next *Batch[T]) {
	b.finished = true
	if k.running[b.Class] == b {
		k.running[b.Class] = nil
		if k.waiting[b.Class] != nil {
			next = k.start(b.Class, now)
		}
	}
	if !keep || !b.whole || b.version == 0 || b.version < k.served {
		b.whole = false
		return false, nil, next
	}
	dropped, k.newest = k.newest, b
	return true, dropped, next
}

// Drop forgets the kept answer and returns it, nil if there is none.
func (k *Key[T]) Drop() *Batch[T] {
	b := k.newest
	k.newest = nil
	if b != nil {
		b.whole = false
	}
	return b
}
