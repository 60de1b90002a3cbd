package law

import (
	"math/rand/v2"
	"testing"
	"time"
)

// history drives a law through a plausible past and one last tick, in which what is given to worse is as it says. The same
// seed is the same past.
func history(seed uint64, worse func(*Evidence)) (before, after float64) {
	random := rand.New(rand.NewPCG(seed, 11))
	l := New(Config{Min: 4, Max: 600, Initial: 40})
	now, limit := epoch, 40.0
	use, slow := random.Float64(), 1+3*random.Float64()
	for i := range 120 {
		now = now.Add(250 * time.Millisecond)
		if random.IntN(20) == 0 {
			use, slow = random.Float64(), 1+5*random.Float64()
		}
		e := Evidence{
			Servers: []Server{{Name: "a", Serving: true, Reading: &Reading{
				At: now.Add(-time.Duration(i%4) * 250 * time.Millisecond), Over: time.Second, CPU: 2 * use, CPUBound: 2,
				Resident: 300 << 20, MemoryBound: 4 << 30, EtcdLatency: 2 * time.Millisecond, EtcdRequests: 100,
			}}},
			Passive: Passive{Finished: 10, Slowness: slow, SeatsInUse: limit, SeatsWaiting: 20},
		}
		if i == 119 {
			e.Servers[0].Reading.At = now
			worse(&e)
		}
		before = limit
		limit = l.Tick(now, e).Limit
	}
	return before, limit
}

// Whatever the past, what is worse at the last tick does not make the limit higher.
func TestWorseIsNeverMore(t *testing.T) {
	worse := map[string]func(*Evidence){
		"more of the processors": func(e *Evidence) { e.Servers[0].Reading.CPU = 2 },
		"slower etcd":            func(e *Evidence) { e.Servers[0].Reading.EtcdLatency = time.Second },
		"no leader":              func(e *Evidence) { e.Servers[0].Reading.NoLeader = true },
		"more memory":            func(e *Evidence) { e.Servers[0].Reading.Resident = 4 << 30 },
		"429s":                   func(e *Evidence) { e.Passive.TooMany = 10 },
		"time-outs":              func(e *Evidence) { e.Passive.TimedOut = 10 },
		"errors":                 func(e *Evidence) { e.Passive.Errors = 10 },
		"slower":                 func(e *Evidence) { e.Passive.Slowness = 20 },
		"silence":                func(e *Evidence) { e.Servers[0].Reading = nil },
		"an old reading":         func(e *Evidence) { e.Servers[0].Reading.At = e.Servers[0].Reading.At.Add(-time.Minute) },
		"nobody serves":          func(e *Evidence) { e.Servers[0].Serving = false },
		"nobody asks":            func(e *Evidence) { e.Passive.SeatsInUse, e.Passive.SeatsWaiting = 0, 0 },
	}
	rose := 0
	for seed := range uint64(150) {
		before, plain := history(seed, func(*Evidence) {})
		if plain > before {
			rose++
		}
		for name, make := range worse {
			most := plain
			if name == "silence" || name == "an old reading" {
				most = before // what would have made it fall is not said either
			}
			if _, with := history(seed, make); with > most+1e-9 {
				t.Errorf("seed %d, %s: from %v to %v, and to %v without", seed, name, before, with, plain)
			}
		}
	}
	if rose < 10 {
		t.Errorf("it rose in %d of 150 pasts: they show nothing", rose)
	}
}

// Under any overload it falls at most once in the time in which a fall can show, and by no more than to two fifths.
func TestFallsOncePerReaction(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 13))
		l := New(Config{Min: 4, Max: 600, Initial: 600})
		now, limit, fell := epoch, 600.0, time.Time{}
		var r *Reading
		for i := range 400 {
			now = now.Add(250 * time.Millisecond)
			if i%4 == 0 {
				r = &Reading{At: now, Over: time.Second, CPU: 1.9 + 0.1*random.Float64(), CPUBound: 2}
			}
			d := l.Tick(now, Evidence{
				Servers: []Server{{Name: "a", Serving: true, Reading: r}},
				Passive: Passive{Finished: 10, Slowness: 1 + 30*random.Float64(), TimedOut: random.Float64(), SeatsInUse: limit, SeatsWaiting: 100},
			})
			if d.Limit < limit-1e-9 {
				if now.Sub(fell) < time.Second {
					t.Fatalf("seed %d: fell again after %s", seed, now.Sub(fell))
				}
				if d.Limit < 0.4*limit-1e-9 {
					t.Fatalf("seed %d: fell from %v to %v", seed, limit, d.Limit)
				}
				fell = now
			}
			limit = d.Limit
		}
	}
}
