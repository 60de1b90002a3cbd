package daemonset

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
)

// See reads the cluster: which pods of which revision are on which node. It is read afresh each time, never counted on.
func (t *Target) See(ctx context.Context, pins target.Pins) (plan.Seen, error) {
	seen := plan.Seen{Update: pins.Update, Stable: pins.Stable}
	if _, err := t.stepped(ctx, pins); err != nil {
		return seen, err
	}
	there, err := t.own().List(ctx, pins)
	if err != nil {
		return seen, err
	}
	for _, n := range there {
		if n.Meant {
			one := n.Seen()
			one.Enrolment = t.enrolment(n.Node)
			seen.Nodes = append(seen.Nodes, one)
		}
	}
	return seen, nil
}

// Ready is when the newest ready pod of the update revision became so; zero when there is none.
func (t *Target) Ready(ctx context.Context, pins target.Pins) (time.Time, error) {
	return t.own().Ready(ctx, pins)
}

// Pods are the pods of the update revision and those of the stable one that are not ending, for those who judge them.
func (t *Target) Pods(ctx context.Context, pins target.Pins) (update, stable []corev1.Pod, err error) {
	return t.own().ByRevision(ctx, pins)
}
