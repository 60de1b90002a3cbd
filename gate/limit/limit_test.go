package limit

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// clock is a time that moves when a test says so.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2024, 12, 11, 15, 16, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func one[T any](v T) *T { return &v }

func quantity(s string) *resource.Quantity { return one(resource.MustParse(s)) }

func throttle(name string, m v1alpha1.LimitMatch, t v1alpha1.Throttle) v1alpha1.LimitRule {
	r := v1alpha1.LimitRule{Name: name, Match: m, Action: v1alpha1.LimitThrottle, Throttle: &t}
	r.SetDefaults()
	return r
}

func engine(t testing.TB, c *clock, rules ...v1alpha1.LimitRule) *Engine {
	t.Helper()
	e := New(Options{Clock: c.Now, Rand: func() float64 { return 0 }})
	if err := e.Configure(rules, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

// request is a LIST of all pods by a verified user, changed as the test needs.
func request(user string, change ...func(*flow.Request)) *flow.Request {
	f := &flow.Request{
		Caller:    flow.Caller{User: user, Certainty: flow.TokenVerified, Groups: []string{"system:authenticated"}},
		UserAgent: "agent/1", Source: netip.MustParseAddr("10.1.2.3"), Lane: flow.Standard,
		Verb: "list", Resource: "pods", Scope: v1alpha1.ScopeCluster, Path: "/api/v1/pods",
	}
	for _, c := range change {
		c(f)
	}
	return f
}

func get(f *flow.Request) {
	f.Verb, f.Scope, f.Namespace, f.Name = "get", v1alpha1.ScopeObject, "default", "a"
}

func admit(t testing.TB, e *Engine, f *flow.Request) *Pass {
	t.Helper()
	p, r := e.Admit(f, func(error) {})
	if r != nil {
		t.Fatalf("rejected by %s for %s", r.Rule, r.Reason)
	}
	return p
}

func reject(t testing.TB, e *Engine, f *flow.Request, want Reason) *Rejection {
	t.Helper()
	p, r := e.Admit(f, func(error) {})
	if p != nil {
		t.Fatalf("admitted, want a rejection for %s", want)
	}
	if r.Reason != string(want) {
		t.Fatalf("rejected for %s by %s, want %s", r.Reason, r.Rule, want)
	}
	return r
}

func TestMatch(t *testing.T) {
	node := func(f *flow.Request) {
		f.Caller.User, f.Verb, f.Resource, f.APIGroup = "system:node:n1", "update", "leases", "coordination.k8s.io"
		f.Scope, f.Namespace, f.Name = v1alpha1.ScopeObject, "kube-node-lease", "n1"
	}
	tests := map[string]struct {
		match v1alpha1.LimitMatch
		yes   []*flow.Request
		no    []*flow.Request
	}{
		"everything": {v1alpha1.LimitMatch{}, []*flow.Request{request("u")}, []*flow.Request{request("u", func(f *flow.Request) { f.Lane = flow.BreakGlass })}},
		"user agent": {v1alpha1.LimitMatch{UserAgents: []string{"agent/*"}}, []*flow.Request{request("u")}, []*flow.Request{request("u", func(f *flow.Request) { f.UserAgent = "kubectl" })}},
		"user":       {v1alpha1.LimitMatch{Users: []string{"a", "b*"}}, []*flow.Request{request("a"), request("bc")}, []*flow.Request{request("c")}},
		"group": {v1alpha1.LimitMatch{Groups: []string{"x", "system:authenticated"}}, []*flow.Request{request("a")},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Caller.Groups = nil })}},
		"service account": {v1alpha1.LimitMatch{ServiceAccountNamespaces: []string{"mon"}}, []*flow.Request{request("system:serviceaccount:mon:a")},
			[]*flow.Request{request("system:serviceaccount:monitor:a"), request("mon"), request("system:serviceaccount:mon")}},
		"list includes initial events": {v1alpha1.LimitMatch{Verbs: []string{"list"}},
			[]*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Verb, f.InitialEvents = "watch", true })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Verb = "watch" }), request("a", get), request("a", func(f *flow.Request) { f.Verb = "brew" })}},
		"resource": {v1alpha1.LimitMatch{Resources: []string{"pods"}}, []*flow.Request{request("a")},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Subresource = "log" }), request("a", func(f *flow.Request) { f.Resource = "nodes" })}},
		"subresource": {v1alpha1.LimitMatch{Resources: []string{"pods/log", "*/scale"}},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Subresource = "log" }), request("a", func(f *flow.Request) { f.Resource, f.Subresource = "deployments", "scale" })},
			[]*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Resource, f.Subresource = "nodes", "log" })}},
		"all resources": {v1alpha1.LimitMatch{Resources: []string{"*"}}, []*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Subresource = "log" })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Resource, f.Scope = "", v1alpha1.ScopeNonResource })}},
		"core group": {v1alpha1.LimitMatch{APIGroups: []string{""}}, []*flow.Request{request("a")},
			[]*flow.Request{request("a", func(f *flow.Request) { f.APIGroup = "apps" }), request("a", func(f *flow.Request) { f.Resource, f.Scope = "", v1alpha1.ScopeNonResource })}},
		"name":      {v1alpha1.LimitMatch{Names: []string{"*"}}, []*flow.Request{request("a", get)}, []*flow.Request{request("a")}},
		"namespace": {v1alpha1.LimitMatch{Namespaces: []string{"def*"}}, []*flow.Request{request("a", get)}, []*flow.Request{request("a")}},
		"scope":     {v1alpha1.LimitMatch{Scopes: []v1alpha1.RequestScope{v1alpha1.ScopeCluster}}, []*flow.Request{request("a")}, []*flow.Request{request("a", get)}},
		"path": {v1alpha1.LimitMatch{NonResourcePaths: []string{"/debug/*"}},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Resource, f.Scope, f.Path = "", v1alpha1.ScopeNonResource, "/debug/pprof" })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Path = "/debug/pprof" })}},
		"source": {v1alpha1.LimitMatch{SourceCIDRs: []string{"10.1.0.0/16", "fd00::/8"}},
			[]*flow.Request{request("a"), request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("fd12::1") })},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.2.0.1") }), request("a", func(f *flow.Request) { f.Source = netip.Addr{} })}},
		"lane": {v1alpha1.LimitMatch{Lanes: []v1alpha1.LaneName{v1alpha1.LaneBreakGlass}},
			[]*flow.Request{request("a", func(f *flow.Request) { f.Lane = flow.BreakGlass })}, []*flow.Request{request("a")}},
		"own node": {v1alpha1.LimitMatch{OwnNode: true},
			[]*flow.Request{request("", node), request("", node, func(f *flow.Request) { f.Verb, f.Name = "create", "" })},
			[]*flow.Request{request("", node, func(f *flow.Request) { f.Name = "n2" }), request("", node, func(f *flow.Request) { f.Name = "" }),
				request("", node, func(f *flow.Request) { f.Caller.User = "unverified:10.0.0.1" }), request("", node, func(f *flow.Request) { f.Caller.User = "system:node:" })}},
		"all must": {v1alpha1.LimitMatch{Users: []string{"a"}, Verbs: []string{"get"}}, []*flow.Request{request("a", get)}, []*flow.Request{request("a"), request("b", get)}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			m, err := compileMatch(&tc.match)
			if err != nil {
				t.Fatal(err)
			}
			for i, f := range tc.yes {
				if s := newSubject(f); !m.match(&s) {
					t.Errorf("request %d is not matched: %+v", i, f)
				}
			}
			for i, f := range tc.no {
				if s := newSubject(f); m.match(&s) {
					t.Errorf("request %d is matched: %+v", i, f)
				}
			}
		})
	}
}

