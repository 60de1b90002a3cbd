package choice

import (
	"maps"
	"time"
)

// View is a server's state for those who look: metrics, status, and the one who evens out streams.
type View struct {
	Name    string
	States  [2]State  // by Ability
	Why     [2]Reason // of those that are not in
	Seats   float64
	Streams int
	Penalty float64
	// OutFor is how long it has been out in some respect, 0 when it is not.
	OutFor time.Duration
	Out    [2]map[Reason]int // how often each circuit went out
}

// View returns a server's state.
func (t *Table) View(now time.Time, s *Server) View {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := View{Name: s.Name, Seats: s.busy, Streams: s.streams, Penalty: s.penaltyNow(now)}
	for a := range s.circuits {
		c := &s.circuits[a]
		v.States[a], v.Out[a] = c.state, maps.Clone(c.out)
		if c.state != In {
			v.Why[a] = c.why
		}
		if c.state == Out {
			v.OutFor = max(v.OutFor, now.Sub(c.since))
		}
	}
	return v
}

// Panic counts the requests that were sent although every server was out, and those that were refused.
func (t *Table) Panic() (sent, refused int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.panicked, t.refused
}
