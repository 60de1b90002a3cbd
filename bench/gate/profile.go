package main

import (
	"context"
	"time"

	"github.com/seakeep/seakeep/bench/result"
)

const (
	cpuFile  = "gate-get.pprof"
	heapFile = "gate-watches.pprof"
	// topFrames are enough to see where the time goes.
	topFrames = 25
	// profiled is how long a profile is taken.
	profiled = 10 * time.Second
)

// explain takes the gate's CPU profile in turns of its own, because profiling costs, and adds the profiles that
// explain a missed target.
func (r *rig) explain(ctx context.Context, report *result.Report) error {
	needed := map[string]bool{}
	for _, c := range report.Missed() {
		needed[c.Profile] = true
	}
	if needed[getProfile] {
		r.say("profiling the gate, because a target was missed")
		if err := r.profileGET(ctx); err != nil {
			return err
		}
		profile, err := r.options.Top(ctx, getProfile, cpuFile, topFrames)
		if err != nil {
			return err
		}
		report.Profiles = append(report.Profiles, profile)
	}
	if needed[watchProfile] {
		profile, err := r.options.Top(ctx, watchProfile, heapFile, topFrames, "-sample_index=inuse_space")
		if err != nil {
			return err
		}
		report.Profiles = append(report.Profiles, profile)
	}
	return nil
}

func (r *rig) profileGET(ctx context.Context) error {
	data, err := r.gate.Profile(ctx, profiled, func(begun func()) error {
		begun()
		_, err := r.turn(ctx, r.workloads()[0], gateName, profiled+time.Second, newNumbers())
		return err
	})
	if err != nil {
		return err
	}
	return r.options.Keep(cpuFile, data)
}
