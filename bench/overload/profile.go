package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/bench/result"
)

const (
	topFrames = 30
	// profiled is how long a profile is taken.
	profiled = 8 * time.Second
)

func profileName(s storm) string { return "CPU of the gate, " + s.name }

// explain takes the gate's CPU profile when a target of the case was missed, in a turn of its own, because profiling costs.
func (r *rig) explain(ctx context.Context, report *result.Report, s storm, cases []result.Case) error {
	if !slices.ContainsFunc(cases, func(c result.Case) bool { return c.Met != nil && !*c.Met }) {
		return nil
	}
	r.say("profiling the gate, because a target was missed")
	w := r.way(gateName)
	data, err := w.gate.Profile(ctx, profiled, func(begun func()) error {
		_, err := r.turn(ctx, s, w, profiled+time.Second, begun)
		return err
	})
	if err != nil {
		return err
	}
	file := fmt.Sprintf("overload-%d.pprof", len(report.Profiles)+1)
	if err := r.options.Keep(file, data); err != nil {
		return err
	}
	profile, err := r.options.Top(ctx, profileName(s), file, topFrames)
	if err == nil {
		report.Profiles = append(report.Profiles, profile)
	}
	return err
}

// way is the one of a name.
func (r *rig) way(name string) *way {
	i := slices.IndexFunc(r.ways, func(w *way) bool { return w.name == name })
	if i < 0 {
		panic("BUG: there is no way " + name)
	}
	return r.ways[i]
}

// logName is what explains a target that no profile of a moment can.
const (
	logName = "the gate's log"
	logFile = "overload-gate.log"
	logTail = 30 // lines
)

// blame keeps what the gate said when a target of the cases was missed.
func (r *rig) blame(report *result.Report, cases []result.Case) error {
	missed := false
	for i := range cases {
		if c := &cases[i]; c.Met != nil && !*c.Met {
			c.Profile, missed = logName, true
		}
	}
	if !missed || slices.ContainsFunc(report.Profiles, func(p result.Profile) bool { return p.Name == logName }) {
		return nil
	}
	data, err := os.ReadFile(r.way(gateName).process.LogFile())
	if err != nil {
		return fmt.Errorf("reading the gate's log: %w", err)
	}
	if err := r.options.Keep(logFile, data); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	report.Profiles = append(report.Profiles, result.Profile{Name: logName, File: logFile, Top: lines[max(0, len(lines)-logTail):]})
	return nil
}
