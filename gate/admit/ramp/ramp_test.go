package ramp

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

var epoch = time.Unix(1e9, 0)

// comeback is a control plane that comes back to its clients: processors that LISTs share, and memory that they hold. The
// gate's limit bounds the seats; a client that is held asks again when it was told to.
type comeback struct {
	random     *rand.Rand
	ramp       *Ramp // nil: nobody is held
	limit      float64
	first      float64 // the limit that the ramp is told
	processors float64
	memory     float64 // in LISTs; more at once is not well
	clients    []*client

	now      time.Time
	running  []*client
	queue    []*client
	peak     int
	refusals int
	done     map[v1alpha1.LevelName]time.Duration // when the last of each level watched again
}

type client struct {
	ask     Ask
	next    time.Time
	state   int // 0 wants to LIST, 1 is queued or running, 2 wants to watch, 3 watches
	cpuLeft float64
}

func newComeback(seed uint64, ramp *Ramp, bytes float64, resources ...string) *comeback {
	c := &comeback{
		random: rand.New(rand.NewPCG(seed, 3)), ramp: ramp, limit: 40, first: 40, processors: 2, memory: 1e9, now: epoch,
		done: map[v1alpha1.LevelName]time.Duration{},
	}
	for level, n := range map[v1alpha1.LevelName]int{
		v1alpha1.LevelSystem: 50, v1alpha1.LevelCallbacks: 20, v1alpha1.LevelInteractive: 30, v1alpha1.LevelWorkload: 300, v1alpha1.LevelBackground: 600,
	} {
		for i := range n {
			c.clients = append(c.clients, &client{
				ask:  Ask{Kind: List, Resource: resources[i%len(resources)], Level: level, Bytes: bytes},
				next: epoch.Add(time.Duration(c.random.Float64() * float64(time.Second))),
			})
		}
	}
	c.random.Shuffle(len(c.clients), func(i, j int) { c.clients[i], c.clients[j] = c.clients[j], c.clients[i] })
	return c
}

// run returns how long it takes until all watch again.
func (c *comeback) run(t *testing.T) time.Duration {
	t.Helper()
	const step = 10 * time.Millisecond
	if c.ramp != nil {
		c.ramp.Begin(c.now, c.first)
	}
	for i := 0; ; i++ {
		c.now = c.now.Add(step)
		if c.ramp != nil && i%25 == 0 {
			c.ramp.Tick(c.now, c.state())
		}
		c.come()
		c.serve(step.Seconds())
		watching := 0
		for _, x := range c.clients {
			if x.state == 3 {
				watching++
			}
		}
		if watching == len(c.clients) {
			return c.now.Sub(epoch)
		}
		if c.now.Sub(epoch) > 30*time.Minute {
			t.Fatalf("after half an hour %d of %d watch", watching, len(c.clients))
		}
	}
}

// state is what the law would say: processors that are all at work are busy.
func (c *comeback) state() State {
	switch n := float64(len(c.running)); {
	case n > c.memory:
		return Unwell
	case n >= c.processors:
		return Busy
	}
	return Well
}

// queued is what waits for seats, in limits.
func (c *comeback) queued() float64 {
	sum := 0.0
	for _, x := range c.queue {
		sum += x.ask.cost()
	}
	return sum / c.limit
}

func (c *comeback) come() {
	for _, x := range c.clients {
		if (x.state == 0 || x.state == 2) && !c.now.Before(x.next) {
			ask := x.ask
			ask.Behind = c.queued()
			if x.state == 2 {
				ask.Kind = Watch
			}
			if c.ramp != nil {
				if ok, after := c.ramp.Admit(c.now, ask); !ok {
					c.refusals++
					x.next = c.now.Add(after + time.Duration(c.random.Float64()*float64(after)/2))
					continue
				}
			}
			if x.state++; x.state == 1 {
				x.cpuLeft = x.ask.Bytes / (90 << 20) // 90 MB a second of one processor
				c.queue = append(c.queue, x)
				continue
			}
			c.done[x.ask.Level] = max(c.done[x.ask.Level], c.now.Sub(epoch))
		}
	}
}

