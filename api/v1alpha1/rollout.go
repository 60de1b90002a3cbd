package v1alpha1

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// KindRollout is a change, and how it comes to the clusters of a fleet and to their nodes.
const KindRollout = "Rollout"

// Rollout is what `seakeep rollout run` reads.
//
// A change goes to clusters in stages and to nodes in steps. Nothing moves without a fresh look that says Pass; Unknown
// never advances. Before the second stage the largest cluster of the fleet is asked, with one node and with three: the change
// of 2024-12-11 was green on every small cluster.
type Rollout struct {
	TypeMeta `json:",inline"`
	// Name is the rollout's name, a DNS label. One run of a name is under way at a time.
	Name string `json:"name"`

	RolloutSpec `json:",inline"`
}

// RolloutSpec is what a rollout is to do. A run takes a copy when it starts, and keeps to it.
type RolloutSpec struct {
	// Title is one line for people.
	Title string `json:"title,omitempty"`
	// Change is what changes.
	Change RolloutChange `json:"change"`
	// Stages are sets of clusters, one after the other. A cluster is in one stage at most.
	Stages []RolloutStage `json:"stages"`
	// Steps are how many nodes of a cluster run the change, one step after the other; the first is at most 3 nodes, each at
	// most three times the one before, and the last 100%. Default: 1, 3, 9, 27 … 100%. What changes without nodes
	// (a Deployment, manifests) has one step.
	Steps []RolloutStep `json:"steps,omitempty"`
	// Nodes says which nodes, and how many at once.
	Nodes RolloutNodes `json:"nodes,omitempty"`
	// LargestClusterProbe asks the largest cluster early.
	LargestClusterProbe RolloutProbe `json:"largestClusterProbe,omitempty"`
	// Analysis says what is looked at, and what makes a verdict of it.
	Analysis RolloutAnalysis `json:"analysis,omitempty"`
	// Bake is how long each step is held.
	Bake RolloutBake `json:"bake,omitempty"`
	// ScaleGate lets a step go on only when what all nodes would cost fits.
	ScaleGate RolloutScaleGate `json:"scaleGate,omitempty"`
	// OnFailure is what is done when the verdict is Fail.
	OnFailure RolloutLadder `json:"onFailure,omitempty"`
	// MaxFailures is how many clusters, or which share of the fleet's, may fail and be rolled back by themselves while the
	// others go on; default 0: the first failure rolls back every cluster.
	MaxFailures *intstr.IntOrString `json:"maxFailures,omitempty"`
	// MaxSkipped is how many clusters, or which share, may be unreachable while the others go on; default 0. A cluster that
	// comes back goes on at its own stage and step.
	MaxSkipped *intstr.IntOrString `json:"maxSkipped,omitempty"`
	// ProgressDeadline is how long the pods of a step may take to be ready, 10s–24h; default 10m. Then the step has failed. Looks that
	// pass and fail in turn have as long to come to a verdict.
	ProgressDeadline *metav1.Duration `json:"progressDeadline,omitempty"`
	// OnUnknown is what is done after InconclusiveLimit looks in a row that know nothing: Pause (default) until a human
	// resumes, or Wait. Unknown never advances either way.
	OnUnknown RolloutOnUnknown `json:"onUnknown,omitempty"`
	// InconclusiveLimit is how many looks in a row may know nothing, 1–1000 and more than analysis.consecutiveLooks; default 5, and at
	// least twice that number. Looks that pass and fail in turn, so that no row is complete, may be as many, and more until
	// ProgressDeadline is over.
	InconclusiveLimit int `json:"inconclusiveLimit,omitempty"`
	// Interval is how often is looked, 1s–1h; default 30s.
	Interval *metav1.Duration `json:"interval,omitempty"`
}

// RolloutOnUnknown says what is done when too little is known for too long.
type RolloutOnUnknown string

// What is done when too little is known.
const (
	OnUnknownPause RolloutOnUnknown = "Pause"
	OnUnknownWait  RolloutOnUnknown = "Wait"
)

