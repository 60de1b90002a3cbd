package keeper

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
)

// The restart that took service discovery down: with the API server away. The snapshot answers, and when the API server
// is back nobody lists.
func TestRestartWhileTheAPIServerIsDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(50, 4)
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		serial := k.Store().Modified(store.Internal)
		c.put(slice(7, 0, 4, 2)) // written at shutdown
		settle(0)
		a.stop()
		k.stop()

		k = run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		k.wantState(Restored)
		k.wantReady(50, 198)
		if k.Store().Modified(store.Internal) < serial {
			t.Error("the serial ran backwards")
		}
		settle(time.Hour)
		k.wantState(Restored)
		if s := k.Status(); !s.Stale || s.Class != Disk || !s.Ready() || s.Age(time.Now()) < time.Hour {
			t.Errorf("status %+v", s)
		}
		c.put(slice(8, 0, 4, 1))
		a.start()
		settle(5 * time.Second)
		k.wantState(Live)
		k.wantReady(50, 195)
		if lists := a.listed(); len(lists) != 3 {
			t.Errorf("listed %v; the first start needs three, the second none", lists)
		}
	})
}

// A restarted API server answers 410 to every version it did not see itself: restored data stays, whole, until the last
// kind has been listed, which happens one kind at a time and after a random part of the spread.
func TestRestoredIsSwappedWhole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(20, 2)
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.stop()
		c.put(&store.Service{Namespace: "shop", Name: "new"}, slice(3, 1, 3, 3))
		c.forget()

		k = run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		before := k.Store().View()
		swaps := 0
		cancel := k.Store().Subscribe(func(changes store.Changes) {
			swaps++
			view := k.Store().View()
			if view == before || view.Service("shop", "new") == nil || view.EndpointSlice("shop", svc(3)+"-abcde").Ready != 2 {
				t.Error("a change was published before all of it was there")
			}
			if len(changes.List) != 2 {
				t.Errorf("changes %+v, want the two objects that differ", changes)
			}
		})
		defer cancel()
		settle(36 * time.Second)
		k.wantState(Restored)
		if lists := a.listed()[3:]; len(lists) > 0 {
			t.Errorf("listed %v at once, want half of the spread waited", lists)
		}
		settle(3 * time.Second)
		k.wantState(Live)
		if swaps != 1 {
			t.Errorf("%d changes were published, want one swap", swaps)
		}
		if lists := a.listed()[3:]; len(lists) != 3 {
			t.Errorf("listed %v, want each kind once", lists)
		}
	})
}

// A source that dies in the middle of the first lists leaves what was restored.
func TestDraftIsThrownAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(20, 2)
		a := newServer("a", c)
		k := run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.stop()
		c.forget()
		c.put(&store.Service{Namespace: "shop", Name: "new"})
		a.absent = nil
		a.hide = func(o store.Object) bool {
			if o.Kind() == store.EndpointSlices {
				a.mu.Lock()
				if !a.down {
					a.down = true
					close(a.cut)
				}
				a.mu.Unlock()
			}
			return false
		}
		k = run(t, Options{Sources: []Source{a}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		settle(5 * time.Minute)
		k.wantState(Restored)
		k.wantReady(20, 40)
		if k.Store().View().Service("shop", "new") != nil {
			t.Error("half of a source's data is served")
		}
		a.mu.Lock()
		a.hide = nil
		a.mu.Unlock()
		a.start()
		settle(2 * time.Minute)
		k.wantState(Live)
		if k.Store().View().Service("shop", "new") == nil {
			t.Error("what is new is not there")
		}
	})
}

