package journal

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/bbolt"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/plan"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJournalOutlivesItsProcess(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir)
	must(t, err)
	if _, err := Open(dir); !errors.Is(err, ErrBusy) {
		t.Errorf("a second process opens it: %v", err)
	}
	rollout := &v1alpha1.Rollout{Name: "telemetry"}
	rollout.Change.DaemonSet = &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Patch: map[string]any{"spec": map[string]any{"priority": int64(1 << 30)}}}}
	rollout.SetDefaults()
	hash, err := Hash(rollout)
	must(t, err)
	now := time.Date(2026, 11, 26, 21, 0, 0, 0, time.UTC)
	run := Run{ID: "run-1", Rollout: rollout, Hash: hash, Started: now, Phase: Running}
	p := &plan.Plan{Run: "run-1", Largest: "a", Stages: []plan.Stage{{Name: "s", Concurrency: 1, Legs: []plan.Leg{{Cluster: "a", Nodes: 2, Steps: []plan.Step{{Nodes: 1}, {Nodes: 2, All: true}}}}}}}
	must(t, j.Create(run, p, map[string][]string{"a": {"n2", "n1"}}))
	if err := j.Create(run, p, nil); err == nil {
		t.Error("a run begins twice")
	}
	leg := Leg{Stage: "s", Cluster: "a", Phase: Baking, Step: 1, Since: now, Baked: 3 * time.Second, Moved: true}
	cluster := Cluster{Name: "a", Began: true, Taken: []jail.Taken{{Name: "apf", At: now}}}
	task := Task{TaskKey: TaskKey{Stage: "s", After: true, Index: 2}, Type: v1alpha1.TaskApproval, Started: now, By: "somebody"}
	must(t, j.PutLeg("run-1", leg))
	must(t, j.PutCluster("run-1", cluster))
	must(t, j.PutTask("run-1", task))
	settled, err := j.Intend("run-1", Intent{Cluster: "a", At: now})
	must(t, err)
	open := Intent{Cluster: "a", At: now, Moves: []plan.Move{{Node: "n2", Pod: "ns/p", UID: "u"}}}
	open.ID, err = j.Intend("run-1", open)
	must(t, err)
	must(t, j.Settle("run-1", settled))
	must(t, j.Tell("run-1", Event{At: now, Type: Normal, Reason: "One", Message: "first"}))
	must(t, j.Tell("run-1", Event{At: now, Type: Warning, Reason: "Two", Message: "second"}))
	if err := j.PutLeg("run-2", leg); !errors.Is(err, ErrNoRun) {
		t.Errorf("a run that is not there: %v", err)
	}
	must(t, j.Close())

	j, err = Open(dir)
	must(t, err)
	defer j.Close()
	s, err := j.Load("run-1")
	must(t, err)
	want := &State{
		Run: s.Run, Plan: p, Orders: map[string][]string{"a": {"n2", "n1"}}, Legs: map[LegKey]Leg{{"s", "a"}: leg}, Clusters: map[string]Cluster{"a": cluster},
		Tasks: map[TaskKey]Task{task.TaskKey: task}, Intents: []Intent{open},
	}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again, err := Hash(s.Run.Rollout); err != nil || again != hash || s.Run.ID != "run-1" || !s.Run.Started.Equal(now) {
		t.Errorf("the run is %+v (%v)", s.Run, err)
	}
	events, err := j.Events("run-1", 1)
	must(t, err)
	if len(events) != 1 || events[0].Reason != "Two" {
		t.Errorf("the newest event is %+v", events)
	}
	info, err := os.Stat(filepath.Join(dir, fileName))
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the journal can be read by others: %v", info.Mode())
	}
}

