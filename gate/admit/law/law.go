package law

import (
	"math"
	"slices"
	"time"
)

const (
	usedRatio = 0.8 // of the limit, at which it is used
	// inUseRatio is the part of the bytes of LISTs from which requests may be waiting for memory, and the part of the limit that
	// has to be held for them to count as use then: what waits for memory holds few seats, and more seats do not help it. What
	// waits otherwise is use however little is held: of 25 seats a level has 13, and a LIST of nine waits while one runs.
	inUseRatio = 0.4

	slowOver = 4.0 // times as long as expected is too long
	slowWell = 2.0 // is well; between the two nothing moves

	plainlyWell = 0.75 // of the pressure at which the limit falls, of every signal

	passiveReaction = 3 * time.Second
	effectWithin    = 15 * time.Second // a fall that has taken no effect by then is taken to have
	maxGap          = time.Second      // between two ticks; more is a clock that jumped, or a process that stood still
)

// Law is the state of one control plane's limit. It is not safe for concurrent use.
type Law struct {
	config  Config
	ticked  time.Time
	window  window
	servers map[string]*server
	settle  settling // of falls that requests told, which fall on all servers
	latency efficacy
	fell    time.Time
	limit   float64
}

// New is a law at its initial limit.
func New(c Config) *Law {
	c.setDefaults()
	return &Law{config: c, servers: map[string]*server{}, limit: c.Initial}
}

// settling is the time after a fall in which nothing is concluded.
type settling struct {
	pending bool // requests let in before it still run
	fell    time.Time
	effect  time.Time
}

func (s *settling) fall(now time.Time) { s.pending, s.fell = true, now }

// step ends the wait when no more seats are held than the limit has, and is true when it does.
func (s *settling) step(now time.Time, within bool) bool {
	if s.pending && (within || now.Sub(s.fell) > effectWithin) {
		s.pending, s.effect = false, now
		return true
	}
	return false
}

// Tick decides; it is to be called about four times a second, with a time that does not go back. When it does, or jumps,
// nothing is concluded from the jump.
func (l *Law) Tick(now time.Time, e Evidence) Decision {
	elapsed := now.Sub(l.ticked)
	if l.ticked.IsZero() || elapsed < 0 || elapsed > 10*maxGap {
		l.jumped(now)
		elapsed = 0
	}
	l.ticked = now
	elapsed = min(elapsed, maxGap)
	e.Passive = e.Passive.clean()
	l.window.add(elapsed, &e.Passive)

	servers, serving := l.meet(e.Servers)
	use := l.window.use(l.limit, e.Passive.ListBytes > inUseRatio*memoryOf(servers))
	within := e.Passive.SeatsInUse <= l.limit*1.02
	if l.settle.step(now, within) {
		l.window.forget()
	}
	held := l.held(now, &e, servers)
	for i, s := range servers {
		if s.settle.step(now, within) {
			l.window.forget()
		}
		s.look(now, e.Servers[i].Reading, &round{
			config: &l.config, window: &l.window, passive: &e.Passive, serving: serving, mean: mean(servers), used: use, held: held, quiet: use < 0.5,
		})
		if s.fellAt == now {
			l.fell = now
		}
	}
	l.listen(now, servers, serving)
	return l.decide(now, &e, servers, serving, use)
}

// jumped forgets what depends on how much time has passed.
func (l *Law) jumped(now time.Time) {
	l.window = window{}
	l.settle = settling{effect: now}
	l.latency = efficacy{}
	l.fell = time.Time{}
	for _, s := range l.servers {
		s.settle = settling{effect: now}
		s.latency = efficacy{}
		s.fellAt = time.Time{}
		if s.read.After(now) {
			s.read = now
		}
	}
}

