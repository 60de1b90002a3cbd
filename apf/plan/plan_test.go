package plan

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// stock are the levels of Kubernetes 1.36.
var stock = []Level{
	{Name: "exempt", Exempt: true},
	{Name: "catch-all", Shares: 5},
	{Name: "global-default", Shares: 20, Lendable: 50},
	{Name: "leader-election", Shares: 10},
	{Name: "node-high", Shares: 40, Lendable: 25},
	{Name: "system", Shares: 30, Lendable: 33},
	{Name: "workload-high", Shares: 40, Lendable: 50},
	{Name: "workload-low", Shares: 100, Lendable: 90},
}

// limits computes nominal limits as k8s.io/apiserver does (apf_controller.go, finishQueueSetReconfigsLocked), in its floats.
func limits(levels []Level, seats int) map[string]float64 {
	sum := 0.0
	for _, l := range levels {
		sum += float64(l.Shares)
	}
	nominal := map[string]float64{}
	for _, l := range levels {
		nominal[l.Name] = math.Ceil(float64(seats) * float64(l.Shares) / sum)
	}
	return nominal
}

// after are the levels when a plan is in force.
func after(p Plan) (levels []Level) {
	for _, r := range p.Rows {
		if r.Role != RoleBallast || p.Ballast > 0 {
			levels = append(levels, Level{Name: r.Name, Exempt: r.Role == RoleExempt, Shares: r.SharesAfter, Lendable: r.LendableAfter})
		}
	}
	return levels
}

func TestInfer(t *testing.T) {
	for _, seats := range []int{8, 30, 600, 1200, 5000} {
		got, err := Infer(stock, limits(stock, seats))
		if err != nil || got.Least > seats || got.Most < seats {
			t.Errorf("%d seats: %+v, %v", seats, got, err)
		}
	}
	if got, _ := Infer(stock, limits(stock, 600)); got != (Seats{Least: 598, Most: 600}) {
		t.Errorf("600 seats with the stock levels: %+v", got)
	}
	gone := limits(stock, 600)
	gone["deleted"] = 204
	if got, err := Infer(stock, gone); err != nil || got.Most != 600 {
		t.Errorf("the limit of a level that was deleted stays in the metrics and means nothing: %+v, %v", got, err)
	}
	unsettled := map[string]func(map[string]float64){
		"a level without a limit":     func(n map[string]float64) { delete(n, "system") },
		"limits of other shares":      func(n map[string]float64) { n["workload-low"] = 20 },
		"seats without shares":        func(n map[string]float64) { n["exempt"] = 3 },
		"no number":                   func(n map[string]float64) { n["system"] = math.NaN() },
		"a part of a seat":            func(n map[string]float64) { n["system"] = 74.5 },
		"more than any server can do": func(n map[string]float64) { n["system"] = 1e12 },
	}
	for name, spoil := range unsettled {
		t.Run(name, func(t *testing.T) {
			nominal := limits(stock, 600)
			spoil(nominal)
			if got, err := Infer(stock, nominal); !errors.Is(err, ErrUnsettled) {
				t.Errorf("want ErrUnsettled, got %+v, %v", got, err)
			}
		})
	}
}

// What Make promises, held against the API server's own arithmetic for whatever S may be.
func promised(t *testing.T, r Request) Plan {
	t.Helper()
	p, err := Make(r)
	if err != nil {
		t.Fatalf("%+v: %v", r, err)
	}
	for _, seats := range []int{r.Seats.Least, (r.Seats.Least + r.Seats.Most) / 2, r.Seats.Most} {
		before, now := limits(r.Levels, seats), limits(after(p), seats)
		rest := 0.0
		for _, row := range p.Rows {
			switch row.Role {
			case RoleElse:
				rest += now[row.Name]
				if row.Changed() {
					t.Errorf("%s is edited", row.Name)
				}
				if row.SharesAfter > 0 && now[row.Name] < 1 {
					t.Errorf("%s has no seat at all", row.Name)
				}
			case RoleProtected:
				if now[row.Name] < before[row.Name] {
					t.Errorf("of %d seats %s had %v and has %v", seats, row.Name, before[row.Name], now[row.Name])
				}
				if p.Ballast > 0 && row.LendableAfter != 0 {
					t.Errorf("%s lends what is to be withheld", row.Name)
				}
			case RoleExempt:
				rest += math.Round(now[row.Name] * float64(row.LendableAfter) / 100)
			}
		}
		if int(rest) > max(r.Wanted, p.Floor) && p.Full > r.Wanted {
			t.Errorf("of %d seats everyone else has %v, wanted %d", seats, rest, r.Wanted)
		}
		if p.Full > r.Wanted && int(rest) < max(r.Wanted, p.Floor)-p.Error {
			t.Errorf("of %d seats everyone else has %v, which is more than %d under %d", seats, rest, p.Error, r.Wanted)
		}
	}
	if t.Failed() {
		t.Fatalf("%+v\n%+v", r, p)
	}
	return p
}

