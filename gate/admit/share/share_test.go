package share

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// the shares that ship: system, callbacks, interactive, workload, background.
func shipped(demand ...float64) []Level {
	levels := []Level{{Share: 0.30, Kept: 1}, {Share: 0.10, Kept: 0.5}, {Share: 0.20, Kept: 0.25}, {Share: 0.20, Kept: 0.1}, {Share: 0.05}}
	for i, d := range demand {
		levels[i].Demand = d
	}
	return levels
}

func TestDivide(t *testing.T) {
	for name, c := range map[string]struct {
		limit  int
		demand []float64
		want   []int
	}{
		"idle: by share":                                            {100, []float64{0, 0, 0, 0, 0}, []int{51, 12, 19, 15, 3}},
		"a storm takes what others do not want":                     {100, []float64{0, 0, 0, 1000, 0}, []int{30, 5, 5, 60, 1}},
		"a storm does not take what the high want":                  {100, []float64{60, 0, 0, 1000, 0}, []int{60, 5, 5, 30, 1}},
		"everybody storms: own shares, and the rest to the highest": {100, []float64{1000, 1000, 1000, 1000, 1000}, []int{45, 10, 20, 20, 5}},
		"one seat each, whatever the limit":                         {1, []float64{5, 5, 5, 5, 5}, []int{1, 1, 1, 1, 1}},
		"small: who is idle has one seat and takes none":            {10, []float64{0, 0, 0, 9, 0}, []int{3, 1, 1, 6, 1}},
		"small, and everybody wants some":                           {10, []float64{3, 1, 1, 9, 1}, []int{3, 1, 1, 4, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Divide(c.limit, shipped(c.demand...)); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// What must hold whatever is asked for.
func TestDivideHolds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		levels := make([]Level, 1+random.IntN(6))
		left := 1.0
		for i := range levels {
			share := left * random.Float64() * 0.7
			left -= share
			levels[i] = Level{Share: share, Kept: random.Float64(), Demand: float64(random.IntN(4)) * random.ExpFloat64() * 50}
		}
		limit := random.IntN(500)
		got := Divide(limit, levels)
		sum, demand, idle := 0, 0.0, 0
		for i, l := range levels {
			// One seat each, however small the share, may cost each other level one.
			own := float64(limit)*l.Share - float64(len(levels))
			if got[i] < 1 || float64(got[i])+1 < min(own, l.Demand) || float64(got[i])+1 < own*l.Kept {
				t.Fatalf("level %d of %+v with limit %d has %d seats of its own %.1f", i, levels, limit, got[i], own)
			}
			sum += got[i]
			demand += l.Demand
			if l.Demand == 0 {
				idle++
			}
		}
		if bound := max(limit, len(levels)); sum > bound+idle || sum < bound-1 {
			t.Fatalf("%v of limit %d, %+v", got, limit, levels)
		}
		for i := range levels[1:] {
			// Above its own part nobody has anything that somebody higher wants.
			if lower := levels[i+1]; float64(got[i+1]) > max(1, float64(limit)*lower.Share)+2 && levels[i].Demand > float64(got[i])+2 {
				t.Fatalf("level %d has %v while level %d wants %.1f: %v %+v, limit %d", i+1, got[i+1], i, levels[i].Demand, got, levels, limit)
			}
		}
	}
}

func BenchmarkDivide(b *testing.B) {
	levels := shipped(3, 0, 2, 400, 10)
	for b.Loop() {
		Divide(100, levels)
	}
}
