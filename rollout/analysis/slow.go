package analysis

import (
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// slowLooks is how many looks of the slow horizon in a row must fail: each has hours of data behind it.
const slowLooks = 2

// slowHorizon is the second horizon of one cluster: what it found stands until it looks again.
type slowHorizon struct {
	rows  verdict.Horizon
	at    time.Time
	found []verdict.Finding
}

// slowFigures are the levels a leak shows in, with the bound it must not be on its way to.
func slowFigures(c v1alpha1.RolloutControlPlane) []figure {
	return []figure{
		{checkCPU, "processors in use", "ratio", c.MaxCPU, true, true},
		{checkMemory, "memory of its limit", "ratio", c.MaxMemory, true, true},
		{checkReadLatency, "99th percentile of GETs", "s", c.MaxReadLatency.Seconds(), true, true},
		{checkWriteLatency, "99th percentile of writes", "s", c.MaxWriteLatency.Seconds(), true, true},
		{checkEtcdLatency, "mean time of a request to etcd", "s", c.MaxEtcdLatency.Seconds(), true, true},
	}
}

// slowMultiple bounds what has no bound of its own by what it was before the change.
const slowMultiple = 3

// lookSlowly compares over hours, every Slow.Interval, for as long as Slow.Watch after the last step. It adds findings when it
// has failed; that it has not says nothing yet.
func (a *Analyst) lookSlowly(c *cluster, e engine.Exposure, now time.Time) []verdict.Finding {
	slow := a.o.Analysis.Slow
	if slow.Mode != v1alpha1.Enabled || a.o.Analysis.ControlPlane.Mode != v1alpha1.Enabled {
		return nil
	}
	c.mu.Lock()
	exposedAt, due := c.exposedAt, now.Sub(c.slow.at) >= slow.Interval.Duration
	found := c.slow.found
	c.mu.Unlock()
	if exposedAt.IsZero() || now.Sub(e.Since) > slow.Watch.Duration+slow.Window.Duration {
		return nil
	}
	if !due {
		return found
	}
	findings := c.trends(a.o.Analysis, a.controls(c), exposedAt, now)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow.at, c.slow.found = now, nil
	if look := c.slow.rows.Next(verdict.Of(now, findings...), slowLooks); look.Verdict == verdict.Fail {
		for _, f := range look.Findings {
			if f.Verdict == verdict.Fail {
				f.Critical = true
				c.slow.found = append(c.slow.found, f)
			}
		}
	}
	return c.slow.found
}

// trends judges what climbs.
func (c *cluster) trends(a v1alpha1.RolloutAnalysis, controls []*cluster, exposedAt, now time.Time) []verdict.Finding {
	from := now.Add(-a.Slow.Window.Duration)
	if from.Before(exposedAt) {
		from = exposedAt
	}
	before, since := c.split(from)
	if len(since) < 2 {
		return nil
	}
	every := since[len(since)-1].at.Sub(since[0].at) / time.Duration(len(since)-1)
	figures := slowFigures(a.ControlPlane)
	for _, f := range []figure{{checkResident, "resident memory", "B", 0, true, true}, {checkObjects, "objects stored", "", 0, true, true}, {checkWatches, "open watches", "", 0, true, true}} {
		if was := values(before, f.check); len(was) > 0 {
			f.bound = slowMultiple * was[len(was)-1]
			figures = append(figures, f)
		}
	}
	var findings []verdict.Finding
	for _, f := range figures {
		v := values(since, f.check)
		if len(v) == 0 {
			continue
		}
		t := verdict.Trend{
			Level: verdict.Level{Check: "slow." + f.check, Name: f.name, Unit: f.unit, Bound: f.bound, Before: values(before, f.check), Now: v, At: since[len(since)-1].at},
			Every: every, Ahead: a.Slow.Watch.Duration,
		}
		_, t.ControlNow = elsewhere(controls, before, since, f.check)
		if len(controls) > 1 {
			t.ControlNow = nil // several clusters' values one after the other are no course
		}
		findings = append(findings, t.Judge())
	}
	return findings
}