func TestFirstMatchDecides(t *testing.T) {
	e := engine(t, newClock(),
		v1alpha1.LimitRule{Name: "may", Match: v1alpha1.LimitMatch{Users: []string{"a"}}, Action: v1alpha1.LimitAllow},
		v1alpha1.LimitRule{Name: "may-not", Match: v1alpha1.LimitMatch{Verbs: []string{"list"}}, Action: v1alpha1.LimitDeny},
	)
	admit(t, e, request("a")).Done()
	admit(t, e, request("b", get)).Done() // no rule
	r := reject(t, e, request("b"), ReasonDenied)
	if r.Code != http.StatusForbidden || r.Rule != "may-not" || r.RetryAfter != 0 {
		t.Errorf("rejection is %+v", r)
	}
	if s := r.Status(); s.Reason != metav1.StatusReasonForbidden || !strings.Contains(s.Message, "may-not") {
		t.Errorf("status does not name the rule: %+v", s)
	}
}

// Whoever shows another user agent must not get past the rules that stand after the one for that user agent.
func TestUserAgentNeverLoosens(t *testing.T) {
	c := newClock()
	e := engine(t, c,
		throttle("kubectl", v1alpha1.LimitMatch{UserAgents: []string{"kubectl/*"}}, v1alpha1.Throttle{RequestsPerSecond: one(1000.0)}),
		throttle("all", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)}),
	)
	forged := request("a", func(f *flow.Request) { f.UserAgent = "kubectl/v1.36" })
	admit(t, e, forged).Done()
	if r := reject(t, e, forged, ReasonRate); r.Rule != "all" {
		t.Errorf("rejected by %s, want the rule after the user agent's", r.Rule)
	}
}

