package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/snapshot"
	"github.com/seakeep/seakeep/dns/store"
	"github.com/seakeep/seakeep/lab"
)

// fleet is what all DNS servers of a cluster together ask the API server for when they restart.
const fleet = "many instances restart"

const fleetProfile = "LISTs by second, after the API server's restart"

// kinds are what a DNS server reads.
var kinds = []string{"namespaces", "services", "endpointslices"}

// spreadOver is how long the lists are to take: enough for nobody to notice them.
const spreadOver = time.Minute

// listing notes when a source was asked for lists.
type listing struct {
	keeper.Source
	log *listLog
}

type listLog struct {
	mu sync.Mutex
	at []time.Time
}

// List implements keeper.Source.
func (l listing) List(ctx context.Context, kind store.Kind, each func(store.Object) error) (string, error) {
	l.log.mu.Lock()
	l.log.at = append(l.log.at, time.Now())
	l.log.mu.Unlock()
	return l.Source.List(ctx, kind, each)
}

func (l *listLog) times() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(slices.Values(l.at), time.Time.Compare)
}

func (r *rig) measureFleet(ctx context.Context, report *result.Report) error {
	dirs, err := r.snapshots(ctx, "fleet")
	if err != nil {
		return err
	}
	before, err := r.lists(ctx)
	if err != nil {
		return err
	}
	log := &listLog{}
	var instances []*instance
	defer func() {
		var ending sync.WaitGroup
		for _, i := range instances {
			ending.Go(i.close)
		}
		ending.Wait()
	}()
	for _, dir := range dirs {
		i, err := r.keeper(func(o *keeper.Options) {
			o.Sources = []keeper.Source{listing{o.Sources[0], log}}
			if o.Snapshot, err = snapshot.Open(snapshot.Options{Dir: dir}); err != nil {
				o.Snapshot = nil
			}
		})
		if err != nil {
			return err
		}
		instances = append(instances, i)
		if s := i.Status(); s.State == keeper.Empty {
			return errors.New("an instance has restored nothing")
		}
	}
	all := func(ctx context.Context) error {
		for _, i := range instances {
			if err := i.live(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	if err := run.Until(ctx, 2*time.Minute, all); err != nil {
		return fmt.Errorf("waiting for every instance to be live: %w", err)
	}
	after, err := r.lists(ctx)
	if err != nil {
		return err
	}
	resumed := result.Runs{seakeepName: {after - before}}.Case(fleet, "LISTs while the watch cache reaches the snapshots", "all", seakeepName)
	resumed.AtMost(0)
	resumed.Profile = fleetProfile
	resumed.Note = fmt.Sprintf("%d instances, each the data of a DNS server (keeper, source, snapshot) with a connection of its own, in the benchmark's process, which times each list. Counted at the API server, namespaces, services and endpoint slices together.", len(instances))
	if log.times() != nil {
		resumed.Note += fmt.Sprintf(" The instances say that they sent %d.", len(log.times()))
	}

	spread, most, counted, seconds, err := r.restarted(ctx, all, log, len(instances))
	if err != nil {
		return err
	}
	cases := []result.Case{resumed, spread, most, counted}
	r.unneeded(cases)
	report.Cases = append(report.Cases, cases...)
	if missed(cases) {
		report.Profiles = append(report.Profiles, result.Profile{Name: fleetProfile, Top: seconds})
	}
	return nil
}

// restarted restarts the API server, whose watch cache then knows none of the instances' versions.
func (r *rig) restarted(ctx context.Context, all func(context.Context) error, log *listLog, n int) (spread, most, counted result.Case, seconds []string, err error) {
	already := len(log.times())
	if err = r.restartAPIServer(ctx); err != nil {
		return spread, most, counted, nil, err
	}
	// An instance is live before it has noticed and again after it has listed: every one lists each kind once.
	err = run.Until(ctx, 4*time.Minute, func(ctx context.Context) error {
		if got := len(log.times()) - already; got < n*len(kinds) {
			return fmt.Errorf("%d of %d lists were asked for", got, n*len(kinds))
		}
		return all(ctx)
	})
	if err != nil {
		return spread, most, counted, nil, fmt.Errorf("waiting for every instance to be live again: %w", err)
	}
	lists, err := r.lists(ctx)
	if err != nil {
		return spread, most, counted, nil, err
	}
	times := log.times()[already:]
	bySecond := map[int]float64{}
	for _, at := range times {
		bySecond[int(at.Sub(times[0]).Seconds())]++
	}
	busiest := 0.0
	for second := range int(times[len(times)-1].Sub(times[0]).Seconds()) + 1 {
		busiest = max(busiest, bySecond[second])
		seconds = append(seconds, fmt.Sprintf("%3d s  %.0f", second, bySecond[second]))
	}
	const after = "after the API server's restart, without a relay"
	one := func(metric, unit string, value float64) result.Case {
		return result.Runs{seakeepName: {value}}.Case(fleet, metric, unit, seakeepName)
	}
	spread = one("first to last LIST "+after, "s", times[len(times)-1].Sub(times[0]).Seconds())
	met := spread.Value >= spreadOver.Seconds()
	spread.Target, spread.Met, spread.Profile = fmt.Sprintf("≥ %g s", spreadOver.Seconds()), &met, fleetProfile
	most = one("LISTs in the busiest second "+after, "1/s", busiest)
	counted = one("LISTs "+after, "all", lists)
	counted.Note = fmt.Sprintf("As the API server counts them since its restart, pages and its own few included; %d instances with %d kinds.", n, len(kinds))
	return spread, most, counted, seconds, nil
}

// restartAPIServer ends it and starts it again. Something is written before, so that the versions that the DNS servers
// know are older than all that the new one has seen.
func (r *rig) restartAPIServer(ctx context.Context) error {
	if err := r.touch(ctx); err != nil {
		return err
	}
	p, _ := r.lab.Process(lab.KindAPIServer)
	if err := p.Restart(ctx); err != nil {
		return err
	}
	return r.pinLoad(p)
}

// snapshots makes a state folder for each instance, all of the same moment.
func (r *rig) snapshots(ctx context.Context, name string) (dirs []string, err error) {
	first := filepath.Join(r.dir, name+"-0")
	i, err := r.keeper(func(o *keeper.Options) {
		if o.Snapshot, err = snapshot.Open(snapshot.Options{Dir: first}); err != nil {
			o.Snapshot = nil
		}
	})
	if err != nil {
		return nil, err
	}
	err = run.Until(ctx, time.Minute, i.live)
	i.close() // which writes the snapshot
	if err != nil {
		return nil, err
	}
	for n := range r.options.instances {
		dir := filepath.Join(r.dir, name+"-"+strconv.Itoa(n))
		if n > 0 {
			if err := os.Mkdir(dir, 0o700); err != nil {
				return nil, fmt.Errorf("making an instance's folder: %w", err)
			}
			if err := os.CopyFS(dir, os.DirFS(first)); err != nil {
				return nil, fmt.Errorf("copying the snapshot: %w", err)
			}
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// lists is how many LISTs of the kinds the API server has answered since it began.
func (r *rig) lists(ctx context.Context) (float64, error) {
	text, err := r.kube.CoreV1().RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	return parseLists(string(text))
}

func parseLists(text string) (sum float64, err error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		return 0, fmt.Errorf("reading the API server's metrics: %w", err)
	}
	for _, m := range families["apiserver_request_total"].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		if labels["verb"] == "LIST" && slices.Contains(kinds, labels["resource"]) {
			sum += m.GetCounter().GetValue()
		}
	}
	return sum, nil
}
