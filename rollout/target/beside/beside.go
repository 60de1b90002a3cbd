// Package beside puts manifests that a workload needs (its ServiceAccount, its rights) before the workload, and takes them back
// after it.
package beside

import (
	"context"
	"errors"
	"fmt"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/target/manifests"
)

// Target is manifests, and a workload. Its methods are called by one goroutine at a time.
type Target struct {
	Manifests *manifests.Target
	Workload  engine.Target
}

var _ engine.Target = (*Target)(nil)

// Survey implements engine.Target.
func (t *Target) Survey(ctx context.Context) ([]plan.Node, error) {
	_, err := t.Manifests.Try(ctx)
	nodes, other := t.Workload.Survey(ctx)
	return nodes, errors.Join(err, other)
}

// Prepare implements engine.Target.
func (t *Target) Prepare(ctx context.Context) (target.Pins, error) {
	first, err := t.Manifests.Try(ctx)
	if err != nil {
		return target.Pins{}, err
	}
	pins, err := t.Workload.Prepare(ctx)
	pins.Beside = &first
	return pins, err
}

// Begin implements engine.Target: the manifests are there before the workload is.
func (t *Target) Begin(ctx context.Context, pins target.Pins) (target.Pins, error) {
	first, err := t.Manifests.Begin(ctx, *pins.Beside)
	if err != nil {
		return pins, err
	}
	pins.Beside = &first
	if err := t.Manifests.Move(ctx, first, nil, false); err != nil {
		return pins, err
	}
	return t.Workload.Begin(ctx, pins)
}

// See implements engine.Target.
func (t *Target) See(ctx context.Context, pins target.Pins) (plan.Seen, error) {
	return t.Workload.See(ctx, pins)
}

// Ready implements engine.Target.
func (t *Target) Ready(ctx context.Context, pins target.Pins) (time.Time, error) {
	return t.Workload.Ready(ctx, pins)
}

// Move implements engine.Target.
func (t *Target) Move(ctx context.Context, pins target.Pins, moves []plan.Move, back bool) error {
	return t.Workload.Move(ctx, pins, moves, back)
}

// Revert implements engine.Target.
func (t *Target) Revert(ctx context.Context, pins target.Pins) error {
	return t.Workload.Revert(ctx, pins)
}

// Finish implements engine.Target: on the way back the manifests go last. They go, too, when the workload is gone already: of what came
// with it, rights that hold in the whole cluster did not go with its namespace.
func (t *Target) Finish(ctx context.Context, pins target.Pins, back bool) error {
	err := t.Workload.Finish(ctx, pins, back)
	if back && errors.Is(err, target.ErrGone) {
		err = nil
	}
	if err != nil || !back {
		return err
	}
	if err := t.Manifests.Move(ctx, *pins.Beside, nil, true); err != nil {
		return fmt.Errorf("taking the manifests back: %w", err)
	}
	return nil
}

// Rights implements engine.Target.
func (t *Target) Rights(pins target.Pins) ([]authorizationv1.ResourceAttributes, error) {
	first, err := t.Manifests.Rights(*pins.Beside)
	rights, other := t.Workload.Rights(pins)
	return append(first, rights...), errors.Join(err, other)
}

// Component implements engine.Target.
func (t *Target) Component(ctx context.Context, pins target.Pins) (jail.Component, error) {
	return t.Workload.Component(ctx, pins)
}