func (c *comeback) serve(dt float64) {
	slices.SortStableFunc(c.queue, func(a, b *client) int { return rank(a.ask.Level) - rank(b.ask.Level) })
	for len(c.queue) > 0 && float64(len(c.running)+1)*c.queue[0].ask.cost() <= c.limit {
		c.running, c.queue = append(c.running, c.queue[0]), c.queue[1:]
	}
	c.peak = max(c.peak, len(c.running))
	share := dt * min(1, c.processors/max(1, float64(len(c.running))))
	kept := c.running[:0]
	for _, x := range c.running {
		if x.cpuLeft -= share; x.cpuLeft > 0 {
			kept = append(kept, x)
			continue
		}
		x.state, x.next = 2, c.now
		if c.ramp != nil {
			c.ramp.Done(x.ask)
		}
	}
	c.running = kept
}

// With memory enough the way back is no longer than without a ramp, and who is higher is back first.
func TestComeback(t *testing.T) {
	for name, tc := range map[string]struct {
		bytes     float64
		resources []string
	}{
		"1,000 clients, 18 MB of one resource":    {18 << 20, []string{"pods"}},
		"1,000 clients, 1 MB of three resources":  {1 << 20, []string{"pods", "services", "endpointslices.discovery.k8s.io"}},
		"1,000 clients, 50 KB of three resources": {50 << 10, []string{"pods", "services", "nodes"}},
		"1,000 clients, 300 KB, of one of many":   {300 << 10, []string{"a", "b", "c", "d", "e", "f", "g", "h"}},
	} {
		t.Run(name, func(t *testing.T) {
			without := newComeback(1, nil, tc.bytes, tc.resources...)
			direct := without.run(t)
			with := newComeback(1, New(), tc.bytes, tc.resources...)
			ramped := with.run(t)
			t.Logf("without %s, with %s; %d refusals; levels %v", direct, ramped, with.refusals, with.done)
			if ramped > direct*11/10+6*time.Second {
				t.Errorf("all are back after %s, without a ramp after %s", ramped, direct)
			}
			before := time.Duration(0)
			for _, level := range v1alpha1.LevelNames {
				if with.done[level] < before-time.Second {
					t.Errorf("%s is back after %s, a higher level after %s", level, with.done[level], before)
				}
				before = with.done[level]
			}
			for i := range 80 {
				with.ramp.Tick(with.now.Add(time.Duration(i)*250*time.Millisecond), Well)
			}
			if with.ramp.Active() {
				t.Error("all are back, and the ramp is not over")
			}
		})
	}
}

// A limit that is far too high: what the ramp lets begin follows what the control plane can take.
func TestComebackOfLittleMemory(t *testing.T) {
	for name, tc := range map[string]struct {
		ramp *Ramp
		most int
	}{"with": {New(), 40}, "without": {nil, 100}} {
		c := newComeback(2, tc.ramp, 18<<20, "pods")
		c.limit, c.first, c.memory = 1000, 40, 12
		took := c.run(t)
		t.Logf("%s a ramp: %d LISTs at once, %s", name, c.peak, took)
		if c.peak > tc.most {
			t.Errorf("%s a ramp %d LISTs ran at once", name, c.peak)
		}
	}
}

// Nobody of a lower level begins while a higher one's has to come again.
func TestHigherFirst(t *testing.T) {
	r := New()
	r.Begin(epoch, 40)
	pods := func(l v1alpha1.LevelName) Ask { return Ask{Kind: List, Resource: "pods", Level: l, Bytes: 1e6} }
	begun := 0
	for range 40 {
		ok, after := r.Admit(epoch, pods(v1alpha1.LevelSystem))
		if ok {
			begun++
		} else if after < waitLeast || after > waitMost {
			t.Errorf("told to wait %s", after)
		}
	}
	if begun == 0 || begun > 4 {
		t.Errorf("%d LISTs began at once", begun)
	}
	for range begun {
		r.Done(pods(v1alpha1.LevelSystem))
	}
	now := epoch
	for range 3 {
		now = now.Add(250 * time.Millisecond)
		r.Tick(now, Well)
	}
	if ok, _ := r.Admit(now, pods(v1alpha1.LevelBackground)); ok {
		t.Error("background began while system was held")
	}
	if ok, _ := r.Admit(now, pods(v1alpha1.LevelSystem)); !ok {
		t.Error("system did not begin when there was room again")
	}
}

