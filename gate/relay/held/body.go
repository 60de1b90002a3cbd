package held

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"
)

// Sizes of the pieces a body is held in. A small answer should not take what a large one does.
const (
	firstChunk = 4 << 10
	chunkSize  = 64 << 10
)

// behind is how many chunks a reader must be behind the foremost to be dropped for room.
const behind = 4

// ErrBehind is what a reader gets that was dropped because the memory it kept was needed.
var ErrBehind = errors.New("dropped: too far behind the other readers of the same answer while memory is short")

// ErrNoMemory ends a body for which there was no room for too long.
var ErrNoMemory = errors.New("no memory for an answer that nobody reads on")

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

type chunk struct {
	buf  []byte // its length is what is committed
	left int    // readers who have not passed it
	lent bool   // a dropped reader may still be writing from it: never used again, left to the garbage collector
}

// Body is one answer. Its writer's methods are for one goroutine; everything else is safe for concurrent use.
type Body struct {
	budget *Budget
	// Torn is called, once and without locks held, when the body's beginning is no longer there for new readers.
	torn func()

	mu       sync.Mutex
	chunks   []*chunk // from the first on; those given back are nil
	size     int64
	readers  map[*Reader]struct{}
	retained bool
	whole    bool
	ended    bool
	err      error
	changed  chan struct{}
	waiting  int
	moved    chan struct{} // closed when a reader goes on; nil while the writer does not wait for it
}

// NewBody returns an empty body. A retained one is kept for readers to come until Release; torn, which may be nil, is
// called when it had to be given up before.
func NewBody(budget *Budget, retained bool, torn func()) *Body {
	return &Body{budget: budget, torn: torn, retained: retained, whole: true, readers: map[*Reader]struct{}{}, changed: make(chan struct{})}
}

// Size is how many bytes were written so far.
func (b *Body) Size() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.size
}

// Within is true when the body has ended and has at most n bytes.
func (b *Body) Within(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended && b.size <= n
}

