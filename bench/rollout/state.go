package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/rollout/analysis"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/verdict"
)

const (
	maxState = 50.0 // MB
	// stateWindows are the samples of one exposure, as the scale gate takes them.
	stateWindows = 6
	// stateBefore are the rounds of readings from before the change, stateRounds all: from then on the file is as large as it becomes,
	// and it was written anew a few times.
	stateBefore = 120
	stateRounds = 300
)

// measured is what readings are made of: a trace of a live run.
//
//go:embed testdata/good-quiet.jsonl.gz
var measured []byte

// podTemplate is what an agent's is once the API server has filled it in.
//
//go:embed testdata/template.json
var podTemplate json.RawMessage

// fleetState is a run in the middle of its rollout over a fleet.
type fleetState struct {
	plan   *plan.Plan
	orders map[string][]string
	routes []*plan.Route
	seen   []plan.Seen
	// events is how many have happened.
	events int
}

// measureState measures the state folder of a run, at the moment at which it is largest.
func (r *rig) measureState(ctx context.Context, report *result.Report, name string, s fleetState) error {
	sizes, err := s.write(ctx, filepath.Join(r.dir, "state"))
	if err != nil {
		return err
	}
	total := 0.0
	var parts []string
	for _, file := range slices.SortedFunc(maps.Keys(sizes), func(a, b string) int { return int(sizes[b] - sizes[a]) }) {
		total += sizes[file]
		parts = append(parts, fmt.Sprintf("%s %.1f", file, sizes[file]/1e6))
	}
	runs := result.Runs{}
	runs.Add(subject, total/1e6)
	state := runs.Case(name, "state on the disk", "MB", subject)
	state.AtMost(maxState)
	state.Note = "at most, of which " + strings.Join(parts, ", ")
	report.Cases = append(report.Cases, state)
	return nil
}

// write writes the whole state folder: the journal with plan, orders, pins, legs and events, the view, what steps cost, and what was
// measured. The program's own functions write all of it. It returns the bytes of each file; of readings the most they had, and apart
// what they take once more while they are written anew.
func (s fleetState) write(ctx context.Context, dir string) (map[string]float64, error) {
	clusters := slices.Sorted(maps.Keys(s.orders))
	// A whole look at one of 300 clusters reads the others' readings; what it says is of the same length for each.
	look, _, err := writeReadings(ctx, dir+"-of-one", s.plan.Run, clusters[:1], true)
	if err != nil {
		return nil, fmt.Errorf("looking at one cluster: %w", err)
	}
	_, readings, err := writeReadings(ctx, dir, s.plan.Run, clusters, false)
	if err != nil {
		return nil, fmt.Errorf("writing readings: %w", err)
	}
	if err := s.writeSamples(dir); err != nil {
		return nil, fmt.Errorf("writing samples: %w", err)
	}
	if err := s.writeJournal(dir); err != nil {
		return nil, err
	}
	if err := s.writeView(dir, look); err != nil {
		return nil, err
	}
	sizes, err := sizesOf(dir)
	sizes[readingsFile(s.plan.Run)], sizes["readings written anew"] = readings.most, readings.anew
	return sizes, err
}

func readingsFile(run string) string { return journal.ReadingsFile("", run) }

// sizesOf are the bytes of each file of a folder.
func sizesOf(dir string) (map[string]float64, error) {
	sizes := map[string]float64{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			sizes[entry.Name()] += float64(info.Size())
		}
		return err
	})
	return sizes, err
}

// readingsSize is how many bytes a file of readings had at most, and the most just after it was written anew.
type readingsSize struct{ most, anew float64 }