// The journal of 300 clusters of 1,000 nodes is a small part of the 50 MB that all state may have, with every cluster's records written over and over.
func TestStateIsSmall(t *testing.T) {
	dir := t.TempDir()
	j, err := Open(dir)
	must(t, err)
	const clusters, nodes = 300, 1000
	orders := map[string][]string{}
	stage := plan.Stage{Name: "production", Concurrency: 300}
	for c := range clusters {
		name := fmt.Sprintf("cluster-%03d", c)
		var order []string
		for n := range nodes {
			order = append(order, fmt.Sprintf("ip-10-%d-%d-%d.eu-central-1.compute.internal", c, n/256, n%256))
		}
		orders[name] = order
		stage.Legs = append(stage.Legs, plan.Leg{Cluster: name, Nodes: nodes, Steps: []plan.Step{{Nodes: 1}, {Nodes: nodes, All: true}}})
	}
	rollout := &v1alpha1.Rollout{Name: "telemetry"}
	rollout.SetDefaults()
	must(t, j.Create(Run{ID: "run-1", Rollout: rollout, Phase: Running}, &plan.Plan{Run: "run-1", Stages: []plan.Stage{stage}}, orders))
	for c := range clusters {
		var moves []plan.Move
		for n := range nodes / 10 {
			moves = append(moves, plan.Move{Node: orders[stage.Legs[c].Cluster][n], Pod: fmt.Sprintf("telemetry/telemetry-%05d", n), UID: "0f0e0d0c-0b0a-0908-0706-050403020100"})
		}
		id, err := j.Intend("run-1", Intent{Cluster: stage.Legs[c].Cluster, Moves: moves})
		must(t, err)
		must(t, j.PutLeg("run-1", Leg{Stage: "production", Cluster: stage.Legs[c].Cluster, Phase: Stepping}))
		must(t, j.Tell("run-1", Event{Type: Normal, Reason: "Step", Message: "step 2 of 2: up to 1000 of 1000 nodes, 100 at once"}))
		must(t, j.Settle("run-1", id))
	}
	must(t, j.Close())
	info, err := os.Stat(filepath.Join(dir, fileName))
	must(t, err)
	t.Logf("the journal of %d clusters of %d nodes has %.1f MB", clusters, nodes, float64(info.Size())/1e6)
	if info.Size() > 10e6 {
		t.Errorf("the journal has %d bytes", info.Size())
	}
}

// What is long is packed, and what an earlier version wrote as it is, is read.
func TestLongRecordsArePacked(t *testing.T) {
	j, err := Open(t.TempDir())
	must(t, err)
	defer j.Close()
	var order []string
	for i := range 1000 {
		order = append(order, fmt.Sprintf("ip-10-0-%d-%d.eu-central-1.compute.internal", i/256, i%256))
	}
	must(t, j.Create(Run{ID: "run-1"}, &plan.Plan{}, map[string][]string{"a": order, "b": {"n1"}}))
	plain, err := json.Marshal(order)
	must(t, err)
	must(t, j.update("run-1", func(b *bbolt.Bucket) error {
		orders := b.Bucket(bucketOrders)
		if n := len(orders.Get([]byte("a"))); n > len(plain)/4 {
			t.Errorf("%d bytes are %d", len(plain), n)
		}
		if short := orders.Get([]byte("b")); string(short) != `["n1"]` {
			t.Errorf("what is short is %q", short)
		}
		return orders.Put([]byte("earlier"), plain)
	}))
	s, err := j.Load("run-1")
	must(t, err)
	if diff := cmp.Diff(map[string][]string{"a": order, "b": {"n1"}, "earlier": order}, s.Orders); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	must(t, j.update("run-1", func(b *bbolt.Bucket) error { return b.Bucket(bucketOrders).Put([]byte("a"), gzipMagic) }))
	if _, err := j.Load("run-1"); err == nil || !strings.Contains(err.Error(), "reading a") {
		t.Errorf("a record that is cut off: %v", err)
	}
}

func TestDesk(t *testing.T) {
	dir := t.TempDir()
	at := time.Date(2026, 11, 26, 21, 0, 0, 0, time.UTC)
	first := Order{Run: "run-1", Verb: Pause, By: "a", At: at}
	second := Order{Run: "run-1", Verb: Approve, Task: "s/before/0", By: "b", At: at.Add(time.Second)}
	must(t, Give(dir, second))
	must(t, Give(dir, first))
	if err := Give(dir, Order{Run: "run-1", Verb: "explode", At: at}); err == nil {
		t.Error("an order that nobody knows is given")
	}
	must(t, os.WriteFile(filepath.Join(ordersDir(dir), "0-x.json"), []byte("{"), 0o600))
	orders, bad, err := Orders(dir)
	must(t, err)
	if len(orders) != 2 || orders[0].Order != first || orders[1].Order != second || len(bad) != 1 {
		t.Errorf("found %+v, %v", orders, bad)
	}
	for path := range bad {
		must(t, Reject(path))
	}
	for _, o := range orders {
		must(t, Take(o))
		must(t, Take(o))
	}
	orders, bad, err = Orders(dir)
	must(t, err)
	if len(orders)+len(bad) > 0 {
		t.Errorf("left: %+v, %v", orders, bad)
	}
	var view map[string]string
	if err := ReadView(dir, "run-1", &view); !errors.Is(err, ErrNoRun) {
		t.Errorf("a view that is not there: %v", err)
	}
	must(t, WriteView(dir, "run-1", map[string]string{"a": "b"}))
	must(t, ReadView(dir, "run-1", &view))
	names, err := Views(dir)
	must(t, err)
	if view["a"] != "b" || !cmp.Equal(names, []string{"run-1"}) {
		t.Errorf("read %v of %v", view, names)
	}
}

