package law

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Config is what the law is told once. The zero value of a field other than the limit's three means its default.
type Config struct {
	// Min, Max and Initial bound the seats of all API servers together: 1 ≤ Min ≤ Initial ≤ Max. With Min equal to Max the
	// limit is fixed, and the bytes of LISTs are not.
	Min, Max, Initial float64
	// CPU is the part of an API server's processors that it is to use under load, 0.5–0.95. Default 0.85: what does not
	// come through the gate needs some too. Raising it buys the storm a little and costs everyone else latency.
	CPU float64
	// Memory is the part of an API server's memory that it is to hold under load, 0.3–0.9. Default 0.7: Go's heap grows for
	// up to a whole cycle after the decision that should have stopped it.
	Memory float64
	// ListBytesFloor is how many bytes of LISTs may be in flight at each API server whatever its memory is. Default 16 MiB.
	ListBytesFloor float64
	// StaleAfter is the age at which a reading says nothing any more. Default 12s, a little more than two readings at the
	// slowest rate at which they are taken.
	StaleAfter time.Duration
}

// ConfigOf is the configuration of a limit.
func ConfigOf(l v1alpha1.OverloadLimit) Config {
	return Config{Min: float64(l.Min), Max: float64(l.Max), Initial: float64(l.Initial)}
}

func (c *Config) setDefaults() {
	c.Min = max(1, finite(c.Min))
	c.Max = max(c.Min, finite(c.Max))
	c.Initial = min(max(finite(c.Initial), c.Min), c.Max)
	c.CPU = min(max(cmp.Or(finite(c.CPU), 0.85), 0.5), 0.95)
	c.Memory = min(max(cmp.Or(finite(c.Memory), 0.7), 0.3), 0.9)
	c.ListBytesFloor = max(1, cmp.Or(finite(c.ListBytesFloor), 16<<20))
	c.StaleAfter = cmp.Or(max(0, c.StaleAfter), 12*time.Second)
}

// Evidence is what is known at one tick.
type Evidence struct {
	// Servers are all API servers of the control plane; those that take no requests now too.
	Servers []Server
	// Passive is what became of requests since the tick before.
	Passive Passive
}

// Server is one API server.
type Server struct {
	// Name tells it apart, and is the same at every tick.
	Name string
	// Serving is whether requests go to it.
	Serving bool
	// Reading is the latest of what it says of itself; nil when there is none. The same reading may be given many times.
	Reading *Reading
}

// Reading is what an API server said of itself. What is not known is zero, and does not count.
type Reading struct {
	// At is when it was taken, on the clock of the ticks; Over is the time since the reading before it, over which what
	// happened is counted; 0 for the first.
	At   time.Time
	Over time.Duration
	// Started is the start of the process.
	Started time.Time
	// CPU is the number of processors it used, of CPUBound that it has.
	CPU, CPUBound float64
	// Resident is the memory it holds, of MemoryBound that it may hold; bytes.
	Resident, MemoryBound float64
	// InFlight is the number of requests it executes, those that came past the gate too.
	InFlight float64
	// TooMany and Rejected are answers 429, and requests turned away by API Priority and Fairness, a second.
	TooMany, Rejected float64
	// EtcdLatency is the mean of EtcdRequests requests to etcd over the interval.
	EtcdLatency  time.Duration
	EtcdRequests float64
	// NoLeader is true when its etcd has no leader.
	NoLeader bool
}

// Passive is what requests told between two ticks. Streams are no part of it.
type Passive struct {
	// Finished is the number of requests that ended, however they did.
	Finished float64
	// Slowness is the mean of the time the API server took for them to what is expected of their like on a quiet control
	// plane, weighted by seats or not; 1 is as expected, 0 is not known.
	Slowness float64
	// TimedOut, Errors and TooMany are those of them that got no answer in time, a 5xx, a 429 from an API server.
	TimedOut, Errors, TooMany float64
	// SeatsInUse is the mean of the seats held; SeatsWaiting of those that requests in the queues would hold.
	SeatsInUse, SeatsWaiting float64
	// ListBytes are the predicted bytes of the LISTs in flight, at their most since the tick before.
	ListBytes float64
}

