// Package signals reads what the control plane says of itself into typed values: one reader of an API server's metrics
// for everyone who decides or reports on them. It asks nothing and keeps nothing; the caller brings the bytes.
package signals

import (
	"fmt"
	"math"
	"time"
)

// APIServer is one reading of one API server's metrics. Counters count from the process's start, which Started tells
// apart: Since handles a restart in between.
type APIServer struct {
	// Read is when the reading was taken, on the reader's clock.
	Read time.Time
	// Started is the process's start, from its own clock; zero when it does not say.
	Started time.Time
	// CPUSeconds is the processor time used.
	CPUSeconds float64
	// ResidentBytes is the memory held.
	ResidentBytes float64
	// InFlightReadOnly and InFlightMutating are requests executing now, long-running ones left out.
	InFlightReadOnly, InFlightMutating float64
	// QueuedRequests wait in the queues of API Priority and Fairness.
	QueuedRequests float64
	// ExecutingSeats are the seats of API Priority and Fairness in use.
	ExecutingSeats float64
	// Requests is the number of requests finished; Lists are those with verb LIST, TooMany those answered 429.
	Requests, Lists, TooMany float64
	// Rejected is the number of requests API Priority and Fairness turned away.
	Rejected float64
}

// InFlight is every request executing now.
func (s APIServer) InFlight() float64 { return s.InFlightReadOnly + s.InFlightMutating }

// Change is what happened between two readings of the same API server.
type Change struct {
	Seconds                                        float64
	CPUSeconds, Requests, Lists, TooMany, Rejected float64
	// Restarted is true when the process was another one at the earlier reading: the counters then tell what
	// happened since its start, and what the dead one did after the earlier reading is lost.
	Restarted bool
}

// Since returns what happened between an earlier reading and this one.
func (s APIServer) Since(earlier APIServer) Change {
	c := Change{Seconds: s.Read.Sub(earlier.Read).Seconds()}
	// The start time is a float of seconds and may differ in its last digits between two readings of one process;
	// a counter that went backwards is proof by itself.
	c.Restarted = math.Abs(s.Started.Sub(earlier.Started).Seconds()) > 1 || s.CPUSeconds < earlier.CPUSeconds
	if c.Restarted {
		earlier = APIServer{}
	}
	c.CPUSeconds = s.CPUSeconds - earlier.CPUSeconds
	c.Requests = s.Requests - earlier.Requests
	c.Lists = s.Lists - earlier.Lists
	c.TooMany = s.TooMany - earlier.TooMany
	c.Rejected = s.Rejected - earlier.Rejected
	return c
}

// ListsPerSecond is the rate of LISTs, or 0 over no time.
func (c Change) ListsPerSecond() float64 {
	if c.Seconds <= 0 {
		return 0
	}
	return c.Lists / c.Seconds
}

// CPU is the number of processors in use, or 0 over no time.
func (c Change) CPU() float64 {
	if c.Seconds <= 0 {
		return 0
	}
	return c.CPUSeconds / c.Seconds
}

// A MissingError says which metric an answer lacks: it is then not an API server's, or one of another age, and a
// reading with a silent zero in it would be worse than none.
type MissingError struct{ Metric string }

// Error implements error.
func (e *MissingError) Error() string {
	return fmt.Sprintf("the metrics do not contain %s: not an API server's", e.Metric)
}
