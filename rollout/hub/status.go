package hub

import (
	"cmp"
	"fmt"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/seakeep/seakeep/api/hub"
	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// What bounds a status: a hub keeps it with every other object, and writes it again whenever it changes.
const (
	maxClusters = 100
	maxWhy      = 512
	maxMessage  = 4096
)

// statusOf is the object's status, a copy of its own each time; empty when it cannot be read: it is written anew then.
func statusOf(u *unstructured.Unstructured) hub.RolloutStatus {
	var o struct {
		Status hub.RolloutStatus `json:"status"`
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(map[string]any{"status": u.Object["status"]}, &o); err != nil {
		return hub.RolloutStatus{}
	}
	return o.Status
}

func truth(is bool) metav1.ConditionStatus {
	if is {
		return metav1.ConditionTrue
	}
	return metav1.ConditionFalse
}

func setCondition(s *hub.RolloutStatus, kind string, is metav1.ConditionStatus, reason, message string, generation int64) (changed bool) {
	before := meta.FindStatusCondition(s.Conditions, kind)
	changed = before == nil || before.Reason != reason || before.Status != is
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: kind, Status: is, Reason: reason, Message: verdict.Clip(message, maxMessage), ObservedGeneration: generation})
	return changed
}

// show fills in the run: from its engine while one carries it out, else from the journal.
func (s *scope) show() {
	run := s.newest
	if run == nil {
		return
	}
	view := engine.View{ID: run.ID, Phase: run.Phase, Reason: run.Reason, Message: run.Message, Started: run.Started, Ended: run.Ended}
	// A dead one's view is good for what it saw, not for how the run is.
	var seen engine.View
	live := false
	if h := s.crew.of(s.name); h != nil {
		seen, live = h.look()
	}
	if !live && journal.ReadView(s.j.Dir(), run.ID, &seen) != nil {
		seen = engine.View{}
	}
	if seen.ID == run.ID {
		view.Stages, view.Largest = seen.Stages, seen.Largest
	}
	Show(&s.status, view)
	generation := s.u.GetGeneration()
	set := func(kind string, is metav1.ConditionStatus) {
		setCondition(&s.status, kind, is, cmp.Or(view.Reason, string(view.Phase)), view.Message, generation)
	}
	set(hub.Progressing, truth(view.Phase == journal.Running || view.Phase == journal.RollingBack))
	set(hub.Paused, truth(view.Phase == journal.Paused))
	succeeded := metav1.ConditionUnknown
	if view.Phase.Over() {
		succeeded = truth(view.Phase == journal.Completed)
	}
	set(hub.Succeeded, succeeded)
}

// Show fills a status from a view, within its bounds.
func Show(s *hub.RolloutStatus, v engine.View) {
	s.Run, s.Phase, s.Reason, s.Message, s.Largest = v.ID, string(v.Phase), v.Reason, verdict.Clip(v.Message, maxMessage), v.Largest
	s.Started, s.Ended = nil, nil
	if !v.Started.IsZero() {
		s.Started = &metav1.Time{Time: v.Started.UTC().Truncate(1e9)}
	}
	if !v.Ended.IsZero() {
		s.Ended = &metav1.Time{Time: v.Ended.UTC().Truncate(1e9)}
	}
	s.Stage, s.Verdict, s.Exposed, s.Stages, s.Clusters, s.Waiting, s.OmittedClusters = "", "", "", nil, nil, nil, 0
	nodes, exposed := map[string]int{}, map[string]int{}
	var looks []verdict.Verdict
	for _, stage := range v.Stages {
		of := hub.StageStatus{Name: stage.Name, Probe: stage.Probe, Clusters: len(stage.Legs)}
		for _, t := range stage.Tasks {
			if t.Type == v1alpha1.TaskApproval && !t.Done {
				s.Waiting = append(s.Waiting, t.String())
			}
		}
		for _, l := range stage.Legs {
			of.Nodes, of.ExposedNodes = of.Nodes+l.Nodes, of.ExposedNodes+l.ExposedNodes
			if l.Phase == journal.Completed {
				of.Completed++
			}
			nodes[l.Cluster], exposed[l.Cluster] = max(nodes[l.Cluster], l.Nodes), l.ExposedNodes
			if l.ExposedNodes > 0 && l.Look != nil {
				looks = append(looks, l.Look.Verdict)
			}
			s.Clusters = append(s.Clusters, clusterStatus(stage.Name, l))
		}
		if s.Stage == "" && of.Completed < of.Clusters {
			s.Stage = stage.Name
		}
		s.Stages = append(s.Stages, of)
	}
	if len(v.Stages) > 0 {
		s.Exposed = fmt.Sprintf("%d/%d", sum(exposed), sum(nodes))
	}
	if len(looks) > 0 {
		s.Verdict = string(verdict.Worst(looks...))
	}
	slices.SortStableFunc(s.Clusters, func(a, b hub.ClusterStatus) int { return cmp.Compare(rank(a), rank(b)) })
	if over := len(s.Clusters) - maxClusters; over > 0 {
		s.Clusters, s.OmittedClusters = s.Clusters[:maxClusters], over
	}
}

func sum(of map[string]int) (n int) {
	for _, v := range of {
		n += v
	}
	return n
}

// rank puts first what needs attention, then what is under way.
func rank(c hub.ClusterStatus) int {
	switch {
	case c.Why != "":
		return 0
	case c.Phase == string(journal.Waiting):
		return 3
	case c.Phase == string(journal.Completed), c.Phase == string(journal.RolledBack):
		return 2
	}
	return 1
}

func clusterStatus(stage string, l engine.LegView) hub.ClusterStatus {
	c := hub.ClusterStatus{
		Name: l.Cluster, Stage: stage, Phase: string(l.Phase), Step: fmt.Sprintf("%d/%d", min(l.Step, len(l.Steps)), len(l.Steps)),
		Nodes: l.Nodes, ExposedNodes: l.ExposedNodes, LeakedNodes: l.LeakedNodes, Rungs: l.Rungs,
	}
	if l.Look != nil {
		if c.Verdict = string(l.Look.Verdict); l.Look.Verdict != verdict.Pass {
			c.Why = l.Look.Why()
		}
	}
	c.Why, c.BreakGlass = verdict.Clip(cmp.Or(l.Failed, l.Skipped, c.Why), maxWhy), verdict.Clip(l.BreakGlass, maxWhy)
	return c
}
