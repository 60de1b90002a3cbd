package hub

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
)

// Runs is how runs are begun and carried out; cli joins it. Its methods are called from several goroutines, each for another
// rollout.
type Runs interface {
	// Begin surveys and plans, proves the way back, and records a run; it returns its id. After an error nothing was written
	// to any cluster.
	Begin(ctx context.Context, j *journal.Journal, r *v1alpha1.Rollout, origin journal.Origin) (run string, err error)
	// Carry carries a run out until it is over or the context ends. ready is told how it is looked at, event of what happens.
	Carry(ctx context.Context, j *journal.Journal, run string, ready func(view func() engine.View), event func(journal.Event)) (journal.Run, error)
}

// crew owns the goroutines that carry runs out, one for each object, and the journal they share. It works while this process
// leads, and ends when all of them have.
type crew struct {
	runs Runs
	dir  string
	log  *slog.Logger

	mu    sync.Mutex
	ctx   context.Context // nil while this process does not lead
	j     *journal.Journal
	hands map[types.NamespacedName]*hand
	work  sync.WaitGroup
}

// hand carries out one object's run.
type hand struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex
	view func() engine.View
	err  error
	at   time.Time // when it ended
}

// Start implements manager.Runnable.
func (c *crew) Start(ctx context.Context) error {
	var j *journal.Journal
	for {
		var err error
		if j, err = journal.Open(c.dir); err == nil {
			break
		}
		if !errors.Is(err, journal.ErrBusy) {
			return err
		}
		c.log.Info("Waiting for the journal", "dir", c.dir)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	c.mu.Lock()
	c.ctx, c.j = ctx, j
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.j = nil
	c.mu.Unlock()
	c.work.Wait()
	return j.Close()
}

// journal is nil while this process does not lead.
func (c *crew) journal() *journal.Journal {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.j
}

// of is the object's hand; nil when it has none.
func (c *crew) of(name types.NamespacedName) *hand {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hands[name]
}

// begin puts a hand to work; nothing while this process does not lead.
func (c *crew) begin(name types.NamespacedName, work func(ctx context.Context, j *journal.Journal, h *hand) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.j == nil || c.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithCancel(c.ctx)
	h, j := &hand{cancel: cancel, done: make(chan struct{})}, c.j
	c.hands[name] = h
	c.work.Go(func() {
		defer close(h.done)
		defer cancel()
		err := work(ctx, j, h)
		h.mu.Lock()
		defer h.mu.Unlock()
		h.err, h.at = err, time.Now()
	})
}

// end stops the object's hand and waits until it has ended: nothing is written to any cluster after.
func (c *crew) end(name types.NamespacedName) {
	h := c.of(name)
	if h == nil {
		return
	}
	h.cancel()
	<-h.done
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.hands, name)
}

// look is the run as it stands; false when it is not carried out now.
func (h *hand) look() (engine.View, bool) {
	h.mu.Lock()
	view := h.view
	h.mu.Unlock()
	if view == nil {
		return engine.View{}, false
	}
	return view(), true
}

// ended is whether the hand has, when, and with what.
func (h *hand) ended() (over bool, at time.Time, err error) {
	select {
	case <-h.done:
	default:
		return false, time.Time{}, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return true, h.at, h.err
}
