package plan

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// ProbeStage is the name of the stage that asks the largest cluster early.
const ProbeStage = "largest-cluster-probe"

// Cluster is a cluster as it was when the run started.
type Cluster struct {
	Name   string
	Labels map[string]string
	// Nodes are those that the change may come to; one entry for what has no nodes.
	Nodes []Node
}

// Node is a node that the change may come to.
type Node struct {
	Name string
	// Zone is where it stands; "" when that is not known.
	Zone string
}

// Plan is the order of everything, as it was decided at the start. It is not changed after.
type Plan struct {
	// Run is the run's id; it seeds the order of the nodes.
	Run    string  `json:"run"`
	Stages []Stage `json:"stages"`
	// Largest is the cluster with the most nodes.
	Largest string `json:"largest"`
	// Unselected are clusters of the fleet that no stage selects.
	Unselected []string `json:"unselected,omitempty"`
	// MaxFailures and MaxSkipped are how many clusters may fail, and be skipped.
	MaxFailures int `json:"maxFailures"`
	MaxSkipped  int `json:"maxSkipped"`
	// Risks are what the change itself shows to grow with a cluster, the worst first. They hold nothing back: what it costs is measured.
	Risks []Risk `json:"risks,omitempty"`
}

// Risk is what a manifest shows to grow with a cluster.
type Risk struct {
	// Name is one word to look up, Severity High, Medium or Low.
	Name     string `json:"name"`
	Severity string `json:"severity"`
	// Object is kind namespace/name, Field where in it.
	Object string `json:"object"`
	Field  string `json:"field,omitempty"`
	// Why says what it does, Remedy what to do instead.
	Why    string `json:"why"`
	Remedy string `json:"remedy"`
}

// Stage is a set of clusters that may change at the same time.
type Stage struct {
	Name string `json:"name"`
	// Probe is true for the stage that asks the largest cluster early.
	Probe bool `json:"probe,omitempty"`
	// Concurrency is how many of the legs may be under way at once, ≥ 1.
	Concurrency int                    `json:"concurrency"`
	Before      []v1alpha1.RolloutTask `json:"before,omitempty"`
	After       []v1alpha1.RolloutTask `json:"after,omitempty"`
	Legs        []Leg                  `json:"legs"`
}

// Leg is one cluster's way through a stage.
type Leg struct {
	Cluster string `json:"cluster"`
	// Steps are how many nodes of the order run the change after each step, growing. The last of a cluster's last leg is
	// all of them.
	Steps []Step `json:"steps"`
	// MaxUnavailable is how many of the nodes that were let may be without a ready pod of the change; MaxLeaked how many may
	// run it without having been let.
	MaxUnavailable int `json:"maxUnavailable"`
	MaxLeaked      int `json:"maxLeaked"`
	// From is how many nodes run the change already when the leg begins, from the probe before it.
	From int `json:"from,omitempty"`
	// Nodes is how many the order has; the order itself is kept apart, because two legs share it.
	Nodes int `json:"nodes"`
}

// Step is how far a leg goes before it is looked at again.
type Step struct {
	Nodes int `json:"nodes"`
	// All is true for the step that also takes the nodes that came after the plan was made.
	All bool `json:"all,omitempty"`
	// Pause holds it beside the bake.
	Pause metav1.Duration `json:"pause,omitzero"`
}

// Probes is true for a step that is there to be measured: up to three nodes, which the scale gate has no Pass for yet.
func (s Step) Probes() bool { return !s.All && s.Nodes <= v1alpha1.MaxFirstStep }

// Make makes the plan, and the order of each cluster's nodes by the cluster's name. What cannot be planned is returned with
// the field at fault, before anything has moved.
func Make(r *v1alpha1.Rollout, run string, clusters []Cluster) (*Plan, map[string][]string, field.ErrorList) {
	m := maker{rollout: r, plan: &Plan{Run: run}, orders: map[string][]string{}, stageOf: map[string]int{}}
	for _, c := range slices.SortedFunc(slices.Values(clusters), func(a, b Cluster) int { return cmp.Compare(a.Name, b.Name) }) {
		m.clusters = append(m.clusters, c)
		m.orders[c.Name] = m.order(run, c.Nodes)
	}
	for i := range r.Stages {
		m.stage(i)
	}
	m.probe()
	m.budgets()
	if len(m.errs) > 0 {
		return nil, nil, m.errs
	}
	return m.plan, m.orders, nil
}

