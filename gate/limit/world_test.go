package limit

import (
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

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
	p.Seated(1)
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

// elapse lets synctest's clock pass.
func elapse(d time.Duration) { <-time.After(d) }

func isEnded(err error) bool {
	var ended *EndedError
	return errors.As(err, &ended)
}
