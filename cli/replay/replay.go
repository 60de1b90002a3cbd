// Package replay runs a scenario on labs, once for each set of layers, and brings all runs into one report. It is where
// the drill, which knows no lab, and the lab, which knows no drill, meet.
package replay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/catalog"
	"github.com/seakeep/seakeep/drill/fixtures"
	"github.com/seakeep/seakeep/drill/report"
	"github.com/seakeep/seakeep/lab"
)

// Options say what to replay.
type Options struct {
	Scenario *v1alpha1.Drill
	// Rehearsal is run once before; nil: none.
	Rehearsal *v1alpha1.Drill
	Layers    []Layers
	BinDir    string
	// Executable is seakeep itself, for the processes it adds to the lab.
	Executable string
	// Bounds limit components, by kind; they stand over the scenario's.
	Bounds map[string]lab.Bounds
	// Work is a folder for the labs; it is made and, when all went well, removed.
	Work     string
	Progress func(line string)
	Log      *slog.Logger
}

// Run replays and returns the report. On error the labs' folder is left for whoever looks for the reason.
func Run(ctx context.Context, o Options) (*report.Report, error) {
	r := newReport(o)
	if o.Rehearsal != nil {
		o.Progress("Rehearsal: " + o.Rehearsal.Title)
		result, _, err := o.once(ctx, o.Rehearsal, None, "")
		if err != nil {
			return nil, fmt.Errorf("rehearsing: %w", err)
		}
		run := report.NewRun(result)
		r.Rehearsal = &run
		o.Progress(fmt.Sprintf("Rehearsal: %s", map[bool]string{true: "approved", false: "not approved: " + string(run.Verdict)}[run.Verdict == drill.Pass]))
	}
	frozen := filepath.Join(o.Work, "frozen")
	if err := o.populate(ctx, frozen); err != nil {
		return nil, fmt.Errorf("populating the cluster: %w", err)
	}
	for _, layers := range o.Layers {
		o.Progress(fmt.Sprintf("Run: layers %s", layers))
		result, bounds, err := o.once(ctx, o.Scenario, layers, frozen)
		if err != nil {
			return nil, fmt.Errorf("running with layers %s: %w", layers, err)
		}
		r.Bounds = describeBounds(bounds, o.bounds(o.Scenario))
		r.Runs = append(r.Runs, report.NewRun(result))
	}
	r.Conclude()
	return r, errors.Join(os.RemoveAll(o.Work))
}

func newReport(o Options) *report.Report {
	d := o.Scenario
	return &report.Report{
		SchemaVersion: report.SchemaVersion, Scenario: d.Name, Title: d.Title, Description: d.Description, Sources: d.Sources,
		Generated:  time.Now().UTC().Truncate(time.Second),
		Parameters: report.Parameters{Nodes: d.Parameters.Nodes, Pods: *d.Parameters.Pods, Factor: d.Parameters.Factor, Seed: d.Parameters.Seed},
		Machine:    report.Machine{CPUs: runtime.NumCPU(), MemoryBytes: totalMemory(), OS: runtime.GOOS, Arch: runtime.GOARCH},
		Runs:       []report.Run{},
	}
}

