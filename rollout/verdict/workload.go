package verdict

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Pod is what is looked at of one pod.
type Pod struct {
	// Name is namespace/name.
	Name, Node string
	// Created is when it came to be, on the API server's clock.
	Created time.Time
	Ready   bool
	// Restarts is the sum over its containers.
	Restarts int
	// Waiting is why a container waits, as CrashLoopBackOff; empty when none does.
	Waiting string
	// Failed is true when it has ended and should not have.
	Failed bool
}

// Node is what is looked at of one node.
type Node struct {
	Name string
	// Bad are the conditions that are not as on a healthy node, with when they turned so; nothing is healthy.
	Bad map[string]time.Time
	// Others and OthersNotReady count the pods on it that are not the component's.
	Others, OthersNotReady int
}

// Workload is what one cluster shows of the change's pods and their nodes, at one look.
type Workload struct {
	At time.Time
	// Update are the pods of the update revision, Stable those of the one before; a first install has none.
	Update, Stable []Pod
	// Exposed run the change, Control do not.
	Exposed, Control []Node
	// Planned is how many nodes should run the change by now.
	Planned int
	// Since is when the step began: what was bad before is not its doing.
	Since time.Time
}

// broken are reasons to wait that time does not cure.
var broken = []string{"CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"}

// Judge looks at readiness, restarts, node conditions and, when asked, the neighbours.
func (w Workload) Judge(c v1alpha1.RolloutWorkload) []Finding {
	findings := []Finding{w.readiness(c.ReadyWithin.Duration), w.restarts(*c.MaxRestarts), w.conditions()}
	if c.Neighbours == v1alpha1.Enabled {
		findings = append(findings, w.neighbours())
	}
	return findings
}

// readiness fails for a pod that should be ready by now. Younger ones are Unknown: they may come yet.
func (w Workload) readiness(within time.Duration) Finding {
	f := Finding{Check: "workload.ready", At: w.At, Fresh: true}
	var late, young []string
	ready := 0
	for _, p := range w.Update {
		switch {
		case p.Ready:
			ready++
		case p.late(w.At, within):
			late = append(late, p.describe(w.At))
		default:
			young = append(young, p.describe(w.At))
		}
	}
	notReady := 0
	for _, p := range w.Stable {
		if !p.Ready {
			notReady++
		}
	}
	f.Figures = []Figure{{Name: "pods of the update ready", Value: float64(ready)}, {Name: "of", Value: float64(len(w.Update))}, {Name: "stable pods not ready", Value: float64(notReady)}, {Name: "of", Value: float64(len(w.Stable))}}
	switch {
	case len(w.Update) == 0:
		return f.say(Unknown, "there is no pod of the update revision")
	case len(late) > 0 && w.asBadWithout(len(late), notReady):
		return f.say(Unknown, fmt.Sprintf("%s not ready, and so are %d of %d pods of the stable revision", list(late), notReady, len(w.Stable)))
	case len(late) > 0:
		f.Attributed = true
		return f.say(Fail, fmt.Sprintf("%s not ready; of the stable revision %d of %d are not", list(late), notReady, len(w.Stable)))
	case len(young) > 0:
		return f.say(Unknown, fmt.Sprintf("%s not ready yet, may take %s", list(young), within))
	case ready < w.Planned:
		return f.say(Unknown, fmt.Sprintf("%d of %d pods are there", ready, w.Planned))
	}
	return f.say(Pass, fmt.Sprintf("all %d pods of the update are ready", ready))
}

// late is true for a pod that is not ready and should be, or will not be.
func (p Pod) late(now time.Time, within time.Duration) bool {
	return !p.Ready && (p.Failed || slices.Contains(broken, p.Waiting) && p.Restarts > 0 || now.Sub(p.Created) > within)
}

// asBadWithout is true when the stable revision's pods fail at half the rate or more: the cause is then not the change.
func (w Workload) asBadWithout(late, notReady int) bool {
	return len(w.Stable) > 0 && 2*float64(notReady)/float64(len(w.Stable)) >= float64(late)/float64(len(w.Update))
}

func (p Pod) describe(now time.Time) string {
	why := p.Waiting
	if p.Failed {
		why = "failed"
	}
	if why != "" {
		why = ", " + why
	}
	return fmt.Sprintf("%s (%s old, %d restarts%s)", p.Name, now.Sub(p.Created).Round(time.Second), p.Restarts, why)
}

// list names a few.
func list(names []string) string {
	const shown = 3
	if len(names) <= shown {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), len(names)-shown)
}