// The journal has what manifests held before, Secrets too, and an order may end a run: all of it is its owner's alone, whatever the mask.
func TestNobodyElseReads(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	dir := filepath.Join(t.TempDir(), "state")
	j, err := Open(dir)
	must(t, err)
	defer j.Close()
	must(t, Give(dir, Order{Run: "run-1", Verb: Pause, By: "a", At: time.Unix(1, 0)}))
	for range 2 { // anew, and over what is there
		must(t, WriteView(dir, "run-1", "a"))
	}
	files := 0
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		must(t, err)
		info, err := e.Info()
		must(t, err)
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has the mode %v, want %v", path, info.Mode(), want)
		}
		return nil
	}))
	if files != 3 {
		t.Errorf("%d files, want journal, order and view", files)
	}
}

// Whatever is laid down is an order of a known verb for a run, or refused; and what is an order reads the same again.
func FuzzParseOrder(f *testing.F) {
	f.Add([]byte(`{"run":"run-1","verb":"pause","by":"a","at":"2026-11-26T21:00:00Z"}`))
	f.Add([]byte(`{"run":"../x","verb":"approve"}`))
	f.Add([]byte(`{"run":"r","verb":"approve","task":"s/before/0"} {}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseOrder(data)
		if err != nil {
			if o != (Order{}) {
				t.Errorf("refused, and read as %+v", o)
			}
			return
		}
		if !runName.MatchString(o.Run) || o.Verb == "" {
			t.Errorf("read as %+v", o)
		}
	})
}

// Of each rollout's runs that are over the newest few are kept; none that is not over is forgotten.
func TestOldRunsAreForgotten(t *testing.T) {
	j, err := Open(t.TempDir())
	must(t, err)
	defer j.Close()
	begin := func(name string, n int, phase Phase) string {
		run := Run{ID: fmt.Sprintf("%s-%02d", name, n), Rollout: &v1alpha1.Rollout{Name: name}, Started: time.Unix(int64(n), 0), Phase: phase}
		must(t, j.Create(run, &plan.Plan{Run: run.ID}, map[string][]string{"a": {"n1"}}))
		must(t, WriteView(j.Dir(), run.ID, map[string]string{"id": run.ID}))
		for _, file := range []string{SamplesFile(j.Dir(), run.ID), ReadingsFile(j.Dir(), run.ID)} {
			must(t, os.WriteFile(file, nil, 0o600))
		}
		return run.ID
	}
	want := []string{begin("one", 0, Paused)}
	for n := range keptRuns + 3 {
		id := begin("one", n+1, Completed)
		if n >= 2 { // the newest is over only after the last was begun
			want = append(want, id)
		}
	}
	want = append(want, begin("another", 50, RolledBack))
	runs, err := j.Runs()
	must(t, err)
	var got []string
	for _, r := range runs {
		got = append(got, r.ID)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("runs (-want +got):\n%s", diff)
	}
	if _, err := j.Load("one-01"); !errors.Is(err, ErrNoRun) {
		t.Errorf("loading one that was forgotten: %v", err)
	}
	files := 0
	must(t, filepath.WalkDir(j.Dir(), func(path string, entry fs.DirEntry, err error) error {
		if strings.HasPrefix(entry.Name(), "one-01") || strings.HasSuffix(entry.Name(), "one-01.jsonl") {
			t.Errorf("%s is left", path)
		}
		if !entry.IsDir() {
			files++
		}
		return err
	}))
	if files != 1+3*len(want) {
		t.Errorf("%d files are left, want the journal and three of each of %d runs", files, len(want))
	}
}
