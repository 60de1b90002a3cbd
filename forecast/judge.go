package forecast

import (
	"fmt"
	"math"
)

// Outcome is Pass, Fail or Unknown, as of any verdict.
type Outcome string

// The outcomes. Unknown never advances a rollout.
const (
	Pass    Outcome = "Pass"
	Fail    Outcome = "Fail"
	Unknown Outcome = "Unknown"
)

// Room is what there is of a kind, and what others take of it already.
type Room struct {
	Capacity float64 `json:"capacity"`
	// Used is by everybody but the component.
	Used float64 `json:"used"`
	// Advisory kinds can fail a change and not hold one back: what is counted for whole API servers only is too coarse on a few
	// nodes to bound what all would cost.
	Advisory bool `json:"advisory,omitempty"`
}

// Capacity is what a cluster can take.
type Capacity struct {
	Kinds map[Kind]Room `json:"kinds"`
	// MaxUtilization is the share of the room that others leave which one component may take, default 0.6.
	MaxUtilization float64 `json:"maxUtilization"`
}

// DefaultMaxUtilization leaves what is beyond the model: storms, restarts, growth until the next look.
const DefaultMaxUtilization = 0.6

// clearly is how many times over the bound a mean must be to fail while its interval reaches below the bound. One that reaches
// down to nothing is not told from no cost at all, and says nothing however large its mean.
const clearly = 2

// Share is one kind against its room.
type Share struct {
	Kind Kind `json:"kind"`
	// Mean, Lower and Upper are shares of the room that others leave; the bound is the capacity's MaxUtilization.
	Mean    float64 `json:"mean"`
	Lower   float64 `json:"lower"`
	Upper   float64 `json:"upper"`
	Room    float64 `json:"room"`
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason"`
}

// Judgement is a verdict with its figures.
type Judgement struct {
	Outcome Outcome `json:"outcome"`
	// Reason is a sentence with figures, of the kind that decides.
	Reason string  `json:"reason"`
	Bound  float64 `json:"bound"`
	Shares []Share `json:"shares"`
}

// Judge holds a prediction against a cluster's capacity. The kind that is worst relative to its room decides. It fails when
// even the lower bound is over, or the mean is twice over and the lower bound is more than nothing, or the component earned refusals; it passes when the upper bound is
// within; else nothing is known, and what is missing is said.
func Judge(p Prediction, capacity Capacity) Judgement {
	j := Judgement{Bound: capacity.MaxUtilization}
	if j.Bound == 0 {
		j.Bound = DefaultMaxUtilization
	}
	judged := false
	worst := math.Inf(-1)
	var decides *Share
	for _, kind := range Kinds() {
		room, has := capacity.Kinds[kind]
		interval, predicted := p.Kinds[kind]
		if !has || !predicted || room.Capacity <= 0 {
			continue
		}
		if burst, ok := p.Startup[kind]; ok && p.At.StartRate > 0 {
			interval = interval.plus(burst, p.At.StartRate)
		}
		s := share(kind, interval, room, j.Bound)
		j.Shares = append(j.Shares, s)
		if room.Advisory && s.Outcome != Fail {
			continue
		}
		judged = true
		if rank := s.rank(); rank > worst {
			worst, decides = rank, &s
		}
	}
	switch {
	case p.Earned != "":
		j.Outcome, j.Reason = Fail, p.Earned+": it asks for more than it gets already"
	case p.Unknown != "":
		j.Outcome, j.Reason = Unknown, p.Unknown
	case !judged:
		j.Outcome, j.Reason = Unknown, "no kind of cost has both a prediction and a capacity"
	default:
		j.Outcome, j.Reason = decides.Outcome, decides.Reason
		if p.Untested && j.Outcome == Pass {
			j.Outcome = Unknown
			j.Reason = "two steps do not tell a straight line from one that bends upwards: measure it without the component, or on a third step; " + j.Reason
		}
	}
	return j
}

// plus adds what starts cost at a rate.
func (i Interval) plus(burst Interval, rate float64) Interval {
	mean := i.Mean + rate*burst.Mean
	// Both intervals are about independent errors: their halves add up as squares.
	i.Upper = mean + math.Hypot(i.Upper-i.Mean, rate*(burst.Upper-burst.Mean))
	i.Lower = math.Max(0, mean-math.Hypot(i.Mean-i.Lower, rate*(burst.Mean-burst.Lower)))
	i.Mean = mean
	if burst.Unbounded && !i.Unbounded {
		i.Unbounded, i.Unknown = true, burst.Unknown
	}
	return i
}

func share(kind Kind, i Interval, room Room, bound float64) Share {
	left := math.Max(0, room.Capacity-room.Used)
	s := Share{Kind: kind, Room: left}
	if left == 0 {
		s.Outcome = Fail
		s.Reason = fmt.Sprintf("others take all of the %s %s there are", Number(room.Capacity), kind)
		if i.Mean == 0 && i.Lower == 0 {
			s.Outcome = Unknown
		}
		return s
	}
	s.Mean, s.Lower, s.Upper = i.Mean/left, i.Lower/left, i.Upper/left
	figures := fmt.Sprintf("%s%s of %s (%s–%s), %.0f %% of the %s that others leave", Number(i.Mean), space(kind.Unit()), kind, Number(i.Lower), Number(i.Upper), 100*s.Mean, Number(left))
	if i.Unbounded {
		s.Upper = 0
		figures = fmt.Sprintf("at least %s%s of %s, %.0f %% of the %s that others leave", Number(i.Lower), space(kind.Unit()), kind, 100*s.Lower, Number(left))
	}
	limit := fmt.Sprintf("%.0f %%", 100*bound)
	switch {
	case s.Lower > bound:
		s.Outcome, s.Reason = Fail, fmt.Sprintf("%s: even its lower bound is over %s", figures, limit)
	case s.Mean > clearly*bound && s.Lower > 0 && !i.Unbounded:
		s.Outcome, s.Reason = Fail, fmt.Sprintf("%s: over twice the %s there may be", figures, limit)
	case i.Unbounded:
		s.Outcome, s.Reason = Unknown, i.Unknown
	case s.Upper <= bound:
		s.Outcome, s.Reason = Pass, fmt.Sprintf("%s: its upper bound is within %s", figures, limit)
	case i.Unknown != "":
		s.Outcome, s.Reason = Unknown, fmt.Sprintf("%s: %s", figures, i.Unknown)
	default:
		s.Outcome, s.Reason = Unknown, fmt.Sprintf("%s: its upper bound, %.0f %%, is over %s and its lower one is not; more samples narrow it", figures, 100*s.Upper, limit)
	}
	return s
}

// rank orders shares by how bad they are: any failure before anything unknown, before the rest.
func (s *Share) rank() float64 {
	const apart = 1e9
	switch s.Outcome {
	case Fail:
		return 2*apart + math.Min(s.Mean, apart/2)
	case Unknown:
		return apart + math.Min(math.Max(s.Upper, s.Mean), apart/2)
	}
	return math.Min(s.Upper, apart/2)
}

func space(unit string) string {
	if unit == "" || unit[0] == '/' {
		return unit
	}
	if unit == "seats" {
		return ""
	}
	return " " + unit
}

// Number prints three digits, with k, M or G.
func Number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e9:
		return fmt.Sprintf("%.3gG", v/1e9)
	case a >= 1e6:
		return fmt.Sprintf("%.3gM", v/1e6)
	case a >= 1e4:
		return fmt.Sprintf("%.3gk", v/1e3)
	}
	return fmt.Sprintf("%.3g", v)
}
