package analysis

import (
	"slices"
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

// slowFigure is a figure that is followed over hours.
type slowFigure struct {
	figure
	// counted, when set, says for a share how many of how many it is. One reading of it is none or all, so that a value is of
	// several readings together.
	counted func(reading) (bad, all float64)
	// beside is the same of those without the change on the same cluster; nil: it is held against another cluster.
	beside func(reading) (bad, all float64)
}

// slowMultiple bounds what has no bound of its own by what it was before the change.
const slowMultiple = 3

// slowShare bounds a share of which the fast horizon allows nothing, and forgives what does not come in a row.
const slowShare = 0.05

// slowPoints is how many values a share has in a window.
const slowPoints = 24

// slowFigures are what a leak shows in, with the bound it must not be on its way to: levels of the control plane, what is asked past
// caches, and the change's pods.
func slowFigures(a v1alpha1.RolloutAnalysis, before []reading) []slowFigure {
	var all []slowFigure
	if c := a.ControlPlane; c.Mode == v1alpha1.Enabled {
		for _, f := range []figure{
			{checkCPU, "processors in use", "ratio", c.MaxCPU, true, true},
			{checkMemory, "memory of its limit", "ratio", c.MaxMemory, true, true},
			{checkReadLatency, "99th percentile of GETs", "s", c.MaxReadLatency.Seconds(), true, true},
			{checkWriteLatency, "99th percentile of writes", "s", c.MaxWriteLatency.Seconds(), true, true},
			{checkEtcdLatency, "mean time of a request to etcd", "s", c.MaxEtcdLatency.Seconds(), true, true},
		} {
			all = append(all, slowFigure{figure: f})
		}
		for _, f := range []figure{{checkResident, "resident memory", "B", 0, true, true}, {checkObjects, "objects stored", "", 0, true, true}, {checkWatches, "open watches", "", 0, true, true}} {
			if was := values(before, f.check); len(was) > 0 {
				f.bound = slowMultiple * was[len(was)-1]
				all = append(all, slowFigure{figure: f})
			}
		}
	}
	if d := a.DNS; d.Mode == v1alpha1.Enabled {
		all = append(all, asking(checkDNS, "DNS questions", d.MinSuccess, d.MaxLatency.Duration)...)
	}
	if p := a.Probes; p.Mode == v1alpha1.Enabled {
		for _, name := range probeNames(p) {
			all = append(all, asking(checkProbes+name, name+" probes", 1, p.MaxLatency.Duration)...)
		}
	}
	if w := a.Workload; w.Mode == v1alpha1.Enabled {
		all = append(all, podFigures(w)...)
	}
	return all
}

// asking are what is followed of one question.
func asking(check, name string, least float64, most time.Duration) []slowFigure {
	share := 1 - least
	if share <= 0 {
		share = slowShare
	}
	return []slowFigure{
		{figure: figure{check + latencyOf, "90th percentile of " + name, "s", most.Seconds(), true, true}},
		{figure: figure{check + ".failed", "share of " + name + " that fail", "ratio", share, true, true}, counted: func(r reading) (float64, float64) {
			asked, answered := r.counted(check)
			return float64(asked - answered), float64(asked)
		}},
	}
}

// podFigures are those of the change's pods, beside the stable ones.
func podFigures(w v1alpha1.RolloutWorkload) []slowFigure {
	restarts := func(n verdict.PodCount) (float64, float64) { return float64(n.Restarts), n.PodHours }
	late := func(n verdict.PodCount) (float64, float64) { return float64(n.Late), float64(n.Pods) }
	of := func(f figure, count func(verdict.PodCount) (float64, float64)) slowFigure {
		return slowFigure{
			figure: f,
			counted: func(r reading) (float64, float64) {
				if r.pods == nil {
					return 0, 0
				}
				return count(r.pods.Update)
			},
			beside: func(r reading) (float64, float64) {
				if r.pods == nil {
					return 0, 0
				}
				return count(r.pods.Stable)
			},
		}
	}
	return []slowFigure{
		of(figure{"workload.restarts", "restarts of a pod in an hour", "", float64(*w.MaxRestarts), true, true}, restarts),
		of(figure{"workload.ready", "share of pods not ready in time", "ratio", slowShare, true, true}, late),
	}
}

// points are values with their times.
type points struct {
	v  []float64
	at []time.Time
}

func (p *points) add(v float64, at time.Time) { p.v, p.at = append(p.v, v), append(p.at, at) }

// over is the figure over readings.
func (f slowFigure) over(readings []reading) (p points) {
	if f.counted != nil {
		return pooled(readings, f.counted)
	}
	for _, r := range readings {
		if v, ok := r.level(f.check); ok {
			p.add(v, r.at)
		}
	}
	return p
}

// pooled are shares of several readings together; the newest are whole.
func pooled(readings []reading, count func(reading) (bad, all float64)) (p points) {
	each := max(1, (len(readings)+slowPoints-1)/slowPoints)
	for some := range slices.Chunk(readings[len(readings)%each:], each) {
		bad, all := 0.0, 0.0
		for _, r := range some {
			b, n := count(r)
			bad, all = bad+b, all+n
		}
		if all > 0 {
			p.add(bad/all, some[len(some)-1].at)
		}
	}
	return p
}

// lookSlowly compares over hours, every Slow.Interval, for as long as Slow.Watch after the last step. It adds findings when it
// has failed; that it has not says nothing yet.
func (a *Analyst) lookSlowly(c *cluster, e engine.Exposure, now time.Time) []verdict.Finding {
	slow := a.o.Analysis.Slow
	if slow.Mode != v1alpha1.Enabled {
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
	findings := c.trends(a.o.Analysis, a.controls(c), now)
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

// trends judges what climbs. What an earlier process measured is a part of the course; what only an earlier one could measure is
// not judged.
func (c *cluster) trends(a v1alpha1.RolloutAnalysis, controls []*cluster, now time.Time) []verdict.Finding {
	since := c.course(now.Add(-a.Slow.Window.Duration))
	before, _ := c.split(now)
	if len(since) < 2 {
		return nil
	}
	own := slices.DeleteFunc(slices.Clone(since), func(r reading) bool { return r.kept })
	var others []reading // several clusters' values one after the other are no course
	if len(controls) == 1 && len(before) > 0 {
		const slack = time.Second
		others = controls[0].between(since[0].at.Add(-slack), since[len(since)-1].at.Add(slack))
	}
	var findings []verdict.Finding
	for _, f := range slowFigures(a, before) {
		if len(f.over(own).v) == 0 {
			continue
		}
		is, was, beside := f.over(since), f.over(before), f.over(others)
		if f.beside != nil {
			beside = pooled(since, f.beside)
		}
		t := verdict.Trend{
			Level:    verdict.Level{Check: "slow." + f.check, Name: f.name, Unit: f.unit, Bound: f.bound, Before: was.v, Now: is.v, ControlNow: beside.v, At: since[len(since)-1].at},
			NowTimes: is.at, BeforeTimes: was.at, ControlTimes: beside.at, Ahead: a.Slow.Watch.Duration,
		}
		findings = append(findings, t.Judge())
	}
	return findings
}
