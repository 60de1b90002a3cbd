// Package hub holds the objects that a hub cluster keeps for Seakeep: the same fields as the kinds of v1alpha1, with a status.
// The CRD in deploy/rollout is generated from it.
//
// +groupName=seakeep.dev
// +versionName=v1alpha1
package hub

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Rollout is a change, and how it comes to the clusters of a fleet and to their nodes. Its name must be a DNS label.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,path=rollouts,singular=rollout
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Stage",type=string,JSONPath=`.status.stage`
// +kubebuilder:printcolumn:name="Exposed",type=string,JSONPath=`.status.exposed`
// +kubebuilder:printcolumn:name="Verdict",type=string,JSONPath=`.status.verdict`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Accepted",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Accepted")].reason`
// +kubebuilder:printcolumn:name="Run",type=string,priority=1,JSONPath=`.status.run`
type Rollout struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   v1alpha1.RolloutSpec `json:"spec"`
	Status RolloutStatus        `json:"status,omitempty"`
}

// What people and machines ask of a rollout, as annotations on its object.
const (
	// OrderAnnotation is an order: pause, resume, approve, approve STAGE/before/0, abort or rollback. It is taken off when it
	// was given.
	OrderAnnotation = "seakeep.dev/order"
	// ReasonAnnotation says why, for the record. It is taken off with the order.
	ReasonAnnotation = "seakeep.dev/order-reason"
	// ApprovalAnnotation names an update run of KubeFleet whose approval requests this rollout answers, as
	// clusterstagedupdaterun/NAME or stagedupdaterun/NAME.
	ApprovalAnnotation = "seakeep.dev/approval-for"
	// Finalizer keeps the object until its run stands still.
	Finalizer = "seakeep.dev/rollout"
)

// The types of conditions.
const (
	// Accepted is True when what the spec says is, or was, carried out. False: Invalid, Refused, SpecChanged or JournalLost.
	Accepted = "Accepted"
	// Progressing is True while the change goes forth or back.
	Progressing = "Progressing"
	// Paused is True while a human is waited for.
	Paused = "Paused"
	// Succeeded is True when the change is everywhere, False when the run ended otherwise.
	Succeeded = "Succeeded"
	// Approving is there with ApprovalAnnotation only: True when no approval request of the update run waits, False when one does
	// or none is answered, Unknown when they cannot be read.
	Approving = "Approving"
)

// RolloutStatus is how far a rollout is. It is for people: what a run goes on from is in the controller's journal.
type RolloutStatus struct {
	// ObservedGeneration is the spec's that the conditions speak of.
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Run is the run's id in the journal.
	Run string `json:"run,omitempty"`
	// Phase is the run's, Reason one word, Message a sentence with figures.
	Phase   string `json:"phase,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Started and Ended are the run's.
	Started *metav1.Time `json:"started,omitempty"`
	Ended   *metav1.Time `json:"ended,omitempty"`
	// Largest is the largest cluster, which is asked early.
	Largest string `json:"largest,omitempty"`
	// Stage is the stage that is under way.
	Stage string `json:"stage,omitempty"`
	// Exposed is how many nodes run the change, of all nodes of the plan, as 12/350.
	Exposed string `json:"exposed,omitempty"`
	// Verdict is the worst of the newest looks at clusters that run the change.
	Verdict string `json:"verdict,omitempty"`
	// Waiting are the approvals that are waited for, as the order approve takes them.
	Waiting []string `json:"waiting,omitempty"`
	// Stages are the plan's, as it was made when the run began.
	Stages []StageStatus `json:"stages,omitempty"`
	// Clusters are clusters of the plan, at most 100, those that need attention first; OmittedClusters is how many more there are.
	Clusters        []ClusterStatus `json:"clusters,omitempty"`
	OmittedClusters int             `json:"omittedClusters,omitempty"`
	// Conditions are Accepted, Progressing, Paused and Succeeded, and Approving where KubeFleet is answered.
	//
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// StageStatus is a stage of the plan.
type StageStatus struct {
	Name string `json:"name"`
	// Probe is true for the early look at the largest cluster.
	Probe bool `json:"probe,omitempty"`
	// Clusters are how many, Completed how many of them are done.
	Clusters  int `json:"clusters"`
	Completed int `json:"completed"`
	// Nodes are those of the clusters, ExposedNodes those that run the change.
	Nodes        int `json:"nodes"`
	ExposedNodes int `json:"exposedNodes"`
}

// ClusterStatus is a cluster in its stage.
type ClusterStatus struct {
	Name  string `json:"name"`
	Stage string `json:"stage"`
	Phase string `json:"phase"`
	// Step is as 2/5.
	Step         string `json:"step,omitempty"`
	Nodes        int    `json:"nodes"`
	ExposedNodes int    `json:"exposedNodes"`
	LeakedNodes  int    `json:"leakedNodes,omitempty"`
	// Verdict is the newest look's, Why what it found when it is not Pass, or why the cluster failed or is skipped.
	Verdict string `json:"verdict,omitempty"`
	Why     string `json:"why,omitempty"`
	// Rungs are the measures in force.
	Rungs []string `json:"rungs,omitempty"`
	// BreakGlass is why the way back goes by the break-glass way, empty while it goes by the ordinary one.
	BreakGlass string `json:"breakGlass,omitempty"`
}
