package main

import (
	"context"
	"fmt"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/rollout/plan"
)

// A fleet as large as the rollout is to plan for.
const (
	fleetClusters = 300
	fleetNodes    = 1000
	fleetEvents   = 10_000 // as many as a journal keeps
	plannerRuns   = 5
	maxPlanner    = 0.1 // seconds for one step over all clusters
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

// measurePlanner measures one step of the planner over the whole fleet.
func (r *rig) measurePlanner(ctx context.Context, report *result.Report) error {
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
	report.Cases = append(report.Cases, step)
	return r.measureState(ctx, report, name, fleetState{plan: p, orders: orders, routes: routes, seen: seen, events: fleetEvents})
}
