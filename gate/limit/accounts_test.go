package limit

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

func from(address string) func(*flow.Request) {
	return func(f *flow.Request) { f.Source = netip.MustParseAddr(address) }
}

func usageOf(t *testing.T, u Usage, user string) ClientUsage {
	t.Helper()
	for _, c := range u.Clients {
		if c.User == user {
			return c
		}
	}
	t.Fatalf("no %s in %+v", user, u)
	return ClientUsage{}
}

// Seats are counted while they are held, not when the request ends: what ends after ten seconds would be seen too late.
func TestUsage(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	e.TakeUsage()
	long := admit(t, e, request("u"))
	c.add(2 * time.Second)
	other := admit(t, e, request("u", from("10.1.2.4"), func(f *flow.Request) { f.UserAgent = "another/2" }))
	c.add(time.Second)
	u := usageOf(t, e.TakeUsage(), "u")
	if u.SeatSeconds != 4 || u.SettledSeatSeconds != 0 || u.Sources != 2 || u.Settled != 0 {
		t.Errorf("%+v", u)
	}
	long.Wrote(1000)
	long.Done()
	other.Done()
	c.add(4 * time.Second)
	settled := admit(t, e, request("u"))
	c.add(time.Second)
	settled.Done()
	total := e.TakeUsage()
	if u := usageOf(t, total, "u"); u.SeatSeconds != 1 || u.SettledSeatSeconds != 1 || u.Settled != 2 || u.Bytes != 1000 {
		t.Errorf("%+v", u)
	}
	if total.SeatSeconds != 1 {
		t.Errorf("%g in all", total.SeatSeconds)
	}
	c.add(2 * time.Minute)
	if u := usageOf(t, e.TakeUsage(), "u"); u.Sources != 0 {
		t.Errorf("silent sources are counted: %+v", u)
	}
	c.add(20 * time.Minute)
	e.TakeUsage()
	if n := len(e.TakeUsage().Clients); n != 0 {
		t.Errorf("%d accounts are kept for nobody", n)
	}
}

// An open watch costs while it sends what exists; what is answered from shared reads costs nothing.
func TestUsageOfStreamsAndShares(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	watch := admit(t, e, request("w", func(f *flow.Request) { f.Verb, f.LongRunning, f.InitialEvents = "watch", true, true }))
	idle := admit(t, e, request("i", func(f *flow.Request) { f.Verb, f.LongRunning = "watch", true }))
	share, _ := e.AdmitShared(request("s"), nil)
	after, _ := e.AdmitShared(request("f"), nil)
	after.Seated(1)
	waiting, _ := e.Admit(request("q"), nil)
	wide, _ := e.Admit(request("l"), nil)
	wide.Seated(10)
	nobody := admit(t, e, request("unverified:10.0.0.1", func(f *flow.Request) { f.Caller.Certainty = flow.Unverified }))
	c.add(time.Second)
	watch.InitialEventsDone()
	c.add(time.Second)
	u := e.TakeUsage()
	for user, want := range map[string]float64{"w": 1, "i": 0, "s": 0, "f": 2, "q": 0, "l": 20} {
		if got := usageOf(t, u, user).SeatSeconds; got != want {
			t.Errorf("%s: %g seat-seconds, want %g", user, got, want)
		}
	}
	if u.SeatSeconds != 25 || len(u.Clients) != 6 {
		t.Errorf("%g in all, %d clients: want those who cannot be verified in the sum and not by name", u.SeatSeconds, len(u.Clients))
	}
	for _, p := range []*Pass{watch, idle, share, after, waiting, wide, nobody} {
		p.Done()
	}
}

func TestUsageCountsKubelets(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	for _, user := range []string{"system:node:a", "system:node:b", "system:node:b", "jane"} {
		admit(t, e, request(user, get)).Done()
	}
	admit(t, e, request("system:node:liar", get, func(f *flow.Request) { f.Caller.Certainty = flow.Unverified })).Done()
	if n := e.TakeUsage().Nodes; n != 2 {
		t.Errorf("%d nodes, want 2", n)
	}
	c.add(11 * time.Minute)
	if n := e.TakeUsage().Nodes; n != 0 {
		t.Errorf("%d nodes that are gone", n)
	}
}

const telemetry = "system:serviceaccount:monitoring:telemetry"

func budgeted(mode v1alpha1.PolicyMode, seats float64) Budgets {
	return Budgets{Mode: mode, Seats: map[string]float64{telemetry: seats}}
}