// writeReadings has an Analyst measure clusters, each as in the trace and a little different, at an interval of 30 s. It looks at
// the pods, and at all else if whole is true; what was measured is kept either way. It returns the newest look at the last cluster.
func writeReadings(ctx context.Context, dir, run string, clusters []string, whole bool) (look verdict.Look, size readingsSize, err error) {
	recorded, err := readTrace(bytes.NewReader(measured))
	if err != nil {
		return look, size, err
	}
	var records []analysis.Record
	for _, one := range recorded.Looks {
		if one.Workload != nil {
			records = append(records, one)
		}
	}
	const every = 30 * time.Second
	o := analysis.Options{Interval: every, File: journal.ReadingsFile(dir, run)}
	o.Analysis.SetDefaults(every)
	if a := &o.Analysis; !whole {
		a.ControlPlane.Mode, a.DNS.Mode, a.Probes.Mode, a.Slow.Mode = v1alpha1.Disabled, v1alpha1.Disabled, v1alpha1.Disabled, v1alpha1.Disabled
	}
	for _, name := range clusters {
		o.Clusters = append(o.Clusters, analysis.Cluster{Name: name, Config: &rest.Config{Host: "https://127.0.0.1:1"}, Servers: []analysis.Endpoint{{Name: "s", URL: "https://127.0.0.1:1"}}})
	}
	began, round := time.Now().UTC(), 0
	o.Now = func() time.Time { return began.Add(time.Duration(round) * every) }
	now := map[string]analysis.Record{}
	o.Replay = func(cluster string) (analysis.Record, bool) { record, ok := now[cluster]; return record, ok }
	analyst, err := analysis.New(o)
	if err != nil {
		return look, size, err
	}
	last := 0.0
	random := rand.New(rand.NewPCG(1, 1))
	for ; round < stateRounds; round++ {
		for i, name := range clusters {
			one := records[(round+i)%len(records)]
			one.Cluster, one.At = name, o.Now().Add(time.Duration(random.Int64N(int64(time.Second))))
			one.Levels = maps.Clone(one.Levels)
			for check, v := range one.Levels {
				if one.Levels[check] = v * (1 + 0.1*random.Float64()); v > 1000 { // bytes and counts are whole
					one.Levels[check] = math.Round(one.Levels[check])
				}
			}
			now[name] = one
		}
		analyst.Measure(ctx)
		if round >= stateBefore {
			for _, name := range clusters {
				e := engine.Exposure{Cluster: name, Step: 1, Nodes: fleetNodes, Planned: len(recorded.Exposed), Exposed: recorded.Exposed, Since: began.Add(stateBefore * every)}
				e.Ready = e.Since
				if look, err = analyst.Look(ctx, e); err != nil {
					return look, size, err
				}
			}
		}
		if round < 2 {
			continue // a reading is written when the next is there
		}
		sizes, err := sizesOf(dir)
		if err != nil {
			return look, size, err
		}
		now := sizes[readingsFile(run)]
		size.most = max(size.most, now)
		if now < last {
			size.anew = max(size.anew, now)
		}
		last = now
	}
	return look, size, nil
}

// writeSamples writes what all steps cost on all clusters.
func (s fleetState) writeSamples(dir string) error {
	record, err := observe.OpenRecord(journal.SamplesFile(dir, s.plan.Run), 0o600)
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(1, 2))
	at := time.Now().UTC()
	for _, stage := range s.plan.Stages {
		for _, leg := range stage.Legs {
			for _, exposed := range append([]plan.Step{{}}, leg.Steps...) {
				for range stateWindows {
					about := func(v float64) float64 { return v * (1 + 0.1*random.Float64()) }
					n := float64(exposed.Nodes)
					err := record.Keep(forecast.Sample{
						Cluster: leg.Cluster, Nodes: len(s.orders[leg.Cluster]), Exposed: exposed.Nodes, Objects: 20 * leg.Nodes, From: at, To: at.Add(50 * time.Second),
						Cost:   map[forecast.Kind]float64{forecast.Seats: about(0.01 * n), forecast.Requests: about(0.2 * n), forecast.Bytes: about(5000 * n), forecast.Watches: n},
						Server: map[forecast.Kind]float64{forecast.CPU: about(2 + 0.01*n), forecast.Memory: math.Round(about(4e9))},
					})
					if err != nil {
						return err
					}
					at = at.Add(50*time.Second + time.Duration(random.Int64N(int64(time.Millisecond))))
				}
			}
		}
	}
	return nil
}

