// Package survive answers for API servers that are all gone. A few resources (services, endpointslices and nodes by
// default) are followed while there is an API server, kept in memory and on disk, and served while there is none, so that
// what starts during an outage — kube-proxy, a CNI agent, cluster DNS — finds the world as it was last known and not
// nothing. On 2024-12-11 nothing could start for four hours.
//
// Who gets an answer has a credential that was verified without asking anyone, and was granted that very read by the API
// server not long ago; the grants are kept on disk too. Answers say how old they are. What is not in them is not said to
// be absent: a controller that believed a 404 would delete.
//
// # What a reflector sees
//
// client-go's reflector (k8s.io/client-go/tools/cache, v0.37; v0.34 to v0.36 do the same) first asks for the most recent
// state, by WATCH with sendInitialEvents=true and an empty resourceVersion (WatchList). Nobody can give that while every
// API server is gone. Of the possible refusals: 429 makes it ask the same again for ever; 410 makes it ask again without a
// pause; any status with a Retry-After header is repeated up to ten times by the REST client underneath before the
// reflector hears of it. 503 without Retry-After makes it fall back at once to LIST with resourceVersion=0, which is
// answered here. So that is what whoever holds a grant for the list gets; everyone else gets what the gate answers anyway.
//
// The WATCH that follows is held open until an API server is back. Had it failed, the reflector would list again, again
// and again, and all reflectors at once when the API server returns. Held watches end spread over half a minute; before
// that they are told what changed meanwhile, so that they go on from a version the API server knows. One that restarted
// has no older versions in its cache: it answers 410, and each client would list once more.
package survive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/lru"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/internal/statefile"
)

// spread is over how long held watches are ended when an API server is back.
const spread = 30 * time.Second

var errSecrets = errors.New("secrets are never kept on disk")

// Reviewer asks the API server who callers are and what they may. It is safe for concurrent use and bounds its waiting.
type Reviewer interface {
	Identify(ctx context.Context, r *http.Request, f *flow.Request) (user.Info, error)
	Allowed(ctx context.Context, who user.Info, f *flow.Request) (bool, error)
	Local(ctx context.Context, group, version string) bool
}

