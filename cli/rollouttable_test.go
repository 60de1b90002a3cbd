package cli

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/verdict"
)

func TestRolloutPage(t *testing.T) {
	now := time.Date(2026, 11, 26, 21, 0, 0, 0, time.UTC)
	look := func(v verdict.Verdict, reason string) *verdict.Look {
		l := verdict.Of(now, verdict.Finding{Check: "controlPlane.latency", Verdict: v, Reason: reason})
		return &l
	}
	v := engine.View{
		ID: "telemetry-20261126-205000-1a2b3c", Name: "telemetry", Title: "A telemetry agent on every node", Phase: journal.Running, Started: now.Add(-10 * time.Minute), Written: now.Add(-time.Second), Largest: "eu-1",
		Stages: []engine.StageView{
			{Name: "staging", Legs: []engine.LegView{{
				Cluster: "staging", Phase: journal.Completed, Step: 3, Steps: []int{1, 3, 5}, Nodes: 5,
				ClusterView: engine.ClusterView{ExposedNodes: 5, Look: look(verdict.Pass, "well")},
			}}},
			{Name: plan.ProbeStage, Probe: true, Legs: []engine.LegView{{
				Cluster: "eu-1", Phase: journal.Baking, Step: 2, Steps: []int{1, 3}, Nodes: 300, Baked: 75 * time.Second, Bake: 10 * time.Minute,
				ClusterView: engine.ClusterView{
					ExposedNodes: 4, LeakedNodes: 1, Look: look(verdict.Unknown, "no data for 40 s"),
					ScaleGate: &verdict.Finding{Check: "scaleGate", Verdict: verdict.Pass, Reason: "on 9 of 300 nodes: seats 0.2 to 0.4 of 12"},
				},
			}}},
			{Name: "production", Tasks: []journal.Task{
				{TaskKey: journal.TaskKey{Stage: "production"}, Type: v1alpha1.TaskApproval, Started: now},
				{TaskKey: journal.TaskKey{Stage: "production", Index: 1}, Type: v1alpha1.TaskTimedWait, Started: now, Waited: 90 * time.Second},
			}, Legs: []engine.LegView{
				{Cluster: "eu-1", Phase: journal.Waiting, Step: 1, Steps: []int{9, 27, 81, 243, 300}, Nodes: 300, ClusterView: engine.ClusterView{ExposedNodes: 4}},
				{Cluster: "us-1", Phase: journal.Stepping, Step: 2, Steps: []int{1, 3, 9}, Nodes: 9, Skipped: "nothing could be done there for 1m0s: connection refused", ClusterView: engine.ClusterView{Error: "a webhook says \x1b[2Jno"}},
			}},
		},
		Events: []journal.Event{
			{At: now.Add(-time.Minute), Stage: "staging", Cluster: "staging", Type: journal.Normal, Reason: "Completed", Message: "5 of 5 nodes run the change"},
			{At: now, Stage: "production", Cluster: "us-1", Type: journal.Warning, Reason: "Skipped", Message: "it goes on when it answers"},
		},
	}
	var page bytes.Buffer
	if err := writeRollout(&page, &v, now); err != nil {
		t.Fatal(err)
	}
	v.Phase, v.Reason, v.Message = journal.Paused, "Unknown", "cluster eu-1: 6 looks in a row know nothing"
	v.Events, v.Stages = nil, v.Stages[:1]
	page.WriteString("\n---\n\n")
	if err := writeRollout(&page, &v, now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	golden(t, "rollout.txt", page.Bytes())
}

// The plan of the example, with what its manifests show to grow.
func TestRolloutPlanPage(t *testing.T) {
	docs, err := config.Load(filepath.Join("..", "docs", "examples", "telemetry.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(docs, func(d config.Document) bool { return d.Kind == "Rollout" })
	clusters := []plan.Cluster{{Name: "staging", Labels: map[string]string{"stage": "staging"}}, {Name: "production", Labels: map[string]string{"stage": "production"}}}
	for c, nodes := range []int{50, 300} {
		for n := range nodes {
			clusters[c].Nodes = append(clusters[c].Nodes, plan.Node{Name: fmt.Sprint(n)})
		}
	}
	rollout := docs[i].Object.(*v1alpha1.Rollout)
	p, _, errs := plan.Make(rollout, "run", clusters)
	if len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	if p.Risks, errs = risksOf(docs[i].Object.(*v1alpha1.Rollout).Change); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	var page bytes.Buffer
	if err := (&rolloutRun{output: "table"}).writePlan(&page, rollout, p); err != nil {
		t.Fatal(err)
	}
	golden(t, "rollout-plan.txt", page.Bytes())

	page.Reset()
	rollout.Change = v1alpha1.RolloutChange{Deployment: &v1alpha1.WorkloadChange{}}
	if err := (&rolloutRun{output: "table"}).writePlan(&page, rollout, p); err != nil || !strings.Contains(page.String(), "There is no scale gate") {
		t.Errorf("a Deployment's plan: %v\n%s", err, &page)
	}
}