func snapshotOf(t *testing.T, dir string) (snapshot.Loaded, []store.Object) {
	t.Helper()
	f := onDisk(t, dir)
	defer f.Close()
	var objects []store.Object
	loaded, err := f.Load("", func() func(store.Object) error {
		objects = nil
		return func(o store.Object) error {
			objects = append(objects, o)
			return nil
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return loaded, objects
}

// Two clusters' state folders swapped, or a disk cloned.
func TestForeignSnapshot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		theirs := newCluster("theirs")
		theirs.populate(5, 1)
		k := run(t, Options{Sources: []Source{newServer("a", theirs)}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.stop()

		ours := newCluster("ours")
		ours.populate(7, 1)
		b := newServer("b", ours)
		b.stop()
		k = run(t, Options{Sources: []Source{b}, Snapshot: onDisk(t, dir), Cluster: "ours"})
		defer k.stop()
		settle(time.Minute)
		k.wantState(Empty) // refused
		b.start()
		settle(3 * time.Second)
		k.wantState(Live)
		k.wantReady(7, 7)
	})
}

// The same when nobody has said which cluster is ours: the snapshot answers until the API server says that it is not
// ours, and from then on nothing of it does. A relay's word is not enough.
func TestForeignSnapshotIsThrownAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		theirs := newCluster("theirs")
		theirs.populate(50, 1)
		k := run(t, Options{Sources: []Source{newServer("a", theirs)}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.stop()

		ours := newCluster("ours")
		ours.populate(7, 2)
		a, b := newServer("a", ours), newServer("b", ours)
		a.class = Relay
		b.stop()
		k = run(t, Options{Sources: []Source{a, b}, Snapshot: onDisk(t, dir)})
		settle(time.Minute)
		k.wantState(Restored)
		k.wantReady(50, 50)
		if len(a.listed()) > 0 {
			t.Error("a relay of another cluster was followed")
		}
		b.start()
		settle(4 * time.Second)
		k.wantState(Live)
		k.wantReady(7, 14)
		if got := k.Status().Cluster; got != "ours" {
			t.Errorf("the cluster is %s", got)
		}
		k.stop()
		if loaded, objects := snapshotOf(t, dir); loaded.Cluster != "ours" || len(objects) != 2+7+7 {
			t.Errorf("on disk are %d objects of cluster %s", len(objects), loaded.Cluster)
		}
	})
}

func TestDiskThatCannotBeWritten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "state")
		c := newCluster("uid")
		c.populate(10, 1)
		k := run(t, Options{Sources: []Source{newServer("a", c)}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		k.wantState(Live)
		k.wantReady(10, 10)
		if k.Status().SnapshotError == "" {
			t.Error("nobody is told that nothing is written")
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		settle(time.Minute)
		if s := k.Status(); s.SnapshotError != "" || s.SnapshotSaved.IsZero() {
			t.Errorf("with the disk back: %+v", s)
		}
	})
}

// A snapshot is not written with every change, and says without one that it is still true.
func TestSnapshotIsDebounced(t *testing.T) {
	bubble(t, func(t *testing.T) {
		dir := t.TempDir()
		c := newCluster("uid")
		c.populate(10, 3)
		k := run(t, Options{Sources: []Source{newServer("a", c)}, Snapshot: onDisk(t, dir)})
		defer k.stop()
		settle(15 * time.Second)
		first, _ := snapshotOf(t, dir)
		for i := range 60 {
			c.put(slice(1, 0, 3, 1+i%3))
			settle(time.Second)
		}
		busy, _ := snapshotOf(t, dir)
		if n := busy.Generation - first.Generation; n < 4 || n > 7 {
			t.Errorf("%d snapshots in a minute of changes, want one every ten seconds", n)
		}
		settle(10 * time.Minute)
		quiet, _ := snapshotOf(t, dir)
		if quiet.Generation > busy.Generation+1 {
			t.Errorf("%d snapshots while nothing changed", quiet.Generation-busy.Generation)
		}
		if age := time.Since(quiet.Confirmed); age > 2*time.Minute {
			t.Errorf("the data on disk was confirmed %v ago", age)
		}
		if quiet.Kinds["services"].Version == "" || quiet.Kinds["services"].Count != 10 {
			t.Errorf("kinds %+v", quiet.Kinds)
		}
	})
}