// meet finds the state of the servers, and how many serve. When none does, all are taken to: where requests are tried then
// is decided elsewhere, and how many of them is not a matter of load.
func (l *Law) meet(all []Server) (servers []*server, serving int) {
	present := map[string]bool{}
	for i := range all {
		present[all[i].Name] = true
		s := l.servers[all[i].Name]
		if s == nil {
			s = newServer(all[i].Name, l.config.Initial/float64(len(all)))
			l.servers[s.name] = s
		}
		s.serving = all[i].Serving
		if s.serving {
			serving++
		}
		servers = append(servers, s)
	}
	for name := range l.servers {
		if !present[name] {
			delete(l.servers, name)
		}
	}
	if serving == 0 {
		for _, s := range servers {
			s.serving = true
		}
		serving = len(servers)
	}
	return servers, serving
}

// memoryOf is how many bytes of LISTs may be in flight.
func memoryOf(servers []*server) float64 {
	sum := 0.0
	for _, s := range servers {
		if s.serving {
			sum += s.memory.bytes
		}
	}
	return sum
}

// mean is the seats of a serving server.
func mean(servers []*server) float64 {
	sum, n := 0.0, 0.0
	for _, s := range servers {
		if s.serving {
			sum, n = sum+s.seats, n+1
		}
	}
	return max(sum, 1e-9) / max(n, 1)
}

// held is what speaks against a rise of any server's part; "" is nothing. Requests go where the fewest seats are held: what
// one part rises by comes in equal parts to all servers, those that say nothing and those that have too much already.
func (l *Law) held(now time.Time, e *Evidence, servers []*server) Signal {
	someone, late := false, false
	for i, s := range servers {
		r := e.Servers[i].Reading
		s.fresh = isFresh(now, r, l.config.StaleAfter)
		someone = someone || e.Servers[i].Serving
		late = late || s.serving && (!s.fresh || now.Sub(r.At) > lateness(r.Over))
	}
	if !someone || late {
		return Gone
	}
	for _, signal := range Signals {
		if slices.ContainsFunc(servers, func(s *server) bool { return s.serving && s.pressures[signal] >= 1 && len(servers) > 1 }) {
			return signal
		}
	}
	slow, known := l.window.slowness()
	most := slowWell
	if l.idle(servers) {
		// What waits is not work: a LIST for a cache to be as fresh as etcd, some 100 ms after a restart. More of them at once
		// wait no longer.
		most = slowOver
	}
	switch {
	case l.window.timedOut() >= 0.01, l.window.errors() >= errorsOver:
		return TimedOut
	case l.window.tooMany() >= 0.01:
		return Rejections
	case known && slow > most:
		return Latency
	}
	return ""
}

// idle is whether all that serve say that they have processors to spare.
func (l *Law) idle(servers []*server) bool {
	return !slices.ContainsFunc(servers, func(s *server) bool { return s.serving && (!s.cpuKnown || s.cpu >= riseCPU(&l.config)) })
}

// lateness is the age from which a reading is no ground for more: the one after it should have come.
func lateness(over time.Duration) time.Duration { return over*5/2 + time.Second }

// listen lets the limit fall by what requests tell. While an API server says that its processors are what is short, its own
// word decides, and slowness says how short.
func (l *Law) listen(now time.Time, servers []*server, serving int) {
	if l.settle.pending || now.Sub(l.settle.effect) < passiveReaction || !l.window.enough() {
		return
	}
	factor := 1.0
	if r := l.window.timedOut(); r >= timedOutOver {
		factor = min(factor, 0.7)
	}
	if r := l.window.tooMany(); r >= tooManyOver {
		factor = min(factor, 0.85)
	}
	bound := slices.ContainsFunc(servers, func(s *server) bool { return s.serving && s.fresh && s.pressures[CPU] > s.wellCPU(&l.config) })
	if slow, known := l.window.slowness(); known && slow > slowOver && !bound {
		if l.latency.mayFall(now, slow) {
			factor = min(factor, max(0.6, slowOver/slow))
		}
	}
	if factor == 1 {
		return
	}
	l.settle.fall(now)
	l.fell = now
	for _, s := range servers {
		s.fallTo(now, max(s.seats*factor, min(s.seats, l.config.Initial/2/float64(max(1, serving)))))
	}
}

// finite is x, or 0 for what is no number.
func finite(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return x
}

// amount is x when it is a number that can be an amount, else 0.
func amount(x float64) float64 { return max(0, finite(x)) }
