// Package limit decides, for every request of the standard lane, whether it may go on: emergency rules first, then
// the operator's, then the defaults that ship with Seakeep; the first that matches decides, and what no rule matches
// goes through. It needs nothing but its configuration and a clock, because it must work while the API server does
// not (OpenAI, 2024-12-11: the limits that would have saved the control plane lived in it).
//
// A user agent is whatever the client says it is. Rules that match one may tighten and never loosen: they cannot
// allow, and a request that such a throttle admits still has to pass the rules after it. The same holds for
// emergency throttles.
//
// A throttled request gets 429 and a Retry-After that grows with the number of clients turned away, never a 503 and
// never a cut connection: client-go waits as told on the former and retries at once on the latter.
package limit

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// Options are what an Engine needs; every field has a default.
type Options struct {
	// Clock is the time of buckets and expiry; default time.Now.
	Clock func() time.Time
	// Registerer receives the metrics; nil keeps them to the engine.
	Registerer prometheus.Registerer
	// Rand returns numbers in [0,1) for the jitter of Retry-After; default math/rand/v2. It must be safe for
	// concurrent use.
	Rand func() float64
	// Log hears of rules put in force and lifted, never of single requests.
	Log *slog.Logger
	// Judging makes every rule act in shadow, in the order and with the ends it has in force: the engine turns nobody away,
	// never waits, and Shadowed says whom its rules would have turned away. For a recorded log.
	Judging bool
	// MaxShadowed is how many lines of Shadowed are kept; default 1024.
	MaxShadowed int
}

// Engine holds the rules in force and the balances. It is safe for concurrent use and starts no goroutine.
type Engine struct {
	clock   func() time.Time
	rand    func() float64
	log     *slog.Logger
	metrics *metrics

	configure sync.Mutex // one Configure or SetEmergency at a time; readers take no lock
	rules     atomic.Pointer[ruleset]
	emergency atomic.Pointer[emergencySet]
	squeeze   squeeze
	share     share
	// epoch counts what may end open requests: SetEmergency and Squeeze. Admit decides again when it moved.
	epoch atomic.Uint64

	open     openRequests
	rejected turnedAway

	accounts accounts
	budgets  atomic.Pointer[Budgets]
	judging  bool
	shadowed wouldHave
}

// New returns an engine that lets everything through until it is configured.
func New(opts Options) *Engine {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Rand == nil {
		opts.Rand = rand.Float64
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{clock: opts.Clock, rand: opts.Rand, log: opts.Log, judging: opts.Judging}
	e.shadowed.most = opts.MaxShadowed
	e.accounts.init()
	e.rules.Store(&ruleset{})
	e.emergency.Store(&emergencySet{})
	e.squeeze.init()
	e.open.init()
	e.metrics = newMetrics(opts.Registerer, e)
	return e
}

// Configure puts the operator's rules and then the shipped ones in force, all at once; on an error what was in force
// stays. Rules that did not change keep their buckets' balances.
func (e *Engine) Configure(rules, shipped []v1alpha1.LimitRule) error {
	e.configure.Lock()
	defer e.configure.Unlock()
	all := make([]v1alpha1.LimitRule, 0, len(rules)+len(shipped))
	all = append(append(all, rules...), shipped...)
	set, err := compileRules(all, e.rules.Load(), &e.share)
	if err != nil {
		return err
	}
	e.rules.Store(set)
	return nil
}

// Admit decides on one request. Exactly one of the results is not nil. The Pass must be told when the request is Seated, and
// Done when the response is finished, however it finished. cancel ends the request when an emergency rule says so; the engine calls it at
// most once, with an *EndedError, from whichever goroutine sets the rule.
//
// It takes about a microsecond, except that a request which finds only the places of its bucket taken may wait up to
// a second for one.
func (e *Engine) Admit(f *flow.Request, cancel context.CancelCauseFunc) (*Pass, *Rejection) {
	return e.admit(&Pass{engine: e, flow: f, cancel: cancel})
}

// AdmitShared is Admit for a request that is going to be answered from what the gate reads once for many. It takes next to
// nothing from the break-glass lane, so a squeeze leaves it alone; all other rules hold. A request that is then forwarded
// after all needs Admit.
func (e *Engine) AdmitShared(f *flow.Request, cancel context.CancelCauseFunc) (*Pass, *Rejection) {
	return e.admit(&Pass{engine: e, flow: f, cancel: cancel, shared: true})
}

func (e *Engine) admit(p *Pass) (*Pass, *Rejection) {
	f := p.flow
	p.holds = p.inline[:0]
	s := newSubject(f)
	now := e.clock()
	p.seat.account = e.accounts.of(f)
	p.seat.settled = p.seat.account.arrives(f, now)
	if s.isNode != "" && f.Caller.Certainty != flow.Unverified {
		e.accounts.node(s.isNode, now)
	}
	for {
		epoch := e.epoch.Load()
		if r := e.decide(e.emergency.Load(), p, &s); r != nil {
			p.drop()
			e.metrics.rejections[r.reason].Inc()
			p.seat.account.refuse()
			e.rejected.add(r, f, e.clock())
			return nil, r
		}
		e.open.add(p)
		if e.epoch.Load() == epoch {
			e.metrics.admitted.Inc()
			return p, nil
		}
		// A rule came into force after the decision and may have looked through the open requests before this one was
		// among them: decide again. Without this a request could slip past a Block for as long as it lives.
		e.open.remove(p)
		p.drop()
	}
}

// decide asks the rules in their order; nil admits, and p holds what was taken for it.
func (e *Engine) decide(emergency *emergencySet, p *Pass, s *subject) *Rejection {
	now := e.clock()
	if !emergency.idle() {
		if emergency.passthrough(now) {
			return nil
		}
		if r := e.decideEmergency(emergency, p, s, now); r != nil {
			return r
		}
	}
	if e.squeeze.active(now) && !p.shared {
		if r := e.decideSqueezed(p, s, now); r != nil {
			return r
		}
	}
	if r, over := e.decideBudget(p, s, now); r != nil || over && e.judging {
		return r
	}
	for _, r := range e.rules.Load().rules {
		if !r.match.match(s) {
			continue
		}
		switch {
		case e.judging && r.action != v1alpha1.LimitAllow:
			if e.shadow(r, ReasonDenied, false, p, now) || !r.continues {
				return nil
			}
			continue
		case r.shadow:
			e.shadow(r, ReasonDenied, false, p, now)
			continue
		}
		switch r.action {
		case v1alpha1.LimitDeny:
			return e.deny(r.name, ReasonDenied, denials{})
		case v1alpha1.LimitThrottle:
			if refused := r.charge(p, e.clock); refused != nil {
				return e.throttle(r.name, refused, denials{})
			}
		}
		if !r.continues {
			return nil
		}
	}
	return nil
}

// RejectedNow returns whom the engine turned away in the last minute, most often first.
func (e *Engine) RejectedNow() []v1alpha1.RejectedClient { return e.rejected.list(e.clock()) }