func TestMakeStock(t *testing.T) {
	for wanted := range 450 {
		p := promised(t, Request{Levels: stock, Seats: Seats{Least: 598, Most: 600}, Protected: Protected, Wanted: wanted})
		if p.Full != 405 || p.Floor != 4 {
			t.Fatalf("full %d, floor %d", p.Full, p.Floor)
		}
		if wanted >= p.Full && p.Ballast != 0 {
			t.Errorf("%d seats are there without a ballast, and it has %d shares", wanted, p.Ballast)
		}
		if wanted >= 4 && wanted < 390 && p.Else < wanted-4 {
			t.Errorf("wanted %d, got %d: the rounding of 4 levels explains 4", wanted, p.Else)
		}
	}
}

func TestMakeAny(t *testing.T) {
	random := rand.New(rand.NewPCG(4, 7))
	for range 5000 {
		r := Request{Protected: Protected}
		r.Levels = append(r.Levels, Level{Name: "exempt", Exempt: true, Shares: random.Int32N(3) * random.Int32N(30), Lendable: random.Int32N(101)})
		for i := range 1 + random.IntN(12) {
			l := Level{Name: string(rune('a' + i)), Shares: random.Int32N(1 + random.Int32N(500)), Lendable: random.Int32N(101)}
			if i < len(Protected) && random.IntN(4) > 0 {
				l.Name = Protected[i]
			}
			r.Levels = append(r.Levels, l)
		}
		if sharesOf(r.Levels) == 0 {
			continue
		}
		s := 1 + random.IntN(3000)
		r.Seats = Seats{Least: s, Most: s + random.IntN(1+s/50)}
		r.Wanted = random.IntN(s + 10)
		p, err := Make(r)
		if err != nil {
			// Only where the protected levels' rounding eats what could be withheld.
			if !strings.Contains(err.Error(), "no room") {
				t.Fatalf("%+v: %v", r, err)
			}
			continue
		}
		if again := promised(t, r); !cmp.Equal(p, again) {
			t.Fatal("the same request was planned in two ways")
		}
	}
}

// A plan in force is recognised: the seats inferred from it are those it was made with.
func TestInferUnderBallast(t *testing.T) {
	for _, wanted := range []int{4, 10, 40, 200, 400} {
		p := promised(t, Request{Levels: stock, Seats: Seats{Least: 598, Most: 600}, Protected: Protected, Wanted: wanted})
		got, err := Infer(after(p), limits(after(p), 600))
		if err != nil || got.Least > 600 || got.Most < 600 {
			t.Errorf("wanted %d: %+v, %v", wanted, got, err)
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	huge := []Level{{Name: "system", Shares: 1 << 28}, {Name: "a", Shares: 1 << 28}}
	for name, tc := range map[string]struct {
		r    Request
		want string
	}{
		"no seats":        {Request{Levels: stock}, "seats must be"},
		"no shares":       {Request{Levels: []Level{{Name: "a"}}, Seats: Seats{1, 1}}, "no priority level"},
		"a ballast":       {Request{Levels: []Level{{Name: Ballast, Shares: 1}}, Seats: Seats{1, 1}}, "cannot be planned"},
		"negative shares": {Request{Levels: []Level{{Name: "a", Shares: -1}, {Name: "b", Shares: 2}}, Seats: Seats{1, 1}}, "cannot be planned"},
		"too large":       {Request{Levels: huge, Seats: Seats{600, 600}, Protected: Protected, Wanted: 4}, "more than fits"},
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := Make(tc.r); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want %q, got %+v, %v", tc.want, p, err)
			}
		})
	}
}

func FuzzMake(f *testing.F) {
	f.Add(int32(30), int32(40), int32(100), int32(0), int32(0), 598, 600, 40)
	f.Add(int32(1), int32(1), int32(1), int32(5), int32(100), 1, 1, 0)
	f.Fuzz(func(t *testing.T, system, nodes, low, exempt, lendable int32, least, most, wanted int) {
		r := Request{
			Levels: []Level{
				{Name: "system", Shares: system}, {Name: "node-high", Shares: nodes}, {Name: "low", Shares: low},
				{Name: "exempt", Exempt: true, Shares: exempt, Lendable: min(max(lendable, 0), 100)},
			},
			Seats: Seats{Least: least, Most: most}, Protected: Protected, Wanted: wanted,
		}
		if p, err := Make(r); err == nil && p.Else > max(wanted, p.Floor) && p.Else != p.Full {
			t.Errorf("%+v: wanted %d, got %d", r, wanted, p.Else)
		}
	})
}

func ExampleMake() {
	p, err := Make(Request{Levels: stock, Seats: Seats{Least: 598, Most: 600}, Protected: Protected, Wanted: 40})
	if err != nil {
		panic(err)
	}
	_ = p.Else // 39: never more than wanted, and at most p.Error less
}
