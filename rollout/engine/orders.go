package engine

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/journal"
)

// takeOrders carries out what other shells have laid down. An order is taken away after it is written into the journal: one that
// is carried out twice does no more than once.
func (e *Engine) takeOrders() {
	orders, bad, err := journal.Orders(e.o.Journal.Dir())
	if err != nil {
		e.o.Log.Warn("Orders cannot be read", "err", err)
		return
	}
	for path, why := range bad {
		e.note("", "", journal.Warning, "BadOrder", "%s is no order and is put aside: %v", path, why)
		if err := journal.Reject(path); err != nil {
			e.o.Log.Warn("An order cannot be put aside", "file", path, "err", err)
		}
	}
	for _, o := range orders {
		if o.Run != e.o.Run {
			continue
		}
		e.mu.Lock()
		if err := e.carryOut(o.Order); err != nil {
			e.event("", "", journal.Warning, "Refused", "%s by %s: %v", o.Verb, o.By, err)
		}
		broken := e.broken
		e.mu.Unlock()
		if broken != nil {
			return
		}
		if err := journal.Take(o); err != nil {
			e.o.Log.Warn("An order cannot be taken away", "err", err)
		}
	}
}

func (e *Engine) carryOut(o journal.Order) error {
	by := "by " + o.By
	if o.Why != "" {
		by += ": " + o.Why
	}
	phase := e.s.Run.Phase
	if phase.Over() && !(phase == journal.Completed && o.Verb == journal.Rollback) {
		return fmt.Errorf("the run is over (%s)", phase)
	}
	switch o.Verb {
	case journal.Pause:
		if phase != journal.Running {
			return fmt.Errorf("the run is %s", phase)
		}
		e.become(journal.Paused, "PausedByHuman", "%s", by)
	case journal.Resume:
		if phase != journal.Paused {
			return fmt.Errorf("the run is %s", phase)
		}
		e.resume(by)
	case journal.Approve:
		return e.approve(o)
	case journal.Abort:
		held := ""
		for _, name := range slices.Sorted(maps.Keys(e.s.Clusters)) {
			if rungs := inForce(e.s.Clusters[name]); len(rungs) > 0 {
				held += fmt.Sprintf("; %s stays held down by %s", name, strings.Join(rungs, ", "))
			}
		}
		e.become(journal.Aborted, "AbortedByHuman", "%s; what was changed stays as it is%s", by, held)
	case journal.Rollback:
		if phase == journal.RollingBack {
			return nil
		}
		for _, c := range e.s.Clusters {
			if c.Began && !c.Back {
				c.Finished = false
				e.putCluster(c)
			}
		}
		e.s.Run.Ended = time.Time{}
		e.become(journal.RollingBack, "RolledBackByHuman", "%s", by)
	}
	return nil
}

// resume goes on: what the run was paused for is accepted, or is found again.
func (e *Engine) resume(by string) {
	for _, c := range e.s.Clusters {
		leaks := c.AcceptedLeaks
		if v := e.shown[c.Name]; v != nil && !v.Seen.IsZero() {
			leaks = v.LeakedNodes
		} else if e.s.Run.Reason == reasonLeaked {
			leaks = -1
		}
		if leaks != c.AcceptedLeaks {
			if c.AcceptedLeaks = leaks; !e.putCluster(c) {
				return
			}
		}
	}
	for i := range e.s.Plan.Stages {
		if stage := &e.s.Plan.Stages[i]; e.unshown(stage) {
			e.s.Run.Unshown = append(e.s.Run.Unshown, stage.Name)
		}
	}
	for _, c := range e.s.Clusters {
		if c.Failed != "" && !c.Back && !c.Reverted {
			c.Failed, c.Attributed, c.Overload, c.Load = "", false, false, false
			if !e.putCluster(c) {
				return
			}
			e.s.Run.Failures = without(e.s.Run.Failures, c.Name)
		}
	}
	for _, c := range e.s.Clusters {
		if c.Reverted && !c.Back && c.Failed == "" {
			e.become(journal.RollingBack, "ResumedByHuman", "%s; the way back is gone to its end", by)
			return
		}
	}
	e.become(journal.Running, "ResumedByHuman", "%s", by)
}

func without(names []string, name string) []string {
	var rest []string
	for _, n := range names {
		if n != name {
			rest = append(rest, n)
		}
	}
	return rest
}

// approve says yes to the task that is named, or to every approval that is waited for.
func (e *Engine) approve(o journal.Order) error {
	found := false
	for key, t := range e.s.Tasks {
		if t.Type != v1alpha1.TaskApproval || t.Done || o.Task != "" && o.Task != key.String() {
			continue
		}
		found = true
		t.By = o.By
		if !e.putTask(t) {
			return nil
		}
		e.event(key.Stage, "", journal.Normal, "Approved", "%s by %s", key, o.By)
	}
	if !found {
		if o.Task != "" {
			return fmt.Errorf("no approval of %s is waited for", o.Task)
		}
		return fmt.Errorf("no approval is waited for")
	}
	return nil
}
