package analysis

import (
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/rollout/verdict"
)

// reading is what was measured of one cluster at one time.
type reading struct {
	// at is when it was begun, by which readings are told apart, done when the last answer had come or was not waited for
	// any more, from which its age counts.
	at, done time.Time
	// levels are figures of the control plane by check; asked are questions to DNS and the API by check and whom.
	levels map[string]float64
	asked  map[string]verdict.Asked
	// executed is for how many seconds requests executed since the reading before, own those of the component; 0 when it has no
	// FlowSchema of its own.
	executed, own float64
	// troubles are why something could not be measured, for people.
	troubles []string
	// pods are what a look saw of the workload; nil when nobody looked.
	pods *verdict.Pods
	// kept is true for what an earlier process measured: a baseline, a part of a course over hours, and never the newest.
	kept bool
}

// part is what one kind of measurement adds to a reading.
type part struct {
	levels        map[string]float64
	asked         map[string]verdict.Asked
	executed, own float64
	troubles      []string
}

// maxReadings bounds what is kept of a cluster in memory: at a look every 30 s they are 33 hours; longer windows keep every second
// one.
const maxReadings = 4000

// baseline is how many readings from before the change are looked at.
const baseline = 120

// last is the newest reading, if this process has taken one: what an earlier one measured is no news.
func (c *cluster) last() (reading, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.history); n > 0 && !c.history[n-1].kept {
		return c.history[n-1], true
	}
	return reading{}, false
}

// sawPods adds to a reading what the look after it saw of the workload.
func (c *cluster) sawPods(at time.Time, p verdict.Pods) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range slices.Backward(c.history) {
		if r.at.Equal(at) && !r.kept {
			c.history[i].pods = &p
			return
		}
	}
}

// thinned are at most so many readings: the newest from before the change whatever their age, since there are no others; the newest
// quarter of what is left; and of those before, every second one for as long as they are too many. What is older than the window
// goes first, where the change is: nothing is compared with it.
func thinned(all []reading, exposedAt time.Time, window time.Duration, most int) []reading {
	if len(all) <= most {
		return all
	}
	var before, since []reading
	newest := all[len(all)-1].at
	for _, r := range all {
		switch {
		case exposedAt.IsZero():
			since = append(since, r)
		case r.at.Before(exposedAt):
			before = append(before, r)
		case newest.Sub(r.at) <= window:
			since = append(since, r)
		}
	}
	before = before[max(0, len(before)-baseline):]
	for len(before)+len(since) > most && len(since) > 1 {
		whole := min(most/4, len(since)/2)
		old := since[:len(since)-whole]
		kept := make([]reading, 0, most)
		for i := len(old) % 2; i < len(old); i += 2 {
			kept = append(kept, old[i])
		}
		since = append(kept, since[len(since)-whole:]...)
	}
	return append(before, since...)
}

// split returns the readings of before the change came to the cluster, the newest of them, and those that this process took since
// a time. Where the change has not come yet, now is the newest.
func (c *cluster) split(since time.Time) (before, now []reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.history); c.exposedAt.IsZero() && n > 0 {
		return slices.Clone(c.history[max(0, n-1-baseline) : n-1]), slices.Clone(c.history[n-1:])
	}
	for _, r := range c.history {
		switch {
		case r.at.Before(c.exposedAt):
			before = append(before, r)
		case !r.kept && !r.at.Before(since):
			now = append(now, r)
		}
	}
	return before[max(0, len(before)-baseline):], now
}

// course returns the readings with the change since a time, those of earlier processes too.
func (c *cluster) course(from time.Time) []reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	var in []reading
	for _, r := range c.history {
		if !r.at.Before(from) && !r.at.Before(c.exposedAt) {
			in = append(in, r)
		}
	}
	return in
}

// between returns the readings of a span of time.
func (c *cluster) between(from, to time.Time) []reading {
	c.mu.Lock()
	defer c.mu.Unlock()
	var in []reading
	for _, r := range c.history {
		if !r.at.Before(from) && !r.at.After(to) {
			in = append(in, r)
		}
	}
	return in
}

// values are one level's, of readings that have it.
func values(readings []reading, check string) []float64 {
	var v []float64
	for _, r := range readings {
		if x, ok := r.level(check); ok {
			v = append(v, x)
		}
	}
	return v
}

// latencyOf ends the name of the level that is how long the answers to a question took.
const latencyOf = ".latency"

// level is a figure of the control plane, or of what was asked the 90th percentile of the slowest one's answers, in seconds.
func (r reading) level(check string) (v float64, ok bool) {
	question, is := strings.CutSuffix(check, latencyOf)
	if !is {
		v, ok = r.levels[check]
		return v, ok
	}
	for key, asked := range r.asked {
		if about(key, question) && len(asked.Took) > 0 {
			v, ok = max(v, asked.Slow()), true
		}
	}
	return v, ok
}

// counted is how often something was asked, of all servers together, and how often that was answered.
func (r reading) counted(check string) (asked, answered int) {
	for key, one := range r.asked {
		if about(key, check) {
			asked += one.Asked
			answered += one.Answered
		}
	}
	return asked, answered
}

// about is true for the key of a check, which may name a server besides.
func about(key, check string) bool { return key == check || strings.HasPrefix(key, check+"/") }
