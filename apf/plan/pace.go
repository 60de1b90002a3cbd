package plan

import (
	"math"
	"time"
)

// Pacing says how the seats may move.
type Pacing struct {
	// Min is the fewest seats of one API server that everyone else is left, ≥ 1.
	Min int
	// Change is the least change worth a write, as a part of what is in force. A smaller one waits for Settle.
	Change float64
	// Quiet is the least time between two writes, Settle the time after which any change is written.
	Quiet, Settle time.Duration
	// Hold is how long the seats stay as they are when their source is silent. Then they double every Relax, up to no
	// ballast: a number that nobody stands by any more must not keep a control plane small.
	Hold, Relax time.Duration
}

// DefaultPacing writes at most every 2 s, and follows a number that moves by less than a tenth every half minute.
var DefaultPacing = Pacing{Min: 10, Change: 0.1, Quiet: 2 * time.Second, Settle: 30 * time.Second, Hold: time.Minute, Relax: 10 * time.Second}

// Pacer decides what is written when. Its methods must not be called concurrently.
type Pacer struct {
	p       Pacing
	inForce int // 0: no ballast
	wrote   time.Time
	heard   time.Time
	relaxed time.Time
	silent  bool
}

// NewPacer begins with no ballast.
func NewPacer(p Pacing, now time.Time) *Pacer { return &Pacer{p: p, heard: now} }

// Decision is what to do now.
type Decision struct {
	// Seats is what everyone else is to have of one API server; full is no ballast.
	Seats int
	// Write is true when that differs enough from what is in force.
	Write bool
	// Silent is true while the source does not say anything; Relaxing when the seats grow for that reason.
	Silent, Relaxing bool
}

// Next decides. wanted is the source's word, ok whether it gave one; full is what everyone else has without a ballast. Seats
// move by at most a factor of two at a time, either way: the levels are written one after the other, and what is between two
// writes should not be far from both.
func (p *Pacer) Next(now time.Time, wanted float64, ok bool, full int) Decision {
	current := p.inForce
	if current == 0 || current > full {
		current = full
	}
	ok = ok && wanted >= 0 && !math.IsInf(wanted, 0) // and no NaN
	d := Decision{Seats: current, Silent: !ok}
	if ok {
		p.heard, p.silent = now, false
		d.Seats = min(max(int(math.Min(wanted, float64(full))), p.p.Min, (current+1)/2), 2*current, full)
	} else if current < full && now.Sub(p.heard) >= p.p.Hold {
		if !p.silent {
			p.silent, p.relaxed = true, time.Time{}
		}
		d.Relaxing = true
		if now.Sub(p.relaxed) < p.p.Relax {
			return d
		}
		d.Seats = min(2*current, full)
	}
	since := now.Sub(p.wrote)
	change := math.Abs(float64(d.Seats-current)) / float64(max(current, 1))
	d.Write = d.Seats != current && since >= p.p.Quiet && (change >= p.p.Change || since >= p.p.Settle || d.Seats == full)
	return d
}

// Wrote says that a decision was carried out.
func (p *Pacer) Wrote(now time.Time, d Decision, full int) {
	p.wrote, p.inForce = now, d.Seats
	if d.Seats >= full {
		p.inForce = 0
	}
	if d.Relaxing {
		p.relaxed = now
	}
}

// InForce is true while everyone else has fewer seats than there are.
func (p *Pacer) InForce() bool { return p.inForce > 0 }

// Reset says that what is in force is not known any more, or is nothing.
func (p *Pacer) Reset(now time.Time) { *p = Pacer{p: p.p, heard: now} }
