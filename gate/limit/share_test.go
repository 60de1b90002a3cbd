package limit

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Gates whose shares change all the time, but never add up to more than the whole, admit together no more than one gate
// with all of it: burst, and rate over the time.
func TestSharesAdmitNoMoreThanTheWhole(t *testing.T) {
	const rate, burst, gates = 30.0, 60, 3
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 1))
		c := newClock()
		var engines []*Engine
		for range gates {
			e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{RequestsPerSecond: one(rate), Burst: one(burst)}))
			e.SetShare(1.0 / gates)
			engines = append(engines, e)
		}
		began, admitted := c.Now(), 0
		for range 3000 {
			c.add(time.Duration(random.ExpFloat64() * float64(10*time.Millisecond)))
			if random.IntN(40) == 0 { // one gives, then another takes
				from, to, part := engines[random.IntN(gates)], engines[random.IntN(gates)], random.Float64()
				given := from.Share() * part
				from.SetShare(from.Share() - given)
				to.SetShare(to.Share() + given)
			}
			if p, _ := engines[random.IntN(gates)].Admit(request("a"), nil); p != nil {
				admitted++
				p.Done()
			}
		}
		if most := burst + rate*c.Now().Sub(began).Seconds() + gates; float64(admitted) > most {
			t.Errorf("seed %d: %d admitted together, at most %.0f are allowed", seed, admitted, most)
		}
	}
}

func TestShareOfPlaces(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{Concurrency: one(6)}))
	places := func() int {
		var held []*Pass
		for {
			b, r := e.rules.Load().rules[0].table.takeNow(userKey(request("a")), c.Now())
			if r != nil {
				for _, p := range held {
					p.Done()
				}
				return len(held)
			}
			held = append(held, heldBy(e, b))
		}
	}
	for _, tc := range []struct {
		share float64
		want  int
	}{{1, 6}, {0.5, 3}, {1.0 / 3, 2}, {0.1, 1}, {0, 1}, {math.NaN(), 1}, {-1, 1}, {7, 6}} {
		e.SetShare(tc.share)
		if got := places(); got != tc.want {
			t.Errorf("with a share of %g there are %d places, want %d", tc.share, got, tc.want)
		}
	}
}

// What was admitted with a larger share goes on, and its place is gone when it ends.
func TestShareShrinksUnderWay(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{Concurrency: one(4)}))
	var held []*Pass
	for range 4 {
		held = append(held, admit(t, e, request("a")))
	}
	e.SetShare(0.25)
	for _, p := range held[:3] {
		p.Done()
	}
	table := e.rules.Load().rules[0].table
	if _, r := table.takeNow(userKey(request("a")), c.Now()); r == nil {
		t.Error("a second place was given")
	}
	held[3].Done()
	if _, r := table.takeNow(userKey(request("a")), c.Now()); r != nil {
		t.Error("the one place is not given")
	}
}

func TestShareOfBytes(t *testing.T) {
	c := newClock()
	e := engine(t, c, throttle("r", v1alpha1.LimitMatch{}, v1alpha1.Throttle{BytesPerSecond: quantity("100")}))
	e.SetShare(0.5)
	p := admit(t, e, request("a"))
	p.Wrote(150)
	p.Done()
	reject(t, e, request("a"), ReasonBytes) // 50 in the bucket, 100 of debt, 50 a second
	c.add(1900 * time.Millisecond)
	reject(t, e, request("a"), ReasonBytes)
	c.add(200 * time.Millisecond)
	admit(t, e, request("a")).Done()
}

// A share is for emergency throttles too, and not for the squeeze.
func TestShareOfAnEmergencyThrottle(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	e.SetShare(0.5)
	if _, err := e.SetEmergency([]v1alpha1.EmergencyRule{{ID: "throttle-1", Action: v1alpha1.EmergencyThrottle,
		Match: v1alpha1.LimitMatch{Users: []string{"a"}}, Throttle: &v1alpha1.Throttle{RequestsPerSecond: one(0.1), Burst: one(4), Per: v1alpha1.PerUser},
		Reason: "test", Expires: metav1.NewTime(c.Now().Add(time.Hour))}}); err != nil {
		t.Fatal(err)
	}
	admitted := 0
	for range 10 {
		if p, _ := e.Admit(request("a", get), nil); p != nil {
			admitted++
			p.Done()
		}
	}
	if admitted != 2 {
		t.Errorf("%d were admitted, want half of the burst of 4", admitted)
	}
}

// takeNow is take without the wait for a place.
func (t *table) takeNow(k key, now time.Time) (*bucket, *refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	limits := t.inForce()
	b := t.bucket(k, &limits, now)
	if r := b.take(&limits, now); r != nil {
		return nil, r
	}
	b.refs++
	return b, nil
}

// heldBy is a pass for what takeNow took.
func heldBy(e *Engine, b *bucket) *Pass {
	p := &Pass{engine: e, flow: request("a"), holds: []hold{{table: e.rules.Load().rules[0].table, bucket: b}}}
	e.open.add(p)
	return p
}

// A share is for API budgets too: two gates hand out one budget together.
func TestShareOfABudget(t *testing.T) {
	c := newClock()
	e := engine(t, c)
	e.SetBudgets(budgeted(v1alpha1.PolicyEnforce, 8))
	for _, tc := range []struct {
		share, want float64
	}{{1, 8}, {0.5, 4}, {0.25, 2}, {1, 8}} {
		e.SetShare(tc.share)
		admit(t, e, request(telemetry)).Done()
		if now := e.BudgetsNow(); len(now) != 1 || now[0].Seats != tc.want {
			t.Errorf("with a share of %g the budget is %+v, want %g", tc.share, now, tc.want)
		}
	}
}
