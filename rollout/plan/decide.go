package plan

import (
	"fmt"
	"slices"
)

// Seen is a cluster as it was just read.
type Seen struct {
	// Nodes are the nodes that the change may come to, or that run it, each once.
	Nodes []SeenNode
	// Update and Stable are the names of the pinned revisions.
	Update, Stable string
}

// SeenNode is one node.
type SeenNode struct {
	Name string
	// Ready is the node's own condition. Nothing is deleted on a node that is not: its kubelet would not end the pod.
	Ready bool
	Pods  []SeenPod
	// Enrolment is set where nodes are enrolled for a workload that is new.
	Enrolment Enrolment
}

// Enrolment says whether a workload that is new may run on a node.
type Enrolment string

// NotUsed is for a workload that runs on its nodes already, and gets pods replaced; the others are for one that is new.
const (
	NotUsed     Enrolment = ""
	Enrolled    Enrolment = "Enrolled"
	NotEnrolled Enrolment = "NotEnrolled"
)

// SeenPod is a pod of the workload.
type SeenPod struct {
	// Name is namespace/name.
	Name     string
	UID      string
	Revision string
	Ready    bool
	// Terminating is true once it was told to end.
	Terminating bool
}

// Move is one node's change: its pod is deleted, and the controller makes the next with the template in force; or, for what is
// enrolled, the node is given its label or loses it.
type Move struct {
	Node string
	// Pod and UID are the pod to delete; empty when there is none.
	Pod, UID string
}

// Decision is what may be done now, and what was seen.
type Decision struct {
	// Moves are to be made, at most as many as the budget has left.
	Moves []Move
	// Complete is true when every node of the step that can run the change does, ready.
	Complete bool
	// Planned is how many of the living nodes the step lets, Moved how many of those were moved or needed not be: the others wait
	// for their turn.
	Planned, Moved int
	// Exposed run the change, Leaked those of them that were not let; sorted as they were seen.
	Exposed, Leaked []string
	// InFlight were let and moved, and are not ready yet.
	InFlight []string
	// Missed were let and cannot be moved now, because the node is not ready.
	Missed []string
	// Wait says why nothing is moved, "" when something is or the step is complete.
	Wait string
}

// Route is a leg with its order, made ready for deciding.
type Route struct {
	Leg
	rank map[string]int
}

// NewRoute makes a leg ready.
func NewRoute(leg Leg, order []string) *Route {
	r := &Route{Leg: leg, rank: make(map[string]int, len(order))}
	for i, name := range order {
		r.rank[name] = i
	}
	return r
}

// lets says whether the step lets a node run the change.
func (r *Route) lets(s Step, node string) bool {
	rank, known := r.rank[node]
	return known && rank < max(s.Nodes, r.From) || s.All
}

// place is where a node stands in the order; those that came later stand at its end.
func (r *Route) place(node string) int {
	if rank, known := r.rank[node]; known {
		return rank
	}
	return len(r.rank)
}

// Forward decides a step, counted from 0. Nodes of the plan that are gone are dropped and not replaced by the next ones; nodes
// that came later are let by the last step.
func (r *Route) Forward(step int, seen Seen) Decision {
	s := r.Steps[step]
	var d Decision
	var waiting []SeenNode
	for _, n := range seen.Nodes {
		at := stateOf(n, seen.Update)
		if at.exposed {
			d.Exposed = append(d.Exposed, n.Name)
		}
		if !r.lets(s, n.Name) {
			if at.exposed {
				d.Leaked = append(d.Leaked, n.Name)
			}
			continue
		}
		d.Planned++
		switch {
		case at.done:
			d.Moved++
		case !n.Ready:
			d.Missed = append(d.Missed, n.Name)
		case at.moving:
			d.Moved++
			d.InFlight = append(d.InFlight, n.Name)
		default:
			waiting = append(waiting, n)
		}
	}
	d.pick(waiting, r.MaxUnavailable, func(a, b SeenNode) int { return r.place(a.Name) - r.place(b.Name) })
	return d
}

// Back decides the way back: every node that runs the change, let or leaked, is to run the stable revision again. Those whose
// pods are not ready go first: they serve nobody.
func (r *Route) Back(seen Seen) Decision {
	var d Decision
	var waiting []SeenNode
	for _, n := range seen.Nodes {
		at := stateOf(n, seen.Update)
		if at.exposed {
			d.Exposed = append(d.Exposed, n.Name)
		}
		switch {
		case n.Enrolment == Enrolled:
			waiting = append(waiting, n) // to take the label away needs no kubelet
		case n.Enrolment == NotEnrolled && len(n.Pods) == 0, n.Enrolment == NotUsed && !at.exposed && !at.moving:
		case !n.Ready:
			d.Missed = append(d.Missed, n.Name)
		case at.exposed && !n.terminating() && n.Enrolment == NotUsed:
			waiting = append(waiting, n)
		default:
			d.InFlight = append(d.InFlight, n.Name)
		}
	}
	d.Planned, d.Moved = len(d.Exposed), len(d.Exposed)
	d.pick(waiting, r.MaxUnavailable, func(a, b SeenNode) int {
		if x, y := a.ready(), b.ready(); x != y {
			if x {
				return 1
			}
			return -1
		}
		return r.place(b.Name) - r.place(a.Name)
	})
	return d
}

// pick takes as many of the waiting as the budget has left. Each is charged, whether its pod was ready or not.
func (d *Decision) pick(waiting []SeenNode, budget int, order func(a, b SeenNode) int) {
	slices.SortStableFunc(waiting, order)
	free := budget - len(d.InFlight)
	for _, n := range waiting[:max(0, min(free, len(waiting)))] {
		m := Move{Node: n.Name}
		if i := slices.IndexFunc(n.Pods, func(p SeenPod) bool { return !p.Terminating }); i >= 0 {
			m.Pod, m.UID = n.Pods[i].Name, n.Pods[i].UID
		}
		d.Moves = append(d.Moves, m)
	}
	d.Complete = len(waiting) == 0 && len(d.InFlight) == 0
	if len(waiting) > 0 && len(d.Moves) == 0 {
		d.Wait = fmt.Sprintf("%d nodes are under way, and at most %d may be", len(d.InFlight), budget)
	}
}

type nodeState struct {
	// exposed: a pod of the update revision is there. done: and it is ready. moving: nothing is to be deleted there now,
	// because a pod is ending, coming, or none is there yet.
	exposed, done, moving bool
}

func stateOf(n SeenNode, update string) nodeState {
	s := nodeState{moving: n.Enrolment != NotEnrolled}
	for _, p := range n.Pods {
		switch {
		case p.Revision == update:
			s.exposed = true
			s.done = s.done || p.Ready && !p.Terminating
			s.moving = true
		case !p.Terminating:
			s.moving = false
		}
	}
	return s
}

// terminating is true when no pod is there that was not told to end.
func (n SeenNode) terminating() bool {
	return !slices.ContainsFunc(n.Pods, func(p SeenPod) bool { return !p.Terminating })
}

func (n SeenNode) ready() bool {
	return slices.ContainsFunc(n.Pods, func(p SeenPod) bool { return p.Ready && !p.Terminating })
}
