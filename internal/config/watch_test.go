package config

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Each way a file changes in real life is seen, once, and with the new content in place.
func TestWatch(t *testing.T) {
	for name, test := range map[string]struct {
		prepare, change func(t *testing.T, path string)
	}{
		"written in place": {
			prepare: func(t *testing.T, path string) { write(t, path, "old") },
			change:  func(t *testing.T, path string) { write(t, path, "new") },
		},
		"renamed over, as editors do": {
			prepare: func(t *testing.T, path string) { write(t, path, "old") },
			change: func(t *testing.T, path string) {
				write(t, path+"~", "new")
				must(t, os.Rename(path+"~", path))
			},
		},
		"made": {
			prepare: func(*testing.T, string) {},
			change:  func(t *testing.T, path string) { write(t, path, "new") },
		},
		"link swapped, as Kubernetes does": {
			prepare: func(t *testing.T, path string) {
				folder := filepath.Dir(path)
				must(t, os.Mkdir(filepath.Join(folder, "..1"), 0o700))
				write(t, filepath.Join(folder, "..1", filepath.Base(path)), "old")
				must(t, os.Symlink("..1", filepath.Join(folder, "..data")))
				must(t, os.Symlink(filepath.Join("..data", filepath.Base(path)), path))
			},
			change: func(t *testing.T, path string) {
				folder := filepath.Dir(path)
				must(t, os.Mkdir(filepath.Join(folder, "..2"), 0o700))
				write(t, filepath.Join(folder, "..2", filepath.Base(path)), "new")
				must(t, os.Symlink("..2", filepath.Join(folder, "..data_tmp")))
				must(t, os.Rename(filepath.Join(folder, "..data_tmp"), filepath.Join(folder, "..data")))
				must(t, os.RemoveAll(filepath.Join(folder, "..1")))
			},
		},
		"written behind a link in another folder": {
			prepare: func(t *testing.T, path string) {
				target := filepath.Join(t.TempDir(), "target")
				write(t, target, "old")
				must(t, os.Symlink(target, path))
			},
			change: func(t *testing.T, path string) { write(t, path, "new") },
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "config.yaml")
			test.prepare(t, path)
			seen := watch(t, NewWatcher([]string{path, ""}))
			test.change(t, path)
			select {
			case <-seen:
			case <-time.After(20 * time.Second):
				t.Fatal("the change was not seen")
			}
			if text, err := os.ReadFile(path); err != nil || string(text) != "new" {
				t.Errorf("file holds %q, %v", text, err)
			}
		})
	}
}

// What changes between reading a file and watching it is not lost.
func TestWatcherRemembersWhatWasRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	write(t, path, "old")
	watcher := NewWatcher([]string{path})
	write(t, path, "new")
	select {
	case <-watch(t, watcher):
	case <-time.After(20 * time.Second):
		t.Fatal("the change was not seen")
	}
}

// A file that is touched, and a neighbour that changes, are no change.
func TestWatchIgnoresWhatIsNoChange(t *testing.T) {
	folder := t.TempDir()
	path := filepath.Join(folder, "config.yaml")
	write(t, path, "old")
	seen := watch(t, NewWatcher([]string{path}))
	write(t, path, "old")
	write(t, filepath.Join(folder, "other"), "x")
	must(t, os.Chtimes(path, time.Now(), time.Now()))
	// A real change after it proves that the watcher had its chance to report the false ones.
	write(t, path+"~", "new")
	must(t, os.Rename(path+"~", path))
	<-seen
	select {
	case <-seen:
		t.Error("reported more than the one change")
	default:
	}
}

// watch runs the watcher until the test ends and waits for its end.
func watch(t *testing.T, w *Watcher) <-chan struct{} {
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan struct{}, 16)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx, func() { seen <- struct{}{} })
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return seen
}
