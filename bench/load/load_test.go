package load

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"
)

// A server that answers one request at a time and stops once: a generator that waits for answers would see one slow
// request; every request that was due meanwhile waited too.
func TestOpenCountsWhatWaited(t *testing.T) {
	var turn = make(chan struct{}, 1)
	turn <- struct{}{}
	stalled := make(chan struct{})
	r := Open(t.Context(), 200, 500*time.Millisecond, func(_ context.Context, i int) (int64, error) {
		<-turn
		defer func() { turn <- struct{}{} }()
		if i == 10 {
			<-time.After(200 * time.Millisecond)
			close(stalled)
		}
		return 1, nil
	})
	<-stalled
	if r.Answered != 100 || r.Failed != 0 || r.Bytes != 100 {
		t.Errorf("got %d answered, %d failed, %d bytes", r.Answered, r.Failed, r.Bytes)
	}
	// 200 ms of 500 were stalled: the requests due then waited half of it on average.
	if waited := r.Latency.Milliseconds(0.9); waited < 50 {
		t.Errorf("p90 is %g ms: what waited behind the stalled request was left out", waited)
	}
}

func TestFailuresAreCounted(t *testing.T) {
	broken := errors.New("broken")
	do := func(_ context.Context, i int) (int64, error) {
		if i%2 == 1 {
			return 0, broken
		}
		return 0, nil
	}
	r := Open(t.Context(), 1000, 20*time.Millisecond, do)
	if r.Answered != 10 || r.Failed != 10 || !errors.Is(r.Err, broken) || r.Latency.Count() != 20 || r.Late.Count() != 20 {
		t.Errorf("got %d answered, %d failed, %v, %d latencies", r.Answered, r.Failed, r.Err, r.Latency.Count())
	}
}

func TestClosedKeepsWorkersBusy(t *testing.T) {
	var now, most atomic.Int64
	r := Closed(t.Context(), 4, 50*time.Millisecond, func(context.Context, int) (int64, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-time.After(time.Millisecond)
		return 0, nil
	})
	if most.Load() > 4 || r.Answered < 4 || r.PerSecond() <= 0 {
		t.Errorf("got %d at once, %d answered, %g/s", most.Load(), r.Answered, r.PerSecond())
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	r := Open(ctx, 100, time.Hour, func(_ context.Context, i int) (int64, error) {
		if i == 2 {
			cancel()
		}
		return 0, nil
	})
	if r.Answered > 100 {
		t.Errorf("%d were sent after the end", r.Answered)
	}
}

func TestHistogram(t *testing.T) {
	h := NewHistogram()
	for i := range 100 {
		h.Add(time.Duration(i+1) * time.Millisecond)
	}
	h.Add(-time.Second) // clocks
	h.Add(time.Hour)
	if got := h.Milliseconds(0.5); got < 49 || got > 52 {
		t.Errorf("p50 is %g ms", got)
	}
	if h.Count() != 102 {
		t.Errorf("%d were counted", h.Count())
	}
}