// It grows while the control plane is well, stays while it is busy, shrinks while it is neither, and ends when nobody is held.
func TestGrowsAndEnds(t *testing.T) {
	r := New()
	if ok, _ := r.Admit(epoch, Ask{}); !ok || r.Active() {
		t.Fatal("a ramp that did not begin holds somebody")
	}
	r.Begin(epoch, 40)
	first, _ := r.Rates()
	now := epoch
	held := func(state State, behind float64, ticks int) float64 {
		for range ticks {
			for {
				if ok, _ := r.Admit(now, Ask{Kind: List, Resource: "pods", Level: v1alpha1.LevelWorkload, Bytes: 1e6, Behind: behind}); !ok {
					break
				}
			}
			now = now.Add(250 * time.Millisecond)
			r.Tick(now, state)
		}
		rate, _ := r.Rates()
		return rate
	}
	if rate := held(Well, 0, 4); rate < 1.5*first || rate > 2*first {
		t.Errorf("after a second of health: from %v to %v", first, rate)
	}
	grown := held(Well, 0, 4)
	if rate := held(Busy, 0, 8); rate != grown {
		t.Errorf("while it is only busy: from %v to %v", grown, rate)
	}
	if rate := held(Well, 1, 8); rate != grown {
		t.Errorf("while who began waits behind it: from %v to %v", grown, rate)
	}
	if rate := held(Unwell, 0, 4); rate > 0.6*grown {
		t.Errorf("after a second of illness: from %v to %v", grown, rate)
	}
	if rate := held(Unwell, 0, 400); rate < leastRate*first {
		t.Errorf("nothing may begin any more: %v", rate)
	}
	for range 200 {
		now = now.Add(250 * time.Millisecond)
		r.Tick(now, Well)
	}
	if r.Active() {
		t.Error("nobody was held for long, and it is not over")
	}
	if lists, watches := r.Rates(); lists != 0 || watches != 0 {
		t.Errorf("rates of a ramp that is over: %v, %v", lists, watches)
	}
}

// Whatever is asked in whatever order, nothing is held for ever and the books are right.
func TestAnyAsks(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 5))
		r, now := New(), epoch
		var open []Ask
		for range 5000 {
			switch random.IntN(20) {
			case 0:
				r.Begin(now, random.Float64()*random.ExpFloat64()*1000-10)
			case 1, 2, 3:
				now = now.Add(time.Duration(random.IntN(1000)) * time.Millisecond)
				r.Tick(now, State(random.IntN(3)))
			case 4:
				r.Tick(now.Add(-time.Hour), Well)
			case 5, 6, 7, 8, 9:
				if len(open) > 0 {
					i := random.IntN(len(open))
					r.Done(open[i])
					open = slices.Delete(open, i, i+1)
				}
			default:
				a := Ask{
					Kind: Kind(random.IntN(2)), Resource: string(rune('a' + random.IntN(4))),
					Level: append(slices.Clone(v1alpha1.LevelNames), "other")[random.IntN(6)], Bytes: random.ExpFloat64() * 1e6,
					Behind: random.Float64() * 1.5,
				}
				ok, after := r.Admit(now, a)
				if ok {
					open = append(open, a)
				} else if after < waitLeast || after > waitMost {
					t.Fatalf("seed %d: told to wait %s", seed, after)
				}
			}
		}
		for _, a := range open {
			r.Done(a)
		}
		if len(r.lists) > 0 {
			t.Fatalf("seed %d: %v is left over", seed, r.lists)
		}
		r.Begin(now, 10)
		for i := 0; ; i++ {
			if ok, _ := r.Admit(now, Ask{Kind: List, Level: "other", Bytes: 1e9}); ok {
				break
			}
			if now = now.Add(250 * time.Millisecond); i > 1000 {
				t.Fatalf("seed %d: held for ever", seed)
			}
			r.Tick(now, Unwell)
		}
	}
}
