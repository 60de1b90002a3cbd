package bake

import (
	"fmt"
	"time"

	"github.com/seakeep/seakeep/rollout/verdict"
)

// Clock counts the time that one step on one cluster has been exposed and looked at. It is stored as JSON with the run: what it
// has counted is kept over a restart, and the time in between is not counted, because nobody looked. The zero value has counted
// nothing. Not safe for concurrent use.
type Clock struct {
	// Key is the revision and step the time is of: with another key it starts from nothing.
	Key string `json:"key,omitempty"`
	// AccruedSeconds is the time counted.
	AccruedSeconds float64 `json:"accruedSeconds"`
	// Ready is when the last pod of the revision became ready, by our own clock: later when another one comes.
	Ready time.Time `json:"ready,omitempty"`
	// Fresh is the last look that had data and found no harm; zero when there is none to count from.
	Fresh time.Time `json:"fresh,omitempty"`
}

// Tick tells the clock of a look at a time. key names what is baked. ready is when the newest pod of the update revision was
// first seen ready, zero while one is not. maxGap is how far two looks may be apart and still have the time between them
// counted: what is older is not known to have been well.
//
// A look that knows nothing stops the clock; one that found harm sets it back to zero, and so does another pod that becomes
// ready: the bake is for the whole step.
func (c *Clock) Tick(now time.Time, key string, ready time.Time, look verdict.Look, maxGap time.Duration) {
	if key != c.Key {
		*c = Clock{Key: key}
	}
	if ready.IsZero() || !ready.Equal(c.Ready) {
		c.AccruedSeconds, c.Fresh, c.Ready = 0, time.Time{}, ready
	}
	switch {
	case look.Verdict == verdict.Fail:
		c.AccruedSeconds, c.Fresh = 0, time.Time{}
		return
	case !known(look), ready.IsZero():
		c.Fresh = time.Time{}
		return
	}
	from := c.Fresh
	if from.IsZero() && c.AccruedSeconds == 0 && now.Sub(ready) <= maxGap {
		from = ready // looked at from the beginning
	}
	if gap := now.Sub(from); !from.IsZero() && gap > 0 && gap <= maxGap {
		c.AccruedSeconds += gap.Seconds()
	}
	c.Fresh = now
}

// known is true for a look with data and without harm: Pass, or one that only waits for more of its kind.
func known(look verdict.Look) bool {
	if look.Verdict == verdict.Pass {
		return true
	}
	waits := false
	for _, f := range look.Findings {
		switch {
		case f.Check == verdict.CheckRow:
			waits = true
		case f.Verdict != verdict.Pass:
			return false
		}
	}
	return waits
}

// Accrued is the time counted.
func (c *Clock) Accrued() time.Duration {
	return time.Duration(c.AccruedSeconds * float64(time.Second))
}

// Done is true when the time is over.
func (c *Clock) Done(n Need) bool { return !c.Ready.IsZero() && c.Accrued() >= n.Duration }

// Left is what is missing, in a sentence for people.
func (c *Clock) Left(n Need) string {
	switch {
	case c.Ready.IsZero():
		return "not started: not all pods of the step are ready"
	case c.Done(n):
		return fmt.Sprintf("done: %s of %s", c.Accrued().Round(time.Second), n.Duration)
	case c.Fresh.IsZero():
		return fmt.Sprintf("stopped at %s of %s: the last look knew nothing", c.Accrued().Round(time.Second), n.Duration)
	}
	return fmt.Sprintf("%s of %s", c.Accrued().Round(time.Second), n.Duration)
}
