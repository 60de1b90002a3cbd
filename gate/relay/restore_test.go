package relay_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// undone is written after the backup.
const undone = "undone"

// TestEtcdRestoredFromABackup: versions run backwards. What was read before is of a history that did not happen; nobody may
// be given it, and nobody may wait for a version that may never come again.
func TestEtcdRestoredFromABackup(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	lane := gatetest.Open(t, l, gatetest.Options{More: everything})
	maps := lane.Client(lab.Admin).CoreV1().ConfigMaps("default")
	read := func(version string) (uint64, bool, error) {
		list, err := maps.List(t.Context(), metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			return 0, false, err
		}
		at, err := strconv.ParseUint(list.ResourceVersion, 10, 64)
		return at, names(list)[undone], err
	}
	processes := stop(t, l)
	data, backup := filepath.Join(l.Dir(), lab.KindEtcd), filepath.Join(t.TempDir(), "backup")
	copyFolder(t, backup, data)
	start(t, processes)
	// Many: an API server that starts writes too, and once it has written as much nobody can see that versions ran backwards.
	eventually(t, "a write", func() bool {
		_, err := maps.Create(t.Context(), configMap(undone), metav1.CreateOptions{})
		return err == nil
	})
	var writing sync.WaitGroup
	for range 8 {
		writing.Go(func() {
			for range 100 {
				if _, err := maps.Patch(t.Context(), undone, types.MergePatchType, fmt.Appendf(nil, `{"data":{"at":"%d"}}`, time.Now().UnixNano()), metav1.PatchOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	before, there, err := read("")
	if err != nil || !there {
		t.Fatalf("before the restore: %v, written %t", err, there)
	}
	if _, there, err := read("0"); err != nil || !there {
		t.Fatalf("before the restore, of any age: %v, written %t", err, there)
	}

	processes = stop(t, l)
	if err := os.RemoveAll(data); err != nil {
		t.Fatal(err)
	}
	copyFolder(t, data, backup)
	start(t, processes)
	// Of any age first: the gate asks for what it served, which no API server has any more.
	for _, version := range []string{"0", ""} {
		eventually(t, "an answer of the restored state, version "+strconv.Quote(version), func() bool {
			at, there, err := read(version)
			return err == nil && !there && at < before
		})
	}
	if counter(t, lane, "seakeep_gate_relay_flushes_total", nil) == 0 {
		t.Error("nothing was forgotten")
	}
	if _, there, err := read("0"); err != nil || there {
		t.Errorf("after the restore, of any age: %v, still what was undone: %t", err, there)
	}
}

// stop kills etcd and the API server, as a host that is switched off does.
func stop(t *testing.T, l *lab.Lab) []*lab.Process {
	t.Helper()
	var processes []*lab.Process
	for _, name := range []string{lab.KindAPIServer, lab.KindEtcd} {
		p, ok := l.Process(name)
		if !ok {
			t.Fatalf("the lab has no %s", name)
		}
		if err := p.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		processes = append([]*lab.Process{p}, processes...)
	}
	return processes
}

func start(t *testing.T, processes []*lab.Process) {
	t.Helper()
	for _, p := range processes {
		if err := p.Start(context.WithoutCancel(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
}

func copyFolder(t *testing.T, to, from string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			return os.Chmod(path, 0o700) // etcd refuses a folder that others may read
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
