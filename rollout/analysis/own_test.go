package analysis

import (
	"math"
	"testing"
	"time"
)

// The burst of LISTs that a new agent begins with is over by the time that enough requests tell how slow it made the others.
func TestOwnShare(t *testing.T) {
	zero := time.Now()
	at := func(second int, own, executed float64) reading {
		return reading{done: zero.Add(time.Duration(second) * time.Second), own: own, executed: executed}
	}
	for name, tc := range map[string]struct {
		readings []reading
		want     float64
	}{
		"nothing was read":            {nil, math.NaN()},
		"no flow schema":              {[]reading{at(8, 0, 0)}, math.NaN()},
		"the burst is over":           {[]reading{at(6, 1.2, 1.4), at(8, 0.3, 0.6), at(10, 0, 0.4)}, 1.5 / 2.4},
		"a burst that is long over":   {[]reading{at(2, 9, 9.1), at(4, 0, 0.3), at(8, 0, 0.4), at(10, 0, 0.4)}, 0},
		"others in one, ours in none": {[]reading{at(8, 0, 3), at(10, 0.1, 0.1)}, 0.1 / 3.1},
	} {
		got := ownShare(tc.readings, zero.Add(4*time.Second))
		if math.IsNaN(got) != math.IsNaN(tc.want) || math.Abs(got-tc.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}