// Space returns room to write into, which Commit then publishes. When the budget is used up it drops what is in the way, as
// the package says, and waits for readers, but no longer than patience without any of them going on.
func (b *Body) Space(ctx context.Context, patience time.Duration) ([]byte, error) {
	b.mu.Lock()
	if n := len(b.chunks); n > 0 {
		if last := b.chunks[n-1]; last != nil && len(last.buf) < cap(last.buf) {
			b.mu.Unlock()
			return last.buf[len(last.buf):cap(last.buf)], nil
		}
	}
	size := chunkSize
	if len(b.chunks) == 0 {
		size = firstChunk
	}
	b.mu.Unlock()
	if err := b.room(ctx, size, patience); err != nil {
		return nil, err
	}
	next := &chunk{}
	if size == chunkSize {
		next.buf = chunks.Get().(*[chunkSize]byte)[:0]
	} else {
		next.buf = make([]byte, 0, size)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	next.left = len(b.readers)
	b.chunks = append(b.chunks, next)
	if n := len(b.chunks); n > 1 {
		b.mayFree(n - 2)
	}
	return next.buf[:cap(next.buf)], nil
}

// room takes n bytes from the budget.
func (b *Body) room(ctx context.Context, n int, patience time.Duration) error {
	if b.budget.TakeEvicting(n) {
		return nil
	}
	b.giveUpRetaining()
	var timer *time.Timer
	for {
		freed, moved := b.budget.Freed(), b.goesOn()
		if b.budget.TakeEvicting(n) {
			return nil
		}
		if b.dropSlowest() {
			continue
		}
		if timer == nil {
			timer = time.NewTimer(patience)
			defer timer.Stop()
		}
		select {
		case <-freed:
			timer.Reset(patience)
		case <-moved: // perhaps far enough from the others now
			timer.Reset(patience)
		case <-timer.C:
			return ErrNoMemory
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// goesOn is closed the next time a reader passes a chunk.
func (b *Body) goesOn() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.moved == nil {
		b.moved = make(chan struct{})
	}
	return b.moved
}

// Commit publishes n bytes written into Space. Readers who wait are woken when a chunk is full: whoever wants a LIST wants
// all of it, and a thousand readers are not woken for every few kilobytes.
func (b *Body) Commit(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	last := b.chunks[len(b.chunks)-1]
	last.buf = last.buf[:len(last.buf)+n]
	b.size += int64(n)
	if len(last.buf) == cap(last.buf) {
		b.wake()
	}
}

// End says that nothing more comes: err is nil when the body is complete. It must be called once.
func (b *Body) End(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.err = true, err
	b.wake()
	if n := len(b.chunks); n > 0 {
		b.mayFree(n - 1)
	}
}

// Release gives up keeping the body for readers to come; those it has go on.
func (b *Body) Release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.release()
}

func (b *Body) release() {
	b.retained = false
	for i := range b.chunks {
		b.mayFree(i)
	}
}

func (b *Body) giveUpRetaining() {
	b.mu.Lock()
	was := b.retained
	b.release()
	b.mu.Unlock()
	if was && b.torn != nil {
		b.torn()
	}
}

// mayFree gives a chunk back that nobody needs. It is called with the lock held. The chunk being written stays.
func (b *Body) mayFree(i int) {
	c := b.chunks[i]
	if c == nil || b.retained || c.left > 0 || i == len(b.chunks)-1 && !b.ended {
		return
	}
	b.chunks[i] = nil
	b.whole = false
	if size := cap(c.buf); !c.lent && size == chunkSize {
		chunks.Put((*[chunkSize]byte)(c.buf[:chunkSize]))
	}
	b.budget.Give(cap(c.buf))
}

func (b *Body) wake() {
	if b.waiting > 0 {
		close(b.changed)
		b.changed = make(chan struct{})
		b.waiting = 0
	}
}

// dropSlowest drops the readers at the hindmost position if others are far ahead of it, and says whether it did.
func (b *Body) dropSlowest() bool {
	b.mu.Lock()
	hindmost, foremost := len(b.chunks), 0
	for r := range b.readers {
		hindmost, foremost = min(hindmost, r.at), max(foremost, r.at)
	}
	var dropped []*Reader
	if foremost-hindmost >= behind {
		for r := range b.readers {
			if r.at == hindmost {
				dropped = append(dropped, r)
				if c := b.chunks[r.at]; c != nil {
					c.lent = true
				}
				r.leave(ErrBehind)
			}
		}
		b.wake()
	}
	b.mu.Unlock()
	for _, r := range dropped {
		if r.cut != nil {
			r.cut()
		}
	}
	return len(dropped) > 0
}

// Reader is one reader's place in a body. Its methods are for one goroutine.
type Reader struct {
	body *Body
	cut  func()
	at   int // index of the chunk being read
	off  int
	err  error // why it may not go on; set with the body's lock held
	gone bool
}

// NewReader returns a reader from the beginning, nil when the beginning is no longer there. cut, which may be nil, is called
// when the reader is dropped while it may be writing to a client that does not take anything: it is to end that write.
func (b *Body) NewReader(cut func()) *Reader {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole {
		return nil
	}
	r := &Reader{body: b, cut: cut}
	for _, c := range b.chunks {
		c.left++
	}
	b.readers[r] = struct{}{}
	return r
}

// Next returns what comes next, waiting for it if it must; the bytes are the body's and good until the next call. The end of
// a complete body is io.EOF; any other error means that what was read is not all.
func (r *Reader) Next(ctx context.Context) ([]byte, error) {
	b := r.body
	for {
		b.mu.Lock()
		if p, err := r.next(); p != nil || err != nil {
			b.mu.Unlock()
			return p, err
		}
		b.waiting++
		changed := b.changed
		b.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// Ready is true when Next would not wait.
func (r *Reader) Ready() bool {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.err != nil || b.ended {
		return true
	}
	for i, off := r.at, r.off; i < len(b.chunks); i, off = i+1, 0 {
		if c := b.chunks[i]; c != nil && len(c.buf) > off {
			return len(c.buf) == cap(c.buf) // an unfinished chunk is not worth a write yet
		}
	}
	return false
}

// next is called with the lock held and returns nothing when there is nothing yet.
func (r *Reader) next() ([]byte, error) {
	b := r.body
	for {
		if r.err != nil {
			return nil, r.err
		}
		if r.at < len(b.chunks) {
			c := b.chunks[r.at]
			if p := c.buf[r.off:]; len(p) > 0 && (len(c.buf) == cap(c.buf) || b.ended) {
				r.off = len(c.buf)
				return p, nil
			}
			if r.off == cap(c.buf) && r.at+1 < len(b.chunks) {
				c.left--
				b.mayFree(r.at)
				r.at, r.off = r.at+1, 0
				if b.moved != nil {
					close(b.moved)
					b.moved = nil
				}
				continue
			}
		}
		if !b.ended {
			return nil, nil
		}
		if b.err != nil {
			return nil, b.err
		}
		return nil, io.EOF
	}
}

// Close gives up the reader's place.
func (r *Reader) Close() {
	r.body.mu.Lock()
	defer r.body.mu.Unlock()
	r.leave(errClosed)
}

var errClosed = errors.New("reader is closed")

// leave is called with the lock held.
func (r *Reader) leave(err error) {
	if r.gone {
		return
	}
	r.gone, r.err = true, err
	b := r.body
	delete(b.readers, r)
	for i := r.at; i < len(b.chunks); i++ {
		if c := b.chunks[i]; c != nil {
			c.left--
			b.mayFree(i)
		}
	}
}
