// Package report turns what runs recorded into what people and programs read: JSON with a documented schema
// (docs/reference/replay-report.md), one self-contained HTML page, a table for the terminal, and the README's picture.
package report

import (
	"time"

	"github.com/seakeep/seakeep/drill"
)

// SchemaVersion is raised when a field changes its meaning or goes away; new fields do not raise it.
const SchemaVersion = 1

// Report is report.json. Times are seconds of the machine's clock, counted from the incident's start.
type Report struct {
	SchemaVersion int        `json:"schemaVersion"`
	Scenario      string     `json:"scenario"`
	Title         string     `json:"title"`
	Description   string     `json:"description,omitempty"`
	Sources       []string   `json:"sources,omitempty"`
	Generated     time.Time  `json:"generated"`
	Parameters    Parameters `json:"parameters"`
	Machine       Machine    `json:"machine"`
	// Bounds says how the components' CPU and memory bounds were enforced, and which were set.
	Bounds string `json:"bounds"`
	// Verdict is that of all runs, Summary one line about it.
	Verdict drill.Verdict `json:"verdict"`
	Summary string        `json:"summary"`
	// Rehearsal is the run on the staging cluster, when the scenario has one.
	Rehearsal *Run  `json:"rehearsal,omitempty"`
	Runs      []Run `json:"runs"`
}

// Parameters are the scenario's, as they were used.
type Parameters struct {
	Nodes  int     `json:"nodes"`
	Pods   int     `json:"pods"`
	Factor float64 `json:"factor"`
	Seed   uint64  `json:"seed"`
}

// Machine is what the runs were made on.
type Machine struct {
	CPUs        int    `json:"cpus"`
	MemoryBytes uint64 `json:"memoryBytes,omitempty"`
	OS          string `json:"os"`
	Arch        string `json:"arch"`
	Kubernetes  string `json:"kubernetes,omitempty"`
}

// Run is one run. The figures right below Layers are of the headline phases, except that leases, the API server and
// the two times are of the whole run. A figure without data is null.
type Run struct {
	Layers string `json:"layers"`

	Admin       Requests    `json:"admin"`
	BreakGlass  Requests    `json:"breakglass"`
	Leases      Leases      `json:"leases"`
	DNS         DNS         `json:"dns"`
	Controllers Requests    `json:"controllers"`
	Readyz      Requests    `json:"readyz"`
	APIServer   APIServer   `json:"apiserver"`
	Rollout     *Rollout    `json:"rollout,omitempty"`
	Mitigation  *float64    `json:"mitigationSeconds"`
	Recovery    *float64    `json:"recoverySeconds"`
	Components  []Component `json:"components"`

	Started     time.Time         `json:"started"`
	BeginSecond float64           `json:"beginSeconds"`
	EndSecond   float64           `json:"endSeconds"`
	Headline    []string          `json:"headline"`
	Verdict     drill.Verdict     `json:"verdict"`
	Hypotheses  []Hypothesis      `json:"hypotheses"`
	Phases      []Phase           `json:"phases"`
	Timeline    []Step            `json:"timeline"`
	Agents      map[string]uint64 `json:"agents,omitempty"`
	Problems    []string          `json:"problems,omitempty"`
	Series      []Series          `json:"series"`
	Signals     []Signal          `json:"signals"`
}

// Rollout is what became of a change that was rolled out in steps.
type Rollout struct {
	// ExposedNodes ever ran the change; ExposedRatio is their part of all nodes.
	ExposedNodes int     `json:"exposedNodes"`
	ExposedRatio float64 `json:"exposedRatio"`
	// Verdict is Fail for a change that was taken back, Pass for one that is everywhere, else Unknown; Phase is where the
	// rollout stands and Reason why, with figures.
	Verdict drill.Verdict `json:"verdict"`
	Phase   string        `json:"phase"`
	Reason  string        `json:"reason"`
	// Stopped is from its beginning until it stopped by itself; null when it did not.
	Stopped *float64 `json:"stoppedSeconds"`
}

