package verdict

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Level is one figure of one cluster's control plane, as it was and as it is: a latency, a share of its processors. Periods
// are looks.
type Level struct {
	// Check is the check's name, Name and Unit are as in Figure.
	Check, Name, Unit string
	// Bound is what it may be at most; 0: only its growth is judged.
	Bound float64
	// Before are its values in the looks before the change came to this cluster, Now those since the step began, newest
	// last. Nothing in Now is no data.
	Before, Now []float64
	// ControlBefore and ControlNow are those of clusters without the change, in the same looks, as means over them; empty
	// when there are none. They tell the change from the time of day.
	ControlBefore, ControlNow []float64
	// At is when the newest was read.
	At time.Time
	// Usage is true for what is used and not suffered, as processors: a change may cost something, and whether all of it will
	// fit is the scale gate's to say. Only its bound is judged.
	Usage bool
	// Own is the part of the newest value that the change's own requests cause, when that is measured, as a ratio; NaN
	// when it is not.
	Own float64
}

// growthFrom is the share of its bound below which growth is not looked at: twice of nearly nothing is nearly nothing.
const growthFrom = 0.2

// growthSignificance is the probability of chance above which growth is not believed.
const growthSignificance = 0.01

// Judge says whether a level is above its bound, or on its way there because of the change. growth is how much of itself it may
// grow. A control plane that was over its bound before the change is Unknown: nothing should move on it, and the change is not
// to blame.
func (l Level) Judge(growth float64) Finding {
	f := Finding{Check: l.Check, At: l.At, Fresh: len(l.Now) > 0}
	if len(l.Now) == 0 {
		return f.say(Unknown, "no data on "+l.Name)
	}
	now := l.Now[len(l.Now)-1]
	f.Figures = []Figure{{Name: l.Name, Value: now, Bound: l.Bound, Unit: l.Unit}}
	if len(l.Before) > 0 {
		f.Figures = append(f.Figures, Figure{Name: l.Name + " before", Value: quantile(l.Before, 0.5), Unit: l.Unit})
	}
	others, known := l.others()
	if l.Bound > 0 && now > l.Bound {
		f.Attributed = l.Own > 0.5 || len(l.Before) > 0 && known && others <= 1+growth
		reason := fmt.Sprintf("%s is %s, bound %s", l.Name, inUnit(now, l.Unit), inUnit(l.Bound, l.Unit))
		switch {
		case len(l.Before) > 0 && quantile(l.Before, 0.75) > l.Bound:
			f.Attributed = false
			return f.say(Unknown, reason+"; it was above it before the change")
		case known && others > 1+growth && !(l.Own > 0.5):
			return f.say(Unknown, fmt.Sprintf("%s; clusters without the change grew ×%s as well", reason, short(others)))
		}
		return f.say(Fail, reason)
	}
	if why, grew := l.grew(growth, others, known); grew {
		f.Attributed = known || l.Own > 0.5
		return f.say(Fail, why)
	}
	return f.say(Pass, fmt.Sprintf("%s is %s%s", l.Name, inUnit(now, l.Unit), l.bounded()))
}

func (l Level) bounded() string {
	if l.Bound == 0 {
		return ""
	}
	return ", bound " + inUnit(l.Bound, l.Unit)
}

// others is by how much the clusters without the change grew.
func (l Level) others() (float64, bool) {
	if len(l.ControlBefore) == 0 || len(l.ControlNow) == 0 {
		return 1, false
	}
	r := ratioOf(mean(l.ControlNow), mean(l.ControlBefore))
	if math.IsInf(r, 0) || r < 0 {
		return 1, false
	}
	return r, true
}

// grew says whether the level grew by more than it may, after what the others grew by is taken out.
func (l Level) grew(growth, others float64, known bool) (string, bool) {
	if len(l.Before) == 0 || l.Usage {
		return "", false
	}
	now := quantile(l.Now, 0.5)
	if l.Bound > 0 && now < growthFrom*l.Bound {
		return "", false
	}
	alike := make([]float64, len(l.Now))
	for i, v := range l.Now {
		alike[i] = v / max(others, 1e-9)
	}
	before := mean(l.Before)
	ratio := ratioOf(mean(alike), before)
	if ratio <= 1+growth {
		return "", false
	}
	if _, p := MannWhitney(alike, l.Before, Greater); p > growthSignificance {
		return "", false
	}
	why := fmt.Sprintf("%s grew from %s to %s", l.Name, inUnit(before, l.Unit), inUnit(mean(l.Now), l.Unit))
	if known {
		why += fmt.Sprintf(" while clusters without the change grew ×%s", short(others))
	}
	return why, true
}

