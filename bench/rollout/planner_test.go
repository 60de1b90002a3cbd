package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The fleet is in the middle of its rollout, and as many nodes more are let as may be.
func TestPlanner(t *testing.T) {
	routes, seen, _, _ := simulatedFleet(3, 100)
	for i, route := range routes {
		if d := route.Forward(4, seen[i]); len(d.Exposed) != 27 || len(d.Moves) != 10 || len(d.Leaked) > 0 {
			t.Errorf("%d exposed, %d moves, %d leaked", len(d.Exposed), len(d.Moves), len(d.Leaked))
		}
	}
}

// What is promised of a cluster in docs/operations/verdicts.md, and what of a fleet of 300 with 1000 nodes each follows from it: the
// benchmark writes all of that, which takes minutes.
func TestStateOfAFleet(t *testing.T) {
	const clusters = 4
	routes, seen, p, orders := simulatedFleet(clusters, fleetNodes)
	dir := t.TempDir()
	sizes, err := fleetState{plan: p, orders: orders, routes: routes, seen: seen, events: 100}.write(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Log(sizes)
	for file, most := range map[string]float64{
		"readings-run-1.jsonl":  50e3 * clusters,
		"readings written anew": 25e3 * clusters,
		"forecast-run-1.jsonl":  20e3 * clusters,
		"run-1.json":            10e3 * clusters,
		// The file itself grows by powers of two.
		"rollouts.db": 512 << 10,
	} {
		if sizes[file] <= 0 || sizes[file] > most {
			t.Errorf("%s has %.0f bytes, want at most %.0f", file, sizes[file], most)
		}
		delete(sizes, file)
	}
	if len(sizes) > 0 {
		t.Errorf("there are files that nobody counts on: %v", sizes)
	}
	if _, err := os.Stat(filepath.Join(dir, "rollouts.db")); err != nil {
		t.Error(err)
	}
}
