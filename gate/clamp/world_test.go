package clamp

import (
	"math/rand/v2"
	"slices"
	"time"
)

// program is what runs under one user: sources that come, ask, and may go.
type program struct {
	user string
	// starts are when each source begins; ends, when not 0, is how long it lives.
	starts []time.Duration
	ends   time.Duration
	// burst requests at a source's start cost startCost each; then one of cost every period. CPU-seconds of the API server.
	burst           int
	startCost, cost float64
	period          time.Duration
	// leader: one source does the work, the others ask nothing after their start.
	leader bool
}

// spread is n moments evenly over a length, with some disorder.
func spread(random *rand.Rand, n int, from, over time.Duration) []time.Duration {
	var list []time.Duration
	for i := range n {
		at := from + over*time.Duration(i)/time.Duration(n) + time.Duration(random.Int64N(int64(over/time.Duration(n))+1))
		list = append(list, at)
	}
	return list
}

// doubling is n moments in batches of 1, 2, 4, …, as controllers start pods, each batch over the time until the next.
func doubling(random *rand.Rand, n int, from, between time.Duration) []time.Duration {
	var list []time.Duration
	for batch := 1; len(list) < n; batch *= 2 {
		list = append(list, spread(random, min(batch, n-len(list)), from, between)...)
		from += between
	}
	return list
}

// old is n sources that were there before.
func old(n int) []time.Duration {
	list := make([]time.Duration, n)
	for i := range list {
		list[i] = -10 * time.Minute
	}
	return list
}

// world is an API server that shares its processors among what runs, with programs before it.
type world struct {
	cpus     float64
	nodes    int
	programs []program
	policy   Policy
	known    map[string]int
	// restart, when not 0, is when the gate begins to look: everything before is not seen.
	restart time.Duration
	enforce bool
}

type job struct {
	program, source int // program -1: the admin's probe
	settled         bool
	left            float64
	began           time.Duration
}

// told is what came of it.
type told struct {
	named, clamped map[string]time.Duration
	spared         map[string]string
	sources        map[string]int // when named
	worst          time.Duration  // the admin's longest wait
	saturated      time.Duration  // for how long at a stretch more ran than there are seats
	renewed        int
}

const (
	step  = 20 * time.Millisecond
	look  = 500 * time.Millisecond
	probe = 750 * time.Millisecond
)

var epoch = time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)

func (w *world) run(random *rand.Rand, length time.Duration) *told {
	t := &told{named: map[string]time.Duration{}, clamped: map[string]time.Duration{}, spared: map[string]string{}, sources: map[string]int{}}
	d := New(w.policy, w.known)
	type source struct {
		next  time.Duration
		fired bool
		busy  int
		last  time.Duration
	}
	sources := make([][]source, len(w.programs))
	for i, p := range w.programs {
		sources[i] = make([]source, len(p.starts))
		for j, at := range p.starts {
			sources[i][j].next = at
			if at < 0 { // there before
				sources[i][j].fired = true
				sources[i][j].next = time.Duration(random.Float64() * float64(p.period))
			}
		}
	}
	var jobs []job
	seats, settled, refused := make([]float64, len(w.programs)), make([]float64, len(w.programs)), make([]int64, len(w.programs))
	places := map[int]int{} // of clamped programs
	var until = map[int]time.Duration{}
	all := 0.0
	stretch := time.Duration(0)
	for now := time.Duration(0); now < length; now += step {
		for i := range w.programs {
			p := &w.programs[i]
			running := 0
			for _, j := range jobs {
				if j.program == i {
					running++
				}
			}
			for k := range sources[i] {
				s := &sources[i][k]
				if now < s.next || s.busy > 0 || p.ends > 0 && now > p.starts[k]+p.ends {
					continue
				}
				n, cost := 1, p.cost
				if !s.fired {
					n, cost = p.burst, p.startCost
				} else if p.leader && k > 0 {
					continue
				}
				s.fired, s.last = true, now
				s.next = now + p.period + time.Duration(random.Float64()*0.5*float64(p.period))
				for range n {
					if limit, ok := places[i]; ok && running >= limit {
						refused[i]++
						s.next = now + 5*time.Second + time.Duration(random.Float64()*5e9)
						continue
					}
					running++
					s.busy++
					jobs = append(jobs, job{program: i, source: k, settled: now-p.starts[k] >= 5*time.Second, left: cost, began: now})
				}
			}
		}
		if now%probe < step {
			jobs = append(jobs, job{program: -1, left: 0.004, began: now})
		}
		if stretch += step; float64(len(jobs)) <= 4*w.cpus {
			stretch = 0
		}
		t.saturated = max(t.saturated, stretch)
		share := min(1, w.cpus/max(1, float64(len(jobs)))) * step.Seconds()
		for i := range jobs {
			j := &jobs[i]
			j.left -= share
			all += step.Seconds()
			if j.program >= 0 {
				seats[j.program] += step.Seconds()
				if j.settled {
					settled[j.program] += step.Seconds()
				}
			}
		}
		jobs = slices.DeleteFunc(jobs, func(j job) bool {
			if j.left > 0 {
				return false
			}
			if j.program < 0 {
				t.worst = max(t.worst, now+step-j.began)
			} else {
				sources[j.program][j.source].busy--
			}
			return true
		})
		if now%look != 0 || now < w.restart {
			continue
		}
		o := Observation{At: epoch.Add(now), Seats: all / look.Seconds(), Capacity: 4 * w.cpus, Nodes: w.nodes}
		for i, p := range w.programs {
			c := Client{User: p.user, Seats: seats[i] / look.Seconds(), SettledSeats: settled[i] / look.Seconds(), Refused: refused[i]}
			for k, s := range sources[i] {
				if s.fired && now-s.last <= time.Minute {
					c.Sources++
					if now-max(p.starts[k], w.restart) >= 5*time.Second {
						c.Settled++
					}
				}
			}
			seats[i], settled[i], refused[i] = 0, 0, 0
			if c.Sources > 0 {
				o.Clients = append(o.Clients, c)
			}
		}
		all = 0
		for i, end := range until {
			if now >= end {
				d.Ended(w.programs[i].user, o.At, false)
				delete(until, i)
				delete(places, i)
			}
		}
		for _, decision := range d.Observe(o) {
			s := decision.Suspect
			i := slices.IndexFunc(w.programs, func(p program) bool { return p.user == s.User })
			switch decision.Kind {
			case Name:
				t.named[s.User], t.spared[s.User], t.sources[s.User] = now, s.Spared, s.Sources
			case Clamp, Renew:
				if decision.Kind == Renew {
					t.renewed++
				} else if _, ok := t.clamped[s.User]; !ok {
					t.clamped[s.User] = now
				}
				until[i] = now + w.policy.Duration
				d.Clamped(s.User, "rule", o.At, epoch.Add(until[i]), s.Concurrency)
				if w.enforce {
					places[i] = s.Concurrency
					jobs = slices.DeleteFunc(jobs, func(j job) bool {
						if j.program == i {
							sources[i][j.source].busy--
						}
						return j.program == i
					})
				}
			}
		}
	}
	return t
}