// order is Order, but where somebody else takes the nodes, by their names: what is new of OpenKruise's.
func (m *maker) order(run string, nodes []Node) []string {
	if a := m.rollout.Change.AdvancedDaemonSet; a == nil || a.Install == nil {
		return Order(run, nodes)
	}
	names := make([]string, len(nodes))
	for i, n := range nodes {
		names[i] = n.Name
	}
	slices.Sort(names)
	return names
}

type maker struct {
	rollout  *v1alpha1.Rollout
	plan     *Plan
	clusters []Cluster
	orders   map[string][]string
	stageOf  map[string]int
	errs     field.ErrorList
}

func (m *maker) refuse(path *field.Path, value any, format string, args ...any) {
	m.errs = append(m.errs, field.Invalid(path, value, fmt.Sprintf(format, args...)))
}

func (m *maker) stage(i int) {
	s := &m.rollout.Stages[i]
	path := field.NewPath("stages").Index(i)
	selector, err := metav1.LabelSelectorAsSelector(&s.LabelSelector)
	if err != nil {
		m.refuse(path.Child("labelSelector"), metav1.FormatLabelSelector(&s.LabelSelector), "%v", err)
		return
	}
	var selected []Cluster
	for _, c := range m.clusters {
		if !selector.Matches(labels.Set(c.Labels)) {
			continue
		}
		if before, twice := m.stageOf[c.Name]; twice {
			m.refuse(path.Child("labelSelector"), selector.String(), "selects cluster %s, which stage %s selects too: a cluster changes once", c.Name, m.rollout.Stages[before].Name)
			continue
		}
		m.stageOf[c.Name] = i
		if len(c.Nodes) == 0 {
			m.refuse(path.Child("labelSelector"), selector.String(), "selects cluster %s, where no node runs what changes or could", c.Name)
			continue
		}
		selected = append(selected, c)
	}
	if len(selected) == 0 {
		m.refuse(path.Child("labelSelector"), selector.String(), "selects no cluster of the fleet")
		return
	}
	m.sort(selected, s, path)
	stage := Stage{Name: s.Name, Before: s.BeforeStageTasks, After: s.AfterStageTasks, Concurrency: scaled(s.MaxConcurrency, len(selected), 1)}
	for _, c := range selected {
		steps, stepsPath := s.Steps, path.Child("steps")
		if len(steps) == 0 {
			steps, stepsPath = m.rollout.Steps, field.NewPath("steps")
		}
		stage.Legs = append(stage.Legs, m.leg(c, steps, stepsPath))
	}
	m.plan.Stages = append(m.plan.Stages, stage)
}

func (m *maker) sort(selected []Cluster, s *v1alpha1.RolloutStage, path *field.Path) {
	key := func(c Cluster) int { return len(c.Nodes) }
	if s.SortingLabelKey != "" {
		key = func(c Cluster) int {
			n, _ := strconv.Atoi(c.Labels[s.SortingLabelKey]) // refused below
			return n
		}
		for _, c := range selected {
			if _, err := strconv.Atoi(c.Labels[s.SortingLabelKey]); err != nil {
				m.refuse(path.Child("sortingLabelKey"), s.SortingLabelKey, "must be a whole number on every cluster; on %s it is %q", c.Name, c.Labels[s.SortingLabelKey])
			}
		}
	}
	slices.SortStableFunc(selected, func(a, b Cluster) int { return cmp.Compare(key(a), key(b)) })
}

func (m *maker) leg(c Cluster, steps []v1alpha1.RolloutStep, path *field.Path) Leg {
	n := len(c.Nodes)
	leg := Leg{
		Cluster: c.Name, Nodes: n,
		MaxUnavailable: scaled(m.rollout.Nodes.MaxUnavailable, n, 1),
		MaxLeaked:      scaled(m.rollout.Nodes.MaxLeaked, n, 1),
	}
	if leaked := m.rollout.Nodes.MaxLeaked; leaked != nil && leaked.Type == intstr.Int {
		leg.MaxLeaked = leaked.IntValue() // none at all, if so said
	}
	if m.whole() {
		leg.Steps = []Step{{Nodes: n, All: true}}
		return leg
	}
	if len(steps) == 0 {
		leg.Steps = ladder(n)
		return leg
	}
	for i, s := range steps {
		nodes := min(n, scaled(&s.Replicas, n, 1))
		step := Step{Nodes: nodes, All: i == len(steps)-1}
		if s.Pause.Duration != nil {
			step.Pause = *s.Pause.Duration
		}
		p := path.Index(i).Child("replicas")
		before := 0
		if len(leg.Steps) > 0 {
			before = leg.Steps[len(leg.Steps)-1].Nodes
		}
		switch {
		case before == 0 && nodes > v1alpha1.MaxFirstStep:
			m.refuse(p, s.Replicas.String(), "is %d nodes of cluster %s; the first step must be at most %d", nodes, c.Name, v1alpha1.MaxFirstStep)
		case before > 0 && nodes > v1alpha1.MaxGrowth*before:
			m.refuse(p, s.Replicas.String(), "is %d nodes of cluster %s after %d: more than %d times", nodes, c.Name, before, v1alpha1.MaxGrowth)
		case nodes <= before: // a small cluster has it behind it already
			leg.Steps[len(leg.Steps)-1].All = step.All
			leg.Steps[len(leg.Steps)-1].Pause.Duration = max(leg.Steps[len(leg.Steps)-1].Pause.Duration, step.Pause.Duration)
			continue
		}
		leg.Steps = append(leg.Steps, step)
	}
	return leg
}

