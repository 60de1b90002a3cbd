package drill

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Verdict is Pass, Fail or Unknown. What was not measured is Unknown, and Unknown is never a pass.
type Verdict string

// The verdicts.
const (
	Pass    Verdict = "Pass"
	Fail    Verdict = "Fail"
	Unknown Verdict = "Unknown"
)

// Judgement is one hypothesis judged.
type Judgement struct {
	Hypothesis v1alpha1.DrillHypothesis
	Verdict    Verdict
	// Value is what was measured; nil when nothing was.
	Value *float64
	// Reason says why the verdict is Unknown, or on how many samples it rests.
	Reason string
}

// Judge judges every hypothesis about this run's layers.
func Judge(r *Result) []Judgement {
	var judgements []Judgement
	for _, h := range r.Drill.Hypothesis {
		if about(h, r.Layers) {
			judgements = append(judgements, judge(r, h))
		}
	}
	return judgements
}

// about says whether a hypothesis is about a run with these layers, written with commas between.
func about(h v1alpha1.DrillHypothesis, layers string) bool {
	return len(h.Layers) == 0 || slices.ContainsFunc(strings.Split(layers, ","), func(layer string) bool {
		return slices.Contains(h.Layers, strings.TrimSpace(layer))
	})
}

func judge(r *Result, h v1alpha1.DrillHypothesis) Judgement {
	if h.Probe == "" {
		return judgeRun(r, h)
	}
	stats := Summarize(r.Select(h.Probe, h.Series, h.During), withinOf(h))
	low, high, reason := measured(stats, h.Metric)
	j := Judgement{Hypothesis: h, Reason: reason}
	if math.IsNaN(low) {
		j.Verdict = Unknown
		return j
	}
	j.Value = &low
	atLow, atHigh := holds(low, h.Op, h.Value), holds(high, h.Op, h.Value)
	switch {
	case atLow && atHigh:
		j.Verdict = Pass
	case !atLow && !atHigh:
		j.Verdict = Fail
	default:
		j.Verdict = Unknown
		j.Reason = fmt.Sprintf("%d samples could not be seen; what they were decides", stats.Undetermined)
	}
	return j
}

func withinOf(h v1alpha1.DrillHypothesis) time.Duration {
	if h.Within == nil {
		return 0
	}
	return h.Within.Duration
}

// measured returns the bounds between which a metric lies, equal when everything was seen, and NaN without data.
func measured(s Stats, metric string) (low, high float64, reason string) {
	reason = fmt.Sprintf("%d samples", s.Samples)
	if s.Samples == 0 && metric != "samples" {
		return math.NaN(), math.NaN(), "no data"
	}
	exactly := func(v float64) (float64, float64, string) { return v, v, reason }
	switch metric {
	case "successRatio":
		return exactly(s.SuccessRatio)
	case "withinRatio":
		return exactly(s.WithinRatio)
	case "p50Seconds":
		return exactly(s.P50.Seconds())
	case "p99Seconds":
		return exactly(s.P99.Seconds())
	case "maxSeconds":
		return exactly(s.Max.Seconds())
	case "samples":
		return exactly(float64(s.Samples))
	case "missed":
		return float64(s.Missed), float64(s.Missed + s.Undetermined), reason
	case "late":
		return float64(s.Missed + s.Late), float64(s.Missed + s.Late + s.Undetermined), reason
	}
	panic("BUG: metric " + metric + " passed validation")
}

// judgeAgents judges what share of the agents' requests got their answer.
func judgeAgents(r *Result, h v1alpha1.DrillHypothesis) Judgement {
	ok, all := r.Agents[AgentsOK], r.Agents[AgentsOK]+r.Agents[AgentsThrottled]+r.Agents[AgentsFailed]
	j := Judgement{Hypothesis: h, Verdict: Unknown, Reason: "no request of an agent was counted"}
	if all == 0 {
		return j
	}
	return j.of(float64(ok)/float64(all), fmt.Sprintf("%d requests", all))
}

// judgeExposed judges on what share of the nodes a change came to run that was rolled out in steps.
func judgeExposed(r *Result, h v1alpha1.DrillHypothesis) Judgement {
	j := Judgement{Hypothesis: h, Verdict: Unknown, Reason: "nothing was rolled out in steps"}
	if r.Rollout == nil || r.Rollout.Nodes == 0 {
		return j
	}
	return j.of(float64(r.Rollout.ExposedNodes)/float64(r.Rollout.Nodes), fmt.Sprintf("%d of %d nodes", r.Rollout.ExposedNodes, r.Rollout.Nodes))
}

// judgeStopped judges whether a change that was rolled out in steps was stopped by itself. One that ended without a verdict is
// neither.
func judgeStopped(r *Result, h v1alpha1.DrillHypothesis) Judgement {
	j := Judgement{Hypothesis: h, Verdict: Unknown, Reason: "nothing was rolled out in steps"}
	if r.Rollout == nil {
		return j
	}
	j.Reason = r.Rollout.Reason
	switch {
	case r.Rollout.Stopped != nil:
		return j.of(1, j.Reason)
	case r.Rollout.Undecided:
		return j
	}
	return j.of(0, j.Reason)
}

func judgeRun(r *Result, h v1alpha1.DrillHypothesis) Judgement {
	switch h.Metric {
	case "exposedRatio":
		return judgeExposed(r, h)
	case "agentSuccessRatio":
		return judgeAgents(r, h)
	case "stopped":
		return judgeStopped(r, h)
	}
	value := r.Mitigation
	reason := "not mitigated within the run"
	if h.Metric == "recoverySeconds" {
		value = r.Recovery
		reason = "not recovered within the run"
	}
	j := Judgement{Hypothesis: h, Verdict: Unknown, Reason: reason}
	if value == nil {
		// The end never came, so it took longer than the run: that alone refutes an upper bound the run was
		// long enough to see.
		if (h.Op == "<" || h.Op == "<=") && r.End.Seconds() > h.Value {
			j.Verdict = Fail
		}
		return j
	}
	return j.of(value.Seconds(), "")
}

// of is the judgement of what was measured.
func (j Judgement) of(value float64, reason string) Judgement {
	j.Value, j.Verdict, j.Reason = &value, Fail, reason
	if holds(value, j.Hypothesis.Op, j.Hypothesis.Value) {
		j.Verdict = Pass
	}
	return j
}

func holds(v float64, op string, want float64) bool {
	switch op {
	case "<":
		return v < want
	case "<=":
		return v <= want
	case ">=":
		return v >= want
	case ">":
		return v > want
	case "==":
		return v == want
	}
	panic("BUG: comparison " + op + " passed validation")
}

// Overall is Fail when any judgement failed, else Unknown when any is unknown or there is none, else Pass.
func Overall(judgements []Judgement) Verdict {
	verdict := Pass
	if len(judgements) == 0 {
		return Unknown
	}
	for _, j := range judgements {
		if j.Verdict == Fail {
			return Fail
		}
		if j.Verdict == Unknown {
			verdict = Unknown
		}
	}
	return verdict
}
