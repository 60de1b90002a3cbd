package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/seakeep/seakeep/bench/result"
)

const (
	// topFrames are enough to see where the time goes.
	topFrames = 30
	// profiled is how long a profile is taken.
	profiled = 8 * time.Second
)

func missed(cases []result.Case) bool {
	for _, c := range cases {
		if c.Met != nil && !*c.Met {
			return true
		}
	}
	return false
}

// unneeded takes the profile's name from cases that need none.
func (r *rig) unneeded(cases []result.Case) {
	for i := range cases {
		if c := &cases[i]; c.Met == nil || *c.Met {
			c.Profile = ""
		}
	}
}

// profileCPU profiles a server while load runs, in a turn of its own, because profiling costs.
func (r *rig) profileCPU(ctx context.Context, report *result.Report, name, file string, s *server, load func(time.Duration) error) error {
	r.say("profiling, because a target was missed")
	type answer struct {
		data []byte
		err  error
	}
	got := make(chan answer, 1)
	go func() {
		data, err := fetch(ctx, "http://"+s.pprof+"/debug/pprof/profile?seconds="+strconv.Itoa(int(profiled.Seconds())))
		got <- answer{data, err}
	}()
	err := load(profiled + time.Second)
	a := <-got
	if err != nil {
		return err
	}
	if a.err != nil {
		return fmt.Errorf("profiling: %w", a.err)
	}
	return r.keep(ctx, report, name, file, a.data)
}

// profileHeap adds what a server's memory is in use for.
func (r *rig) profileHeap(ctx context.Context, report *result.Report, name, file string, s *server) error {
	data, err := fetch(ctx, "http://"+s.pprof+"/debug/pprof/heap?gc=1")
	if err != nil {
		return err
	}
	return r.keep(ctx, report, name, file, data, "-sample_index=inuse_space")
}

// keep writes a profile and adds its summary to the report.
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