func TestRotatingUserAgentGainsNothing(t *testing.T) {
	e := engine(t, newClock(), throttle("agents", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0), Burst: one(10), Per: v1alpha1.PerUserAgent}))
	admitted := 0
	for i := range 1000 {
		p, _ := e.Admit(request("a", func(f *flow.Request) { f.UserAgent = fmt.Sprintf("agent/%d", i) }), nil)
		if p != nil {
			admitted++
			p.Done()
		}
	}
	if admitted != 10 {
		t.Errorf("1000 user agents of one user got %d requests, want the 10 of one", admitted)
	}
	if n, _ := e.tableSizes(); n > 21 {
		t.Errorf("%d buckets remember user agents that were turned away", n)
	}
}

func TestBucketKeys(t *testing.T) {
	unverified := func(address string) *flow.Request {
		return request("unverified:"+address, func(f *flow.Request) {
			f.Caller.Certainty, f.Source = flow.Unverified, netip.MustParseAddr(address)
		})
	}
	tests := map[string]struct {
		per    v1alpha1.LimitKey
		a, b   *flow.Request
		shared bool
	}{
		"user":                       {v1alpha1.PerUser, request("a"), request("b"), false},
		"user from elsewhere":        {v1alpha1.PerUser, request("a"), request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.9.9.9") }), true},
		"unverified, two addresses":  {v1alpha1.PerUser, unverified("10.0.0.1"), unverified("10.0.0.2"), false},
		"unverified, one IPv6 host":  {v1alpha1.PerUser, unverified("fd00::1"), unverified("fd00::2"), true},
		"unverified, two IPv6 hosts": {v1alpha1.PerUser, unverified("fd00:0:0:1::1"), unverified("fd00:0:0:2::1"), false},
		"user agent":                 {v1alpha1.PerUserAgent, request("a"), request("b"), true},
		"source":                     {v1alpha1.PerSource, request("a"), request("b"), true},
		"two sources":                {v1alpha1.PerSource, request("a"), request("a", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.9.9.9") }), false},
		"rule":                       {v1alpha1.PerRule, request("a"), request("b", func(f *flow.Request) { f.Source = netip.MustParseAddr("10.9.9.9") }), true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := engine(t, newClock(), throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0), Per: tc.per}))
			admit(t, e, tc.a).Done()
			if _, r := e.Admit(tc.b, nil); (r != nil) != tc.shared {
				t.Errorf("the bucket is shared: %t, want %t", r != nil, tc.shared)
			}
		})
	}
}

