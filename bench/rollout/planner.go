package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
)

// A fleet as large as the rollout is to plan for.
const (
	fleetClusters = 300
	fleetNodes    = 1000
	plannerRuns   = 5
	maxPlanner    = 0.1  // seconds for one step over all clusters
	maxState      = 50.0 // MB
)

// simulatedFleet is a fleet in the middle of its rollout: every cluster has the change on 27 nodes, and goes on to 81.
func simulatedFleet(clusters, nodes int) (routes []*plan.Route, seen []plan.Seen, p *plan.Plan, orders map[string][]string) {
	p, orders = &plan.Plan{Run: "run-1"}, map[string][]string{}
	stage := plan.Stage{Name: "production", Concurrency: clusters}
	for i := range clusters {
		name := fmt.Sprintf("cluster-%03d", i)
		var all []plan.Node
		for j := range nodes {
			all = append(all, plan.Node{Name: fmt.Sprintf("ip-10-%d-%d-%d.eu-central-1.compute.internal", i%256, j/256, j%256), Zone: "zone-" + string(rune('a'+j%3))})
		}
		order := plan.Order(p.Run, all)
		leg := plan.Leg{Cluster: name, Nodes: nodes, MaxUnavailable: 10, MaxLeaked: 50}
		for k := 1; k < nodes; k *= v1alpha1.MaxGrowth {
			leg.Steps = append(leg.Steps, plan.Step{Nodes: k})
		}
		leg.Steps = append(leg.Steps, plan.Step{Nodes: nodes, All: true})
		now := plan.Seen{Update: "update", Stable: "stable"}
		for j, node := range order {
			revision := "stable"
			if j < 27 {
				revision = "update"
			}
			now.Nodes = append(now.Nodes, plan.SeenNode{Name: node, Ready: true, Pods: []plan.SeenPod{{Name: "telemetry/" + node, UID: node, Revision: revision, Ready: true}}})
		}
		orders[name], stage.Legs = order, append(stage.Legs, leg)
		routes, seen = append(routes, plan.NewRoute(leg, order)), append(seen, now)
	}
	p.Stages = []plan.Stage{stage}
	return routes, seen, p, orders
}

// measurePlanner measures one step of the planner over the whole fleet, and what its state takes of the disk.
func (r *rig) measurePlanner(report *result.Report) error {
	routes, seen, p, orders := simulatedFleet(fleetClusters, fleetNodes)
	runs := result.Runs{}
	for range plannerRuns {
		began := time.Now()
		for i, route := range routes {
			route.Forward(4, seen[i])
		}
		runs.Add(subject, time.Since(began).Seconds())
	}
	name := fmt.Sprintf("%d clusters of %d nodes", fleetClusters, fleetNodes)
	step := runs.Case(name, "one step of the planner, all clusters", "s", subject)
	step.AtMost(maxPlanner)
	size, err := stateSize(filepath.Join(r.dir, "planner"), p, orders, routes, seen)
	if err != nil {
		return err
	}
	sizes := result.Runs{}
	sizes.Add(subject, size/1e6)
	state := sizes.Case(name, "state on the disk", "MB", subject)
	state.AtMost(maxState)
	report.Cases = append(report.Cases, step, state)
	return nil
}

// stateSize writes a run's journal, with an intent of every cluster written and settled, and says how many bytes it has.
func stateSize(dir string, p *plan.Plan, orders map[string][]string, routes []*plan.Route, seen []plan.Seen) (float64, error) {
	j, err := journal.Open(dir)
	if err != nil {
		return 0, err
	}
	defer j.Close()
	rollout := &v1alpha1.Rollout{Name: "telemetry"}
	rollout.SetDefaults()
	if err := j.Create(journal.Run{ID: p.Run, Rollout: rollout, Started: time.Now(), Phase: journal.Running}, p, orders); err != nil {
		return 0, err
	}
	for i, route := range routes {
		d := route.Forward(4, seen[i])
		id, err := j.Intend(p.Run, journal.Intent{Cluster: route.Cluster, Moves: d.Moves})
		if err != nil {
			return 0, err
		}
		if err := j.PutLeg(p.Run, journal.Leg{Stage: p.Stages[0].Name, Cluster: route.Cluster, Phase: journal.Stepping, Step: 4}); err != nil {
			return 0, err
		}
		if err := j.Settle(p.Run, id); err != nil {
			return 0, err
		}
	}
	info, err := os.Stat(filepath.Join(dir, "rollouts.db"))
	if err != nil {
		return 0, err
	}
	return float64(info.Size()), nil
}
