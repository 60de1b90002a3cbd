// Package dnscache is the action that empties the node-level DNS caches, as when every time to live has passed.
package dnscache

import (
	"context"
	"errors"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

type action struct {
	target drill.CacheExpirer
}

// New returns the action; it fails when the target has not the ability.
func New(_ v1alpha1.DNSCacheAction, env drill.Env) (drill.Action, error) {
	target, ok := env.Target.(drill.CacheExpirer)
	if !ok {
		return nil, errors.New("the target has no node-level DNS caches that can be emptied")
	}
	return &action{target: target}, nil
}

// Do implements drill.Action.
func (a *action) Do(ctx context.Context) error { return a.target.ExpireDNSCaches(ctx) }
