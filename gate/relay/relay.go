package relay

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/commit"
	"github.com/seakeep/seakeep/gate/relay/held"
	"github.com/seakeep/seakeep/gate/relay/watch"
	"github.com/seakeep/seakeep/gate/upstream"
)

// Access says who asks and whether they may; gate/relay/access is one. Its methods are safe for concurrent use, bounded in
// time, and never turn an error into a grant.
type Access interface {
	Identify(ctx context.Context, r *http.Request, f *flow.Request) (user.Info, error)
	Allowed(ctx context.Context, who user.Info, f *flow.Request) (bool, error)
	// Local is false for what an aggregated API server answers, and for what is not known.
	Local(ctx context.Context, group, version string) bool
}

// Survivor answers when every API server is gone; gate/relay/survive is one. All methods may be called from any goroutine.
type Survivor interface {
	// Serve answers what it can and reports true, or writes nothing and reports false. It does so only while all are gone.
	Serve(w http.ResponseWriter, r *http.Request, f *flow.Request, done func(upstream.Result)) bool
	// Failed and Answered are what a read of the relay's met.
	Failed(err error)
	Answered()
}

// Options are what a Relay is made of.
type Options struct {
	// Upstream is the gate's own way to the API servers.
	Upstream http.RoundTripper
	Access   Access
	// Survivor may be nil.
	Survivor Survivor
	// Patience is how long an API server may be silent before and within an answer.
	Patience time.Duration
	// Rank is how high a request stands where API servers cannot take all, 0 the highest, and OnBehalf marks a read with the
	// rank of the highest who wait for it; nil: reads have no rank.
	Rank       func(f *flow.Request) int
	OnBehalf   func(ctx context.Context, rank int) context.Context
	Registerer prometheus.Registerer
	Log        *slog.Logger
}

// Relay is one configuration's sharing of reads. It is safe for concurrent use. Run must run; when it ends, reads under way
// end too.
type Relay struct {
	settings *settings
	upstream http.RoundTripper
	access   Access
	survivor Survivor
	patience time.Duration
	rank     func(f *flow.Request) int
	onBehalf func(ctx context.Context, rank int) context.Context
	budget   *held.Budget
	turns    *turns
	hub      *watch.Hub
	log      *slog.Logger
	metrics  *metrics

	ctx     context.Context //nolint:containedctx // the reads' own: they belong to no request
	end     context.CancelCauseFunc
	reading sync.WaitGroup

	mu      sync.Mutex
	entries map[key]*entry
	total   Sharing
	since   time.Time
	// complained is when a refusal of the gate's own identity was last logged.
	complained time.Time
}

// entry is one key and what is known of it. Everything but key, resource and rule is under the relay's lock.
type entry struct {
	key      key
	resource schema.GroupResource
	rule     *rule
	labels   string
	fields   string
	commit   *commit.Key[*answer]
	sharing  Sharing
	readers  int
	lastUsed time.Time
	agedAsk  time.Time // the last request that took an answer with an age
	doubted  time.Time // when it was last looked whether versions ran backwards
}

// New returns a relay of a defaulted and valid configuration.
func New(c *v1alpha1.GateRelay, o Options) *Relay {
	r := &Relay{
		settings: compile(c),
		upstream: o.Upstream,
		access:   o.Access,
		survivor: o.Survivor,
		patience: o.Patience,
		rank:     o.Rank,
		onBehalf: o.OnBehalf,
		log:      o.Log,
		entries:  map[key]*entry{},
		since:    time.Now(),
		turns:    newTurns(),
	}
	r.ctx, r.end = context.WithCancelCause(context.Background())
	r.budget = held.NewBudget(c.MaxMemory.Value(), r.evict)
	r.metrics = newMetrics(o.Registerer, r)
	r.hub = watch.New(watch.Options{Upstream: o.Upstream, Budget: r.budget, Log: o.Log, Registerer: o.Registerer})
	return r
}

// Run keeps the relay going until the context ends, then waits for what it reads, not long, and ends it.
func (r *Relay) Run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			r.tidy(time.Now())
		case <-ctx.Done():
		}
	}
	r.hub.Close()
	hurry := time.AfterFunc(lastReads, func() { r.end(errClosed) })
	r.reading.Wait()
	hurry.Stop()
	r.end(errClosed)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.entries {
		e.drop()
	}
}

// lastReads is how long reads under way may go on when the relay ends: a new configuration need not cut off a LIST.
const lastReads = 5 * time.Second

// Question is a request as the relay understands it, asked once. The zero value is of no relay.
type Question struct {
	asked *asked
	why   reason
}

// Shared says whether a request is of the kind that is answered from shared reads; whether it is, depends on who asks.
func (q Question) Shared() bool { return q.asked != nil && q.why == "" }

// Look says what a request asks. It is no more than a look, at the request and at the rules.
func (r *Relay) Look(req *http.Request, f *flow.Request) Question {
	a, why := r.settings.classify(req, f)
	return Question{asked: a, why: why}
}

