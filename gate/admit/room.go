// Package admit lets requests into the control plane: each is priced in seats, sorted into a level, queued fairly within it,
// and holds its seats while the API server works on it. How many seats there are follows the control plane.
//
// Turning away costs nothing that could be missed: it needs no API server, and the answer is 429 with Retry-After, which
// every client knows.
package admit

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit/cost"
	"github.com/seakeep/seakeep/gate/admit/law"
	"github.com/seakeep/seakeep/gate/admit/ramp"
	"github.com/seakeep/seakeep/gate/admit/share"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/limit"
)

// Options are what a Room needs.
type Options struct {
	// Readings returns what the API servers last said of themselves, those that are to serve; nil entries have not.
	Readings func() []law.Server
	// Stored returns how many objects there are of each resource and how many watches are told of their changes, as far as that
	// is known.
	Stored func() (objects map[schema.GroupResource]cost.Objects, watchers map[schema.GroupResource]int)
	// StateDir keeps what was learned; "" keeps nothing.
	StateDir string
	// Registerer receives the metrics; nil keeps them to the room.
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

// Room admits requests. It is safe for concurrent use and outlives reloads of the configuration.
type Room struct {
	o       Options
	metrics *metrics
	costs   *cost.Model

	config  atomic.Pointer[settings]
	callees atomic.Pointer[map[string]bool] // users whom API servers call
	// levels are the queues, two for each of v1alpha1.LevelNames: at 2i those of requests that take one seat, and after them
	// those of the others. They are made once.
	levels []*level

	// seats are the limit, bytes the bound on LISTs' answers under way.
	seats, bytes atomic.Int64
	// stalled are bytes of answers whose clients do not take them.
	stalled  atomic.Int64
	decision atomic.Pointer[law.Decision]
	window   window
	wanted   chan struct{} // somebody waits: divide anew

	recovery  recovery      // Run's
	returning chan struct{} // somebody waits for the ramp

	mu    sync.Mutex // of what follows
	law   *law.Law
	ramp  *ramp.Ramp
	queue rampQueue
}

// settings are the part of the room that a reload swaps whole.
type settings struct {
	*v1alpha1.GateOverload
	sorts []sort
	own   int // how many of them are the operator's, and come first
}

// sort is a compiled rule.
type sort struct {
	match *limit.Matcher
	level int // in levels
}

// part is how a level's own is divided between requests that take one seat and those that take more. Without it a LIST that
// takes all of a level's seats would keep every GET behind it waiting until it has ended.
var part = [2]float64{0.4, 0.6}

// kept is the part of its own that is never lent to others, as Room.levels. What the system level asks is small and must find
// a seat at once.
var kept = []float64{1, 0.5, 0.5, 0.25, 0.5, 0, 0.25, 0, 0, 0}

// New returns a room that lets everything in until it is configured.
func New(o Options) (*Room, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Room{o: o, costs: cost.New(cost.Config{}), ramp: ramp.New(), wanted: make(chan struct{}, 1), returning: make(chan struct{}, 1)}
	r.metrics = newMetrics(o.Registerer, r)
	for _, l := range ordered(v1alpha1.NewGateOverload(v1alpha1.OverloadDisabled)) {
		for range 2 {
			made, err := newLevel(l, 1, r.metrics.of(l.Name))
			if err != nil {
				return nil, fmt.Errorf("making the queues of level %s: %w", l.Name, err)
			}
			r.levels = append(r.levels, made)
		}
	}
	if err := r.Configure(nil); err != nil {
		return nil, err
	}
	return r, nil
}

// ordered are the levels of a configuration with its defaults, highest first.
func ordered(c *v1alpha1.GateOverload) []v1alpha1.OverloadLevel {
	levels := make([]v1alpha1.OverloadLevel, len(v1alpha1.LevelNames))
	for _, l := range c.Levels {
		for i, name := range v1alpha1.LevelNames {
			if l.Name == name {
				levels[i] = l
			}
		}
	}
	return levels
}

// Configure puts a configuration with its defaults in force; nil lets everything in. What was learned stays.
func (r *Room) Configure(c *v1alpha1.GateOverload) error {
	if c == nil {
		c = v1alpha1.NewGateOverload(v1alpha1.OverloadDisabled)
	}
	next := &settings{GateOverload: c, own: len(c.Rules)}
	for _, rule := range slices.Concat(c.Rules, Shipped()) {
		match, err := limit.NewMatcher(&rule.Match)
		if err != nil {
			return fmt.Errorf("compiling rule %q: %w", rule.Name, err)
		}
		next.sorts = append(next.sorts, sort{match, levelIndex(rule.Level)})
	}
	for i, l := range ordered(c) {
		for _, queues := range r.levels[2*i : 2*i+2] {
			if err := queues.configure(l); err != nil {
				return fmt.Errorf("making the queues of level %s: %w", l.Name, err)
			}
		}
	}
	r.mu.Lock()
	before := r.config.Load()
	if before == nil || before.Limit != c.Limit || before.Mode == v1alpha1.OverloadDisabled {
		r.law = law.New(law.ConfigOf(c.Limit))
		r.seats.Store(int64(c.Limit.Initial))
	}
	r.config.Store(next)
	r.mu.Unlock()
	r.divide()
	return nil
}

func levelIndex(name v1alpha1.LevelName) int {
	for i, known := range v1alpha1.LevelNames {
		if known == name {
			return i
		}
	}
	return len(v1alpha1.LevelNames) - 1
}

// SetCallees says whom API servers call: what these users ask is asked for a request that holds seats already, and must not
// wait behind others of its kind. What they read of the whole cluster is no part of that, and waits as everybody's.
func (r *Room) SetCallees(users []string) {
	set := make(map[string]bool, len(users))
	for _, user := range users {
		set[user] = true
	}
	r.callees.Store(&set)
}

// classify sorts a request into a level.
func (r *Room) classify(s *settings, f *flow.Request) int {
	subject := limit.SubjectOf(f)
	for i := range s.sorts {
		if i == s.own && r.called(f) {
			return levelIndex(v1alpha1.LevelCallbacks)
		}
		if s.sorts[i].match.Matches(&subject) {
			return s.sorts[i].level
		}
	}
	return len(v1alpha1.LevelNames) - 1
}

// called is whether a request may be part of one that an API server waits for.
func (r *Room) called(f *flow.Request) bool {
	set := r.callees.Load()
	return set != nil && (*set)[f.Caller.User] && f.Caller.Certainty != flow.Unverified && !f.LongRunning && (f.Verb != "list" || f.Scope != v1alpha1.ScopeCluster)
}

// Enter waits until the request may go on; f is req's flow. One of the results is not nil, unless the context ended while it
// waited: then both are nil. Done must be called when the request is over, however it ended.
func (r *Room) Enter(ctx context.Context, f *flow.Request, req *http.Request) (*Seats, *Rejection) {
	config := r.config.Load()
	if config.Mode == v1alpha1.OverloadDisabled {
		return &Seats{}, nil
	}
	index := r.classify(config, f)
	if asked, ok := ctx.Value(onBehalf{}).(int); ok {
		index = min(index, asked)
	}
	shape := cost.ShapeOf(f, req)
	estimate := r.costs.Estimate(shape)
	width := r.width(estimate, shape.Encodes())
	l := r.levels[2*index]
	if width > 1 {
		l = r.levels[2*index+1]
	}
	s := &Seats{room: r, level: l, flow: f, shape: shape, estimate: estimate, seats: width, arrived: time.Now()}
	if config.Mode == v1alpha1.OverloadShadow {
		r.rehearse(ctx, s, index)
		return s, nil
	}
	if ok, rejection := r.ramped(ctx, s, index); !ok {
		return nil, rejection
	}
	waiting, cancel := context.WithTimeout(ctx, l.config.Load().MaxWait.Duration)
	s.cancel = cancel
	if s.hold = l.enter(waiting, f, s.seats, s.estimate); s.hold == nil {
		cancel()
		s.Release()
		return nil, r.reject(s, ReasonQueueFull)
	}
	select {
	case <-s.hold.begun: // as most are, at once
	default:
		r.divideSoon()
		if !s.hold.wait() {
			s.Release()
			r.metrics.waited(l, time.Since(s.arrived))
			if ctx.Err() != nil {
				l.metrics.gone.Inc()
				return nil, nil
			}
			return nil, r.reject(s, ReasonWaitedTooLong)
		}
	}
	s.began(time.Now())
	r.metrics.waited(l, s.begun.Sub(s.arrived))
	l.metrics.admitted.Inc()
	return s, nil
}

// rehearse lets a request in and plays out beside it what would have become of it.
func (r *Room) rehearse(ctx context.Context, s *Seats, index int) {
	s.began(s.arrived)
	s.level.metrics.admitted.Inc()
	if !r.mayReturn(s, index) {
		return
	}
	waiting, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.level.config.Load().MaxWait.Duration)
	if s.hold = s.level.enter(waiting, s.flow, s.seats, s.estimate); s.hold == nil {
		cancel()
		r.reject(s, ReasonQueueFull)
		return
	}
	s.cancel, s.finished = cancel, make(chan struct{})
	r.divideSoon()
	go s.playOut()
}

