package agree

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// world is some gates, a network that delays, loses, repeats and partitions, and one clock.
type world struct {
	t      *testing.T
	rand   *rand.Rand
	now    time.Time
	forget time.Duration
	gates  map[string]*Shares
	side   map[string]int // who is on which side of the partition
	mail   []letter
	memory map[string]Memory
}

type letter struct {
	to    string
	from  string
	words []Word
}

func newWorld(t *testing.T, seed uint64, forget time.Duration) *world {
	return &world{t: t, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1_800_000_000, 0), forget: forget,
		gates: map[string]*Shares{}, side: map[string]int{}, memory: map[string]Memory{}}
}

func (w *world) names() []string {
	var names []string
	for i := range 8 {
		if name := fmt.Sprintf("g%d", i); w.gates[name] != nil {
			names = append(names, name)
		}
	}
	return names
}

// start starts a gate, which has met those on its side before it uses anything.
func (w *world) start(name string) {
	w.now = w.now.Add(time.Millisecond) // no process restarts in no time
	s := NewShares(name, w.forget, w.now)
	if m, ok := w.memory[name]; ok {
		s.Remember(m)
	}
	w.gates[name] = s
	for _, other := range w.names() {
		if other != name && w.side[other] == w.side[name] {
			s.Hear(w.gates[other].Words(w.now), w.now)
		}
	}
	w.see(name)
}

// see lets a gate find out who can be reached.
func (w *world) see(name string) {
	var reached []string
	for _, other := range w.names() {
		if other != name && w.side[other] == w.side[name] {
			reached = append(reached, other)
		}
	}
	w.gates[name].Reach(reached, w.now)
}

func (w *world) step(name string) {
	if w.gates[name].Step(w.now) {
		w.say(name)
	}
	w.check(name)
}

func (w *world) say(name string) {
	s := w.gates[name]
	w.memory[name] = s.Memory()
	for _, to := range w.names() {
		if to != name {
			w.mail = append(w.mail, letter{to: to, from: name, words: s.Words(w.now)})
		}
	}
}

func (w *world) total() int {
	sum := 0
	for _, s := range w.gates {
		sum += s.Share()
	}
	return sum
}

func (w *world) check(what string) {
	w.t.Helper()
	if sum := w.total(); sum > Whole {
		for _, n := range w.names() {
			s := w.gates[n]
			w.t.Logf("%s side %d: share %d of %d, view %s, bounds %v", n, w.side[n], s.share, s.target, s.view, s.bounds())
		}
		w.t.Fatalf("after %s the shares add up to %d of %d", what, sum, Whole)
	}
}

// deliver gives one letter of the mail to whom it is for, if the partition lets it through.
func (w *world) deliver() {
	if len(w.mail) == 0 {
		return
	}
	i := w.rand.IntN(len(w.mail))
	l := w.mail[i]
	if w.rand.IntN(10) > 0 { // else it will arrive once more
		w.mail[i] = w.mail[len(w.mail)-1]
		w.mail = w.mail[:len(w.mail)-1]
	}
	s := w.gates[l.to]
	if s == nil || w.side[l.to] != w.side[l.from] {
		return
	}
	s.Hear(l.words, w.now)
	w.step(l.to)
}

// settle heals everything and lets words arrive until nobody has news.
func (w *world) settle() {
	w.mail = nil
	for name := range w.side {
		w.side[name] = 0
	}
	for range 30 {
		for _, name := range w.names() {
			w.see(name)
			w.step(name)
			for _, other := range w.names() {
				if other != name {
					w.gates[other].Hear(w.gates[name].Words(w.now), w.now)
					w.step(other)
				}
			}
		}
		w.now = w.now.Add(time.Second)
	}
}

