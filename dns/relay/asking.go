package relay

import (
	"context"
	"strconv"
	"sync"
	"time"
)

// knownFor is how long an answer of the source serves for other clients. It is short, because a database restored from
// a backup takes versions back.
const knownFor = 5 * time.Second

// asking lets many clients that ask for versions cost the source one request at a time, for the highest of them.
type asking struct {
	upstream reacher
	turn     chan struct{}

	mu      sync.Mutex
	highest uint64 // that anybody waits for
	known   uint64 // that the source had reached, at the time
	at      time.Time
}

func newAsking(upstream reacher) *asking {
	return &asking{upstream: upstream, turn: make(chan struct{}, 1)}
}

// reached asks, unless somebody's answer serves.
func (a *asking) reached(ctx context.Context, version uint64) error {
	a.mu.Lock()
	a.highest = max(a.highest, version)
	a.mu.Unlock()
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	a.mu.Lock()
	served := version <= a.known && time.Since(a.at) < knownFor
	highest := max(a.highest, version)
	a.highest = 0
	a.mu.Unlock()
	if served {
		return nil
	}
	err := a.upstream.Reached(ctx, strconv.FormatUint(highest, 10))
	if err == nil {
		a.mu.Lock()
		a.known, a.at = highest, time.Now()
		a.mu.Unlock()
		return nil
	}
	if highest == version {
		return err
	}
	// Another client's version may be made up; this one's need not be.
	return a.upstream.Reached(ctx, strconv.FormatUint(version, 10))
}
