package main

import (
	"context"

	"github.com/seakeep/seakeep/forecast"
)

func becomeAgent() {}

func (r *rig) rehearse(ctx context.Context, all []variation) (map[string][]forecast.Sample, error) {
	return nil, nil
}
