// Package scale is the action that takes machines away, with the agents on them, or brings them back.
package scale

import (
	"context"
	"errors"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

type action struct {
	spec   v1alpha1.ScaleAction
	target drill.AgentScaler
}

// New returns the action; it fails when the target has not the ability.
func New(spec v1alpha1.ScaleAction, env drill.Env) (drill.Action, error) {
	target, ok := env.Target.(drill.AgentScaler)
	if !ok {
		return nil, errors.New("the target cannot take machines away")
	}
	return &action{spec: spec, target: target}, nil
}

// Do implements drill.Action.
func (a *action) Do(ctx context.Context) error {
	return a.target.ScaleAgents(ctx, *a.spec.AgentsPercent)
}