// Trend is a level over hours.
type Trend struct {
	Level
	// Every is the time between two values, of those whose times are not given.
	Every time.Duration
	// NowTimes, BeforeTimes and ControlTimes are when the values of Now, Before and ControlNow were measured, one for each, which need
	// not be equally far apart; nil: Every.
	NowTimes, BeforeTimes, ControlTimes []time.Time
	// Ahead is how far it may be thought on.
	Ahead time.Duration
}

// Judge says whether the level has been climbing since the change came, steadily enough to be no chance, and so fast that it
// passes its bound within Ahead. This is what a leak looks like for hours before anything fails.
func (t Trend) Judge() Finding {
	f := Finding{Check: t.Check, At: t.At, Fresh: len(t.Now) > 0}
	if len(t.Now) < 8 {
		return f.say(Pass, fmt.Sprintf("%d values of %s: too few for a trend", len(t.Now), t.Name))
	}
	now := hours(t.NowTimes, len(t.Now), t.Every)
	slope, p := climb(t.Now, now)
	others := 0.0
	known := len(t.ControlNow) >= 8
	if known {
		others, _ = climb(t.ControlNow, hours(t.ControlTimes, len(t.ControlNow), t.Every))
		// A busy day makes every request slower in proportion: of a cluster that is slower, it takes more.
		if elsewhere := quantile(t.ControlNow, 0.5); t.Unit == "s" && elsewhere > 0 {
			others *= max(1, quantile(t.Now, 0.5)/elsewhere)
		}
	}
	was := 0.0
	if len(t.Before) >= 8 {
		was, _ = climb(t.Before, hours(t.BeforeTimes, len(t.Before), t.Every))
	}
	own := slope - max(others, was, 0)
	last := quantile(t.Now[len(t.Now)*3/4:], 0.5)
	then := last + own*t.Ahead.Hours()
	f.Figures = []Figure{{Name: t.Name + " per hour", Value: own, Unit: t.Unit}, {Name: t.Name + " then", Value: then, Bound: t.Bound, Unit: t.Unit}}
	// What grew since the window began must be a tenth of what there was: a heap that fills until the next collection does.
	grew := own * (now[len(now)-1] - now[0])
	if own > 0 && p <= growthSignificance && then > t.Bound && t.Bound > 0 && grew > 0.1*quantile(t.Now[:len(t.Now)/4+1], 0.5) {
		f.Attributed = known || len(t.Before) >= 8
		left := time.Duration((t.Bound - last) / own * float64(time.Hour))
		return f.say(Fail, fmt.Sprintf("%s climbs by %s an hour and passes %s in %s", t.Name, inUnit(own, t.Unit), inUnit(t.Bound, t.Unit), max(left, 0).Round(time.Second)))
	}
	return f.say(Pass, fmt.Sprintf("%s moves by %s an hour", t.Name, inUnit(own, t.Unit)))
}

// hours are times as hours since the first of them.
func hours(times []time.Time, n int, every time.Duration) []float64 {
	h := make([]float64, n)
	for i := range h {
		if len(times) == n {
			h[i] = times[i].Sub(times[0]).Hours()
		} else {
			h[i] = float64(i) * every.Hours()
		}
	}
	return h
}

// climb is Theil and Sen's slope, the median of all pairs', an hour, and the probability of chance by Mann and Kendall's test for an
// upward trend. Neither minds single wild values.
func climb(v, hours []float64) (slope, p float64) {
	// Pairs grow with the square: a few hundred values say what thousands do.
	const most = 200
	stride := (len(v) + most - 1) / most
	var thin, at []float64
	for i := 0; i < len(v); i += stride {
		thin, at = append(thin, v[i]), append(at, hours[i])
	}
	var slopes []float64
	s := 0
	for i := range thin {
		for j := i + 1; j < len(thin); j++ {
			d, apart := thin[j]-thin[i], at[j]-at[i]
			if apart <= 0 {
				continue // of two at the same time none is later
			}
			slopes = append(slopes, d/apart)
			switch {
			case d > 0:
				s++
			case d < 0:
				s--
			}
		}
	}
	n := float64(len(thin))
	variance := n * (n - 1) * (2*n + 5) / 18
	return quantile(slopes, 0.5), normalTail((float64(s) - 1) / math.Sqrt(variance))
}

// inUnit writes a value for people.
func inUnit(v float64, unit string) string {
	switch unit {
	case "s":
		return time.Duration(v * float64(time.Second)).Round(10 * time.Microsecond).String()
	case "B":
		for _, u := range []struct {
			size float64
			name string
		}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}} {
			if math.Abs(v) >= u.size {
				return fmt.Sprintf("%.1f %s", v/u.size, u.name)
			}
		}
		return fmt.Sprintf("%.0f B", v)
	case "ratio":
		return fmt.Sprintf("%s %%", strings.TrimSuffix(fmt.Sprintf("%.1f", 100*v), ".0"))
	case "":
		return short(v)
	}
	return short(v) + " " + unit
}