// width is how many seats a request holds: what it costs, or more where the bytes that may be under way are scarcer than the
// seats. So one queue keeps both bounds.
func (r *Room) width(e cost.Estimate, encodes bool) int {
	width := max(1, e.Seats)
	if bytes := r.bytes.Load(); bytes > 0 && e.Bytes > 0 && encodes {
		free := max(bytes/10, bytes-r.stalled.Load())
		width = max(width, int(float64(e.Bytes)/float64(free)*float64(r.seats.Load())))
	}
	return min(width, max(1, int(r.seats.Load())))
}

// divideSoon asks Run to divide the seats anew: somebody waits who may have a right to some.
func (r *Room) divideSoon() {
	select {
	case r.wanted <- struct{}{}:
	default:
	}
}

// divide gives each level its seats.
func (r *Room) divide() {
	config := r.config.Load()
	if config == nil {
		return
	}
	levels := make([]share.Level, len(r.levels))
	for i, l := range r.levels {
		levels[i] = share.Level{
			Share: float64(l.config.Load().Share) / 100 * part[i%2], Kept: kept[i],
			Demand: float64(l.inUse.Load() + l.waiting.Load()),
		}
	}
	for i, seats := range share.Divide(int(r.seats.Load()), levels) {
		r.levels[i].resize(seats)
	}
}

