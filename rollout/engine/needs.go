package engine

import (
	"context"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// Exposure is what runs the change on one cluster.
type Exposure struct {
	Cluster string
	Stage   string
	// Step counts the node steps on this cluster from 1; 0 before the first.
	Step int
	// Nodes is how many nodes the change may come to run on there, Planned how many it was let onto, Exposed those that
	// run it, which may be more: under OnDelete new nodes take the new template at once.
	Nodes, Planned int
	Exposed        []string
	// Ready is when the newest pod of the update revision became ready; zero when none has.
	Ready time.Time
	// Since is when the step began.
	Since time.Time
	// Component is the changed workload, with the pods of the update revision.
	Component jail.Component
	// UpdateRevision and StableRevision are the pinned revisions, as pods are labelled with them.
	UpdateRevision, StableRevision string
}

// Analyst looks at the health of control plane, DNS and workload.
type Analyst interface {
	Look(ctx context.Context, e Exposure) (verdict.Look, error)
}

// Growth is the scale gate: from what the steps so far cost, what the next exposure and the full one would cost, here and on
// the clusters that follow.
type Growth interface {
	// Observe measures an exposure for as long as it is held; the first is of no nodes, before the change comes to the cluster.
	Observe(ctx context.Context, e Exposure) error
	// May says whether the change may come to run on this many nodes of the cluster.
	May(ctx context.Context, cluster string, nodes int) (verdict.Finding, error)
}

// Target is the change on one cluster. Every method may be called again after a death at any instant, and then does what is
// left to do. Its methods are called by one goroutine, under the cluster's lease.
type Target interface {
	// Survey says where the change may come to, and refuses what cannot be stepped. It writes nothing.
	Survey(ctx context.Context) ([]plan.Node, error)
	// Prepare pins what there is and what is to be, and writes nothing.
	Prepare(ctx context.Context) (target.Pins, error)
	// Begin writes the change so that nothing moves by itself, and pins its revision.
	Begin(ctx context.Context, pins target.Pins) (target.Pins, error)
	// See reads the cluster. It returns target.ErrForeign or target.ErrGone when the run must stop.
	See(ctx context.Context, pins target.Pins) (plan.Seen, error)
	// Ready is when the newest ready pod of the update revision became so.
	Ready(ctx context.Context, pins target.Pins) (time.Time, error)
	// Move makes moves, forth or back.
	Move(ctx context.Context, pins target.Pins, moves []plan.Move, back bool) error
	// Revert puts back in force what was before; what runs already is moved after.
	Revert(ctx context.Context, pins target.Pins) error
	// Finish takes away what the run wrote for itself, at the very end.
	Finish(ctx context.Context, pins target.Pins, back bool) error
	// Rights are what the way back asks of the API server.
	Rights(pins target.Pins) ([]authorizationv1.ResourceAttributes, error)
	// Component is the workload as the ladder must know it.
	Component(ctx context.Context, pins target.Pins) (jail.Component, error)
}

// Fence lets this process alone write to a cluster. internal/fence has it.
type Fence interface {
	// Acquire waits for the right; the context it returns ends when it is lost. waiting is told who holds it meanwhile.
	Acquire(ctx context.Context, waiting func(holder string)) (held context.Context, release func(), err error)
}
