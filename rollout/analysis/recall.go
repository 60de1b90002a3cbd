package analysis

import (
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/seakeep/seakeep/internal/statefile"
)

// checkKept is the check a look carries when what is measured cannot be kept.
const checkKept = "analysis.readings"

// How many readings of a cluster are kept: the baseline from before the change, and others with it. When a fifth more than that have
// been added, the file is written anew, and what it keeps is packed. A reading is some 600 bytes, and 100 when it is packed: 300
// clusters are 14 MB at most, and 6 MB more while they are written anew.
const (
	keptReadings = baseline + 80
	keptSlack    = keptReadings / 5
	keptLines    = (keptReadings + packedReadings - 1) / packedReadings
)

// recall reads what an earlier process of the run kept.
func (a *Analyst) recall() error {
	var kept []keptReading
	book, err := statefile.OpenLines(a.o.File, 0o600, len(a.clusters)*(keptLines+keptSlack), func(r io.Reader) (err error) {
		if kept, err = readKept(r); err != nil {
			err = fmt.Errorf("%w; take that line away, or the file: what it says is then not compared with", err)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("taking up what was measured before: %w", err)
	}
	a.book = book
	return a.takeUp(kept)
}

// unkept is why what is measured is not kept; nil when it is, and when it need not be.
func (a *Analyst) unkept() error {
	if a.book == nil {
		return nil
	}
	return a.book.Trouble()
}

// takeUp puts what was kept before what will be measured. What lies in the future is of a clock that was set back since: all of it
// is moved so that nothing does.
func (a *Analyst) takeUp(kept []keptReading) error {
	late := time.Duration(0)
	for _, k := range kept {
		late = max(late, k.At.Sub(a.began))
	}
	if late > 0 {
		a.book.Rewrite()
	}
	for i, k := range kept {
		c, ok := a.clusters[k.Cluster]
		if !ok {
			return fmt.Errorf("reading what was measured before: %s: reading %d: the run has no cluster %.100q", a.o.File, i+1, k.Cluster)
		}
		r := k.reading()
		r.at = r.at.Add(-late)
		if c.exposedAt.IsZero() && !k.ExposedAt.IsZero() {
			c.exposedAt = k.ExposedAt.Add(-late)
		}
		if n := len(c.history); n > 0 && c.history[n-1].at.Equal(r.at) {
			continue // it was added while all was written anew
		}
		c.history = append(c.history, r)
	}
	for _, c := range a.clusters {
		c.history = thinned(c.history, c.exposedAt, a.o.Analysis.Slow.Window.Duration, maxReadings)
	}
	return nil
}

// remember adds a reading to a cluster's, and keeps the one before it for the next process: all of that is known by now.
func (a *Analyst) remember(c *cluster, r reading) {
	c.mu.Lock()
	var before *keptReading
	if n := len(c.history); n > 0 && !c.history[n-1].kept {
		k := c.history[n-1].keep(c.Name, c.exposedAt)
		before = &k
	}
	c.history = thinned(append(c.history, r), c.exposedAt, a.o.Analysis.Slow.Window.Duration, maxReadings)
	c.mu.Unlock()
	if a.book == nil || before == nil {
		return
	}
	line, err := before.line()
	if err != nil {
		a.o.Log.Error("A reading cannot be written down", "cluster", c.Name, "error", err)
		return
	}
	if a.book.Add(a.now(), line, a.lines) {
		if err := a.unkept(); err != nil {
			a.o.Log.Warn("What is measured cannot be kept; nothing moves until it can", "file", a.o.File, "reason", err)
		} else {
			a.o.Log.Info("What is measured is kept again", "file", a.o.File)
		}
	}
}

// lines are all that is worth keeping of what is in memory.
func (a *Analyst) lines() ([][]byte, error) {
	var lines [][]byte
	for _, c := range a.clusters {
		c.mu.Lock()
		known, exposedAt := slices.Clone(c.history), c.exposedAt
		c.mu.Unlock()
		if n := len(known); n > 0 && !known[n-1].kept {
			known = known[:n-1] // it is added when the next is there
		}
		var kept []keptReading
		for _, r := range thinned(known, exposedAt, a.o.Analysis.Slow.Window.Duration, keptReadings) {
			kept = append(kept, r.keep(c.Name, exposedAt))
		}
		of, err := packed(kept)
		if err != nil {
			return nil, err
		}
		lines = append(lines, of...)
	}
	return lines, nil
}