const (
	// tick is how often the limit follows; every reaction of a control plane takes longer.
	tick = 250 * time.Millisecond
	// countEvery is how often it is looked how many objects there are: API servers count them once a minute.
	countEvery = 5 * time.Second
	// redivide is how long a division stands at least; a storm would otherwise have it done for each request.
	redivide = 10 * time.Millisecond
)

// Run lets the limit follow the control plane until the context ends, and keeps what was learned.
func (r *Room) Run(ctx context.Context) {
	ticks := time.NewTicker(tick)
	defer ticks.Stop()
	counts := time.NewTicker(countEvery)
	defer counts.Stop()
	saves := time.NewTicker(saveEvery)
	defer saves.Stop()
	looks := time.NewTimer(rampLook)
	looks.Stop()
	defer looks.Stop()
	r.restore()
	defer r.save()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks.C:
			r.follow(time.Now())
		case <-counts.C:
			if r.o.Stored != nil && r.config.Load().Mode != v1alpha1.OverloadDisabled {
				objects, watchers := r.o.Stored()
				r.costs.SetObjects(objects)
				r.costs.SetWatchers(watchers)
			}
		case <-saves.C:
			r.save()
		case <-r.returning:
			looks.Reset(rampLook)
		case <-looks.C:
			if r.letIn(time.Now()) {
				looks.Reset(rampLook)
			}
		case <-r.wanted:
			r.divide()
			stands := time.NewTimer(redivide)
			select {
			case <-stands.C:
			case <-ctx.Done():
				stands.Stop()
				return
			}
		}
	}
}

// follow is one tick.
func (r *Room) follow(now time.Time) {
	if r.config.Load().Mode == v1alpha1.OverloadDisabled {
		return
	}
	var servers []law.Server
	if r.o.Readings != nil {
		servers = r.o.Readings()
	}
	passive := r.window.take()
	for _, l := range r.levels {
		passive.SeatsInUse += float64(l.inUse.Load())
		passive.SeatsWaiting += float64(l.waiting.Load())
	}
	back := r.recovery.notice(now, servers)
	if back != "" {
		r.o.Log.Warn("The control plane comes back: LISTs and watches begin again a few at a time", "because", back)
	}
	r.mu.Lock()
	if back != "" {
		r.ramp.Begin(now, float64(r.seats.Load()))
	}
	d := r.law.Tick(now, law.Evidence{Servers: servers, Passive: passive})
	r.ramp.Tick(now, recovering(&d))
	r.mu.Unlock()
	if before := r.decision.Swap(&d); before == nil || before.Signal != d.Signal {
		r.o.Log.Debug("What binds the limit is another", "seats", int(d.Limit), "signal", d.Signal, "reason", d.Reason)
	}
	r.seats.Store(int64(max(1, d.Limit)))
	r.bytes.Store(int64(d.ListBytes))
	r.divide()
}

// recovering is how a control plane that comes back takes it.
func recovering(d *law.Decision) ramp.State {
	switch {
	case d.Healthy:
		return ramp.Well
	case d.Busy:
		return ramp.Busy
	}
	return ramp.Unwell
}

type onBehalf struct{}

// OnBehalf marks what is asked for others with the rank of the highest of them.
func OnBehalf(ctx context.Context, rank int) context.Context {
	return context.WithValue(ctx, onBehalf{}, rank)
}

// Limit is how many seats there are for everybody now; 0 when nothing is admitted here.
func (r *Room) Limit() int {
	if r.config.Load().Mode == v1alpha1.OverloadDisabled {
		return 0
	}
	return int(r.seats.Load())
}

// Rank is the place of a request's level among v1alpha1.LevelNames.
func (r *Room) Rank(f *flow.Request) int { return r.classify(r.config.Load(), f) }
