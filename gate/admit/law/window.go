package law

import (
	"math"
	"time"
)

// What requests tell is bad from here on: parts of those that ended.
const (
	timedOutOver = 0.05
	tooManyOver  = 0.02
	errorsOver   = 0.2 // an error need not come of load: it keeps the limit from rising, and ends a recovery's growth
	fewest       = 5.0 // ended requests, below which nothing is concluded
)

func (p Passive) clean() Passive {
	p.Finished = amount(p.Finished)
	p.Slowness = min(amount(p.Slowness), 1e6)
	p.TimedOut, p.Errors, p.TooMany = amount(p.TimedOut), amount(p.Errors), amount(p.TooMany)
	p.SeatsInUse, p.SeatsWaiting = amount(p.SeatsInUse), amount(p.SeatsWaiting)
	p.ListBytes = amount(p.ListBytes)
	return p
}

// window is what requests told lately: sums that fade, so that a tick with three requests does not outweigh one with three
// hundred.
type window struct {
	inUse, waiting fading // means
	slow, weight   float64

	finished, timedOuts, refused, failed float64
}

// fading is a mean that forgets.
type fading struct{ sum, weight float64 }

func (f *fading) add(x, weight, keep float64) {
	f.sum, f.weight = f.sum*keep+x*weight, f.weight*keep+weight
}

func (f *fading) mean() float64 {
	if f.weight <= 0 {
		return 0
	}
	return f.sum / f.weight
}

func (w *window) add(elapsed time.Duration, p *Passive) {
	t := elapsed.Seconds()
	w.inUse.add(p.SeatsInUse, max(t, 1e-3), math.Exp(-t/1.5))
	w.waiting.add(p.SeatsWaiting, max(t, 1e-3), math.Exp(-t/1.5))
	keep := math.Exp(-t / 2)
	w.slow, w.weight = w.slow*keep, w.weight*keep
	if p.Slowness > 0 {
		w.slow += p.Slowness * p.Finished
		w.weight += p.Finished
	}
	keep = math.Exp(-t / 5)
	w.finished = w.finished*keep + p.Finished
	w.timedOuts = w.timedOuts*keep + min(p.TimedOut, p.Finished)
	w.refused = w.refused*keep + min(p.TooMany, p.Finished)
	w.failed = w.failed*keep + min(p.Errors, p.Finished)
}

// slowness is how many times as long as expected requests took, and whether that is known.
func (w *window) slowness() (times float64, known bool) {
	if w.weight < 1 {
		return 0, false
	}
	return w.slow / w.weight, true
}

// forget forgets what was so before a fall took effect.
func (w *window) forget() {
	w.slow, w.weight = 0, 0
	w.finished, w.timedOuts, w.refused, w.failed = 0, 0, 0, 0
}

func (w *window) enough() bool      { return w.finished >= fewest }
func (w *window) timedOut() float64 { return w.part(w.timedOuts) }
func (w *window) tooMany() float64  { return w.part(w.refused) }
func (w *window) errors() float64   { return w.part(w.failed) }

func (w *window) part(n float64) float64 {
	if !w.enough() {
		return 0
	}
	return n / w.finished
}

// use is the part of the limit that is used: held, or waited for, unless what is waited for is memory while few seats are held.
func (w *window) use(limit float64, forMemory bool) float64 {
	held := w.inUse.mean() / limit
	if held < inUseRatio && forMemory {
		return held
	}
	return held + w.waiting.mean()/limit
}

// efficacy keeps a limit from falling on a latency that it is not the cause of.
type efficacy struct {
	before   float64 // what the latency was at the last fall
	useless  int     // how many falls in a row did not help
	notUntil time.Time
	patience time.Duration
}

const (
	helped      = 0.9 // of the latency before, or less, is left when a fall helped
	maxUseless  = 2
	patienceMin = time.Minute
	patienceMax = 10 * time.Minute
)

// mayFall is whether a fall on this latency may help, and takes it that the limit then falls.
func (e *efficacy) mayFall(now time.Time, latency float64) bool {
	if now.Before(e.notUntil) {
		return false
	}
	if e.before > 0 && latency > e.before*helped {
		e.useless++
	} else {
		e.useless, e.patience = 0, 0
	}
	e.before = latency
	if e.useless < maxUseless {
		return true
	}
	e.patience = min(max(2*e.patience, patienceMin), patienceMax)
	e.notUntil = now.Add(e.patience)
	e.before, e.useless = 0, maxUseless-1
	return false
}

// well forgets, when the latency is what it should be.
func (e *efficacy) well() { *e = efficacy{} }
