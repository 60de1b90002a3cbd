package verdict

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestMannWhitneyAgainstKnownValues(t *testing.T) {
	first := func(n int) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = float64(i)
		}
		return v
	}
	shifted := func(n int, by float64) []float64 {
		v := first(n)
		for i := range v {
			v[i] += by
		}
		return v
	}
	for name, tc := range map[string]struct {
		a, b  []float64
		tail  Tail
		wantU float64
		wantP float64
	}{
		// Of scipy.stats.mannwhitneyu's documentation: the age at which men and women were diagnosed.
		"ages": {[]float64{19, 22, 16, 29, 24}, []float64{20, 11, 17, 12}, Either, 17, 0.1111111111111111},
		// The least probabilities are 1 of the number of ways to pick.
		"5 of 10, all below":         {first(5), shifted(5, 5), Less, 0, 1.0 / 252},
		"5 of 10, all below, either": {first(5), shifted(5, 5), Either, 0, 2.0 / 252},
		"3 of 6, all above":          {shifted(3, 3), first(3), Greater, 9, 1.0 / 20},
		"1 of 20":                    {[]float64{30}, first(19), Greater, 19, 1.0 / 20},
		// Mann and Whitney's table of 1947: the probability of U ≤ 3 with n = m = 4 is 0.100, of U ≤ 2 with n = 3, m = 5 0.071 (4/56).
		"n = m = 4, U = 3":    {[]float64{1, 2, 3, 7}, []float64{4, 5, 6, 8}, Less, 3, 7.0 / 70},
		"n = 3, m = 5, U = 2": {[]float64{1, 2, 5}, []float64{3, 4, 6, 7, 8}, Less, 2, 4.0 / 56},
		// With ties and two values the test is Fisher's: 3 of 3 against 0 of 5 is 1 of 56.
		"yes and no":   {[]float64{1, 1, 1}, []float64{0, 0, 0, 0, 0}, Greater, 15, 1.0 / 56},
		"all the same": {[]float64{1, 1, 1}, []float64{1, 1, 1}, Either, 4.5, 1},
		"nobody":       {nil, first(3), Either, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			u, p := MannWhitney(tc.a, tc.b, tc.tail)
			if u != tc.wantU || math.Abs(p-tc.wantP) > 1e-12 {
				t.Errorf("U %v, p %v; want %v, %v", u, p, tc.wantU, tc.wantP)
			}
		})
	}
}

// The approximation must go on where counting stops, with and without ties.
func TestMannWhitneyApproximationAgrees(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, coarse := range []float64{1e6, 5} {
		for range 50 {
			a, b := make([]float64, 20), make([]float64, 20)
			for i := range a {
				a[i] = math.Floor(random.Float64()*coarse + coarse/4*random.Float64())
				b[i] = math.Floor(random.Float64() * coarse)
			}
			ranks, ties := doubledRanks(a, b)
			sum := 0
			for _, r := range ranks[:20] {
				sum += r
			}
			exact := exactly(ranks, 20, sum, Greater)
			u := float64(sum)/2 - 210
			approx := normalTail((u - 200 - 0.5) / math.Sqrt(400.0/12*(41-ties/(40*39))))
			if math.Abs(exact-approx) > 0.01 {
				t.Errorf("exactly %.4f, approximately %.4f", exact, approx)
			}
		}
	}
	// And scipy's own asymptotic figure for the ages.
	if p := 2 * normalTail((17-10-0.5)/math.Sqrt(20.0/12*10)); math.Abs(p-0.11134688653314041) > 1e-12 {
		t.Errorf("the asymptotic probability is %v", p)
	}
	big := make([]float64, 60)
	for i := range big {
		big[i] = float64(i % 7)
	}
	if _, p := MannWhitney(big, big, Either); p < 0.99 {
		t.Errorf("a group differs from itself with p = %v", p)
	}
}

// A test that cries wolf more often than it says is worse than none.
func TestMannWhitneyFalseAlarms(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const trials = 4000
	alarms := 0
	for range trials {
		a, b := make([]float64, 6), make([]float64, 12)
		for i := range a {
			a[i] = random.ExpFloat64()
		}
		for i := range b {
			b[i] = random.ExpFloat64()
		}
		if _, p := MannWhitney(a, b, Either); p <= 0.05 {
			alarms++
		}
	}
	if share := float64(alarms) / trials; share > 0.058 || share < 0.03 {
		t.Errorf("at 5 %% it cries wolf in %.1f %% of trials", 100*share)
	}
}

func TestLeastP(t *testing.T) {
	for _, tc := range []struct {
		n, m int
		tail Tail
	}{{1, 4, Greater}, {3, 5, Greater}, {5, 5, Either}, {2, 9, Less}} {
		a, b := make([]float64, tc.n), make([]float64, tc.m)
		for i := range a {
			a[i] = float64(i) + 100
			if tc.tail == Less {
				a[i] -= 1000
			}
		}
		for i := range b {
			b[i] = float64(i)
		}
		if _, p := MannWhitney(a, b, tc.tail); math.Abs(p-LeastP(tc.n, tc.m, tc.tail)) > 1e-12 {
			t.Errorf("%d against %d: least %v, found %v", tc.n, tc.m, LeastP(tc.n, tc.m, tc.tail), p)
		}
	}
}
