package analysis

import (
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
	// troubles are why something could not be measured, for people.
	troubles []string
}

// part is what one kind of measurement adds to a reading.
type part struct {
	levels   map[string]float64
	asked    map[string]verdict.Asked
	troubles []string
}

// maxReadings bounds what is kept of a cluster: at a look every 30 s they are 33 hours; longer windows keep every second one.
const maxReadings = 4000

func (c *cluster) last() (reading, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.history) == 0 {
		return reading{}, false
	}
	return c.history[len(c.history)-1], true
}

// remember keeps a reading for as long as a window back, and the time before the change whatever its age: there is no other.
func (c *cluster) remember(r reading, window time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.history = append(c.history, r)
	if len(c.history) <= maxReadings {
		return
	}
	kept := c.history[:0]
	for i, old := range c.history {
		recent := r.at.Sub(old.at) <= window || !c.exposedAt.IsZero() && old.at.Before(c.exposedAt)
		if i >= len(c.history)-maxReadings/4 || recent && i%2 == 0 {
			kept = append(kept, old)
		}
	}
	c.history = kept
}

// baseline is how many readings from before the change are looked at.
const baseline = 120

// split returns the readings of before the change came to the cluster, the newest of them, and those since a time. Where the
// change has not come yet, now is the newest.
func (c *cluster) split(since time.Time) (before, now []reading) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.history); c.exposedAt.IsZero() && n > 0 {
		return c.history[max(0, n-1-baseline) : n-1], c.history[n-1:]
	}
	for _, r := range c.history {
		switch {
		case r.at.Before(c.exposedAt):
			before = append(before, r)
		case !r.at.Before(since):
			now = append(now, r)
		}
	}
	return before[max(0, len(before)-baseline):], now
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
		if x, ok := r.levels[check]; ok {
			v = append(v, x)
		}
	}
	return v
}
