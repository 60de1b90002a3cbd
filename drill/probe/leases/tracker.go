package leases

import (
	"time"

	"github.com/seakeep/seakeep/drill"
)

// tracker judges the times between renewals. It is pure: what was seen and when goes in, outcomes come out.
type tracker struct {
	late, missed time.Duration
	renewed      map[string]time.Time // the last renewal seen of each node
}

func newTracker(late, missed time.Duration) *tracker {
	return &tracker{late: late, missed: missed, renewed: map[string]time.Time{}}
}

// observe takes a lease as it is now. Unbroken says that every change since the last one was seen; otherwise renewals in
// between may have been, and a long gap proves nothing. It returns false when there is nothing to judge: the first
// sight of a node, or a lease that was not renewed.
func (t *tracker) observe(node string, renewed time.Time, unbroken bool) (gap time.Duration, outcome drill.Outcome, ok bool) {
	before, known := t.renewed[node]
	if known && !renewed.After(before) {
		return 0, "", false
	}
	t.renewed[node] = renewed
	if !known {
		return 0, "", false
	}
	gap = renewed.Sub(before)
	outcome = t.judge(gap)
	if !unbroken && outcome != drill.OK {
		outcome = drill.Undetermined
	}
	return gap, outcome, true
}

func (t *tracker) judge(gap time.Duration) drill.Outcome {
	switch {
	case gap > t.missed:
		return drill.Missed
	case gap > t.late:
		return drill.Late
	default:
		return drill.OK
	}
}

// forget drops a node that is gone: it owes no renewals.
func (t *tracker) forget(node string) { delete(t.renewed, node) }

// overdue returns the longest time any node has been silent.
func (t *tracker) overdue(now time.Time) (longest time.Duration) {
	for _, renewed := range t.renewed {
		longest = max(longest, now.Sub(renewed))
	}
	return longest
}
