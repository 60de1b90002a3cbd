package admit

import (
	"context"
	"hash/maphash"
	"math/rand/v2"
	"sync/atomic"
	"time"

	fq "k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing"
	"k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing/eventclock"
	"k8s.io/apiserver/pkg/util/flowcontrol/fairqueuing/queueset"
	fqmetrics "k8s.io/apiserver/pkg/util/flowcontrol/metrics"
	fqrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit/cost"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/limit"
)

// level is one level's queues. The queues' limit moves with the control plane's.
type level struct {
	name   v1alpha1.LevelName
	queues fq.QueueSet
	seed   maphash.Seed

	config atomic.Pointer[v1alpha1.OverloadLevel]
	limit  atomic.Int64 // seats
	// inUse and waiting are seats.
	inUse, waiting atomic.Int64
	// entering are seats of requests that the ramp let go on and that are not in the queues yet.
	entering atomic.Int64
	metrics  levelMetrics
}

// handSize is of how many queues a flow may use the shortest; with a handful a flow that fills its own does not fill
// another's (KEP-1040 has the odds).
const handSize = 6

func newLevel(config v1alpha1.OverloadLevel, limit int, m levelMetrics) (*level, error) {
	l := &level{name: config.Name, seed: maphash.MakeSeed(), metrics: m}
	completer, err := queueset.NewQueueSetFactory(eventclock.Real{}).BeginConstruction(queuing(&config),
		fqmetrics.RatioedGaugePair{RequestsWaiting: unmeasured{}, RequestsExecuting: unmeasured{}}, unmeasured{}, unmeasured{})
	if err != nil {
		return nil, err
	}
	l.config.Store(&config)
	l.limit.Store(int64(limit))
	l.queues = completer.Complete(dispatching(limit))
	return l, nil
}

func queuing(c *v1alpha1.OverloadLevel) fq.QueuingConfig {
	return fq.QueuingConfig{Name: string(c.Name), DesiredNumQueues: c.Queues, QueueLengthLimit: c.QueueLength, HandSize: min(handSize, c.Queues)}
}

func dispatching(limit int) fq.DispatchingConfig {
	return fq.DispatchingConfig{ConcurrencyLimit: limit, ConcurrencyDenominator: max(1, limit)}
}

// configure changes queues and limit; whoever waits stays where he is.
func (l *level) configure(config v1alpha1.OverloadLevel) error {
	completer, err := l.queues.BeginConfigChange(queuing(&config))
	if err != nil {
		return err
	}
	l.config.Store(&config)
	completer.Complete(dispatching(int(l.limit.Load())))
	return nil
}

// resize changes the limit.
func (l *level) resize(limit int) {
	if l.limit.Swap(int64(limit)) == int64(limit) {
		return
	}
	completer, err := l.queues.BeginConfigChange(queuing(l.config.Load()))
	if err != nil {
		panic("BUG: the queues that are in use cannot be made: " + err.Error())
	}
	completer.Complete(dispatching(limit))
}

// flowOf is who shares a queue: the user, who cannot rotate his name as he can his user agent.
func flowOf(f *flow.Request) string {
	if f.Caller.Certainty == flow.Unverified {
		return flow.Origin(f.Source)
	}
	return f.Caller.User
}

// hold is a request that waits for seats, holds them or has given them back.
type hold struct {
	level    *level
	seats    int64
	begun    chan struct{} // closed when the seats are had
	released chan struct{} // closed to give them back
	over     chan struct{} // closed when the queues have forgotten it
}

// enter queues a request. It returns nil when its queue is full. The hold must be waited for or given up by ending the
// context, and once it has begun be released. The goroutine it starts ends with the context, or when the hold is released.
func (l *level) enter(ctx context.Context, f *flow.Request, seats int, after cost.Estimate) *hold {
	who := flowOf(f)
	h := &hold{level: l, seats: int64(seats), begun: make(chan struct{}), released: make(chan struct{}), over: make(chan struct{})}
	l.waiting.Add(h.seats)
	request, _ := l.queues.StartRequest(ctx, &fqrequest.WorkEstimate{
		InitialSeats: uint64(seats), FinalSeats: uint64(after.FinalSeats), //nolint:gosec // 1 ≤ seats, 0 ≤ after
		AdditionalLatency: time.Duration(after.FinalSeconds * float64(time.Second)),
	}, maphash.String(l.seed, who), who, string(l.name), nil, nil, nil)
	if request == nil {
		l.waiting.Add(-h.seats)
		return nil
	}
	go func() {
		defer close(h.over)
		begun := false
		request.Finish(func() {
			begun = true
			l.waiting.Add(-h.seats)
			l.inUse.Add(h.seats)
			close(h.begun)
			<-h.released
			l.inUse.Add(-h.seats)
		})
		if !begun {
			l.waiting.Add(-h.seats)
		}
	}()
	return h
}

// wait returns true when the seats are had, false when the context ended first.
func (h *hold) wait() bool {
	select {
	case <-h.begun:
		return true
	case <-h.over:
		return false
	}
}

// unmeasured takes what the queues would measure; levels have metrics of their own.
type unmeasured struct{}

// Set implements metrics.Gauge, as do those after it.
func (unmeasured) Set(float64)            {}
func (unmeasured) Inc()                   {}
func (unmeasured) Dec()                   {}
func (unmeasured) Add(float64)            {}
func (unmeasured) SetToCurrentTime()      {}
func (unmeasured) SetDenominator(float64) {}

// longestAway is the most that a client is told to stay away, before the jitter that may double it.
const longestAway = 15 * time.Second

// retryAfter is how long a turned-away client of the level should stay away: about as long as those who wait now need, if each
// of them takes as long as requests take on the average.
func (l *level) retryAfter(mean time.Duration) time.Duration {
	rounds := float64(l.waiting.Load()) / float64(max(1, l.limit.Load()))
	return limit.Jittered(min(longestAway, time.Duration(rounds*float64(mean))), rand.Float64)
}