// Serve answers a request, of which q is this relay's look, from a read that others share, and reports true; done is then
// called exactly once. Or it reports false and has written nothing: the request is to be forwarded, and the API server decides.
func (r *Relay) Serve(w http.ResponseWriter, req *http.Request, f *flow.Request, q Question, done func(upstream.Result)) bool {
	if r.survivor != nil && r.survivor.Serve(w, req, f, done) {
		return true
	}
	a, why := q.asked, q.why
	if a == nil && why == "" {
		return false // nothing of ours
	}
	if why == "" {
		why = r.may(req, f)
	}
	switch {
	case why != "":
	case a.live:
		why = r.follow(w, req, f, a, done)
	default:
		why = r.share(w, req, f, a, done)
	}
	if why != "" {
		r.metrics.forwarded.WithLabelValues(string(why)).Inc()
	}
	return why == ""
}

// may says whether this very request may be answered with what the gate reads.
func (r *Relay) may(req *http.Request, f *flow.Request) reason {
	if r.budget.Tight() && !r.evict() {
		return forwardedMemory
	}
	ctx := req.Context()
	if !r.access.Local(ctx, f.APIGroup, f.APIVersion) {
		return forwardedAggregated
	}
	who, err := r.access.Identify(ctx, req, f)
	if err != nil {
		return unknown(err)
	}
	allowed, err := r.access.Allowed(ctx, who, f)
	switch {
	case err != nil:
		return forwardedAuthorizer
	case !allowed:
		return forwardedDenied
	}
	return ""
}

// recheck is asked about an open watch now and then.
func (r *Relay) recheck(req *http.Request, f *flow.Request) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		who, err := r.access.Identify(ctx, req, f)
		if err != nil {
			if unknown(err) == forwardedUnauthenticated {
				return false, nil
			}
			return false, err
		}
		return r.access.Allowed(ctx, who, f)
	}
}

// entryOf returns a key's entry. It is called with the lock held.
func (r *Relay) entryOf(a *asked, now time.Time) *entry {
	e := r.entries[a.key]
	if e == nil {
		e = &entry{key: a.key, resource: a.resource, rule: a.rule, labels: a.labels, fields: a.fields}
		e.commit = commit.New(func() *batch {
			b := &batch{Data: &answer{headed: make(chan struct{})}}
			b.Data.body = held.NewBody(r.budget, true, func() { r.torn(e, b) })
			return b
		})
		r.entries[a.key] = e
	}
	e.lastUsed = now
	if a.ask.Class == commit.Cached {
		e.agedAsk = now
	}
	return e
}

// torn is called by a body that had to give up its beginning.
func (r *Relay) torn(e *entry, b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.commit.Torn(b)
}

// ended notes that a batch's read is over and starts the next.
func (r *Relay) ended(e *entry, b *batch, whole bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	kept, dropped, next := e.commit.Ended(b, time.Now(), whole)
	if !kept {
		b.Data.body.Release()
	}
	if dropped != nil {
		dropped.Data.body.Release()
	}
	if next != nil {
		r.start(e, next)
	}
}

// leave takes a request out of its batch, and ends a read nobody waits for.
func (r *Relay) leave(e *entry, b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.readers--
	if !e.commit.Leave(b) {
		return
	}
	e.commit.Torn(b) // nobody may join a read that is being given up
	b.Data.body.Release()
	if b.Data.cancel != nil && !b.Finished() {
		b.Data.cancel(errAbandoned)
	}
}

// current says whether a kept answer may be given to a request that leaves the age to the server: it is young, or a watch of
// the very same has been silent since. It is called with the lock held.
func (r *Relay) current(e *entry, now time.Time) func(*batch) bool {
	return func(b *batch) bool {
		return now.Sub(b.Started) <= agedAnswers || r.hub.Current(e.key.path, e.labels, e.fields, b.Version())
	}
}

// agedAnswers is how old an answer to resourceVersion=0 may be when no watch says that it is current. The API server's own
// would be milliseconds behind; an answer of hours ago would send its reader into a watch that is refused (410) and from
// there into a re-list.
const agedAnswers = 5 * time.Second

// evict drops the oldest answer that is only kept, and reports whether there was one.
func (r *Relay) evict() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var oldest *entry
	for _, e := range r.entries {
		if b := e.commit.Newest(); b != nil && (oldest == nil || b.Started.Before(oldest.commit.Newest().Started)) {
			oldest = e
		}
	}
	return oldest != nil && oldest.drop()
}

// drop gives up the kept answer. It is called with the relay's lock held.
func (e *entry) drop() bool {
	b := e.commit.Drop()
	if b != nil {
		b.Data.body.Release()
	}
	return b != nil
}

// Entries that nothing is going on with are kept for their counts and for the version they served, up to maxEntries and for
// idleEntry: queries are chosen by clients.
const (
	maxEntries = 4096
	idleEntry  = 10 * time.Minute
)

// tidy drops answers that nobody would be given any more, and entries nobody uses.
func (r *Relay) tidy(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, e := range r.entries {
		if b := e.commit.Newest(); b != nil && !r.current(e, now)(b) && now.Sub(b.Started) > e.rule.maxAge {
			e.drop()
		}
		idle := e.commit.Idle() && e.readers == 0
		if idle && (now.Sub(e.lastUsed) > idleEntry || len(r.entries) > maxEntries) {
			delete(r.entries, k)
		}
	}
}

func (r *Relay) failed(err error) {
	if r.survivor != nil {
		r.survivor.Failed(err)
	}
}

func (r *Relay) answered() {
	if r.survivor != nil {
		r.survivor.Answered()
	}
}

func (r *Relay) bytesRead(e *entry, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.sharing.BytesRead += int64(n)
	r.total.BytesRead += int64(n)
}
