package engine

import (
	"os"
	"time"

	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// shownEvents is how many events a view holds.
const shownEvents = 50

// View is a run as it is shown to others.
type View struct {
	ID      string        `json:"id"`
	Name    string        `json:"name"`
	Title   string        `json:"title,omitempty"`
	Phase   journal.Phase `json:"phase"`
	Reason  string        `json:"reason,omitempty"`
	Message string        `json:"message,omitempty"`
	Started time.Time     `json:"started"`
	Ended   time.Time     `json:"ended,omitzero"`
	// Written is when this was, and PID by which process: an old one of a dead process says that nothing moves.
	Written time.Time       `json:"written"`
	PID     int             `json:"pid"`
	Largest string          `json:"largest,omitempty"`
	Stages  []StageView     `json:"stages"`
	Events  []journal.Event `json:"events,omitempty"`
}

// StageView is one stage.
type StageView struct {
	Name  string         `json:"name"`
	Probe bool           `json:"probe,omitempty"`
	Tasks []journal.Task `json:"tasks,omitempty"`
	Legs  []LegView      `json:"legs"`
}

// LegView is one cluster in a stage.
type LegView struct {
	Cluster string        `json:"cluster"`
	Phase   journal.Phase `json:"phase"`
	// Step counts from 1; Steps are how many nodes after each.
	Step    int           `json:"step"`
	Steps   []int         `json:"steps"`
	Nodes   int           `json:"nodes"`
	Baked   time.Duration `json:"baked"`
	Bake    time.Duration `json:"bake"`
	Skipped string        `json:"skipped,omitempty"`
	Failed  string        `json:"failed,omitempty"`
	// Back is true once the change was taken back here, Rungs the measures in force.
	Back  bool     `json:"back,omitempty"`
	Rungs []string `json:"rungs,omitempty"`

	ClusterView
}

// ClusterView is what was last seen of a cluster.
type ClusterView struct {
	// ExposedNodes, LeakedNodes and MissedNodes are how many; of their names the first few are shown, because a view is written
	// every few seconds and a fleet may have hundreds of thousands of nodes.
	ExposedNodes int      `json:"exposedNodes"`
	LeakedNodes  int      `json:"leakedNodes"`
	MissedNodes  int      `json:"missedNodes"`
	Planned      int      `json:"planned"`
	Exposed      []string `json:"exposed,omitempty"`
	Leaked       []string `json:"leaked,omitempty"`
	InFlight     []string `json:"inFlight,omitempty"`
	Missed       []string `json:"missed,omitempty"`
	// Seen is when.
	Seen time.Time `json:"seen,omitzero"`
	// Error is why the last round of work failed, "" when it did not.
	Error string `json:"error,omitempty"`
	// BreakGlass is why the cluster is reached by the break-glass way, "" by the ordinary one.
	BreakGlass string `json:"breakGlass,omitempty"`
	// Look is the newest look, ScaleGate the newest answer of the scale gate.
	Look      *verdict.Look    `json:"look,omitempty"`
	ScaleGate *verdict.Finding `json:"scaleGate,omitempty"`
}

// view is what is shown of a cluster. The lock must be held.
func (e *Engine) view(cluster string) *ClusterView {
	v := e.shown[cluster]
	if v == nil {
		v = new(ClusterView)
		e.shown[cluster] = v
	}
	return v
}

// show notes what was just seen.
func (l *lane) show(d plan.Decision) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	v := l.e.view(l.name)
	v.ExposedNodes, v.LeakedNodes, v.MissedNodes, v.Planned = len(d.Exposed), len(d.Leaked), len(d.Missed), d.Planned
	v.Exposed, v.Leaked, v.InFlight, v.Missed, v.Seen = few(d.Exposed), few(d.Leaked), few(d.InFlight), few(d.Missed), time.Now().UTC()
}

// shownNames is how many names of a list a view holds.
const shownNames = 20

func few(names []string) []string { return names[:min(len(names), shownNames)] }

// View is the run as it stands.
func (e *Engine) View() View {
	e.mu.Lock()
	defer e.mu.Unlock()
	r := e.s.Run
	view := View{
		ID: r.ID, Name: r.Rollout.Name, Title: r.Rollout.Title, Phase: r.Phase, Reason: r.Reason, Message: r.Message,
		Started: r.Started, Ended: r.Ended, Written: time.Now().UTC(), PID: os.Getpid(), Largest: e.s.Plan.Largest,
		Events: append([]journal.Event(nil), e.events...),
	}
	for _, stage := range e.s.Plan.Stages {
		s := StageView{Name: stage.Name, Probe: stage.Probe}
		for _, after := range []bool{false, true} {
			for i := range 20 {
				if t, ok := e.s.Tasks[journal.TaskKey{Stage: stage.Name, After: after, Index: i}]; ok {
					s.Tasks = append(s.Tasks, t)
				}
			}
		}
		for _, leg := range stage.Legs {
			s.Legs = append(s.Legs, e.legView(stage, leg))
		}
		view.Stages = append(view.Stages, s)
	}
	return view
}

func (e *Engine) legView(stage plan.Stage, leg plan.Leg) LegView {
	key := journal.LegKey{Stage: stage.Name, Cluster: leg.Cluster}
	l, c := e.s.Legs[key], e.s.Clusters[leg.Cluster]
	v := LegView{
		Cluster: leg.Cluster, Phase: l.Phase, Step: l.Step + 1, Nodes: leg.Nodes, Baked: l.Baked, Skipped: l.Skipped,
		Failed: c.Failed, Back: c.Back, Rungs: inForce(c), ClusterView: *e.view(leg.Cluster),
	}
	for _, s := range leg.Steps {
		v.Steps = append(v.Steps, s.Nodes)
	}
	v.Bake = e.bake(leg.Cluster, leg.Steps[min(l.Step, len(leg.Steps)-1)])
	return v
}

// inForce are the measures that were taken and hold.
func inForce(c journal.Cluster) []string {
	var names []string
	for _, t := range c.Taken {
		if t.Err == "" {
			names = append(names, string(t.Name))
		}
	}
	return names
}

// publish writes the view for other shells.
func (e *Engine) publish() {
	if err := journal.WriteView(e.o.Journal.Dir(), e.o.Run, e.View()); err != nil {
		e.o.Log.Warn("What is shown to other shells cannot be written", "err", err)
	}
}