// Over any window the admitted requests are at most burst + rate × window, whatever the clients do and however the
// clock jumps.
func TestRateNeverExceeded(t *testing.T) {
	const rate, burst = 7.0, 20
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := newClock()
		e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(rate), Burst: one(burst)}))
		var times []time.Time
		for range 2000 {
			switch random.IntN(10) {
			case 0:
				c.add(-time.Duration(random.Int64N(int64(time.Second)))) // NTP
			default:
				c.add(time.Duration(random.ExpFloat64() * float64(50*time.Millisecond)))
			}
			if p, _ := e.Admit(request("a"), nil); p != nil {
				times = append(times, c.Now())
				p.Done()
			}
		}
		latest := times[0]
		for i := range times { // the bucket's time does not run backwards, so neither does the window's
			if times[i].Before(latest) {
				times[i] = latest
			}
			latest = times[i]
		}
		for i := range times {
			for j := i; j < len(times); j++ {
				window := times[j].Sub(times[i]).Seconds()
				if got := j - i + 1; float64(got) > burst+rate*window+1e-6 {
					t.Fatalf("seed %d: %d requests in %.3f s, at most %.1f allowed", seed, got, window, burst+rate*window)
				}
			}
		}
	}
}

func TestBytesAreADebt(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{BytesPerSecond: quantity("1Mi"), BurstBytes: quantity("4Mi")}))
	p := admit(t, e, request("a"))
	p.Wrote(10 << 20) // never cut: 6 Mi of debt
	p.Done()
	r := reject(t, e, request("a"), ReasonBytes)
	if r.RetryAfter != 6*time.Second {
		t.Errorf("Retry-After %v, want the 6s the debt takes", r.RetryAfter)
	}
	c.add(5900 * time.Millisecond)
	reject(t, e, request("a"), ReasonBytes)
	c.add(200 * time.Millisecond)
	admit(t, e, request("a")).Done()
	admit(t, e, request("b")).Done() // another's bucket
}

func TestRetryAfterGrowsWithTheCrowd(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(10.0), Burst: one(1)}))
	admit(t, e, request("a")).Done()
	var first, last time.Duration
	for i := range 100 {
		r := reject(t, e, request("a"), ReasonRate)
		if i == 0 {
			first = r.RetryAfter
		}
		last = r.RetryAfter
	}
	if first != time.Second || last < 5*time.Second || last > 2*maxWait {
		t.Errorf("Retry-After went from %v to %v, want 1s and then what 100 clients take at 10/s", first, last)
	}
	e.rand = rand.Float64
	seen := make(map[time.Duration]bool)
	for range 50 {
		r := reject(t, e, request("a"), ReasonRate)
		seen[r.RetryAfter] = true
		if got := r.Status().Details.RetryAfterSeconds; got < 1 || time.Duration(got)*time.Second != r.RetryAfter {
			t.Fatalf("the body says %d s and the header %v", got, r.RetryAfter)
		}
	}
	if len(seen) < 3 {
		t.Errorf("no jitter: %v", seen)
	}
}

func TestStatusOfAThrottle(t *testing.T) {
	e := engine(t, newClock(), throttle("small", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)}))
	admit(t, e, request("a")).Done()
	r := reject(t, e, request("a"), ReasonRate)
	want := &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   "Failure", Code: 429, Reason: metav1.StatusReasonTooManyRequests,
		Message: `Seakeep rule "small" turned the request away: more requests per second than it allows; retry after 1s`,
		Details: &metav1.StatusDetails{RetryAfterSeconds: 1, Causes: []metav1.StatusCause{{Type: "SeakeepRule", Field: "small", Message: "rate"}}},
	}
	if diff := cmp.Diff(want, r.Status()); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

func TestConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{Rand: func() float64 { return 0 }})
		rule := throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{Concurrency: one(2)})
		if err := e.Configure([]v1alpha1.LimitRule{rule}, nil); err != nil {
			t.Fatal(err)
		}
		a, b := admit(t, e, request("u")), admit(t, e, request("u"))
		start := time.Now()
		reject(t, e, request("u"), ReasonConcurrency)
		if waited := time.Since(start); waited != waitForPlace {
			t.Errorf("waited %v for a place, want %v", waited, waitForPlace)
		}
		go func() {
			time.Sleep(300 * time.Millisecond)
			a.Done()
			a.Done() // does nothing
		}()
		start = time.Now()
		third := admit(t, e, request("u"))
		if waited := time.Since(start); waited != 300*time.Millisecond {
			t.Errorf("waited %v for the place given back after 300ms", waited)
		}
		reject(t, e, request("u"), ReasonConcurrency)
		third.InitialEventsDone() // a watch goes on without its place
		fourth := admit(t, e, request("u"))
		reject(t, e, request("u"), ReasonConcurrency)
		third.Done()
		reject(t, e, request("u"), ReasonConcurrency) // and gives back nothing more
		fourth.Done()
		b.Done()
		admit(t, e, request("u")).Done()
	})
}

// The controller of 80 kinds: all its LISTs at once, two places, and none turned away.
func TestManySmallListsPassThroughFewPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		if err := e.Configure(nil, Shipped()); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for i := range 80 {
			all.Go(func() {
				p, r := e.Admit(request("system:serviceaccount:a:operator", func(f *flow.Request) { f.Resource = fmt.Sprintf("kind%d", i) }), nil)
				if r != nil {
					t.Errorf("LIST %d is turned away: %s", i, r.Status().Message)
					return
				}
				time.Sleep(10 * time.Millisecond)
				p.Wrote(4 << 10)
				p.Done()
			})
		}
		all.Wait()
	})
}

// 300 agents of one ServiceAccount LIST 40 MB each, and again as soon as they are told they may: the API server writes
// no more than the rule says, and the others' requests are not touched.
func TestIncident(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := New(Options{})
		if err := e.Configure(nil, Shipped()); err != nil {
			t.Fatal(err)
		}
		const size, length = 40 << 20, 2 * time.Minute
		start := time.Now()
		var mu sync.Mutex
		var written int64
		var running, most int
		var agents sync.WaitGroup
		for range 300 {
			agents.Go(func() {
				for time.Since(start) < length {
					p, r := e.Admit(request("system:serviceaccount:monitoring:telemetry"), nil)
					if r != nil {
						time.Sleep(r.RetryAfter)
						continue
					}
					mu.Lock()
					running++
					most = max(most, running)
					mu.Unlock()
					time.Sleep(500 * time.Millisecond)
					p.Wrote(size)
					mu.Lock()
					running--
					written += size
					mu.Unlock()
					p.Done()
				}
			})
		}
		agents.Go(func() {
			for time.Since(start) < length {
				p := admit(t, e, request("admin", get))
				p.Done()
				time.Sleep(time.Second)
			}
		})
		agents.Wait()
		// Besides the balance, what was admitted before the debt was known: two responses, again after each repayment.
		bound := int64(64<<20) + int64(16<<20)*int64((length+10*time.Second)/time.Second) + 2*size
		if written > bound || most > 2 {
			t.Errorf("%d MiB written with %d at once, want ≤ %d MiB and 2", written>>20, most, bound>>20)
		}
		if written < bound/2 {
			t.Errorf("%d MiB written: the agents starve, their share is %d MiB", written>>20, bound>>20)
		}
		now := e.RejectedNow()
		if len(now) == 0 || now[0].User != "system:serviceaccount:monitoring:telemetry" || now[0].Rule != "seakeep-cluster-reads" {
			t.Errorf("the ledger does not name the agent first: %+v", now)
		}
	})
}

