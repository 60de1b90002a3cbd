package limit

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func inShadow(r v1alpha1.LimitRule) v1alpha1.LimitRule {
	r.Mode = v1alpha1.Shadow
	return r
}

func counts(e *Engine) map[string]int64 {
	sums := map[string]int64{}
	for _, s := range e.Shadowed() {
		sums[s.Rule+" "+s.Reason+" "+s.User] += s.Count
	}
	return sums
}

func TestShadowTurnsNobodyAway(t *testing.T) {
	c := newClock()
	e := engine(t, c,
		inShadow(throttle("rate", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)})),
		v1alpha1.LimitRule{Name: "deny", Mode: v1alpha1.Shadow, Action: v1alpha1.LimitDeny, Match: v1alpha1.LimitMatch{Users: []string{"bob"}}},
		throttle("bytes", v1alpha1.LimitMatch{}, v1alpha1.Throttle{BytesPerSecond: quantity("1Ki")}))
	for range 5 {
		p := admit(t, e, request("alice"))
		p.Done()
	}
	admit(t, e, request("bob")).Done()
	if got := counts(e); got["rate rate alice"] != 4 || got["deny denied bob"] != 1 || len(got) != 2 {
		t.Errorf("counted %v", got)
	}
	// The rules after one in shadow are in force as if it were not there.
	p := admit(t, e, request("carol"))
	p.Wrote(10 << 10)
	p.Done()
	reject(t, e, request("carol"), ReasonBytes)
	if m := e.Matches(); len(m) != 2 || m[0].Matched != 8 || m[1].Matched != 1 {
		t.Errorf("matched %v", m)
	}
	if now := e.RejectedNow(); len(now) != 1 || now[0].Rule != "bytes" {
		t.Errorf("what did not happen is told as if it had: %+v", now)
	}
}

// What a rule counts in shadow is what it turns away in force: the same crowd, once played and once for real.
func TestShadowCountsAsEnforced(t *testing.T) {
	for name, crowd := range map[string]struct {
		places, clients, rounds int
		every, took             time.Duration
	}{
		"a storm":                    {2, 60, 10, 3 * time.Second, 700 * time.Millisecond},
		"eighty small LISTs at once": {2, 80, 1, time.Hour, 10 * time.Millisecond},
		"just too many":              {4, 40, 3, 10 * time.Second, 400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rule := throttle("places", v1alpha1.LimitMatch{}, v1alpha1.Throttle{Concurrency: one(crowd.places)})
				enforced, shadow := New(Options{}), New(Options{})
				if err := enforced.Configure([]v1alpha1.LimitRule{rule}, nil); err != nil {
					t.Fatal(err)
				}
				if err := shadow.Configure([]v1alpha1.LimitRule{inShadow(rule)}, nil); err != nil {
					t.Fatal(err)
				}
				random := rand.New(rand.NewPCG(1, 2))
				var refused, total atomic.Int64
				var all sync.WaitGroup
				for range crowd.clients {
					phase := time.Duration(random.Int64N(int64(300 * time.Millisecond)))
					for _, e := range []*Engine{enforced, shadow} {
						all.Go(func() {
							elapse(phase)
							for range crowd.rounds {
								next := time.Now().Add(crowd.every)
								p, r := e.Admit(request("u"), nil)
								switch {
								case r != nil && e == shadow:
									t.Error("a rule in shadow turns away")
								case r != nil:
									refused.Add(1)
								default:
									elapse(crowd.took)
									p.Done()
								}
								if e == enforced {
									total.Add(1)
								}
								elapse(time.Until(next))
							}
						})
					}
				}
				all.Wait()
				got := counts(shadow)["places concurrency u"]
				if d := got - refused.Load(); d < -total.Load()/20 || d > total.Load()/20 {
					t.Errorf("%d of %d counted in shadow, %d turned away in force", got, total.Load(), refused.Load())
				}
			})
		})
	}
}

