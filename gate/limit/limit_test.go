package limit

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

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
