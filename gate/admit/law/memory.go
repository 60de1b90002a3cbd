package law

import (
	"math"
	"time"
)

const (
	// An API server holds a few bytes for each byte of an answer: the objects it was made from, the encoder's buffers, and
	// what the collector has not come to yet, which is as much again.
	factorFirst = 4.0
	factorLeast = 0.5
	factorMost  = 30.0
	peakFades   = 60.0     // seconds: what Go gives back to the system lags behind by about as much
	unbounded   = 2.0      // times what a quiet API server holds, where nobody says how much it may
	ample       = 2.5      // times what a quiet API server holds, however much it may: more LISTs at once than its processors can encode get nothing done sooner
	perCPU      = 64 << 20 // bytes of LISTs in flight that keep one processor at work, whatever a quiet API server holds
	tightRatio  = 1.2      // of the target: seats fall as well
)

// memory is how many bytes of LISTs one API server can take. Resident memory reacts late, and what Go's heap once took it
// gives back over minutes, though it is free; so the bound comes from what a byte of an answer has been seen to cost, and
// resident memory by itself closes only what grows beyond its target.
type memory struct {
	bytes    float64 // what may be in flight
	factor   float64 // resident bytes for each byte in flight
	quiet    float64 // what it holds without LISTs
	resident float64
	target   float64
	peak     float64 // bytes in flight at their most, fading
	flown    time.Time
	calm     time.Duration // how long it has been quiet
	cut      float64       // 0–1, of the bound, while memory is over its target
	growing  bool
	tight    bool
}

// held takes how many bytes are in flight.
func (m *memory) held(now time.Time, bytes float64) {
	seconds := min(max(0, now.Sub(m.flown).Seconds()), 5)
	if m.flown.IsZero() {
		seconds = 0
	}
	m.flown = now
	m.peak = max(bytes, m.peak*math.Exp(-seconds/peakFades))
}

// blind is the bound while nothing is said: what was found before, or little.
func (m *memory) blind(c *Config) {
	m.calm, m.growing = 0, false
	if m.bytes == 0 {
		m.bytes = 4 * c.ListBytesFloor
	}
}

func (m *memory) look(r *Reading, all *round, quiet bool) {
	if r.Resident == 0 {
		m.blind(all.config)
		return
	}
	if m.factor == 0 {
		m.factor = factorFirst
	}
	if m.quiet == 0 {
		m.quiet = r.Resident
	}
	if m.cut == 0 {
		m.cut = 1
	}
	grown := r.Resident - m.resident
	m.growing = m.resident > 0 && grown > 0.03*r.Resident // more than one reading differs from the next by chance
	m.resident = r.Resident
	m.settle(r, quiet)

	m.target = unbounded * m.quiet
	if r.MemoryBound > 0 {
		m.target = min(all.config.Memory*r.MemoryBound, max(ample*m.quiet, m.quiet+m.factor*perCPU*r.CPUBound))
	}
	m.learn(r, all)
	over := m.resident / m.target
	m.tight = r.MemoryBound > 0 && m.resident > tightRatio*all.config.Memory*r.MemoryBound
	switch {
	case over > 1.1 && m.growing:
		m.cut = max(0.05, m.cut*0.6)
	case over < 1:
		m.cut = min(1, m.cut+0.1*r.Over.Seconds())
	}
	m.bytes = max(all.config.ListBytesFloor, m.cut*(m.target-m.quiet)/m.factor)
}

// settle keeps what a quiet API server holds: less is believed, more only after minutes without LISTs, because what is
// left of them looks the same.
func (m *memory) settle(r *Reading, quiet bool) {
	if quiet && m.peak < 1<<20 {
		m.calm += r.Over
	} else {
		m.calm = 0
	}
	switch {
	case r.Resident < m.quiet:
		m.quiet = r.Resident
	case !r.Started.IsZero() && r.At.Sub(r.Started) < 2*time.Minute && quiet && m.peak < 1<<20:
		m.quiet = r.Resident // its caches fill
	case m.calm > 2*time.Minute:
		m.quiet += (r.Resident - m.quiet) * (1 - math.Exp(-r.Over.Seconds()/120))
	}
}

// learn keeps what a byte in flight costs: more is believed when memory grows, less over a minute of use.
func (m *memory) learn(r *Reading, all *round) {
	if m.peak < all.config.ListBytesFloor/2 {
		return
	}
	sample := (m.resident - m.quiet) / m.peak
	switch {
	case sample > m.factor && m.growing:
		m.factor += (sample - m.factor) * 0.5
	case sample < m.factor && m.peak > m.bytes/2:
		m.factor += (sample - m.factor) * (1 - math.Exp(-r.Over.Seconds()/60))
	}
	m.factor = min(max(m.factor, factorLeast), factorMost)
}

// pressure is 1 where the seats fall too.
func (m *memory) pressure() float64 {
	if m.target <= 0 {
		return 0
	}
	p := m.resident / m.target / tightRatio
	if !m.growing || !m.tight {
		p = min(p, 0.99) // held, and free: Go gives it back in time
	}
	return p
}
