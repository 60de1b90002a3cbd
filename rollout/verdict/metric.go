package verdict

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Phase is what became of one measurement.
type Phase string

// The phases, with Argo's names.
const (
	PhaseSuccessful   Phase = "Successful"
	PhaseFailed       Phase = "Failed"
	PhaseInconclusive Phase = "Inconclusive"
	PhaseError        Phase = "Error"
)

// Measurement is one value of a metric.
type Measurement struct {
	At    time.Time `json:"at"`
	Phase Phase     `json:"phase"`
	// Value is what was measured, or the error, for people: see OneLine.
	Value string `json:"value"`
}

// Conditions are a metric's, compiled. Either may be nil.
type Conditions struct{ Success, Failure *Condition }

// Measure applies conditions to what a provider answered, as Argo does. A value that no condition can be applied to is an
// error, and so is no value at all: an empty vector makes Argo's own `result[0]` an error, and its `len(result) == 0 || …` a
// success, which is then what its author asked for.
func (c Conditions) Measure(at time.Time, result any, err error) Measurement {
	m := Measurement{At: at, Phase: PhaseError}
	if err != nil {
		m.Value = OneLine(err.Error())
		return m
	}
	m.Value = OneLine(fmt.Sprint(result))
	succeeds, fails := false, false
	if c.Success != nil {
		if succeeds, err = c.Success.Holds(result); err != nil {
			m.Value = OneLine(err.Error())
			return m
		}
	}
	if c.Failure != nil {
		if fails, err = c.Failure.Holds(result); err != nil {
			m.Value = OneLine(err.Error())
			return m
		}
	}
	switch {
	case c.Success == nil && c.Failure == nil:
		m.Value = "no condition"
	case fails, c.Failure == nil && !succeeds:
		m.Phase = PhaseFailed
	case succeeds, c.Success == nil:
		m.Phase = PhaseSuccessful
	default:
		m.Phase = PhaseInconclusive
	}
	return m
}

// maxSaid bounds what is told of an answer from outside, in bytes. What is told goes into the journal, into events, to a terminal, and
// to whoever may ask; an answer may be megabytes, and none of theirs to read.
const maxSaid = 200

// OneLine makes of an answer from outside what is told of it: at most 200 bytes, without control characters.
func OneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, Clip(text, maxSaid))
}

// Clip cuts a text to at most so many bytes, >= 3, between two characters, and says that it did.
func Clip(text string, most int) string {
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most-len("…")], "") + "…"
	}
	return strings.ToValidUTF8(text, "")
}

// Judge sums a metric's measurements up with Argo's limits, and differs from Argo where Argo promotes on nothing: measurements
// that all failed to be taken are Unknown whatever the limits say (argo-rollouts#4479), inconclusive ones too (#3850), and a
// metric that has not been measured yet has passed nothing. maxAge is how old the last one may be at now.
func Judge(m *v1alpha1.RolloutMetric, all []Measurement, now time.Time, maxAge time.Duration) Finding {
	f := Finding{Check: "query." + m.Name}
	if len(all) == 0 {
		return f.say(Unknown, "it has not been measured yet")
	}
	last := all[len(all)-1]
	f.At = last.At
	f.Fresh = now.Sub(last.At) <= maxAge
	var successes, failures, inconclusive, row, rowErrors int
	lastFailure := ""
	for _, one := range all {
		switch one.Phase {
		case PhaseSuccessful:
			successes++
			row++
		case PhaseFailed:
			failures++
			row = 0
			lastFailure = one.Value
		case PhaseInconclusive:
			inconclusive++
			row = 0
		default:
			rowErrors++
			continue
		}
		rowErrors = 0
	}
	f.Figures = []Figure{
		{Name: "successful", Value: float64(successes)}, {Name: "failed", Value: float64(failures), Bound: float64(max(0, m.FailureLimit))},
		{Name: "inconclusive", Value: float64(inconclusive), Bound: float64(max(0, m.InconclusiveLimit))}, {Name: "errors in a row", Value: float64(rowErrors), Bound: float64(*m.ConsecutiveErrorLimit)},
	}
	done := m.Count > 0 && successes+failures+inconclusive >= m.Count
	if m.ConsecutiveSuccessLimit > 0 && row >= m.ConsecutiveSuccessLimit {
		done = true
	}
	switch {
	case m.FailureLimit >= 0 && failures > m.FailureLimit:
		f.Critical = true // the limit has said how many are enough
		return f.say(Fail, fmt.Sprintf("%d of %d measurements failed, %d may; last %s", failures, len(all), m.FailureLimit, lastFailure))
	case m.InconclusiveLimit >= 0 && inconclusive > m.InconclusiveLimit:
		return f.say(Unknown, fmt.Sprintf("%d of %d measurements were inconclusive, %d may be; last %s", inconclusive, len(all), m.InconclusiveLimit, last.Value))
	case rowErrors > *m.ConsecutiveErrorLimit:
		return f.say(Unknown, fmt.Sprintf("%d measurements in a row could not be taken, %d may: %s", rowErrors, *m.ConsecutiveErrorLimit, last.Value))
	case successes == 0:
		return f.say(Unknown, fmt.Sprintf("none of %d measurements was a success; last %s", len(all), last.Value))
	case done:
		return f.say(Pass, fmt.Sprintf("%d of %d measurements succeeded", successes, len(all)))
	case !f.Fresh:
		return f.say(Unknown, fmt.Sprintf("the last measurement is %s old", now.Sub(last.At).Round(time.Second)))
	case m.Count > 0:
		return f.say(Unknown, fmt.Sprintf("%d of %d measurements taken", successes+failures+inconclusive, m.Count))
	case m.ConsecutiveSuccessLimit > 0:
		return f.say(Unknown, fmt.Sprintf("%d of %d successes in a row", row, m.ConsecutiveSuccessLimit))
	case last.Phase != PhaseSuccessful:
		return f.say(Unknown, fmt.Sprintf("the last measurement was %s: %s", last.Phase, last.Value))
	}
	return f.say(Pass, fmt.Sprintf("%d of %d measurements succeeded; last %s", successes, len(all), last.Value))
}
