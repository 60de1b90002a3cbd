package engine

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// advance says which legs may be under way, and ends the run when there is nothing left.
func (e *Engine) advance() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.watched = false
	clear(e.active)
	switch e.s.Run.Phase {
	case journal.Running:
		e.forward()
	case journal.RollingBack:
		e.backward()
	}
}

// forward walks the stages until one is not finished.
func (e *Engine) forward() {
	for i := range e.s.Plan.Stages {
		stage := &e.s.Plan.Stages[i]
		if !e.tasks(stage, stage.Before, false) {
			return
		}
		if !e.legs(stage) {
			return
		}
		if !e.tasks(stage, stage.After, true) {
			return
		}
	}
	if e.openLegs() {
		return // they were skipped, and go on when their clusters are back
	}
	for _, c := range e.s.Clusters {
		if c.Failed != "" && c.Began && !c.Back {
			return // it is on its way back
		}
	}
	if len(e.s.Run.Failures) > 0 {
		e.become(journal.Completed, "CompletedWithFailures", "every stage is done; the change was taken back on %v, within maxFailures", e.s.Run.Failures)
		return
	}
	e.become(journal.Completed, "Completed", "every stage is done")
}

// legs lets as many clusters of the stage be under way as it allows. True: the stage is done, or all that is left of it is
// skipped.
func (e *Engine) legs(stage *plan.Stage) bool {
	under, completed, skipped := 0, 0, 0
	for _, leg := range stage.Legs {
		key := journal.LegKey{Stage: stage.Name, Cluster: leg.Cluster}
		switch l := e.s.Legs[key]; {
		case e.s.Clusters[leg.Cluster].Failed != "":
		case l.Phase == journal.Completed:
			completed++
		case l.Skipped != "":
			skipped++
			e.active[key] = true // its lane waits for the cluster to be back
		case under < stage.Concurrency:
			under++
			e.active[key] = true
		default:
			under++
		}
	}
	switch {
	case under > 0:
		return false
	case completed == 0 && skipped > 0:
		return false // nothing was shown by a stage of which no cluster answered
	case e.unshown(stage):
		e.become(journal.Paused, "StageFailed", "stage %s: the change failed on each of its clusters, so that nothing says that it is good: resume goes on to the next stage, rollback takes it back everywhere", stage.Name)
		return false
	}
	return true
}

// unshown is true for a stage that the change failed on every cluster of, until a human goes on after it.
func (e *Engine) unshown(stage *plan.Stage) bool {
	return !slices.Contains(e.s.Run.Unshown, stage.Name) && !slices.ContainsFunc(stage.Legs, func(leg plan.Leg) bool {
		return e.s.Clusters[leg.Cluster].Failed == ""
	})
}

// openLegs is true while legs are not done that were passed over; they may be under way.
func (e *Engine) openLegs() bool {
	open := false
	for key, l := range e.s.Legs {
		if l.Phase != journal.Completed && e.s.Clusters[key.Cluster].Failed == "" {
			open, e.active[key] = true, true
		}
	}
	return open
}

// tasks does a stage's tasks one after the other. True: all are done.
func (e *Engine) tasks(stage *plan.Stage, tasks []v1alpha1.RolloutTask, after bool) bool {
	for i, task := range tasks {
		key := journal.TaskKey{Stage: stage.Name, After: after, Index: i}
		t, known := e.s.Tasks[key]
		if !known {
			t = journal.Task{TaskKey: key, Type: task.Type, Started: time.Now().UTC()}
			if !e.putTask(t) {
				return false
			}
			e.event(stage.Name, "", journal.Normal, "TaskStarted", "%s: %s", key, describeTask(task))
		}
		if t.Done {
			continue
		}
		if e.task(&t, task) {
			t.Done = true
			e.event(stage.Name, "", journal.Normal, "TaskDone", "%s: %s", key, describeTask(task))
		}
		if !e.putTask(t) || !t.Done {
			return false
		}
	}
	return true
}

func describeTask(t v1alpha1.RolloutTask) string {
	switch t.Type {
	case v1alpha1.TaskApproval:
		return "approval by a human"
	case v1alpha1.TaskAnalysis:
		return fmt.Sprintf("every cluster that runs the change passes for %v", t.WaitTime.Duration)
	}
	return fmt.Sprintf("%v pass", t.WaitTime.Duration)
}

// task moves one task on. True: it is done.
func (e *Engine) task(t *journal.Task, task v1alpha1.RolloutTask) bool {
	switch task.Type {
	case v1alpha1.TaskApproval:
		return t.By != ""
	case v1alpha1.TaskAnalysis:
		e.watched = true
		if e.allPass() {
			t.Waited += e.o.Every
		} else {
			t.Waited = 0
		}
	default:
		t.Waited = time.Since(t.Started)
	}
	return t.Waited >= task.WaitTime.Duration
}

// allPass is true when the newest look at every cluster that runs the change is fresh and says Pass.
func (e *Engine) allPass() bool {
	for name, c := range e.s.Clusters {
		if !c.Began || c.Back || c.Failed != "" {
			continue
		}
		shown := e.shown[name]
		if shown == nil || shown.Look == nil || shown.Look.Verdict != verdict.Pass || time.Since(shown.Look.At) > e.spec.Analysis.MaxDataAge.Duration {
			return false
		}
	}
	return true
}

// backward ends the way back when every cluster has gone it.
func (e *Engine) backward() {
	for _, name := range slices.Sorted(maps.Keys(e.s.Clusters)) {
		if c := e.s.Clusters[name]; c.Began && !c.Back {
			return
		}
	}
	e.become(journal.RolledBack, "RolledBack", "the change was taken back everywhere: %s", e.s.Run.Message)
}

// skip leaves a cluster alone until it answers again. The lock must be held.
func (e *Engine) skip(leg journal.Leg, why string) {
	if leg.Skipped != "" {
		return
	}
	leg.Skipped = why
	if !e.putLeg(leg) {
		return
	}
	e.event(leg.Stage, leg.Cluster, journal.Warning, "Skipped", "%s; it goes on at this stage and step when it answers", why)
	skipped := map[string]bool{}
	for key, l := range e.s.Legs {
		if l.Skipped != "" {
			skipped[key.Cluster] = true
		}
	}
	if len(skipped) > e.s.Plan.MaxSkipped && e.s.Run.Phase == journal.Running {
		e.become(journal.Paused, "SkippedBudget", "%d clusters do not answer (%v), maxSkipped is %d", len(skipped), slices.Sorted(maps.Keys(skipped)), e.s.Plan.MaxSkipped)
	}
}
