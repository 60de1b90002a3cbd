package drill

import (
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/signals"
)

// Result is everything one run recorded. All times are durations from the incident's start, on the drill's clock.
type Result struct {
	Drill  *v1alpha1.Drill
	Layers string
	// Zero is the incident's start; Begin is the start of the first phase, End the end of the run.
	Zero       time.Time
	Begin, End time.Duration
	Phases     []Phase
	Steps      []Step
	// Samples are in the order of their completion.
	Samples []Sample
	Usage   []UsagePoint
	Signals []SignalPoint
	// Mitigation is from the mitigating step's first attempt to its success, Recovery from there until the target
	// was well; nil when it did not come to that within the run.
	Mitigation, Recovery *time.Duration
	// Rollout is what became of a change that was rolled out in steps; nil when none was.
	Rollout *Rollout
	// Agents counts the agents' requests by result; nil when the target cannot say.
	Agents map[string]uint64
	// Problems say why the run is not what the scenario tells: a step that had to succeed and failed.
	Problems []string
}

// Rollout is what became of a change that was rolled out in steps.
type Rollout struct {
	// ExposedNodes ever ran the change, of Nodes.
	ExposedNodes, Nodes int
	// Phase is where it ended (Completed, RolledBack, Paused …), and Reason why, with figures.
	Phase, Reason string
	// Stopped is how long after its beginning it stopped by itself; nil when it did not.
	Stopped *time.Duration
	// Undecided is true when it was neither stopped nor let on when the run ended.
	Undecided bool
}

// Phase is a phase as it came.
type Phase struct {
	Name       string
	Start, End time.Duration
}

// StepStatus is what became of a step.
type StepStatus string

// The statuses of a step.
const (
	StepDone       StepStatus = "Done"
	StepFailed     StepStatus = "Failed"
	StepSkipped    StepStatus = "Skipped"    // not needed: the target was well
	StepNotReached StepStatus = "NotReached" // the run ended first, or what it waits for did not happen
)

// Step is a step as it went.
type Step struct {
	Name, Title, Kind string
	Status            StepStatus
	Start, End        time.Duration
	Attempts          int
	// Error is the last attempt's.
	Error string
}

// UsagePoint is what a component had taken at a time.
type UsagePoint struct {
	At        time.Duration
	Component string
	Usage     Usage
}

// SignalPoint is what an API server said of itself at a time, or that it did not answer.
type SignalPoint struct {
	At      time.Duration
	Server  string
	Reading signals.APIServer
	// Error is why there is no reading.
	Error string
}