// RolloutChange is what changes: a DaemonSet, a Deployment, or manifests alone. Manifests beside a workload are applied
// before it.
type RolloutChange struct {
	// DaemonSet is a native DaemonSet, stepped node by node.
	DaemonSet *DaemonSetChange `json:"daemonSet,omitempty"`
	// AdvancedDaemonSet is OpenKruise's DaemonSet (apps.kruise.io), stepped node by node by its own update strategy.
	AdvancedDaemonSet *AdvancedDaemonSetChange `json:"advancedDaemonSet,omitempty"`
	// Deployment is changed on a cluster as a whole, by its own rolling update.
	Deployment *WorkloadChange `json:"deployment,omitempty"`
	// Manifests are objects of Kubernetes, written by server-side apply as the field manager "seakeep-rollout".
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:pruning:PreserveUnknownFields
	Manifests []map[string]any `json:"manifests,omitempty"`
	// UserAgents are globs over what the component calls itself, by which its requests are told from others of the same
	// ServiceAccount; a claim, so used to narrow only.
	UserAgents []string `json:"userAgents,omitempty"`
}

// Whole is true for what changes a cluster at once, not node by node: a Deployment, or manifests alone.
func (c *RolloutChange) Whole() bool { return c.DaemonSet == nil && c.AdvancedDaemonSet == nil }

// WorkloadChange is a new pod template of a workload. Exactly one of Template and Patch is set.
type WorkloadChange struct {
	// Namespace and Name are the object's.
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Template is the whole new pod template.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Template map[string]any `json:"template,omitempty"`
	// Patch is a strategic merge patch of the pod template that each cluster has, for fleets whose clusters differ.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	Patch map[string]any `json:"patch,omitempty"`
}

// DaemonSetChange is a new pod template of a DaemonSet, or a DaemonSet that is new.
type DaemonSetChange struct {
	WorkloadChange `json:",inline"`
	// Install is set for a DaemonSet that does not exist yet. It needs Template.
	Install *DaemonSetInstall `json:"install,omitempty"`
}

// DaemonSetInstall brings a new DaemonSet to nodes one by one: it is created with a node selector that no node satisfies, and
// each node is given the label in its turn. At the end the selector is dropped under OnDelete, which moves no pod.
type DaemonSetInstall struct {
	// EnrolmentLabel is the label's key; default seakeep.dev/enrol-NAME.
	EnrolmentLabel string `json:"enrolmentLabel,omitempty"`
}

// AdvancedDaemonSetChange is a new pod template of an Advanced DaemonSet of OpenKruise, or one that is new.
type AdvancedDaemonSetChange struct {
	WorkloadChange `json:",inline"`
	// Install is set, as {}, for one that does not exist yet. It needs Template.
	Install *AdvancedDaemonSetInstall `json:"install,omitempty"`
}

// AdvancedDaemonSetInstall brings a new Advanced DaemonSet to nodes one by one, by OpenKruise's progressive creation: it makes
// pods on all nodes but its partition. It takes the nodes by their names, the first ones first, and heeds no selector; so the
// plan's order is by name, and nodes.selector is refused.
type AdvancedDaemonSetInstall struct{}

// RolloutStage is a set of clusters.
type RolloutStage struct {
	// Name is the stage's name, a DNS label.
	Name string `json:"name"`
	// LabelSelector selects clusters by their labels in the fleet. It must not be empty.
	LabelSelector metav1.LabelSelector `json:"labelSelector"`
	// SortingLabelKey names a label whose values, whole numbers, order the clusters; without it the smallest cluster goes
	// first.
	SortingLabelKey string `json:"sortingLabelKey,omitempty"`
	// MaxConcurrency is how many clusters of the stage, or which share, change at once; default 1.
	MaxConcurrency *intstr.IntOrString `json:"maxConcurrency,omitempty"`
	// BeforeStageTasks and AfterStageTasks are done one after the other before the stage's first cluster and after its last.
	BeforeStageTasks []RolloutTask `json:"beforeStageTasks,omitempty"`
	AfterStageTasks  []RolloutTask `json:"afterStageTasks,omitempty"`
	// Steps replace the rollout's steps in this stage.
	Steps []RolloutStep `json:"steps,omitempty"`
}

// RolloutTask is something to wait for.
type RolloutTask struct {
	// Type says what is waited for.
	Type RolloutTaskType `json:"type"`
	// WaitTime is how long a TimedWait waits, and how long an Analysis must say Pass without a break.
	WaitTime *metav1.Duration `json:"waitTime,omitempty"`
}

// RolloutTaskType says what a task waits for.
type RolloutTaskType string

