// Package emergency is the action that sends an emergency rule to the gate.
package emergency

import (
	"context"
	"errors"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

type action struct {
	spec   v1alpha1.EmergencyRule
	target drill.EmergencySender
}

// New returns the action; it fails when the target has not the ability.
func New(spec v1alpha1.EmergencyRule, env drill.Env) (drill.Action, error) {
	target, ok := env.Target.(drill.EmergencySender)
	if !ok {
		return nil, errors.New("the target has no gate to send an emergency rule to")
	}
	return &action{spec: spec, target: target}, nil
}

// Do implements drill.Action.
func (a *action) Do(ctx context.Context) error { return a.target.Emergency(ctx, a.spec) }
