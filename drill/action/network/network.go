// Package network is the action that shuts or opens the agents' way to the admin API.
package network

import (
	"context"
	"errors"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

type action struct {
	spec   v1alpha1.NetworkAction
	target drill.NetworkShutter
}

// New returns the action; it fails when the target has not the ability.
func New(spec v1alpha1.NetworkAction, env drill.Env) (drill.Action, error) {
	target, ok := env.Target.(drill.NetworkShutter)
	if !ok {
		return nil, errors.New("the target cannot shut the agents' way to the admin API")
	}
	return &action{spec: spec, target: target}, nil
}

// Do implements drill.Action.
func (a *action) Do(ctx context.Context) error {
	return a.target.BlockAgents(ctx, a.spec.Op == v1alpha1.NetworkBlock)
}
