package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
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

// keep writes a profile and sums it up with Go's own tool, which whoever runs this has.
func (r *rig) keep(ctx context.Context, report *result.Report, name, file string, data []byte, more ...string) error {
	if err := os.MkdirAll(r.options.out, 0o755); err != nil {
		return fmt.Errorf("making the folder of profiles: %w", err)
	}
	path := filepath.Join(r.options.out, file)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("writing a profile: %w", err)
	}
	args := append([]string{"tool", "pprof", "-top", "-cum", "-nodecount=" + strconv.Itoa(topFrames)}, more...)
	out, err := exec.CommandContext(ctx, "go", append(args, path)...).Output()
	if err != nil {
		return fmt.Errorf("summing the profile %s up: %w", file, err)
	}
	report.Profiles = append(report.Profiles, result.Profile{Name: name, File: file, Top: strings.Split(strings.TrimSpace(string(out)), "\n")})
	return nil
}
