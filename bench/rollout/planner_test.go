package main

import (
	"testing"

	"github.com/seakeep/seakeep/bench/result"
)

// The fleet is in the middle of its rollout, and the case says what is asked of it.
func TestPlanner(t *testing.T) {
	routes, seen, _, _ := simulatedFleet(3, 100)
	for i, route := range routes {
		if d := route.Forward(4, seen[i]); len(d.Exposed) != 27 || len(d.Moves) != 10 || len(d.Leaked) > 0 {
			t.Errorf("%d exposed, %d moves, %d leaked", len(d.Exposed), len(d.Moves), len(d.Leaked))
		}
	}
	r := &rig{dir: t.TempDir()}
	var report result.Report
	if err := r.measurePlanner(&report); err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Cases {
		t.Logf("%s: %s: %.3f %s", c.Case, c.Metric, c.Value, c.Unit)
	}
	if len(report.Cases) != 2 || report.Cases[1].Met == nil || !*report.Cases[1].Met {
		t.Errorf("measured %+v", report.Cases)
	}
}
