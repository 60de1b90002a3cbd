// Package jail takes the load of a change off a control plane that is too busy for a rollback: a ladder of measures, each
// proved to work before the first node is exposed.
package jail

import (
	"context"
	"time"
)

// Component is the changed workload, as far as a measure must know it.
type Component struct {
	// Cluster is the cluster's name.
	Cluster string
	// Kind, Namespace and Name are the object's.
	Kind, Namespace, Name string
	// ServiceAccount runs it, namespace/name.
	ServiceAccount string
	// UserAgents are globs over what it calls itself; a claim, used to narrow and never to widen.
	UserAgents []string
	// UpdatePods are the names of the pods of the update revision, namespace/name.
	UpdatePods []string
	// Protected is why it is never held back without a human; "" when it may be. See Protected.
	Protected string
	// Rollout is the run's id, which what is written carries.
	Rollout string
}

// Rung is one measure on one cluster.
type Rung interface {
	// Name is freeze, gate, apf, rbac, revert or emergency.
	Name() string
	// HitsStable is true when the revision from before the change suffers too.
	HitsStable() bool
	// ReducesLoad is true when it only takes load away. With Unknown verdicts nothing else is done without a human.
	ReducesLoad() bool
	// Prove shows that it would work now, and changes nothing that stays. The error says what is missing and what to do.
	Prove(ctx context.Context, c Component) error
	// Do does it, for no longer than the time; again is the same as once.
	Do(ctx context.Context, c Component, reason string, length time.Duration) error
	// Undo takes it back; nothing when there is nothing to.
	Undo(ctx context.Context, c Component) error
}
