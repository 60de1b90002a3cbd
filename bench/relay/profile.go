package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/gate/relay"
)

const (
	// topFrames are enough to see where the time goes.
	topFrames = 30
	// profiled is how long a profile is taken.
	profiled = 8 * time.Second
)

func cpuProfile(s sharing) string { return "CPU of the gate, " + s.name() }

func (r *rig) status(ctx context.Context) (*relay.Status, error) {
	data, err := r.gate.Ask(ctx, "/v1/relay")
	if err != nil {
		return nil, err
	}
	status := &relay.Status{}
	if err := json.Unmarshal(data, status); err != nil {
		return nil, fmt.Errorf("reading the relay's status: %w", err)
	}
	return status, nil
}

// note says what the gate did not share, if anything.
func (r *rig) note(ctx context.Context, n *numbers) error {
	status, err := r.status(ctx)
	if err != nil || len(status.Forwarded) == 0 {
		return err
	}
	var parts []string
	for _, reason := range slices.Sorted(maps.Keys(status.Forwarded)) {
		if count := status.Forwarded[reason]; count > 0 {
			parts = append(parts, fmt.Sprintf("%d (%s)", count, reason))
		}
	}
	if len(parts) > 0 {
		n.notes = append(n.notes, fmt.Sprintf("The gate shared %d answers and forwarded %s.", status.Total.Answers, strings.Join(parts, ", ")))
	}
	return nil
}

func missed(cases []result.Case) bool {
	return slices.ContainsFunc(cases, func(c result.Case) bool { return c.Met != nil && !*c.Met })
}

// explain takes the gate's CPU profile when a target of the case was missed, in a turn of its own, because profiling
// costs.
func (r *rig) explain(ctx context.Context, report *result.Report, s sharing, cases []result.Case) error {
	if !missed(cases) {
		return nil
	}
	return r.profile(ctx, report, cpuProfile(s), func(begun func()) error {
		_, err := r.turn(ctx, s, gateName, profiled+time.Second, begun)
		return err
	})
}

// profile profiles the gate while load runs, from when it says that it has begun.
func (r *rig) profile(ctx context.Context, report *result.Report, name string, load func(begun func()) error) error {
	r.say("profiling the gate, because a target was missed")
	data, err := r.gate.Profile(ctx, profiled, load)
	if err != nil {
		return err
	}
	return r.keep(ctx, report, name, fmt.Sprintf("relay-%d.pprof", len(report.Profiles)+1), data)
}

// keep adds a profile to the report.
func (r *rig) keep(ctx context.Context, report *result.Report, name, file string, data []byte, more ...string) error {
	if err := r.options.Keep(file, data); err != nil {
		return err
	}
	profile, err := r.options.Top(ctx, name, file, topFrames, more...)
	if err == nil {
		report.Profiles = append(report.Profiles, profile)
	}
	return err
}
