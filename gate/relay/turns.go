package relay

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// turns bounds how many answers are written at one time. A thousand readers of one read become ready in the same moment; if
// all were written to at once, each would get its answer when the last does, and every small request of other people would
// wait behind a thousand goroutines that want a processor. So a few write, and the others wait for their turn in the order
// they came. A turn is lost when the client does not take what is written, so a slow reader keeps nobody waiting, and after
// a while when others wait.
type turns struct {
	places  chan struct{}
	waiting atomic.Int64
}

const (
	// turnsPerCPU: enough to keep the processors and the sockets' buffers busy.
	turnsPerCPU = 2
	// turnLasts is how long one may write while others wait. Long enough for some ten megabytes at what a processor writes
	// through TLS, so that most answers are written in one turn: taking turns over parts would make everyone's answer as late
	// as the last one's.
	turnLasts = 400 * time.Millisecond
	// turnless answers, in bytes, are written at once: they are no burden, and must not wait behind those that are.
	turnless = 64 << 10
	// turnBlocked is how long a write may take before its turn is lost. A socket with room takes a chunk in a fraction.
	turnBlocked = 5 * time.Millisecond
)

func newTurns() *turns {
	return &turns{places: make(chan struct{}, turnsPerCPU*runtime.GOMAXPROCS(0))}
}

// turn is one delivery's. Its methods are for the delivery's goroutine.
type turn struct {
	of    *turns
	mu    sync.Mutex
	has   bool
	since time.Time
	timer *time.Timer
}

// take waits for the delivery's turn, if it has none.
func (t *turn) take(ctx context.Context) error {
	t.mu.Lock()
	has := t.has
	t.mu.Unlock()
	if has {
		return nil
	}
	t.of.waiting.Add(1)
	defer t.of.waiting.Add(-1)
	select {
	case t.of.places <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	t.mu.Lock()
	t.has, t.since = true, time.Now()
	t.mu.Unlock()
	return nil
}

// write writes in the delivery's turn; a delivery without turns writes at once.
func (t *turn) write(ctx context.Context, write func() error) error {
	if t == nil {
		return write()
	}
	if err := t.take(ctx); err != nil {
		return err
	}
	if t.timer == nil {
		t.timer = time.AfterFunc(turnBlocked, t.lose)
	} else {
		t.timer.Reset(turnBlocked)
	}
	err := write()
	t.timer.Stop()
	t.mu.Lock()
	long := t.has && time.Since(t.since) > turnLasts
	t.mu.Unlock()
	if long && t.of.waiting.Load() > 0 {
		t.lose()
	}
	return err
}

// lose gives the turn to the next, if the delivery has it.
func (t *turn) lose() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.has {
		t.has = false
		<-t.of.places
	}
}