func (w Workload) restarts(most int) Finding {
	f := Finding{Check: "workload.restarts", At: w.At, Fresh: true}
	if len(w.Update) == 0 {
		return f.say(Unknown, "there is no pod of the update revision")
	}
	var over []string
	update, stable := make([]float64, len(w.Update)), make([]float64, len(w.Stable))
	for i, p := range w.Update {
		update[i] = float64(p.Restarts)
		if p.Restarts > most {
			over = append(over, p.describe(w.At))
		}
	}
	// A stable pod has had longer to restart in: only what it did as fast counts.
	youngest := w.youngest()
	for i, p := range w.Stable {
		if age := w.At.Sub(p.Created); age > 0 && youngest > 0 {
			stable[i] = float64(p.Restarts) * min(1, float64(youngest)/float64(age))
		}
	}
	f.Figures = []Figure{{Name: "restarts of update pods, mean", Value: mean(update), Bound: float64(most)}, {Name: "of stable pods in the same time", Value: mean(stable)}}
	if len(over) == 0 {
		return f.say(Pass, fmt.Sprintf("no pod of the update restarted more than %d times", most))
	}
	if len(stable) > 0 && mean(stable) >= mean(update)/2 {
		return f.say(Unknown, fmt.Sprintf("%s; the stable revision restarts as often", list(over)))
	}
	f.Attributed = true
	return f.say(Fail, fmt.Sprintf("%s; may restart %d times", list(over), most))
}

func (w Workload) youngest() time.Duration {
	age := time.Duration(0)
	for _, p := range w.Update {
		age = max(age, w.At.Sub(p.Created))
	}
	return age
}

// conditionsSignificance is what two groups of nodes must differ by: with one exposed node of twenty, the least that can be
// found is 0.05.
const conditionsSignificance = 0.06

func (w Workload) conditions() Finding {
	f := Finding{Check: "workload.nodes", At: w.At, Fresh: true}
	if len(w.Exposed) == 0 {
		return f.say(Unknown, "no exposed node is there to look at")
	}
	var names []string
	since := w.Since.Truncate(time.Second) // as times of conditions are
	count := func(nodes []Node, named bool) []float64 {
		bad := make([]float64, len(nodes))
		for i, n := range nodes {
			for condition, turned := range n.Bad {
				if turned.Before(since) {
					continue
				}
				bad[i] = 1
				if named {
					names = append(names, n.Name+" "+condition)
				}
			}
		}
		return bad
	}
	exposed, control := count(w.Exposed, true), count(w.Control, false)
	slices.Sort(names)
	a, b := mean(exposed), mean(control)
	_, p := MannWhitney(exposed, control, Greater)
	f.Figures = []Figure{{Name: "exposed nodes that turned unhealthy", Value: a, Unit: "ratio"}, {Name: "others", Value: b, Unit: "ratio"}}
	versus := fmt.Sprintf("%s; of the %d nodes without the change %s turned unhealthy as well", list(names), len(control), inUnit(b, "ratio"))
	switch {
	case a == 0:
		return f.say(Pass, fmt.Sprintf("no condition of %d exposed nodes turned bad", len(exposed)))
	case len(control) == 0:
		return f.say(Fail, list(names)+"; there are no nodes without the change to compare with")
	case b >= a/2:
		return f.say(Unknown, versus)
	case p > conditionsSignificance && b > 0:
		return f.say(Unknown, versus+": may be chance")
	}
	f.Attributed = true
	return f.say(Fail, versus)
}

// neighbours compares the share of other pods that are not ready.
func (w Workload) neighbours() Finding {
	share := func(nodes []Node) []float64 {
		var v []float64
		for _, n := range nodes {
			if n.Others > 0 {
				v = append(v, float64(n.OthersNotReady)/float64(n.Others))
			}
		}
		return v
	}
	f := Finding{Check: "workload.neighbours", At: w.At, Fresh: true}
	exposed, control := share(w.Exposed), share(w.Control)
	if len(exposed) == 0 {
		return f.say(Pass, "there are no other pods on exposed nodes")
	}
	a, b := mean(exposed), mean(control)
	f.Figures = []Figure{{Name: "other pods not ready on exposed nodes", Value: a, Unit: "ratio"}, {Name: "on the others", Value: b, Unit: "ratio"}}
	_, p := MannWhitney(exposed, control, Greater)
	reason := fmt.Sprintf("%s of the other pods on exposed nodes are not ready, %s elsewhere (probability of chance %s)", inUnit(a, "ratio"), inUnit(b, "ratio"), short(p))
	switch {
	case len(control) > 0 && a > b+0.05 && a > 1.2*b && p <= conditionsSignificance:
		f.Attributed = true
		return f.say(Fail, reason)
	case len(control) > 0 && a > b+0.05 && p < suggestive:
		return f.say(Unknown, reason)
	case len(control) == 0 && a > 0.05:
		return f.say(Unknown, reason+": there are no nodes to compare with")
	}
	return f.say(Pass, reason)
}