// writeJournal writes a run's journal: every cluster has pins, a leg, and an intent written and settled.
func (s fleetState) writeJournal(dir string) error {
	p := s.plan
	j, err := journal.Open(dir)
	if err != nil {
		return err
	}
	defer j.Close()
	rollout := &v1alpha1.Rollout{Name: "telemetry"}
	rollout.SetDefaults()
	if err := engine.Record(j, rollout, nil, "", p, s.orders); err != nil {
		return err
	}
	for i, route := range s.routes {
		pins := target.Pins{
			Object: "5f4dcc3b-5aa7-4d61-9d83-27deb882cf99", Stable: "telemetry-6d8f5c7b9", Update: "telemetry-7c9d4b8f6", Before: podTemplate, After: podTemplate,
			Strategy: json.RawMessage(`{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":1,"maxSurge":0}}`),
		}
		if err := j.PutCluster(p.Run, journal.Cluster{Name: route.Cluster, Pins: pins, Began: true}); err != nil {
			return err
		}
		d := route.Forward(4, s.seen[i])
		id, err := j.Intend(p.Run, journal.Intent{Cluster: route.Cluster, At: time.Now().UTC(), Moves: d.Moves})
		if err != nil {
			return err
		}
		if err := j.PutLeg(p.Run, journal.Leg{Stage: p.Stages[0].Name, Cluster: route.Cluster, Phase: journal.Stepping, Step: 4, Since: time.Now().UTC(), Baked: time.Minute, Moved: true}); err != nil {
			return err
		}
		if err := j.Settle(p.Run, id); err != nil {
			return err
		}
	}
	for i := range s.events {
		cluster := s.routes[i%len(s.routes)].Cluster
		e := journal.Event{
			At: time.Now().UTC(), Stage: p.Stages[0].Name, Cluster: cluster, Type: journal.Normal, Reason: "Moved",
			Message: fmt.Sprintf("10 pods of step 4 were let to the new revision: %s and 9 more; 27 of 1000 nodes run it, 10 may be unavailable", s.orders[cluster][i%10]),
		}
		if err := j.Tell(p.Run, e); err != nil {
			return err
		}
	}
	return nil
}

// writeView writes what other shells are shown.
func (s fleetState) writeView(dir string, look verdict.Look) error {
	p := s.plan
	view := engine.View{ID: p.Run, Name: "telemetry", Phase: journal.Running, Started: time.Now().UTC(), Written: time.Now().UTC(), Largest: s.routes[0].Cluster}
	stage := engine.StageView{Name: p.Stages[0].Name}
	for i, route := range s.routes {
		d := route.Forward(4, s.seen[i])
		leg := engine.LegView{Cluster: route.Cluster, Phase: journal.Stepping, Step: 5, Nodes: p.Stages[0].Legs[i].Nodes, Bake: time.Hour}
		for _, step := range p.Stages[0].Legs[i].Steps {
			leg.Steps = append(leg.Steps, step.Nodes)
		}
		leg.ExposedNodes, leg.Planned, leg.Exposed, leg.Seen, leg.Look = len(d.Exposed), d.Planned, d.Exposed[:20], time.Now().UTC(), &look
		leg.ScaleGate = &verdict.Finding{Check: "scaleGate", Verdict: verdict.Pass, Reason: "on 81 of 1000 nodes: 0.891 of seats (0.802–0.98), 4 % of the 21.3 that others leave: its upper bound is within 60 %", Fresh: true, At: time.Now().UTC()}
		stage.Legs = append(stage.Legs, leg)
	}
	view.Stages = []engine.StageView{stage}
	return journal.WriteView(dir, p.Run, view)
}
