package verdict

import (
	"fmt"
	"time"
)

// Asked is what came of asking one server, or doing one thing, some times in one look.
type Asked struct {
	// Check is the check's name, Whom what was asked, for people.
	Check, Whom string
	// Asked is how many questions were sent, Answered how many were answered as they should be.
	Asked, Answered int
	// Took are the times of the answers.
	Took []time.Duration
	// Wrong is what one of the others got, for people.
	Wrong string
	At    time.Time
	// Known is how many of its like there are, where not all of them are asked; else 0.
	Known int `json:",omitempty"`
	// Before is the share answered before the change, Control that of clusters without the change now; NaN when it is not
	// known.
	Before, Control float64
}

// Judge holds the share that was answered, and the 90th percentile of the time it took, against bounds.
func (a Asked) Judge(least float64, most time.Duration) Finding {
	f := Finding{Check: a.Check, At: a.At, Fresh: a.Asked > 0}
	if a.Asked == 0 {
		return f.say(Unknown, a.Whom+" was not asked")
	}
	share := float64(a.Answered) / float64(a.Asked)
	slow := a.Slow()
	f.Figures = []Figure{{Name: a.Whom + " answered", Value: share, Bound: least, Unit: "ratio"}, {Name: a.Whom + " p90", Value: slow, Bound: most.Seconds(), Unit: "s"}}
	// Before and after is weak evidence by itself, and the only one where there is no second cluster: it counts as long as
	// nothing speaks against it. Comparisons with NaN are false.
	healthy := a.Before >= least
	switch {
	case share < least:
		reason := fmt.Sprintf("%s answered %d of %d", a.Whom, a.Answered, a.Asked)
		if a.Wrong != "" {
			reason += ": " + a.Wrong
		}
		if a.Before < least {
			return f.say(Unknown, reason+"; it did not do so before the change either")
		}
		if a.Control < least {
			return f.say(Unknown, fmt.Sprintf("%s; on clusters without the change only %s are answered as well", reason, inUnit(a.Control, "ratio")))
		}
		f.Attributed = healthy
		return f.say(Fail, reason)
	case slow > most.Seconds():
		f.Attributed = healthy
		return f.say(Fail, fmt.Sprintf("%s takes %s, bound %s", a.Whom, inUnit(slow, "s"), most))
	}
	return f.say(Pass, fmt.Sprintf("%s answered %d of %d, p90 %s", a.Whom, a.Answered, a.Asked, inUnit(slow, "s")))
}

// Slow is the 90th percentile of the time that answers took, in seconds; 0 when there were none.
func (a Asked) Slow() float64 {
	took := make([]float64, len(a.Took))
	for i, d := range a.Took {
		took[i] = d.Seconds()
	}
	return quantile(took, 0.9)
}