// whole is true for what changes a cluster at once.
func (m *maker) whole() bool { return m.rollout.Change.Whole() }

// ladder is 1, 3, 9, 27 … n.
func ladder(n int) []Step {
	var steps []Step
	for k := 1; k < n; k *= v1alpha1.MaxGrowth {
		steps = append(steps, Step{Nodes: k})
	}
	return append(steps, Step{Nodes: n, All: true})
}

// probe puts the largest cluster's first steps after an early stage: a green staging cluster says nothing of N·s(N).
func (m *maker) probe() {
	largest, at := "", -1
	most := 0
	for _, c := range m.clusters {
		if i, ok := m.stageOf[c.Name]; ok && len(c.Nodes) > most {
			largest, at, most = c.Name, i, len(c.Nodes)
		}
		if _, ok := m.stageOf[c.Name]; !ok {
			m.plan.Unselected = append(m.plan.Unselected, c.Name)
		}
	}
	m.plan.Largest = largest
	probe := m.rollout.LargestClusterProbe
	if len(m.errs) > 0 || probe.Disabled || m.whole() {
		return
	}
	after := 0
	if probe.AfterStage != "" {
		after = slices.IndexFunc(m.rollout.Stages, func(s v1alpha1.RolloutStage) bool { return s.Name == probe.AfterStage })
	}
	if at <= after {
		if probe.AfterStage != "" {
			m.refuse(field.NewPath("largestClusterProbe", "afterStage"), probe.AfterStage, "the largest cluster, %s, is in stage %s: there is nothing to probe after", largest, m.rollout.Stages[max(at, 0)].Name)
		}
		return
	}
	stage := m.plan.Stages[at]
	later := &stage.Legs[slices.IndexFunc(stage.Legs, func(l Leg) bool { return l.Cluster == largest })]
	leg := *later
	leg.Steps = []Step{{Nodes: 1}, {Nodes: min(v1alpha1.MaxFirstStep, most)}}
	// Its own stage goes on from there.
	later.From = leg.Steps[1].Nodes
	later.Steps = slices.DeleteFunc(slices.Clone(later.Steps), func(s Step) bool { return s.Nodes <= later.From && !s.All })
	m.plan.Stages = slices.Insert(m.plan.Stages, after+1, Stage{Name: ProbeStage, Probe: true, Concurrency: 1, Legs: []Leg{leg}})
}

// budgets turns shares into clusters, and refuses those that nothing could break.
func (m *maker) budgets() {
	n := len(m.stageOf)
	for _, b := range []struct {
		name string
		says *intstr.IntOrString
		into *int
	}{{"maxFailures", m.rollout.MaxFailures, &m.plan.MaxFailures}, {"maxSkipped", m.rollout.MaxSkipped, &m.plan.MaxSkipped}} {
		if b.says == nil {
			continue
		}
		*b.into = down(b.says, n)
		if *b.into >= n && n > 0 {
			m.refuse(field.NewPath(b.name), b.says.String(), "is %d of the %d clusters: the rollout could not fail", *b.into, n)
		}
	}
}

// scaled is a number, or a share of total rounded up; at least least.
func scaled(v *intstr.IntOrString, total, least int) int {
	if v == nil {
		return least
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(v, total, true)
	if err != nil { // validated before
		return least
	}
	return max(least, n)
}

// down is a number, or a share of total rounded down: a budget is not rounded in favour of the change.
func down(v *intstr.IntOrString, total int) int {
	n, err := intstr.GetScaledValueFromIntOrPercent(v, total, false)
	if err != nil {
		return 0
	}
	return n
}