// Signal names what binds the limit.
type Signal string

// The signals.
const (
	CPU        Signal = "cpu"
	Memory     Signal = "memory"
	Etcd       Signal = "etcd"       // etcd is slower than it is on a quiet control plane
	Leader     Signal = "leader"     // etcd has no leader
	Latency    Signal = "latency"    // requests take longer than their like do on a quiet control plane
	TimedOut   Signal = "timed_out"  // requests get no answer
	Rejections Signal = "rejections" // API servers answer 429
	Gone       Signal = "gone"       // API servers do not say how they are
	Unused     Signal = "unused"     // nobody asks for more
	Free       Signal = "free"       // nothing binds: the limit rises
	Bounded    Signal = "bounded"    // Max
)

// Signals are all of them, in the order in which they are named when they bind alike.
var Signals = []Signal{Leader, Memory, CPU, Etcd, TimedOut, Rejections, Latency, Gone, Unused, Free, Bounded}

// Decision is what the control plane can take now.
type Decision struct {
	// Limit is in seats, of all API servers together; Min ≤ Limit ≤ Max.
	Limit float64
	// ListBytes bounds the predicted bytes of the LISTs in flight, at all API servers together. A LIST that is larger than
	// this by itself may go when no other is in flight.
	ListBytes float64
	// Congested is true while what requests take must not be learned from.
	Congested bool
	// Healthy is true while the control plane takes more than it is given; a recovery may go on.
	Healthy bool
	// Signal is what binds now, and Reason says so in words.
	Signal Signal
	Reason string
	// Pressures are by signal how close each is to making the limit fall: at 1 it falls. Signals that are not known are
	// not in it.
	Pressures map[Signal]float64
	// Servers are the parts of each API server, in the order of the evidence; one that takes no requests has its own, which
	// is no part of the sums.
	Servers []Part
}

// Part is one API server's.
type Part struct {
	Name             string
	Seats, ListBytes float64
	// Fresh is whether it says how it is.
	Fresh bool
}

