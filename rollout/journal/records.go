package journal

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// Phase is where a run, or a cluster's way through a stage, stands.
type Phase string

// The phases of a run. Running, Paused and RollingBack are under way; the others are its end.
const (
	Running Phase = "Running"
	// Paused waits for a human; Reason says why.
	Paused Phase = "Paused"
	// RollingBack takes the change back everywhere.
	RollingBack Phase = "RollingBack"

	Completed  Phase = "Completed"
	RolledBack Phase = "RolledBack"
	// Aborted was ended by a human and left as it was.
	Aborted Phase = "Aborted"
)

// The phases of a leg, besides RolledBack and Completed.
const (
	// Waiting has not begun.
	Waiting Phase = "Waiting"
	// Stepping moves nodes, Baking holds what was moved.
	Stepping Phase = "Stepping"
	Baking   Phase = "Baking"
)

// Over is true for the end of a run.
func (p Phase) Over() bool {
	return p == Completed || p == RolledBack || p == Aborted
}

// Run is one run of a rollout.
type Run struct {
	ID string `json:"id"`
	// Rollout is the spec, as it was when the run began; Hash is Hash of it.
	Rollout *v1alpha1.Rollout `json:"rollout"`
	Hash    string            `json:"hash"`
	// Origin is the object of a hub that asked for it; nil for a file.
	Origin *Origin `json:"origin,omitempty"`
	// Folder is where the names of files in the rollout begin; "" for an object of a hub, which names none.
	Folder  string    `json:"folder,omitempty"`
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended,omitzero"`
	Phase   Phase     `json:"phase"`
	// Reason is one word, Message a sentence with figures.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Failures are the clusters that failed.
	Failures []string `json:"failures,omitempty"`
	// Unshown are stages of which no cluster completed, and which a human has gone on after.
	Unshown []string `json:"unshown,omitempty"`
}

// Origin is an object of a hub, and which of its specs.
type Origin struct {
	UID        string `json:"uid"`
	Generation int64  `json:"generation"`
}

// Hash tells whether a file says what a run does.
func Hash(r *v1alpha1.Rollout) (string, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return "", fmt.Errorf("encoding rollout %s: %w", r.Name, err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// LegKey names a leg.
type LegKey struct{ Stage, Cluster string }

// Leg is how far a cluster is in a stage.
type Leg struct {
	Stage   string `json:"stage"`
	Cluster string `json:"cluster"`
	Phase   Phase  `json:"phase"`
	// Step counts from 0. Since is when it began, Baked how long it was held with looks that said Pass; both are of our own
	// clock: a condition's time does not change when the pods do (open-cluster-management ocm#1201).
	Step  int           `json:"step"`
	Since time.Time     `json:"since,omitzero"`
	Baked time.Duration `json:"baked,omitempty"`
	// Moved is true once a grant was had for the step and something may have moved.
	Moved bool `json:"moved,omitempty"`
	// Skipped says why the cluster is left alone for now, "" when it is not.
	Skipped string `json:"skipped,omitempty"`
}

// Key is the leg's.
func (l Leg) Key() LegKey { return LegKey{l.Stage, l.Cluster} }

// Cluster is what is known of a cluster over all stages.
type Cluster struct {
	Name string      `json:"name"`
	Pins target.Pins `json:"pins"`
	// Began is true once the change was about to be written, so that new nodes may take it; Back is true once it was taken back in full,
	// Finished once what the run wrote for itself was taken away.
	Began    bool `json:"began,omitempty"`
	Back     bool `json:"back,omitempty"`
	Finished bool `json:"finished,omitempty"`
	// Failed says why the change failed here, "" when it did not. Attributed is true when the harm is the change's own, or a
	// human said so; Overload when the control plane suffers, Load when what failed is load.
	Failed     string `json:"failed,omitempty"`
	Attributed bool   `json:"attributed,omitempty"`
	Overload   bool   `json:"overload,omitempty"`
	Load       bool   `json:"load,omitempty"`
	// Reverted is true once the template from before is in force again; pods are moved after that.
	Reverted bool `json:"reverted,omitempty"`
	// Taken are the measures that were tried and not taken back.
	Taken []jail.Taken `json:"taken,omitempty"`
	// Missed are nodes that could not be moved.
	Missed []string `json:"missed,omitempty"`
	// AcceptedLeaks is how many leaked nodes a human has accepted by resuming; -1 for as many as are seen next.
	AcceptedLeaks int `json:"acceptedLeaks,omitempty"`
}

// TaskKey names a task: its stage, Before or After, and its place.
type TaskKey struct {
	Stage string `json:"stage"`
	After bool   `json:"after,omitempty"`
	Index int    `json:"index"`
}

// String is stage/before/0, as approve takes it.
func (k TaskKey) String() string {
	when := "before"
	if k.After {
		when = "after"
	}
	return fmt.Sprintf("%s/%s/%d", k.Stage, when, k.Index)
}

// Task is how far a task is.
type Task struct {
	TaskKey
	Type    v1alpha1.RolloutTaskType `json:"type"`
	Started time.Time                `json:"started"`
	// Waited is how long it has waited, of what it must; Done says that it is over, By who approved.
	Waited time.Duration `json:"waited,omitempty"`
	Done   bool          `json:"done,omitempty"`
	By     string        `json:"by,omitempty"`
}

// Key is the task's.
func (t Task) Key() TaskKey { return t.TaskKey }

// Intent is what is about to be written to a cluster.
type Intent struct {
	ID      uint64      `json:"-"`
	Cluster string      `json:"cluster"`
	At      time.Time   `json:"at"`
	Moves   []plan.Move `json:"moves"`
	Back    bool        `json:"back,omitempty"`
}

// Event is what happened.
type Event struct {
	At      time.Time `json:"at"`
	Stage   string    `json:"stage,omitempty"`
	Cluster string    `json:"cluster,omitempty"`
	// Type is Normal or Warning, Reason one word, Message a sentence.
	Type    string `json:"type"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// The types of events, as Kubernetes has them.
const (
	Normal  = "Normal"
	Warning = "Warning"
)
