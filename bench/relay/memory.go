package main

import (
	"context"
	"fmt"
	"time"

	"github.com/seakeep/seakeep/bench/door"
	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/machine"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// memoryName is what a subscriber of a shared watch costs.
const memoryName = "subscribers"

const (
	memoryProfile = "memory of the gate with its subscribers"
	memoryFile    = "relay-subscribers.pprof"
	// warmWatches are opened and closed before: what a process needs for its first is no part of what each needs.
	warmWatches = 32
	// watchesPerConnection is about what a controller has, and what bench/gate measures idle watches with.
	watchesPerConnection = 50
	// memoryBeats are written while the watches are open: a buffer that is there only once an event came is counted.
	memoryBeats = 5
)

// memory is of one moment, in bytes.
type memory struct {
	door.Memory
	resident int64
}

// measureMemory measures resident memory with the watches less that of the same process, just started and warm, without.
func (r *rig) measureMemory(ctx context.Context, report *result.Report) error {
	count := r.options.subscribers
	for _, perConnection := range []int{watchesPerConnection, 1} {
		name := fmt.Sprintf("%s, %d of one watch, %d a connection", memoryName, count, perConnection)
		if !r.options.Wanted(name) {
			continue
		}
		r.say("%s", name)
		resident, inUse := result.Runs{}, result.Runs{}
		rounds := r.options.Rounds
		if perConnection == 1 {
			rounds = 1
		}
		for range rounds {
			before, after, err := r.memoryOf(ctx, count, perConnection)
			if err != nil {
				return err
			}
			per := func(a, b int64) float64 { return float64(a-b) / float64(count) / 1024 }
			resident.Add(gateName, per(after.resident, before.resident))
			inUse.Add(gateName, per(after.Heap+after.Stacks, before.Heap+before.Stacks))
		}
		cases := []result.Case{
			resident.Case(name, "resident memory each", "KiB", gateName),
			inUse.Case(name, "heap and stacks in use each", "KiB", gateName),
		}
		if perConnection == 1 {
			cases[0].Note = "a connection each: its TLS and HTTP/2 are in it, which a gate needs for any request; so there is no target."
			report.Cases = append(report.Cases, cases...)
			continue
		}
		cases[0].Note = "what the process has resident more with the watches than newly started and warm, after a garbage collection; every watch got some events before."
		for i := range cases {
			if cases[i].AtMost(64); !*cases[i].Met {
				cases[i].Profile = memoryProfile
			}
		}
		if missed(cases) {
			profile, err := r.options.Top(ctx, memoryProfile, memoryFile, topFrames, "-sample_index=inuse_space")
			if err != nil {
				return err
			}
			report.Profiles = append(report.Profiles, profile)
		}
		report.Cases = append(report.Cases, cases...)
	}
	return nil
}

func (r *rig) memoryOf(ctx context.Context, count, perConnection int) (before, after memory, err error) {
	if _, err := r.restart(ctx, gateName); err != nil {
		return before, after, err
	}
	warm, err := r.watch(ctx, gateName, warmWatches, perConnection)
	if err != nil {
		return before, after, err
	}
	warm.close()
	if before, err = r.settled(ctx); err != nil {
		return before, after, err
	}
	w, err := r.watch(ctx, gateName, count, perConnection)
	if err != nil {
		return before, after, err
	}
	defer w.close()
	beats := load.Open(ctx, 1, memoryBeats*time.Second, r.beat)
	if beats.Failed > 0 {
		return before, after, fmt.Errorf("writing what is watched: %w", beats.Err)
	}
	if err := w.await(ctx, beats.Answered*int64(count)); err != nil {
		return before, after, err
	}
	if after, err = r.settled(ctx); err != nil {
		return before, after, err
	}
	if broken := w.broken.Load(); broken != nil {
		return before, after, fmt.Errorf("a watch broke: %w", *broken)
	}
	data, err := r.gate.Heap(ctx)
	if err != nil {
		return before, after, err
	}
	return before, after, r.options.Keep(memoryFile, data)
}

// settled is the memory when what is garbage has been collected and given back as far as the process does that.
func (r *rig) settled(ctx context.Context) (m memory, err error) {
	for range 3 {
		if m.Memory, err = r.gate.Memory(ctx); err != nil {
			return m, err
		}
		if err := run.Pause(ctx, time.Second); err != nil {
			return m, err
		}
	}
	m.resident, err = machine.Resident(r.pid(gateName))
	return m, err
}