// Options configure a Store.
type Options struct {
	// Upstream is the gate's own way to the API servers, as an identity that may list and watch what is kept, and get
	// namespace kube-system.
	Upstream http.RoundTripper
	// Survive must be complete (defaulted) and valid.
	Survive v1alpha1.RelaySurvive
	// PerTokenExtras: what stands in a single token counts for its rights, see v1alpha1.RelayReviews.
	PerTokenExtras bool
	Reviewer       Reviewer
	// Dir is the gate's state folder.
	Dir string
	// Spread is over how long held watches are ended when an API server is back; default 30s.
	Spread time.Duration
	Log    *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

// Store keeps resources and serves them during an outage. It is safe for concurrent use. Two Stores must not have one
// folder at one time.
type Store struct {
	upstream http.RoundTripper
	reviewer Reviewer
	spread   time.Duration
	log      *slog.Logger
	metrics  *metrics

	outage  *outage
	kept    map[string]*kept // by "plural" or "plural.group"; the map is not changed
	files   map[string]*file
	grants  *grants
	answers *answers

	grantFile     *statefile.File
	grantsFailing bool // of the goroutine that saves

	wanted  chan question
	refused *lru.Cache // of wanted questions: what the API server denied, by key

	mu      sync.Mutex
	cluster string // the UID of kube-system, "" while it is not known

	held held
}

// New returns a Store with what an earlier process kept. Nothing is followed until Run.
func New(o Options) (*Store, error) {
	if o.Spread == 0 {
		o.Spread = spread
	}
	s := &Store{
		upstream: o.Upstream, reviewer: o.Reviewer, spread: o.Spread, log: o.Log,
		outage:    newOutage(o.Survive.After.Duration),
		kept:      map[string]*kept{},
		files:     map[string]*file{},
		grants:    newGrants(o.Survive.GrantTTL.Duration, o.PerTokenExtras),
		answers:   newAnswers(),
		grantFile: statefile.New(o.Dir, "relay-grants", schemaVersion),
		wanted:    make(chan question, 1024),
		refused:   lru.New(8192),
	}
	s.grantFile.SetLimit(fileLimit)
	for _, name := range o.Survive.Resources {
		if name == "secrets" {
			return nil, errSecrets
		}
		if strings.ContainsAny(name, "/*") || name == "" {
			return nil, fmt.Errorf("%q cannot be kept", name)
		}
		s.kept[name], s.files[name] = &kept{}, newFile(o.Dir, name)
	}
	s.metrics = newMetrics(o.Registerer, o.Survive.Resources)
	for _, name := range slices.Sorted(slices.Values(o.Survive.Resources)) {
		s.load(name, s.kept[name], s.files[name])
	}
	s.loadGrants()
	s.measure()
	return s, nil
}

// Run follows the resources and looks out for API servers until the context ends; what changed is then on disk.
func (s *Store) Run(ctx context.Context) {
	var parts sync.WaitGroup
	for name, k := range s.kept {
		parts.Go(func() { s.follow(ctx, name, k) })
	}
	parts.Go(func() { s.watchOutage(ctx) })
	parts.Go(func() { s.renew(ctx) })
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var saving sync.WaitGroup
	saving.Go(func() { s.saveAll(following) })
	parts.Wait()
	stop()
	saving.Wait()
}

// of returns what is kept of the request's resource.
func (s *Store) of(f *flow.Request) (string, *kept) {
	name := f.Resource + dotted(f.APIGroup)
	return name, s.kept[name]
}

// Reviewed is to be called with what the API server said of somebody's right (access.Recorder).
func (s *Store) Reviewed(who user.Info, f *flow.Request, allowed bool) {
	if _, k := s.of(f); k == nil || f.Subresource != "" {
		return
	}
	s.learn(s.grants.subject(who.GetName(), who.GetUID(), who.GetGroups(), who.GetExtra()), rightOf(f), allowed)
}

// Observed is to be called with the API server's answer to a request that was forwarded: 200 to a read says that its
// sender may read, 403 that not. So grants are known of those, too, whose reads are not shared.
func (s *Store) Observed(r *http.Request, f *flow.Request, code int) {
	if _, k := s.of(f); k == nil || f.Subresource != "" || f.Upgrade || f.Caller.Certainty == flow.Unverified || identity.CarriesImpersonation(r.Header) {
		return
	}
	if code == http.StatusNotFound && f.Verb == "get" {
		code = http.StatusOK // whoever is told that it is not there may read it
	}
	switch code {
	case http.StatusOK:
		s.learn(s.grants.caller(&f.Caller), rightOf(f), true)
	case http.StatusForbidden:
		s.learn(s.grants.caller(&f.Caller), rightOf(f), false)
	}
}

func (s *Store) learn(who subject, r right, allowed bool) {
	switch r.Verb {
	case "get", "list", "watch":
	default:
		return
	}
	if !allowed {
		s.grants.denied(who, r)
		return
	}
	now := time.Now()
	s.grants.granted(who, r, now)
	for _, other := range s.grants.siblings(who, r, now) {
		if until, ok := s.refused.Get(keyOf(&who, &other)); ok && now.Before(until.(time.Time)) {
			continue
		}
		select {
		case s.wanted <- question{who, other}:
		default: // it comes again with the client
		}
	}
}

// question is a right to be asked about, besides what clients asked.
type question struct {
	subject
	right
}

const (
	// renewEvery is how often grants that grow old are asked for again, renewAtOnce how many then.
	renewEvery  = time.Minute
	renewAtOnce = 512
	// refusedFor is how long what was wanted besides and denied is not asked again.
	refusedFor = time.Hour
)

// renew keeps the grants of those who are still there from growing too old, and asks for those they will need when they
// start again: a watch that has been open for a week was listed once, a week ago.
func (s *Store) renew(ctx context.Context) {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case q := <-s.wanted:
			if r := s.ask(ctx, q); r == denied {
				s.refused.Add(keyOf(&q.subject, &q.right), time.Now().Add(refusedFor))
			}
		case <-tick.C:
			for _, old := range s.grants.aging(renewAtOnce, time.Now()) {
				if s.ask(ctx, question{old.subject, old.right}) == unknown {
					break // the API server has other worries
				}
			}
		}
	}
}

type reply int

const (
	unknown reply = iota
	allowed
	denied
)

func (s *Store) ask(ctx context.Context, q question) reply {
	who := &user.DefaultInfo{Name: q.User, UID: q.UID, Groups: q.Groups, Extra: q.Extra}
	f := &flow.Request{
		Verb: q.Verb, APIGroup: q.Group, APIVersion: q.Version, Resource: q.Resource, Namespace: q.Namespace, Name: q.Name,
		FieldSelector: q.Fields, LabelSelector: q.Labels,
	}
	may, err := s.reviewer.Allowed(ctx, who, f)
	switch {
	case err != nil:
		return unknown
	case may:
		s.grants.renewed(q.subject, q.right, time.Now())
		return allowed
	default:
		s.grants.denied(q.subject, q.right)
		return denied
	}
}