func TestEmergencyInShadow(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	var ended error
	p, _ := e.Admit(request("u"), func(err error) { ended = err })
	defer p.Done()
	rule := func(id string, action v1alpha1.EmergencyAction) v1alpha1.EmergencyRule {
		r := v1alpha1.EmergencyRule{ID: id, Action: action, Match: v1alpha1.LimitMatch{Users: []string{"u"}}, Mode: v1alpha1.Shadow, Reason: "trial",
			Expires: metav1.NewTime(c.Now().Add(time.Minute))}
		if action == v1alpha1.EmergencyThrottle {
			r.Throttle = &v1alpha1.Throttle{Concurrency: one(1), Per: v1alpha1.PerUser}
		}
		return r
	}
	n, err := e.SetEmergency([]v1alpha1.EmergencyRule{rule("block-1", v1alpha1.EmergencyBlock), rule("throttle-1", v1alpha1.EmergencyThrottle)})
	if err != nil || n != 0 || ended != nil {
		t.Fatalf("a rule in shadow ended %d requests, %v, %v", n, ended, err)
	}
	held := []*Pass{admit(t, e, request("u")), admit(t, e, request("u"))}
	c.add(2 * time.Second) // the second stands in line for longer than anybody waits
	if got := counts(e); got["block-1 blocked u"] != 2 || got["throttle-1 concurrency u"] != 1 {
		t.Errorf("counted %v", got)
	}
	for _, p := range held {
		p.Done()
	}
	c.add(time.Minute)
	admit(t, e, request("u")).Done()
	if got := counts(e); got["block-1 blocked u"] != 2 {
		t.Errorf("counted after its end: %v", got)
	}
}

// A prolonged rule keeps its buckets and acts for longer.
func TestProlongedEmergencyRule(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	rule := v1alpha1.EmergencyRule{ID: "throttle-1", Action: v1alpha1.EmergencyThrottle, Match: v1alpha1.LimitMatch{Users: []string{"u"}}, Reason: "r",
		Throttle: &v1alpha1.Throttle{RequestsPerSecond: one(0.001), Per: v1alpha1.PerUser}, Expires: metav1.NewTime(c.Now().Add(time.Minute))}
	set := func() {
		if _, err := e.SetEmergency([]v1alpha1.EmergencyRule{rule}); err != nil {
			t.Fatal(err)
		}
	}
	set()
	admit(t, e, request("u")).Done()
	reject(t, e, request("u"), ReasonRate)
	rule.Expires = metav1.NewTime(c.Now().Add(time.Hour))
	set()
	c.add(2 * time.Minute)
	reject(t, e, request("u"), ReasonRate)
}

// An engine that judges goes through its rules as one in force does, and turns nobody away.
func TestJudging(t *testing.T) {
	c := newClock()
	e := New(Options{Clock: c.Now, Judging: true})
	err := e.Configure([]v1alpha1.LimitRule{
		{Name: "allow", Action: v1alpha1.LimitAllow, Match: v1alpha1.LimitMatch{Users: []string{"free"}}},
		throttle("agent", v1alpha1.LimitMatch{UserAgents: []string{"agent/*"}}, v1alpha1.Throttle{RequestsPerSecond: one(1.0)}),
		throttle("all", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(2.0)}),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"free", "a"} {
		for range 5 {
			admit(t, e, request(user)).Done()
		}
	}
	for range 5 {
		admit(t, e, request("b", func(f *flow.Request) { f.UserAgent = "other" })).Done()
	}
	// Of a's five the first passes both; the others end at the first rule. b meets the second rule only.
	if got := counts(e); got["agent rate a"] != 4 || got["all rate b"] != 3 || len(got) != 2 {
		t.Errorf("counted %v", got)
	}
}

func TestShadowedIsBounded(t *testing.T) {
	c := newClock()
	e := New(Options{Clock: c.Now, MaxShadowed: 10})
	if err := e.Configure([]v1alpha1.LimitRule{{Name: "deny", Action: v1alpha1.LimitDeny, Mode: v1alpha1.Shadow}}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		admit(t, e, request(string(rune('a'+i%26))+string(rune('a'+i/26)))).Done()
	}
	list := e.Shadowed()
	sum := int64(0)
	for _, s := range list {
		sum += s.Count
	}
	if len(list) != 11 || sum != 1000 || list[0].User != others {
		t.Errorf("%d lines, %d counted", len(list), sum)
	}
	if !slices.IsSortedFunc(list, func(a, b v1alpha1.ShadowedClient) int { return int(b.Count - a.Count) }) {
		t.Error("not the most first")
	}
}