// Requests sums a probe up.
type Requests struct {
	Samples      int            `json:"samples"`
	SuccessRatio *float64       `json:"successRatio"`
	P50Seconds   *float64       `json:"p50Seconds"`
	P99Seconds   *float64       `json:"p99Seconds"`
	MaxSeconds   *float64       `json:"maxSeconds"`
	Outcomes     map[string]int `json:"outcomes,omitempty"`
}

// Leases sums the renewals of node leases up, over the whole run.
type Leases struct {
	Renewals int `json:"renewals"`
	// Missed and Late are null when no renewal was seen; Undetermined could not be seen.
	Missed       *int `json:"missed"`
	Late         *int `json:"late"`
	Undetermined int  `json:"undetermined"`
}

// DNS holds success ratios.
type DNS struct {
	Cached       *float64 `json:"cached"`
	Unique       *float64 `json:"unique"`
	AfterRestart *float64 `json:"afterRestart"`
}

// APIServer sums all API servers up, over the whole run: CPU and memory by the operating system, the rest by their own
// counters, where what a killed one counted after the last reading is lost.
type APIServer struct {
	CPUSeconds          float64  `json:"cpuSeconds"`
	MaxRSSBytes         int64    `json:"maxRSSBytes"`
	Restarts            int      `json:"restarts"`
	ListRequests        *float64 `json:"listRequests"`
	Requests            *float64 `json:"requests"`
	TooManyRequests     *float64 `json:"tooManyRequests"`
	MaxInFlight         *float64 `json:"maxInFlight"`
	ScrapesWithoutReply int      `json:"scrapesWithoutReply"`
}

// Component is what a process took in the run, by the operating system.
type Component struct {
	Name        string  `json:"name"`
	CPUSeconds  float64 `json:"cpuSeconds"`
	MaxRSSBytes int64   `json:"maxRSSBytes"`
	Restarts    int     `json:"restarts"`
}

// Hypothesis is a claim and its verdict.
type Hypothesis struct {
	Name    string        `json:"name"`
	Claim   string        `json:"claim"`
	Verdict drill.Verdict `json:"verdict"`
	Value   *float64      `json:"value"`
	Reason  string        `json:"reason,omitempty"`
}

// Phase is a phase with its probes, by "probe/series" and, over all series, "probe".
type Phase struct {
	Name        string              `json:"name"`
	StartSecond float64             `json:"startSeconds"`
	EndSecond   float64             `json:"endSeconds"`
	Probes      map[string]Requests `json:"probes"`
}

// Step is an action and what became of it.
type Step struct {
	Name        string           `json:"name"`
	Title       string           `json:"title"`
	Kind        string           `json:"kind"`
	Status      drill.StepStatus `json:"status"`
	StartSecond float64          `json:"startSeconds"`
	EndSecond   float64          `json:"endSeconds"`
	Attempts    int              `json:"attempts"`
	Error       string           `json:"error,omitempty"`
}

// Series is a probe's series by the second.
type Series struct {
	Probe  string  `json:"probe"`
	Series string  `json:"series"`
	Points []Point `json:"points"`
}

// Point sums up the samples that were due in one second.
type Point struct {
	Second  int `json:"second"`
	Samples int `json:"samples"`
	OK      int `json:"ok"`
	// P50Seconds and MaxSeconds are latencies.
	P50Seconds float64 `json:"p50Seconds"`
	MaxSeconds float64 `json:"maxSeconds"`
}

// Signal is the state of all API servers at about one time; null is what no API server told.
type Signal struct {
	Second         float64  `json:"second"`
	CPU            *float64 `json:"cpu"`
	RSSBytes       *float64 `json:"rssBytes"`
	InFlight       *float64 `json:"inFlight"`
	Queued         *float64 `json:"queued"`
	ListsPerSecond *float64 `json:"listsPerSecond"`
}
