package v1alpha1

import (
	"strings"
	"testing"
)

func TestParseAPIBudget(t *testing.T) {
	for text, want := range map[string]APIBudget{
		"seats=4":                           {Seats: 4},
		"seats-per-node=0.02":               {SeatsPerNode: 0.02},
		"seats-per-node=0.02,seats=4":       {Seats: 4, SeatsPerNode: 0.02},
		" seats=4 ,\tseats-per-node=000.5 ": {Seats: 4, SeatsPerNode: 0.5},
		"seats=100000":                      {Seats: 100000},
	} {
		got, err := ParseAPIBudget(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if again, err := ParseAPIBudget(got.String()); err != nil || again != got {
			t.Errorf("%q is written %q, which is %+v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{
		"", ",", "4", "seats", "seats=", "seats=0", "seats=0.0", "seats=-1", "seats=+1", "seats=1e3", "seats=0x1", "seats=NaN", "seats=Inf", "seats=.5", "seats=5.",
		"seats=100001", "seats=1,seats=2", "seats=1,", "seats =1", "seats= 1", "chairs=1", "seats=1,seats-per-node=1,seats=1", "seats=1;seats-per-node=2", "SEATS=1",
		"seats=1\n", "seats=١", "seats=" + strings.Repeat("1", 200),
	} {
		if b, err := ParseAPIBudget(text); err == nil || b != (APIBudget{}) {
			t.Errorf("%q is taken for %+v, %v", text, b, err)
		}
	}
}

func TestAPIBudgetOn(t *testing.T) {
	for _, tc := range []struct {
		budget APIBudget
		nodes  int
		want   float64
	}{
		{APIBudget{Seats: 4}, 300, 4},
		{APIBudget{SeatsPerNode: 0.5}, 300, 150},
		{APIBudget{SeatsPerNode: 0.5, Seats: 4}, 300, 4},
		{APIBudget{SeatsPerNode: 0.5, Seats: 4}, 2, 1},
		{APIBudget{SeatsPerNode: 0.5}, 0, 0.5},
	} {
		if got := tc.budget.On(tc.nodes); got != tc.want {
			t.Errorf("%v on %d nodes: %g, want %g", tc.budget, tc.nodes, got, tc.want)
		}
	}
}

func FuzzParseAPIBudget(f *testing.F) {
	for _, text := range []string{"seats=4", "seats-per-node=0.02,seats=4", " seats=1 , seats-per-node=2", "seats=", ",,,", "seats=1e9"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b, err := ParseAPIBudget(text)
		if err != nil {
			if b != (APIBudget{}) {
				t.Fatalf("refused, and %+v", b)
			}
			return
		}
		if b == (APIBudget{}) || b.Seats < 0 || b.SeatsPerNode < 0 || b.On(5000) <= 0 {
			t.Fatalf("%q: %+v", text, b)
		}
		again, err := ParseAPIBudget(b.String())
		if err != nil || again != b {
			t.Fatalf("%q is written %q: %+v, %v", text, b, again, err)
		}
	})
}
