// Package apiservers is the action that adds API servers.
package apiservers

import (
	"context"
	"errors"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

type action struct {
	spec   v1alpha1.AddAPIServersAction
	target drill.APIServerAdder
}

// New returns the action; it fails when the target has not the ability.
func New(spec v1alpha1.AddAPIServersAction, env drill.Env) (drill.Action, error) {
	target, ok := env.Target.(drill.APIServerAdder)
	if !ok {
		return nil, errors.New("the target cannot add API servers")
	}
	return &action{spec: spec, target: target}, nil
}

// Do implements drill.Action.
func (a *action) Do(ctx context.Context) error { return a.target.AddAPIServers(ctx, a.spec.Count) }