func TestReloadKeepsBalances(t *testing.T) {
	c := newClock()
	rule := throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)})
	e := engine(t, c, rule)
	admit(t, e, request("a")).Done()
	other := throttle("other", v1alpha1.LimitMatch{Users: []string{"b"}}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)})
	same := throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)})
	if err := e.Configure([]v1alpha1.LimitRule{other, same}, nil); err != nil {
		t.Fatal(err)
	}
	reject(t, e, request("a"), ReasonRate)
	if err := e.Configure([]v1alpha1.LimitRule{{Name: "broken", Action: "Explode"}}, nil); err == nil {
		t.Error("a rule that cannot be compiled is accepted")
	}
	reject(t, e, request("a"), ReasonRate) // the running rules stay
	changed := throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(2.0)})
	if err := e.Configure([]v1alpha1.LimitRule{changed}, nil); err != nil {
		t.Fatal(err)
	}
	admit(t, e, request("a")).Done()
}

// A flood of names neither takes memory nor makes anybody's debt be forgotten.
func TestFullTable(t *testing.T) {
	c := newClock()
	b := bounds{perSecond: 1, burst: 1}
	tb := newTable(b, 4)
	take := func(name string) bool {
		got, _ := tb.take(key{name: name}, c.Now)
		if got != nil {
			tb.release(got)
			tb.forget(got)
		}
		return got != nil
	}
	for i := range 4 {
		if !take(fmt.Sprint(i)) {
			t.Fatalf("newcomer %d is turned away", i)
		}
	}
	overflowed := 0
	for i := range 1000 {
		if take(fmt.Sprintf("flood-%d", i)) {
			overflowed++
		}
	}
	if overflowed != 1 {
		t.Errorf("the flood got %d requests, want the 1 of the shared bucket", overflowed)
	}
	if take("0") {
		t.Error("the flood made a spent bucket be forgotten")
	}
	if n, shared := tb.size(); n != 4 || shared != 1000 {
		t.Errorf("%d buckets and %d shared, want 4 and 1000", n, shared)
	}
	c.add(time.Hour) // all settled: they give way
	for i := range 4 {
		if !take(fmt.Sprintf("new-%d", i)) {
			t.Errorf("newcomer %d is turned away though the old buckets are settled", i)
		}
	}
}

// A bucket with a running response must not be forgotten: its bytes are still to come.
func TestOpenPassKeepsItsBucket(t *testing.T) {
	c := newClock()
	tb := newTable(bounds{bytesPerSecond: 1 << 20, burstBytes: 1 << 20}, 1)
	first, _ := tb.take(key{name: "a"}, c.Now)
	c.add(time.Hour)
	second, _ := tb.take(key{name: "b"}, c.Now)
	if second == first || second != tb.overflow {
		t.Fatal("the bucket of a running response gave way")
	}
	first.written.Add(100 << 20)
	if _, r := tb.take(key{name: "a"}, c.Now); r == nil || r.reason != ReasonBytes {
		t.Errorf("the debt is forgotten: %+v", r)
	}
}

