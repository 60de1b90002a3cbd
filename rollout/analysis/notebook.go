package analysis

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"
)

// checkKept is the check a look carries when what is measured cannot be kept.
const checkKept = "analysis.readings"

// How many readings of a cluster are kept: the baseline from before the change, and others with it. When a fifth more than that have
// been added, the file is written anew. A reading is some 600 bytes: 300 clusters are 45 MB at most.
const (
	keptReadings = baseline + 80
	keptSlack    = keptReadings / 5
)

// notebook keeps readings in a file, a line for each, for the process that follows when this one is killed. It is not synced: what
// the machine loses with its power is a minute of a baseline. Its methods may be called from several goroutines.
type notebook struct {
	path string
	// most is how many lines the file may have.
	most int
	// write is the file's own; tests put failing disks there.
	write func(*os.File, []byte) (int, error)

	mu sync.Mutex
	// size is how many bytes of the file are whole lines, and lines how many those are. What follows is torn.
	size  int64
	lines int
	// behind is true when the file lacks something that is in memory.
	behind bool
	// failed is why nothing could be written last, nil when it could; until again it is not tried another time.
	failed error
	again  time.Time
}

// trouble is why what is measured is not kept; nil when it is. Nobody's notebook has none.
func (b *notebook) trouble() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// patience is how long after a failure it is tried again: what was missed meanwhile is written then, and all of it is much.
const patience = 10 * time.Second

// add appends a line, or writes all of them anew when the file lacks some, has too many, or was changed by somebody else. It
// returns whether this is the first failure of a row, or the first success after one.
func (b *notebook) add(now time.Time, line []byte, all func() ([][]byte, error)) (turned bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was := b.failed
	switch {
	case was != nil && now.Before(b.again):
		return false
	case b.behind || b.lines >= b.most:
		b.failed = b.anew(all)
	default:
		if b.failed = b.append(line); errors.Is(b.failed, errChanged) {
			b.failed = b.anew(all)
		}
	}
	if b.failed != nil {
		b.behind, b.again = true, now.Add(patience)
	}
	return (was == nil) != (b.failed == nil)
}

var errChanged = errors.New("it was taken away or cut by somebody else")

// append adds one line in one write. What a write that failed has left is cut off, so that the file stays lines.
func (b *notebook) append(line []byte) error {
	flags := os.O_WRONLY
	if b.size == 0 {
		flags |= os.O_CREATE
		if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(b.path, flags, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return errChanged
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	switch {
	case err != nil:
		return err
	case info.Size() < b.size:
		return errChanged
	case info.Size() > b.size: // torn, by this process or the one before
		if err := f.Truncate(b.size); err != nil {
			return err
		}
	}
	if _, err := f.Seek(b.size, 0); err != nil {
		return err
	}
	if _, err := b.write(f, line); err != nil {
		return errors.Join(err, f.Truncate(b.size))
	}
	if err := f.Close(); err != nil { // some file systems say only now that they are full
		return err
	}
	b.size += int64(len(line))
	b.lines++
	return nil
}

// anew replaces the file as a whole.
func (b *notebook) anew(all func() ([][]byte, error)) error {
	lines, err := all()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.path), 0o700); err != nil {
		return err
	}
	b.sweep()
	f, err := renameio.NewPendingFile(b.path, renameio.WithPermissions(0o600), renameio.WithTempDir(filepath.Dir(b.path)))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	size := int64(0)
	packed := bufio.NewWriterSize(writing{b, f.File}, 1<<20)
	for _, line := range lines {
		if _, err := packed.Write(line); err != nil {
			return err
		}
		size += int64(len(line))
	}
	if err := packed.Flush(); err != nil {
		return err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	b.size, b.lines, b.behind = size, len(lines), false
	return nil
}

// sweep removes what processes that were killed over writing anew have left.
func (b *notebook) sweep() {
	entries, _ := os.ReadDir(filepath.Dir(b.path)) // what cannot be listed stays
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "."+filepath.Base(b.path)) && e.Type().IsRegular() {
			_ = os.Remove(filepath.Join(filepath.Dir(b.path), e.Name()))
		}
	}
}

type writing struct {
	b *notebook
	f *os.File
}

func (w writing) Write(p []byte) (int, error) { return w.b.write(w.f, p) }

// recall reads what an earlier process of the run kept.
func (a *Analyst) recall() error {
	a.book = &notebook{path: a.o.File, most: len(a.clusters) * (keptReadings + keptSlack), write: (*os.File).Write}
	info, err := os.Lstat(a.o.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it must be a file")
	}
	if err != nil {
		return fmt.Errorf("reading what was measured before: %s: %w", a.o.File, err)
	}
	f, err := os.Open(a.o.File)
	if err != nil {
		return fmt.Errorf("reading what was measured before: %w", err)
	}
	defer f.Close()
	kept, whole, err := readKept(f)
	if err != nil {
		return fmt.Errorf("reading what was measured before: %s: %w; take that line away, or the file: what it says is then not compared with", a.o.File, err)
	}
	a.book.size, a.book.lines = whole, len(kept)
	return a.takeUp(kept)
}

// takeUp puts what was kept before what will be measured. What lies in the future is of a clock that was set back since: all of it
// is moved so that nothing does.
func (a *Analyst) takeUp(kept []keptReading) error {
	late := time.Duration(0)
	for _, k := range kept {
		late = max(late, k.At.Sub(a.began))
	}
	a.book.behind = late > 0
	for i, k := range kept {
		c, ok := a.clusters[k.Cluster]
		if !ok {
			return fmt.Errorf("reading what was measured before: %s: line %d: the run has no cluster %.100q", a.o.File, i+1, k.Cluster)
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
	if a.book.add(a.now(), line, a.lines) {
		if err := a.book.trouble(); err != nil {
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
		for _, r := range thinned(known, exposedAt, a.o.Analysis.Slow.Window.Duration, keptReadings) {
			line, err := r.keep(c.Name, exposedAt).line()
			if err != nil {
				return nil, err
			}
			lines = append(lines, line)
		}
	}
	return lines, nil
}
