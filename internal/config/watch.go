package config

import (
	"context"
	"crypto/sha256"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	// settle is how long a change must have been quiet before it is reported: an editor writes, truncates and renames,
	// and a certificate and its key are two files.
	settle = 200 * time.Millisecond
	// maxUnsettled bounds how long a file that never comes to rest can hold a report back.
	maxUnsettled = 2 * time.Second
	// poll finds what no event tells: network file systems, a full inotify queue, a directory that was itself replaced.
	poll = 5 * time.Second
)

// Watcher reports when the content of files changes. It compares content, so touching a file or swapping it for the
// same text is no change; and it watches directories, because Kubernetes replaces mounted files by swapping a symbolic
// link beside them and editors by renaming over them, and both leave a watch on the file itself blind.
type Watcher struct {
	paths []string
	seen  map[string]fingerprint
}

// fingerprint is a file's content, or that it cannot be read.
type fingerprint struct {
	readable bool
	sum      [sha256.Size]byte
}

// NewWatcher remembers the files as they are now. Make it before reading the files: then a change between reading and
// Run is reported, not lost. Files need not exist; empty paths are ignored.
func NewWatcher(paths []string) *Watcher {
	w := &Watcher{}
	for _, path := range paths {
		if path != "" && !slices.Contains(w.paths, path) {
			w.paths = append(w.paths, path)
		}
	}
	w.seen = w.look()
	return w
}

// Watch is NewWatcher(paths).Run(ctx, onChange), for files read after it started.
func Watch(ctx context.Context, paths []string, onChange func()) {
	NewWatcher(paths).Run(ctx, onChange)
}

// Run calls onChange after each change, from the calling goroutine, until ctx is done. The caller owns the goroutine;
// Run leaves none behind. It is to be called once. A machine without file events (no inotify instance left) is served
// by polling alone.
func (w *Watcher) Run(ctx context.Context, onChange func()) {
	var events chan fsnotify.Event
	var errs chan error
	notifier, err := fsnotify.NewWatcher()
	if err == nil {
		defer notifier.Close()
		events, errs = notifier.Events, notifier.Errors
		w.subscribe(notifier)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var quiet <-chan time.Time
	var unsettledSince time.Time
	check := func() {
		quiet, unsettledSince = nil, time.Time{}
		if notifier != nil {
			w.subscribe(notifier)
		}
		if now := w.look(); !maps.Equal(now, w.seen) {
			w.seen = now
			onChange()
		}
	}
	// Events from before the subscription are lost; the content is not.
	check()
	for {
		select {
		case <-ctx.Done():
			return
		case _, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			if unsettledSince.IsZero() {
				unsettledSince = time.Now()
			}
			quiet = time.After(min(settle, max(0, maxUnsettled-time.Since(unsettledSince))))
		case _, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			check()
		case <-quiet:
			check()
		case <-tick.C:
			check()
		}
	}
}

// subscribe watches every directory a path leads through: the one the user named, and the one its link ends in.
// Directories that are watched already are left alone; those that do not exist yet are left to polling.
func (w *Watcher) subscribe(notifier *fsnotify.Watcher) {
	watched := notifier.WatchList()
	for _, path := range w.paths {
		directories := []string{filepath.Dir(path)}
		if target, err := filepath.EvalSymlinks(path); err == nil {
			directories = append(directories, filepath.Dir(target))
		}
		for _, directory := range directories {
			if !slices.Contains(watched, directory) && notifier.Add(directory) == nil {
				watched = append(watched, directory)
			}
		}
	}
}

func (w *Watcher) look() map[string]fingerprint {
	now := make(map[string]fingerprint, len(w.paths))
	for _, path := range w.paths {
		now[path] = look(path)
	}
	return now
}

func look(path string) fingerprint {
	f, err := os.Open(path)
	if err != nil {
		return fingerprint{}
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, io.LimitReader(f, maxFileBytes)); err != nil {
		return fingerprint{}
	}
	seen := fingerprint{readable: true}
	hash.Sum(seen.sum[:0])
	return seen
}