// populate fills a lab once, with the drill's fixtures, and freezes it: every run then starts from the same cluster.
func (o Options) populate(ctx context.Context, frozen string) (err error) {
	l, err := lab.Up(ctx, o.labOptions(o.Scenario, "populate"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	if err := l.Populate(ctx); err != nil {
		return err
	}
	if err := fixtures.Prepare(ctx, o.Scenario, &labTarget{lab: l}); err != nil {
		return err
	}
	o.Progress("Keeping a copy of the cluster")
	return l.Freeze(ctx, frozen)
}

func (o Options) labOptions(d *v1alpha1.Drill, name string) lab.Options {
	return lab.Options{
		Dir: filepath.Join(o.Work, name), BinDir: o.BinDir,
		Nodes: d.Parameters.Nodes, Pods: *d.Parameters.Pods, Seed: int64(d.Parameters.Seed),
		Self: o.Executable, Progress: o.Progress, Log: o.Log,
	}
}

// once brings a lab up with the layers, plays the scenario and takes the lab down. From a frozen lab if one is named.
func (o Options) once(ctx context.Context, d *v1alpha1.Drill, layers Layers, frozen string) (_ *drill.Result, bounds string, err error) {
	options := o.labOptions(d, d.Name+"-"+string(layers))
	options.Restore, options.Bounds = frozen, o.bounds(d)
	options.APIServers = d.Target.APIServers + added(d)
	target := &labTarget{serving: options.APIServers}
	if layers.has(Rollout) || layers.has(RolloutSmall) {
		d = rolledOut(d)
		target.rollouts = &rollouts{executable: o.Executable, scenario: d, small: layers.has(RolloutSmall)}
	}
	closeDoor := o.openDoor(&options, target, layers)
	defer closeDoor()
	l, err := lab.Up(ctx, options)
	if err != nil {
		return nil, "", err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	target.lab = l
	if err := l.Populate(ctx); err != nil {
		return nil, "", err
	}
	if err := target.holdBack(ctx, d.Target.APIServers); err != nil {
		return nil, "", err
	}
	if err := fixtures.Prepare(ctx, d, target); err != nil {
		return nil, "", err
	}
	if err := target.startDNS(ctx, d, layers); err != nil {
		return nil, "", err
	}
	if err := l.StartAgents(ctx); err != nil {
		return nil, "", err
	}
	scrape, closeScraper := drill.NewScraper()
	defer closeScraper()
	result, err := drill.Run(ctx, d, target, drill.Options{
		Layers: string(layers), NewAction: catalog.NewAction, NewProbe: catalog.NewProbe,
		Scrape: scrape, Progress: o.Progress, Log: o.Log,
	})
	// Frozen agents could not be taken down in order.
	err = errors.Join(err, target.BlockAgents(context.WithoutCancel(ctx), false))
	if result != nil {
		var stood error
		result.Rollout, stood = target.rollouts.outcome(d.Parameters.Nodes)
		err = errors.Join(err, stood)
	}
	return result, l.BoundsMechanism(), err
}

// openDoor sets what stands in front of the API servers: a gate, or the TCP load balancer that every real cluster has.
func (o Options) openDoor(options *lab.Options, target *labTarget, layers Layers) (closeDoor func()) {
	if layers.gated() {
		door := &gateDoor{executable: o.Executable, layers: layers}
		options.FrontDoor = func(ctx context.Context, l *lab.Lab) (string, string, error) {
			url, caFile, err := door.open(ctx, l)
			target.lane = door.lane
			target.addServer = func(url string) error { return door.addUpstream(url, l.CAFile()) }
			return url, caFile, err
		}
		return func() {}
	}
	var b *balancer
	options.FrontDoor = func(_ context.Context, l *lab.Lab) (string, string, error) {
		host, err := hostOf(l.APIServerURL(0))
		if err != nil {
			return "", "", err
		}
		if b, err = newBalancer(host); err != nil {
			return "", "", err
		}
		target.addServer = func(address string) error {
			host, err := hostOf(address)
			if err == nil {
				b.add(host)
			}
			return err
		}
		return (&url.URL{Scheme: "https", Host: b.address()}).String(), l.CAFile(), nil
	}
	return func() {
		if b != nil {
			b.close()
		}
	}
}

// added is how many API servers the timeline may add.
func added(d *v1alpha1.Drill) (n int) {
	for _, s := range d.Timeline {
		if a := s.Action.AddAPIServers; a != nil {
			n += a.Count
		}
	}
	return n
}

// bounds are the scenario's, with those of the command line over them.
func (o Options) bounds(d *v1alpha1.Drill) map[string]lab.Bounds {
	all := make(map[string]lab.Bounds, len(d.Target.Bounds)+len(o.Bounds))
	for _, b := range d.Target.Bounds {
		bounds := lab.Bounds{CPU: b.CPU}
		if b.Memory != nil {
			bounds.Memory = b.Memory.Value()
		}
		all[b.Component] = bounds
	}
	maps.Copy(all, o.Bounds)
	return all
}

func describeBounds(mechanism string, bounds map[string]lab.Bounds) string {
	if len(bounds) == 0 {
		return "none"
	}
	text := mechanism
	for _, kind := range slices.Sorted(maps.Keys(bounds)) {
		b := bounds[kind]
		text += "; " + kind
		if b.CPU > 0 {
			text += fmt.Sprintf(" %g cores", b.CPU)
		}
		if b.Memory > 0 {
			text += fmt.Sprintf(" %d MiB", b.Memory>>20)
		}
	}
	return text
}
