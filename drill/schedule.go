package drill

import (
	"context"
	"sync"
	"time"
)

// OpenLoop calls fn at a fixed rate until ctx ends, each call in a goroutine of its own, and waits for the last of
// them. A slow answer does not delay the next question, and a call that starts late because this machine has no
// processor left is still told when it was due: a probe that waits before it asks would hide just the moments that
// matter (coordinated omission).
func OpenLoop(ctx context.Context, interval time.Duration, fn func(ctx context.Context, n int, due time.Time)) {
	var calls sync.WaitGroup
	defer calls.Wait()
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := start.Add(time.Duration(n) * interval)
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		calls.Go(func() { fn(ctx, n, due) })
	}
}

// Queued calls fn at a fixed rate, one call at a time. What falls due while a call runs waits for it and is told the
// same end: it is handed to waited, so that the time in the queue is counted as it would be for a person who stands
// behind.
func Queued(ctx context.Context, interval time.Duration, fn func(ctx context.Context, n int, due time.Time), waited func(due time.Time)) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for n := 0; ; n++ {
		due := start.Add(time.Duration(n) * interval)
		timer.Reset(time.Until(due))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		fn(ctx, n, due)
		for next := start.Add(time.Duration(n+1) * interval); next.Before(time.Now()); next = next.Add(interval) {
			if ctx.Err() != nil {
				return
			}
			waited(next)
			n++
		}
	}
}
