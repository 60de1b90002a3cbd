package leases

import (
	"testing"
	"time"

	"github.com/seakeep/seakeep/drill"
)

func TestTracker(t *testing.T) {
	start := time.Unix(1700000000, 0)
	type sight struct {
		at       float64 // seconds after the first
		unbroken bool
		want     drill.Outcome // "" nothing to judge
	}
	for name, sights := range map[string][]sight{
		"renewed in time":                        {{0, true, ""}, {10, true, drill.OK}, {24.9, true, drill.OK}},
		"late, then missed":                      {{0, true, ""}, {16, true, drill.Late}, {57, true, drill.Missed}},
		"the same renewal seen twice":            {{0, true, ""}, {0, true, ""}, {10, true, drill.OK}},
		"a break in the watch proves no delay":   {{0, true, ""}, {60, false, drill.Undetermined}, {70, true, drill.OK}},
		"a short gap is good, broken or not":     {{0, true, ""}, {12, false, drill.OK}},
		"a renewal from the past is not counted": {{10, true, ""}, {5, true, ""}, {20, true, drill.OK}},
	} {
		t.Run(name, func(t *testing.T) {
			tr := newTracker(15*time.Second, 40*time.Second)
			for i, s := range sights {
				_, got, _ := tr.observe("node-1", start.Add(time.Duration(s.at*float64(time.Second))), s.unbroken)
				if got != s.want {
					t.Errorf("sight %d: want %q, got %q", i, s.want, got)
				}
			}
		})
	}
}

func TestTrackerOverdue(t *testing.T) {
	start := time.Unix(1700000000, 0)
	tr := newTracker(15*time.Second, 40*time.Second)
	tr.observe("a", start, true)
	tr.observe("b", start.Add(5*time.Second), true)
	if got := tr.overdue(start.Add(20 * time.Second)); got != 20*time.Second {
		t.Errorf("want the longest silence, 20s, got %v", got)
	}
	tr.forget("a")
	if got := tr.overdue(start.Add(20 * time.Second)); got != 15*time.Second {
		t.Errorf("a node that is gone owes nothing: want 15s, got %v", got)
	}
}
