package store

import (
	"hash/maphash"
	"iter"
	"sync/atomic"
)

// node is one entry of a bucket, never changed: a reader that walks a bucket walks what it was when it began.
type node[T any] struct {
	hash uint64
	item *T
	next *node[T]
}

// table is a hash table of pointers: readers walk it without a lock while one goroutine changes it. It keeps no keys;
// an item knows its own. Each entry costs 24 bytes and a share of the buckets.
//
// A change replaces the head of one bucket. The table doubles when it is twice as full as it has buckets; that is
// the one operation that takes time in proportion to the table, once per doubling, and no reader waits for it.
type table[T any] struct {
	buckets atomic.Pointer[[]atomic.Pointer[node[T]]]
	n       int // of the writer
}

const firstBuckets = 8

func (t *table[T]) init() {
	b := make([]atomic.Pointer[node[T]], firstBuckets)
	t.buckets.Store(&b)
}

// fork copies the table; the nodes are shared. Only the writer calls it.
func (t *table[T]) fork(to *table[T]) {
	from := *t.buckets.Load()
	b := make([]atomic.Pointer[node[T]], len(from))
	for i := range from {
		b[i].Store(from[i].Load())
	}
	to.buckets.Store(&b)
	to.n = t.n
}

// at yields the items with this hash; the caller compares keys.
func (t *table[T]) at(hash uint64) iter.Seq[*T] {
	return func(yield func(*T) bool) {
		b := *t.buckets.Load()
		for n := b[hash&uint64(len(b)-1)].Load(); n != nil; n = n.next {
			if n.hash == hash && !yield(n.item) {
				return
			}
		}
	}
}

// all yields every item, in no order. An item put in or taken out meanwhile may or may not be among them.
func (t *table[T]) all() iter.Seq[*T] {
	return func(yield func(*T) bool) {
		b := *t.buckets.Load()
		for i := range b {
			for n := b[i].Load(); n != nil; n = n.next {
				if !yield(n.item) {
					return
				}
			}
		}
	}
}

// add puts an item in, beside others of the same hash.
func (t *table[T]) add(hash uint64, item *T) {
	b := *t.buckets.Load()
	if t.n >= 2*len(b) {
		b = t.grow(b)
	}
	head := &b[hash&uint64(len(b)-1)]
	head.Store(&node[T]{hash, item, head.Load()})
	t.n++
}

// swap puts an item in the place of another, of the same hash: no reader sees a moment with neither.
func (t *table[T]) swap(hash uint64, old, item *T) {
	t.edit(hash, old, func(rest *node[T]) *node[T] { return &node[T]{hash, item, rest} })
}

// remove takes an item out.
func (t *table[T]) remove(hash uint64, old *T) {
	t.edit(hash, old, func(rest *node[T]) *node[T] { return rest })
	t.n--
}

// edit rebuilds a bucket up to the item under this hash, and replaces its node by what the function makes of the rest.
// One item may lie in a bucket under several hashes.
func (t *table[T]) edit(hash uint64, old *T, replace func(rest *node[T]) *node[T]) {
	b := *t.buckets.Load()
	head := &b[hash&uint64(len(b)-1)]
	var before []*node[T]
	n := head.Load()
	for ; n != nil && (n.item != old || n.hash != hash); n = n.next {
		before = append(before, n)
	}
	if n == nil {
		panic("BUG: an index lacks an item that the store has")
	}
	rest := replace(n.next)
	for i := len(before) - 1; i >= 0; i-- {
		rest = &node[T]{before[i].hash, before[i].item, rest}
	}
	head.Store(rest)
}

func (t *table[T]) grow(from []atomic.Pointer[node[T]]) []atomic.Pointer[node[T]] {
	b := make([]atomic.Pointer[node[T]], 2*len(from))
	for i := range from {
		for n := from[i].Load(); n != nil; n = n.next {
			head := &b[n.hash&uint64(len(b)-1)]
			head.Store(&node[T]{n.hash, n.item, head.Load()})
		}
	}
	t.buckets.Store(&b)
	return b
}

// seed makes hashes differ from process to process, so that nobody can name services to share a bucket.
var seed = maphash.MakeSeed()

func hashKey(namespace, name string) uint64 {
	// A namespace has no dot, so the two are not confused.
	return maphash.String(seed, namespace)*0x9e3779b97f4a7c15 + maphash.String(seed, name)
}
