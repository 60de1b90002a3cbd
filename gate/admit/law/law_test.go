package law

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

var epoch = time.Unix(1e9, 0)

// Whatever comes in, what comes out is a number within bounds, and the limit rises only on a new reading.
func TestAnyEvidence(t *testing.T) {
	for seed := range uint64(40) {
		random := rand.New(rand.NewPCG(seed, 1))
		config := Config{Min: 1 + float64(random.IntN(50))}
		config.Max = config.Min + float64(random.IntN(600))
		config.Initial = config.Min + (config.Max-config.Min)*random.Float64()
		l := New(config)
		names := []string{"a", "b", "c"}
		readings := map[string]*Reading{}
		now, before := epoch, Decision{Limit: config.Initial}
		was := map[string]float64{}
		for range 4000 {
			now = now.Add(wild(random, time.Duration(random.IntN(int(500*time.Millisecond)))))
			e := Evidence{Passive: Passive{
				Finished: wildly(random, 50), Slowness: wildly(random, 10), TimedOut: wildly(random, 3), Errors: wildly(random, 3),
				TooMany: wildly(random, 3), SeatsInUse: wildly(random, 700), SeatsWaiting: wildly(random, 100), ListBytes: wildly(random, 1e9),
			}}
			renewed := map[string]bool{}
			for _, name := range names[:1+random.IntN(3)] {
				if random.IntN(4) == 0 {
					renewed[name] = true
					readings[name] = &Reading{
						At: now.Add(-time.Duration(random.IntN(int(20 * time.Second)))), Over: time.Duration(random.IntN(int(5 * time.Second))),
						Started: epoch.Add(time.Duration(random.IntN(3)) * time.Minute), CPU: wildly(random, 4), CPUBound: wildly(random, 4),
						Resident: wildly(random, 1e10), MemoryBound: wildly(random, 1e10), EtcdLatency: wild(random, time.Millisecond),
						EtcdRequests: wildly(random, 100), NoLeader: random.IntN(20) == 0, TooMany: wildly(random, 5), Rejected: wildly(random, 5),
					}
				}
				e.Servers = append(e.Servers, Server{Name: name, Serving: random.IntN(5) > 0, Reading: readings[name]})
			}
			d := l.Tick(now, e)
			for what, x := range map[string]float64{"limit": d.Limit, "bytes": d.ListBytes} {
				if math.IsNaN(x) || math.IsInf(x, 0) || x < 1 {
					t.Fatalf("seed %d: the %s is %v after %+v", seed, what, x, e)
				}
			}
			if d.Limit < config.Min || d.Limit > config.Max {
				t.Fatalf("seed %d: the limit is %v, outside of %v–%v", seed, d.Limit, config.Min, config.Max)
			}
			for i, p := range d.Servers {
				floor := config.Min
				if then, known := was[p.Name]; known && p.Seats > max(then, floor)+1e-9 && (e.Servers[i].Reading == nil || !renewed[p.Name] || !p.Fresh) {
					t.Fatalf("seed %d: %s rose from %v to %v without a new reading", seed, p.Name, then, p.Seats)
				}
				was[p.Name] = p.Seats
			}
			for name := range was {
				if len(e.Servers) < 3 && (name == "c" || name == "b" && len(e.Servers) < 2) {
					delete(was, name)
				}
			}
			for signal, p := range d.Pressures {
				if math.IsNaN(p) || p < 0 {
					t.Fatalf("seed %d: pressure of %s is %v", seed, signal, p)
				}
			}
			if d.Reason == "" || d.Signal == "" {
				t.Fatalf("seed %d: no reason in %+v", seed, d)
			}
			before = d
		}
		_ = before
	}
}

func wildly(random *rand.Rand, scale float64) float64 {
	switch random.IntN(40) {
	case 0:
		return math.NaN()
	case 1:
		return math.Inf(1)
	case 2:
		return -scale
	case 3:
		return scale * 1e6
	case 4, 5, 6:
		return 0
	}
	return random.Float64() * scale
}

func wild(random *rand.Rand, d time.Duration) time.Duration {
	switch random.IntN(200) {
	case 0:
		return -time.Hour
	case 1:
		return time.Hour
	}
	return d
}

// Processors that are all at work are no reason to let a recovery go back, and neither is what requests take; anything else is.
func TestBusy(t *testing.T) {
	for name, tc := range map[string]struct {
		change        func(*Reading, *Passive)
		healthy, busy bool
	}{
		"little to do":       {func(r *Reading, p *Passive) { r.CPU, p.Slowness = 0.3, 1 }, true, false},
		"processors":         {func(*Reading, *Passive) {}, false, true},
		"and no leader":      {func(r *Reading, _ *Passive) { r.NoLeader = true }, false, false},
		"and many errors":    {func(_ *Reading, p *Passive) { p.Errors = 15 }, false, false},
		"and time-outs":      {func(_ *Reading, p *Passive) { p.TimedOut = 10 }, false, false},
		"slow for no reason": {func(r *Reading, _ *Passive) { r.CPU = 0.3 }, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			l, now, d := New(Config{}), epoch, Decision{}
			for range 40 {
				now = now.Add(time.Second)
				r := &Reading{At: now, Over: time.Second, Started: epoch, CPU: 1, CPUBound: 1, Resident: 500 << 20, MemoryBound: 8 << 30}
				p := Passive{Finished: 40, Slowness: 6, SeatsInUse: 30}
				tc.change(r, &p)
				d = l.Tick(now, Evidence{Servers: []Server{{Name: "a", Serving: true, Reading: r}}, Passive: p})
			}
			if d.Healthy != tc.healthy || d.Busy != tc.busy {
				t.Errorf("healthy %t, busy %t; pressures %v", d.Healthy, d.Busy, d.Pressures)
			}
		})
	}
}