// Whatever partitions, delays, losses, repetitions, stops, kills and restarts there are: as long as nobody is forgotten, the
// shares never add up to more than the whole, and when all can speak again they are equal and add up to it.
func TestSharesNeverExceedTheWhole(t *testing.T) {
	for seed := range uint64(120) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newWorld(t, seed, 1000*time.Hour)
			n := 2 + w.rand.IntN(4)
			for i := range n {
				w.start(fmt.Sprintf("g%d", i))
			}
			w.settle()
			for range 1000 {
				w.now = w.now.Add(time.Duration(w.rand.IntN(200)) * time.Millisecond)
				names := w.names()
				name := names[w.rand.IntN(len(names))]
				switch w.rand.IntN(60) {
				case 0: // a partition, of up to three sides
					for _, n := range names {
						w.side[n] = w.rand.IntN(3)
					}
				case 1:
					for _, n := range names {
						w.side[n] = 0
					}
				case 2: // killed
					if len(names) > 1 {
						delete(w.gates, name)
					}
				case 3, 4: // a killed one comes back
					for i := range n {
						if back := fmt.Sprintf("g%d", i); w.gates[back] == nil {
							if _, known := w.memory[back]; !known {
								w.side[back] = w.side[name]
							}
							w.start(back)
							break
						}
					}
				case 5: // a new one joins somebody
					if fresh := fmt.Sprintf("g%d", n); n < 8 {
						n++
						w.side[fresh] = w.side[name]
						w.start(fresh)
					}
				case 6:
					if len(names) > 1 {
						w.gates[name].Leave()
						w.say(name)
						delete(w.gates, name)
					}
				case 7, 8, 9, 10, 11, 12, 13, 14:
					w.see(name)
					w.step(name)
				case 15, 16, 17, 18:
					w.say(name)
				case 19: // lost
					if len(w.mail) > 0 {
						w.mail = w.mail[1:]
					}
				default:
					w.deliver()
				}
				w.check("a step")
			}
			for i := range n {
				if name := fmt.Sprintf("g%d", i); w.gates[name] == nil {
					w.start(name)
				}
			}
			w.settle()
			for _, name := range w.names() {
				if got, want := w.gates[name].Share(), Whole/len(w.gates); got != want || !w.gates[name].Agreed() {
					t.Errorf("at last %s has %d, want %d; view %s", name, got, want, w.gates[name].view)
				}
			}
		})
	}
}

// A gate that is killed keeps its part until it is forgotten; then the others divide it. One that stops gives it back at once.
func TestSharesOfTheGone(t *testing.T) {
	for name, tc := range map[string]struct {
		end          func(w *world)
		soon, atLast int
	}{
		"killed":  {func(w *world) { delete(w.gates, "g2") }, Whole / 3, Whole / 2},
		"stopped": {func(w *world) { w.gates["g2"].Leave(); w.say("g2"); w.deliverAll(); delete(w.gates, "g2") }, Whole / 2, Whole / 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, 5*time.Minute)
			for _, name := range []string{"g0", "g1", "g2"} {
				w.start(name)
			}
			w.settle()
			tc.end(w)
			w.settle()
			if got := w.gates["g0"].Share(); got != tc.soon {
				t.Errorf("soon after: %d, want %d", got, tc.soon)
			}
			for range 12 {
				w.settle()
			}
			if got := w.gates["g0"].Share(); got != tc.atLast {
				t.Errorf("after six minutes: %d, want %d", got, tc.atLast)
			}
			if others := w.gates["g0"].Others(); len(others) != 1 {
				t.Errorf("it still knows %v", others)
			}
		})
	}
}

// When nobody has news any more, everyone has heard what each of the others believes may be in use, and not what he believed
// before others came: whoever is killed then keeps the part it had last.
func TestLoweredBoundsAreNews(t *testing.T) {
	for seed := range uint64(20) {
		w := newWorld(t, seed, 5*time.Minute)
		for _, name := range []string{"g2", "g1", "g0"} {
			w.start(name)
			for range 20 {
				w.now = w.now.Add(time.Second)
				for _, name := range w.names() {
					w.see(name)
					w.step(name)
				}
				w.deliverAll()
			}
		}
		for _, name := range w.names() {
			for other, o := range w.gates[name].others {
				if diff := cmp.Diff(w.gates[other].bounds(), o.word.Bounds); diff != "" {
					t.Fatalf("seed %d: %s has heard of %s (-believed +heard)\n%s", seed, name, other, diff)
				}
			}
		}
	}
}

func (w *world) deliverAll() {
	for len(w.mail) > 0 {
		w.deliver()
	}
}

// A partition that lasts longer than gates are remembered: each side takes the whole; and when it heals, no gate uses more
// than its part once it has heard of the others.
func TestSharesAfterALongPartition(t *testing.T) {
	w := newWorld(t, 1, 5*time.Minute)
	for _, name := range []string{"g0", "g1"} {
		w.start(name)
	}
	w.settle()
	w.side["g1"] = 1
	for range 400 {
		w.now = w.now.Add(time.Second)
		for _, name := range w.names() {
			w.see(name)
			w.gates[name].Step(w.now)
		}
	}
	for _, name := range w.names() {
		if got := w.gates[name].Share(); got != Whole {
			t.Errorf("%s alone has %d", name, got)
		}
	}
	w.side["g1"] = 0
	for _, name := range w.names() {
		w.see(name)
		w.gates[name].Step(w.now)
	}
	w.check("contact")
	w.settle()
	if got := w.total(); got != Whole {
		t.Errorf("together they have %d", got)
	}
}

func TestSharesOfOneGateAlone(t *testing.T) {
	s := NewShares("a", time.Minute, time.Unix(1, 0))
	s.Step(time.Unix(1, 0))
	if s.Share() != Whole {
		t.Errorf("a gate alone has %d of %d", s.Share(), Whole)
	}
}