const (
	usedRatio = 0.8 // of the limit, at which it is used
	// inUseRatio is the part of the limit that has to be held for waiting requests to count as use: a LIST of ten seats
	// waits at a limit of nineteen while one runs. What waits for memory holds few seats, and more seats do not help it.
	inUseRatio = 0.4

	slowOver = 4.0 // times as long as expected is too long
	slowWell = 2.0 // is well; between the two nothing moves

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
	use := l.window.use(l.limit)
	within := e.Passive.SeatsInUse <= l.limit*1.02
	if l.settle.step(now, within) {
		l.window.forgetSlowness()
	}
	well := l.passiveWell()
	for i, s := range servers {
		if s.settle.step(now, within) {
			l.window.forgetSlowness()
		}
		s.look(now, e.Servers[i].Reading, &round{
			config: &l.config, window: &l.window, passive: &e.Passive, serving: serving, used: use, well: well, quiet: use < 0.5,
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

// passiveWell is whether nothing that requests tell speaks against a rise.
func (l *Law) passiveWell() bool {
	slow, known := l.window.slowness()
	return !(known && slow > slowWell) && l.window.timedOut() < 0.01 && l.window.tooMany() < 0.01 && l.window.errors() < 0.2
}

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

func (l *Law) decide(now time.Time, e *Evidence, servers []*server, serving int, used float64) Decision {
	d := Decision{Pressures: map[Signal]float64{}}
	floor, ceiling := l.config.Min/float64(max(1, serving)), l.config.Max/float64(max(1, serving))
	fresh, missing := 0, ""
	for _, s := range servers {
		s.seats = min(max(s.seats, floor), ceiling)
		d.Servers = append(d.Servers, Part{Name: s.name, Seats: s.seats, ListBytes: s.memory.bytes, Fresh: s.fresh})
		if !s.serving {
			continue
		}
		d.Limit += s.seats
		d.ListBytes += s.memory.bytes
		if !s.fresh {
			missing = s.name
			continue
		}
		fresh++
		for signal, p := range s.pressures {
			d.Pressures[signal] = max(d.Pressures[signal], p)
		}
	}
	if len(servers) == 0 {
		d.Limit, d.ListBytes = l.limit, l.config.ListBytesFloor
	}
	d.Limit = min(max(d.Limit, l.config.Min), l.config.Max)
	l.limit = d.Limit
	l.passivePressures(d.Pressures)

	known := l.boundKnown(servers)
	_, etcdSlow := d.Pressures[Leader]
	etcdSlow = etcdSlow || d.Pressures[Etcd] > 0.5
	d.Congested = d.Pressures[CPU]*fallCPU(&l.config) > quietCPU || d.Pressures[Memory] > 1 || etcdSlow ||
		!l.fell.IsZero() && now.Sub(l.fell) < 10*time.Second || (!known || fresh < serving) && used > 0.5
	most := 0.0
	for _, signal := range Signals {
		if p := d.Pressures[signal]; p > most {
			most, d.Signal = p, signal
		}
	}
	d.Healthy = len(servers) > 0 && slices.ContainsFunc(e.Servers, func(s Server) bool { return s.Serving }) &&
		most < 1 && l.window.errors() < 0.2
	switch {
	case most >= 1:
		d.Reason = l.words(d.Signal, servers, most)
	case missing != "":
		d.Signal, d.Reason = Gone, fmt.Sprintf("%s does not say how it is: the limit may fall and does not rise", missing)
	case used < usedRatio:
		d.Signal, d.Reason = Unused, fmt.Sprintf("%.0f%% of it is used: it stays", 100*used)
	case d.Limit >= l.config.Max:
		d.Signal, d.Reason = Bounded, "it is at its configured maximum"
	case most > 0.85:
		d.Reason = "it stays: " + l.words(d.Signal, servers, most)
	default:
		d.Signal, d.Reason = Free, "it is used, and nothing is short: it rises"
	}
	return d
}

func (l *Law) boundKnown(servers []*server) bool {
	return !slices.ContainsFunc(servers, func(s *server) bool { _, known := s.pressures[CPU]; return s.serving && !known })
}

func (l *Law) passivePressures(p map[Signal]float64) {
	if !l.window.enough() {
		return
	}
	if slow, known := l.window.slowness(); known {
		p[Latency] = slow / slowOver
	}
	p[TimedOut] = l.window.timedOut() / timedOutOver
	p[Rejections] = max(p[Rejections], l.window.tooMany()/tooManyOver)
}

// words says what a signal's pressure means.
func (l *Law) words(signal Signal, servers []*server, pressure float64) string {
	who, most := "", -1.0
	for _, s := range servers {
		if p, known := s.pressures[signal]; known && s.serving && s.fresh && p > most {
			who, most = s.name, p
		}
	}
	switch signal {
	case CPU:
		return fmt.Sprintf("%s uses %.0f%% of its processors", who, 100*pressure*fallCPU(&l.config))
	case Memory:
		return fmt.Sprintf("%s holds %.0f%% of the memory it is to hold", who, 100*pressure)
	case Etcd:
		s := l.servers[who]
		return fmt.Sprintf("etcd takes %s for %s, %s on a quiet control plane", round3(s.etcd), who, round3(s.etcdBase))
	case Leader:
		return fmt.Sprintf("%s sees no leader in etcd", who)
	case Latency:
		return fmt.Sprintf("requests take %.1f times as long as on a quiet control plane", pressure*slowOver)
	case TimedOut:
		return fmt.Sprintf("%.0f%% of requests get no answer in time", 100*pressure*timedOutOver)
	case Rejections:
		return fmt.Sprintf("API servers answer 429 to %.0f%% of requests", 100*l.window.tooMany())
	}
	return string(signal)
}

func round3(seconds float64) time.Duration {
	return time.Duration(seconds * float64(time.Second)).Round(100 * time.Microsecond)
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