func TestRejectedNow(t *testing.T) {
	c := newClock()
	e := engine(t, c, v1alpha1.LimitRule{Name: "no", Match: v1alpha1.LimitMatch{}, Action: v1alpha1.LimitDeny})
	for range 3 {
		reject(t, e, request("a"), ReasonDenied)
	}
	c.add(40 * time.Second)
	reject(t, e, request("b"), ReasonDenied)
	want := []v1alpha1.RejectedClient{
		{Rule: "no", Reason: "denied", User: "a", UserAgent: "agent/1", Count: 3, Last: metav1.NewTime(c.Now().Add(-40 * time.Second))},
		{Rule: "no", Reason: "denied", User: "b", UserAgent: "agent/1", Count: 1, Last: metav1.NewTime(c.Now())},
	}
	if diff := cmp.Diff(want, e.RejectedNow()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	c.add(30 * time.Second)
	if got := e.RejectedNow(); len(got) != 1 || got[0].User != "b" {
		t.Errorf("after a minute: %+v", got)
	}
	for i := range 10 * maxTurned {
		reject(t, e, request(fmt.Sprint("flood", i)), ReasonDenied)
	}
	sum := 0
	list := e.RejectedNow()
	for _, r := range list {
		sum += r.Count
	}
	if len(list) > maxTurned+1 || sum != 10*maxTurned+1 || list[0].User != others {
		t.Errorf("%d entries of %d rejections, the first %q", len(list), sum, list[0].User)
	}
}

func TestShippedRules(t *testing.T) {
	rules := Shipped()
	if errs := v1alpha1.ValidateLimitRules(rules, field.NewPath("limits")); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	names := make(map[string]bool)
	for _, r := range rules {
		names[r.Name] = true
		if !strings.HasPrefix(r.Name, v1alpha1.ShippedPrefix) {
			t.Errorf("%s lacks the prefix that keeps operators' names apart", r.Name)
		}
		if r.Action != v1alpha1.LimitThrottle {
			t.Errorf("%s is not capped", r.Name)
		}
	}
	for _, name := range neverDelayedRules {
		if !names[name] {
			t.Errorf("%s is not a shipped rule", name)
		}
	}
	var compiled []*rule
	for i := range rules {
		r, err := compileRule(&rules[i], nil)
		if err != nil {
			t.Fatal(err)
		}
		compiled = append(compiled, r)
	}
	lease := func(user, namespace, name string) *flow.Request {
		return request(user, func(f *flow.Request) {
			f.Verb, f.APIGroup, f.Resource, f.Scope = "update", "coordination.k8s.io", "leases", v1alpha1.ScopeObject
			f.Namespace, f.Name = namespace, name
		})
	}
	tests := map[string]struct {
		f    *flow.Request
		want string
	}{
		"own lease":            {lease("system:node:n1", "kube-node-lease", "n1"), "seakeep-own-lease"},
		"another's lease":      {lease("system:node:n1", "kube-node-lease", "n2"), ""},
		"leader election":      {lease("system:kube-scheduler", "kube-system", "kube-scheduler"), "seakeep-leader-election"},
		"a stranger's lease":   {lease("system:serviceaccount:apps:x", "apps", "x"), ""},
		"agent's LIST":         {request("system:serviceaccount:monitoring:telemetry"), "seakeep-cluster-reads"},
		"agent in kube-system": {request("system:serviceaccount:kube-system:telemetry"), "seakeep-cluster-reads"},
		"garbage collector":    {request("system:serviceaccount:kube-system:generic-garbage-collector"), "seakeep-control-plane-reads"},
		"scheduler":            {request("system:kube-scheduler"), "seakeep-control-plane-reads"},
		"namespace":            {request("a", func(f *flow.Request) { f.Scope, f.Namespace = v1alpha1.ScopeNamespace, "x" }), "seakeep-namespace-reads"},
		"watch list":           {request("a", func(f *flow.Request) { f.Verb, f.InitialEvents = "watch", true }), "seakeep-cluster-reads"},
		"watch":                {request("a", func(f *flow.Request) { f.Verb = "watch" }), ""},
		"get":                  {request("a", get), ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := ""
			s := newSubject(tc.f)
			for _, r := range compiled {
				if r.match.match(&s) {
					got = r.name
					break
				}
			}
			if got != tc.want {
				t.Errorf("decided by %q, want %q", got, tc.want)
			}
		})
	}
}