// Over time an account gets its budget and no more, whatever it calls itself.
func TestBudget(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	e.SetBudgets(budgeted(v1alpha1.PolicyEnforce, 0.5))
	used, refused := 0.0, 0
	const length, took = 600.0, 200 * time.Millisecond
	for i := 0; float64(i)*took.Seconds() < length; i++ {
		p, r := e.Admit(request(telemetry, func(f *flow.Request) { f.UserAgent = string(rune('a' + i%26)) }), nil)
		if r != nil {
			refused++
			if r.Reason != string(ReasonBudget) || r.Code != 429 || r.RetryAfter < time.Second || r.Rule != BudgetRule {
				t.Fatalf("%+v", r)
			}
		}
		if p != nil {
			p.Seated(1)
		}
		c.add(took)
		if p != nil {
			used += took.Seconds()
			p.Done()
		}
	}
	if rate := used / length; math.Abs(rate-0.5) > 0.02 || refused == 0 {
		t.Errorf("%.3f seats were used, the budget is 0.5", rate)
	}
	admit(t, e, request("system:serviceaccount:other:agent")).Done()
	if use := e.BudgetsNow(); len(use) != 1 || use[0].User != telemetry || use[0].Seats != 0.5 {
		t.Errorf("%+v", use)
	}
}

func TestBudgetBoundsWhatRunsAtOnce(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	e.SetBudgets(budgeted(v1alpha1.PolicyEnforce, 1))
	var held []*Pass
	for range 300 {
		if p, _ := e.Admit(request(telemetry), nil); p != nil {
			held = append(held, p)
		}
	}
	if len(held) != 4 {
		t.Errorf("%d at once of a budget of one seat, want 4", len(held))
	}
	for _, p := range held {
		p.Done()
	}
}

func TestBudgetExceptions(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	b := Budgets{Mode: v1alpha1.PolicyEnforce, Default: 0.001, Exempt: func(user string) bool { return user == "system:serviceaccount:kube-system:proxy" }}
	e.SetBudgets(b)
	hold := func(user string, change ...func(*flow.Request)) *Rejection {
		_, r := e.Admit(request(user, change...), nil)
		return r
	}
	for _, user := range []string{"jane", "system:serviceaccount:kube-system:proxy"} {
		for range 10 {
			if r := hold(user); r != nil {
				t.Errorf("%s: %s", user, r.Reason)
			}
		}
	}
	if r := hold(telemetry); r != nil {
		t.Errorf("the first request: %s", r.Reason)
	}
	if r := hold(telemetry); r == nil || r.Reason != "budget" {
		t.Errorf("the default budget does not act: %+v", r)
	}
	// What keeps the cluster alive, idle streams and shared reads cost no budget.
	if r := hold(telemetry, func(f *flow.Request) {
		f.Verb, f.APIGroup, f.Resource = "create", "authorization.k8s.io", "subjectaccessreviews"
	}); r != nil {
		t.Errorf("a review: %s", r.Reason)
	}
	if r := hold(telemetry, func(f *flow.Request) { f.Verb, f.LongRunning = "watch", true }); r != nil {
		t.Errorf("a watch: %s", r.Reason)
	}
	if _, r := e.AdmitShared(request(telemetry), nil); r != nil {
		t.Errorf("a shared read: %s", r.Reason)
	}
	b.Mode = v1alpha1.PolicyShadow
	e.SetBudgets(b)
	if r := hold(telemetry); r != nil {
		t.Errorf("in shadow: %s", r.Reason)
	}
	if got := counts(e)["api-budget budget "+telemetry]; got != 1 {
		t.Errorf("counted %v", counts(e))
	}
	b.Mode = v1alpha1.PolicyDisabled
	e.SetBudgets(b)
	if r := hold(telemetry); r != nil {
		t.Errorf("disabled: %s", r.Reason)
	}
}

// A request that a later rule turns away has not spent the budget.
func TestBudgetOfARefusedRequest(t *testing.T) {
	c := newClock()
	e := engine(t, c, v1alpha1.LimitRule{Name: "deny", Action: v1alpha1.LimitDeny, Match: v1alpha1.LimitMatch{Verbs: []string{"delete"}}})
	e.SetBudgets(budgeted(v1alpha1.PolicyEnforce, 0.5))
	for range 10 {
		reject(t, e, request(telemetry, func(f *flow.Request) { f.Verb = "delete" }), ReasonDenied)
	}
	if use := e.BudgetsNow(); len(use) != 1 || use[0].Held != 0 {
		t.Errorf("%+v", use)
	}
	if u := usageOf(t, e.TakeUsage(), telemetry); u.Refused != 10 {
		t.Errorf("%+v", u)
	}
}
