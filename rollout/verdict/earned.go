package verdict

import (
	"fmt"
	"time"
)

// Refusals are the requests of one look that were turned away (429) or timed out.
type Refusals struct {
	// Own are the component's, Others everybody else's.
	Own, Others float64
	// OwnSent is how many the component sent, refused or not.
	OwnSent float64
	// Share is the component's part of the seats and queues of the priority level it runs in, as a ratio: 1 when the level
	// was made for it alone. NaN when it is not known.
	Share float64
	// Known is false when refusals could not be counted.
	Known bool
	At    time.Time
}

// Earned says what refusals mean for the scale gate. Demand that is turned away cannot be measured, so a forecast would be too
// low: what the component earned itself is Fail, what bystanders cause makes the sample Unknown and no more.
func (r Refusals) Earned() Finding {
	f := Finding{Check: "scaleGate.refused", At: r.At, Fresh: r.Known}
	if !r.Known {
		return f.say(Unknown, "refused requests could not be counted")
	}
	f.Figures = []Figure{{Name: "own requests refused", Value: r.Own}, {Name: "others' requests refused", Value: r.Others}}
	switch {
	case r.Own > 0 && r.Share >= 0.5:
		f.Attributed = true
		return f.say(Fail, fmt.Sprintf("%s of %s of its own requests were turned away in a level of which it has %s: it asks for more than there is", short(r.Own), short(r.OwnSent), inUnit(r.Share, "ratio")))
	case r.Own > 0:
		return f.say(Unknown, fmt.Sprintf("%s of its requests were turned away where others take the seats: what it would cost cannot be measured now", short(r.Own)))
	case r.Others > 0:
		return f.say(Unknown, fmt.Sprintf("%s requests of others were turned away: the cluster is too busy to measure on", short(r.Others)))
	}
	return f.say(Pass, "nothing was turned away")
}
