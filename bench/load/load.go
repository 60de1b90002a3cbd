// Package load sends requests at a constant rate, whatever the answers do, and measures from the moment each was due.
// A generator that waits for an answer before it sends the next one leaves out exactly the requests that an overload
// would have delayed (coordinated omission); this one has no such wait.
package load

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sys/unix"
)

// Result is what came of a run.
type Result struct {
	// Latency is from the moment a request was due until its answer was complete, failed ones included: leaving out
	// what failed would make an outage look fast.
	Latency *Histogram
	// Late is how long after its moment each request was really sent: the generator's own share of Latency.
	Late *Histogram
	// Answered and Failed count requests; Bytes is what the answers' bodies had.
	Answered, Failed, Bytes int64
	// Elapsed is from the first request until the last answer.
	Elapsed time.Duration
	// Err is the first failure.
	Err error
}

// PerSecond is the rate of good answers.
func (r *Result) PerSecond() float64 { return float64(r.Answered) / r.Elapsed.Seconds() }

// Do sends request i and reads its answer to the end; it returns the size of the body.
type Do func(ctx context.Context, i int) (bytes int64, err error)

// Open sends requests at a constant rate for a time, each from a goroutine of its own, and waits for their answers.
func Open(ctx context.Context, perSecond float64, during time.Duration, do Do) *Result {
	c := newCollector()
	interval := time.Duration(float64(time.Second) / perSecond)
	count := int(during / interval)
	var sent sync.WaitGroup
	began := time.Now()
	onItsOwnThread(func() {
		for i := range count {
			due := began.Add(time.Duration(i) * interval)
			sleepUntil(due)
			if ctx.Err() != nil {
				return
			}
			sent.Go(func() {
				c.late(time.Since(due))
				n, err := do(ctx, i)
				c.add(time.Since(due), n, err)
			})
		}
	})
	sent.Wait()
	return c.result(time.Since(began))
}

// Closed keeps workers busy for a time: each sends its next request when it has the answer to the last. It finds how
// much is answered at most; its latencies say little.
func Closed(ctx context.Context, workers int, during time.Duration, do Do) *Result {
	c := newCollector()
	began := time.Now()
	var running sync.WaitGroup
	for w := range workers {
		running.Go(func() {
			for i := w; ctx.Err() == nil && time.Since(began) < during; i += workers {
				start := time.Now()
				n, err := do(ctx, i)
				c.add(time.Since(start), n, err)
			}
		})
	}
	running.Wait()
	return c.result(time.Since(began))
}

// onItsOwnThread runs f on a thread that wakes when it is told to: the kernel's default slack of 50 µs, and the
// runtime's timers, which round up to a millisecond on an idle machine, would be measured as latency.
func onItsOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine, and so does its slack
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		f()
	}()
	<-done
}

func sleepUntil(due time.Time) {
	for {
		wait := time.Until(due)
		if wait <= 0 {
			return
		}
		spec := unix.NsecToTimespec(int64(wait))
		if err := unix.Nanosleep(&spec, nil); err != nil && !errors.Is(err, unix.EINTR) {
			time.Sleep(wait)
		}
	}
}

// collector gathers from many goroutines; a lock held for nanoseconds costs less than merging histograms of each.
type collector struct {
	mu sync.Mutex
	r  Result
}

func newCollector() *collector {
	return &collector{r: Result{Latency: NewHistogram(), Late: NewHistogram()}}
}

func (c *collector) late(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Late.Add(d)
}

func (c *collector) add(latency time.Duration, n int64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.r.Latency.Add(latency)
	c.r.Bytes += n
	if err != nil {
		c.r.Failed++
		if c.r.Err == nil {
			c.r.Err = err
		}
		return
	}
	c.r.Answered++
}

func (c *collector) result(elapsed time.Duration) *Result {
	c.r.Elapsed = elapsed
	return &c.r
}

// Histogram holds durations from 1 µs to 10 min with three digits.
type Histogram struct{ h *hdrhistogram.Histogram }

const (
	unit = time.Microsecond
	most = int64(10 * time.Minute / unit)
)

// NewHistogram returns an empty histogram.
func NewHistogram() *Histogram { return &Histogram{hdrhistogram.New(1, most, 3)} }

// Add records one duration; what is longer than 10 minutes counts as that.
func (h *Histogram) Add(d time.Duration) {
	// The error is of values out of range, which these are not.
	_ = h.h.RecordValue(min(max(int64(d/unit), 1), most))
}

// Milliseconds is the value below which the share q (0–1) of the durations is, in milliseconds.
func (h *Histogram) Milliseconds(q float64) float64 {
	return float64(h.h.ValueAtQuantile(q*100)) * float64(unit) / float64(time.Millisecond)
}

// Count is how many were added.
func (h *Histogram) Count() int64 { return h.h.TotalCount() }
