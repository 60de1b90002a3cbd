package law

import (
	"cmp"
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