// Under the race detector: many clients, a configuration that changes, rules that come and go; at the end nothing is
// held.
func TestNothingLeaks(t *testing.T) {
	e := New(Options{})
	rules := []v1alpha1.LimitRule{throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{Concurrency: one(4), BytesPerSecond: quantity("1Gi"), Per: v1alpha1.PerRule})}
	if err := e.Configure(rules, nil); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			for n := range 200 {
				ctx, cancel := context.WithCancelCause(t.Context())
				p, r := e.Admit(request(fmt.Sprint(i)), cancel)
				if r == nil {
					p.Wrote(1000)
					if n%3 == 0 {
						p.InitialEventsDone()
					}
					p.Done()
				}
				cancel(nil)
				<-ctx.Done()
			}
		})
	}
	all.Go(func() {
		for n := range 50 {
			if err := e.Configure(rules, nil); err != nil {
				t.Error(err)
			}
			block := emergencyOf(v1alpha1.EmergencyBlock, time.Now().Add(time.Hour))
			block.ID, block.Match = fmt.Sprint("block-", n), v1alpha1.LimitMatch{Users: []string{"1*"}}
			if _, err := e.SetEmergency([]v1alpha1.EmergencyRule{block}); err != nil {
				t.Error(err)
			}
			if _, err := e.SetEmergency(nil); err != nil {
				t.Error(err)
			}
		}
	})
	all.Wait()
	if n := e.open.count(); n != 0 {
		t.Errorf("%d requests are still open", n)
	}
	for _, r := range e.rules.Load().rules {
		for k, b := range r.table.buckets {
			if b.inflight != 0 || b.refs != 0 || len(b.waiters) != 0 {
				t.Errorf("bucket %v holds %d places, %d references, %d waiters", k, b.inflight, b.refs, len(b.waiters))
			}
		}
	}
}

func FuzzCompileRule(f *testing.F) {
	f.Add("list", "pods/log", "10.0.0.0/8", "a*", 1.0, 1)
	f.Add("watch", "*", "::/0", "?", math.Inf(1), 0)
	f.Fuzz(func(t *testing.T, verb, res, cidr, glob string, rate float64, concurrency int) {
		spec := v1alpha1.LimitRule{Name: "r", Action: v1alpha1.LimitThrottle, Match: v1alpha1.LimitMatch{
			Verbs: []string{verb}, Resources: []string{res}, SourceCIDRs: []string{cidr}, Users: []string{glob}, UserAgents: []string{glob}},
			Throttle: &v1alpha1.Throttle{RequestsPerSecond: &rate, Concurrency: &concurrency}}
		spec.SetDefaults()
		errs := v1alpha1.ValidateLimitRules([]v1alpha1.LimitRule{spec}, field.NewPath("limits"))
		r, err := compileRule(&spec, nil)
		if err != nil {
			if len(errs) == 0 {
				t.Fatalf("what validates does not compile: %v", err)
			}
			return
		}
		s := newSubject(request(glob))
		r.match.match(&s)
		if len(errs) > 0 {
			return
		}
		e := New(Options{})
		if err := e.Configure([]v1alpha1.LimitRule{spec}, nil); err != nil {
			t.Fatal(err)
		}
		p, rejection := e.Admit(request(glob), nil)
		if (p == nil) == (rejection == nil) {
			t.Fatal("not exactly one answer")
		}
		if p != nil {
			p.Done()
		}
	})
}

func BenchmarkAdmit(b *testing.B) {
	c := newClock()
	rules := make([]v1alpha1.LimitRule, 0, 50)
	for i := range 49 {
		rules = append(rules, throttle(fmt.Sprint("rule-", i), v1alpha1.LimitMatch{
			Users: []string{fmt.Sprintf("system:serviceaccount:team-%d:*", i)}, Verbs: []string{"list", "get"}, SourceCIDRs: []string{"10.0.0.0/8"}},
			v1alpha1.Throttle{RequestsPerSecond: one(1.0)}))
	}
	rules = append(rules, throttle("last", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1e6), Burst: one(10_000_000), Concurrency: one(1000), BytesPerSecond: quantity("1Gi")}))
	e := engine(b, c, rules...)
	f := request("system:serviceaccount:monitoring:telemetry")
	b.ReportAllocs()
	for b.Loop() {
		p, r := e.Admit(f, nil)
		if r != nil {
			b.Fatal(r.Reason)
		}
		p.Done()
		c.now = c.now.Add(time.Microsecond)
	}
}

var errEnded *EndedError

func isEnded(err error) bool { return errors.As(err, &errEnded) }