// The types of tasks: a length of time; `seakeep rollout approve`; looks at every cluster that runs the change, all of which
// must say Pass.
const (
	TaskTimedWait RolloutTaskType = "TimedWait"
	TaskApproval  RolloutTaskType = "Approval"
	TaskAnalysis  RolloutTaskType = "Analysis"
)

// RolloutStep is how far a cluster goes before it is looked at again.
type RolloutStep struct {
	// Replicas is how many nodes, or which share of them, run the change after this step.
	Replicas intstr.IntOrString `json:"replicas"`
	// Pause holds the step for longer than the bake does.
	Pause RolloutPause `json:"pause,omitempty"`
}

// RolloutPause is a time to wait.
type RolloutPause struct {
	// Duration is how long; it is counted while looks say Pass.
	Duration *metav1.Duration `json:"duration,omitempty"`
}

// RolloutNodes says which nodes, and how many at once.
type RolloutNodes struct {
	// Selector selects nodes by label; default all that the workload runs on. What the rollout leaves out keeps the old
	// revision until its pod is replaced by somebody else: under OnDelete a new pod has the new template.
	Selector *metav1.LabelSelector `json:"selector,omitempty"`
	// MaxUnavailable is how many nodes, or which share of a cluster's, may be without a ready pod of the change at once, of
	// those it was let onto; default 1. Every delete is charged to it, that of an unready pod too: a cluster that falls
	// apart is not rolled faster.
	MaxUnavailable *intstr.IntOrString `json:"maxUnavailable,omitempty"`
	// MaxSurge is refused: a DaemonSet under OnDelete ignores it, and an Advanced DaemonSet is not stepped with it.
	MaxSurge *intstr.IntOrString `json:"maxSurge,omitempty"`
	// MaxLeaked is how many nodes, or which share of a cluster's, may run the change without having been let to, as new and
	// repaired nodes do; default 5%, at least 1. Beyond it the rollout pauses.
	MaxLeaked *intstr.IntOrString `json:"maxLeaked,omitempty"`
}

// RolloutProbe asks the largest cluster early, with 1 and with 3 nodes.
type RolloutProbe struct {
	// AfterStage is the stage it follows; default the first, if the largest cluster is not in it.
	AfterStage string `json:"afterStage,omitempty"`
	// Disabled leaves it out.
	Disabled bool `json:"disabled,omitempty"`
}

// Defaults of a rollout.
const (
	defaultProgressDeadline  = 10 * time.Minute
	defaultInconclusiveLimit = 5
	defaultInterval          = 30 * time.Second
	defaultEnrolPrefix       = "seakeep.dev/enrol-"
)

// DefaultMaxLeaked is the share of a cluster's nodes that may run the change without having been let to.
var DefaultMaxLeaked = intstr.FromString("5%")

// SetDefaults implements Object.
func (r *Rollout) SetDefaults() {
	zero, one, leaked := intstr.FromInt32(0), intstr.FromInt32(1), DefaultMaxLeaked
	orInt := func(v **intstr.IntOrString, n intstr.IntOrString) {
		if *v == nil {
			*v = &n
		}
	}
	orInt(&r.MaxFailures, zero)
	orInt(&r.MaxSkipped, zero)
	orInt(&r.Nodes.MaxUnavailable, one)
	orInt(&r.Nodes.MaxLeaked, leaked)
	for i := range r.Stages {
		orInt(&r.Stages[i].MaxConcurrency, one)
	}
	if r.ProgressDeadline == nil {
		r.ProgressDeadline = &metav1.Duration{Duration: defaultProgressDeadline}
	}
	if r.Interval == nil {
		r.Interval = &metav1.Duration{Duration: defaultInterval}
	}
	if r.OnUnknown == "" {
		r.OnUnknown = OnUnknownPause
	}
	r.Analysis.setDefaults(r.Interval.Duration)
	r.Bake.setDefaults(&r.Analysis, r.Interval.Duration)
	r.ScaleGate.setDefaults()
	r.OnFailure.setDefaults()
	if r.InconclusiveLimit == 0 {
		r.InconclusiveLimit = max(defaultInconclusiveLimit, 2*r.Analysis.ConsecutiveLooks)
	}
	if d := r.Change.DaemonSet; d != nil && d.Install != nil && d.Install.EnrolmentLabel == "" {
		d.Install.EnrolmentLabel = defaultEnrolPrefix + d.Name
	}
}
