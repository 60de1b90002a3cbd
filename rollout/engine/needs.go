// Package engine carries a rollout out: stages of clusters, steps of nodes, and a look before each. Nothing moves without a
// grant for that very wave, so a rollout whose engine is gone stands still.
package engine

import (
	"context"
	"time"

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
}

// Analyst looks at the health of control plane, DNS and workload.
type Analyst interface {
	Look(ctx context.Context, e Exposure) (verdict.Look, error)
}

// Growth is the scale gate: from what the steps so far cost, what the next exposure and the full one would cost, here and on
// the clusters that follow.
type Growth interface {
	// Observe is told of each exposure that was held for long enough to be measured.
	Observe(ctx context.Context, e Exposure) error
	// May says whether the change may come to run on this many nodes of the cluster.
	May(ctx context.Context, cluster string, nodes int) (verdict.Finding, error)
}
