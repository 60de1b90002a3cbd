package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

const (
	// mostRecovery is how long a recovery is waited for.
	mostRecovery = 120 * time.Second
	// goodFor is how long an engineer must have had no bad answer.
	goodFor = 2 * time.Second
	// noSlower is what of a recovery without admission is still not slower: the rest is noise.
	noSlower = 1.1
)

// recovery is a kill of the API server with informers attached, which comes back with so much memory.
type recovery struct {
	name   string
	memory int
	// dies: without admission it dies again.
	dies bool
}

func (r *rig) recoveries() []recovery {
	name := func(what string, mib int) string {
		return fmt.Sprintf("API server killed with %d informers attached, %s (%d MiB)", r.options.informers, what, mib)
	}
	return []recovery{
		{name("memory enough", r.options.memory), r.options.memory, false},
		{name("little memory", r.options.little), r.options.little, true},
	}
}

// recovered is what came of it.
type recovered struct {
	// synced and good are how long after the kill the last informer was in sync again, and the engineer's last bad answer
	// was over; mostRecovery when that did not come.
	synced, good time.Duration
	deaths       int // after the kill
	peak         int64
	lists        agents.Outcome
}

func (r *rig) measureRecovery(ctx context.Context, report *result.Report, idle *numbers) error {
	well := time.Duration(max(mostOfIdle*idle.median(adminP99, gateName), alwaysGood) * float64(time.Millisecond))
	for _, c := range r.recoveries() {
		if !r.options.Wanted(c.name) {
			continue
		}
		r.say("%s", c.name)
		synced, good, both, deaths, peak := result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}
		var notes []string
		order := []string{unlimitedName, gateName}
		if !r.options.against.MatchString(unlimitedName) {
			order = order[1:]
		}
		err := run.Turns(r.options.Rounds, order, func(name string) error {
			w := r.way(name)
			if name == gateName && c.dies {
				w = r.way(littleName)
			}
			got, err := r.recover(ctx, c, w, well)
			if err != nil {
				return fmt.Errorf("%s, by %s: %w", c.name, name, err)
			}
			synced.Add(name, got.synced.Seconds())
			good.Add(name, got.good.Seconds())
			both.Add(name, max(got.synced, got.good).Seconds())
			deaths.Add(name, float64(got.deaths))
			peak.Add(name, mib(got.peak))
			line := fmt.Sprintf("by %s %d LISTs of informers were answered, %d refused, %d failed, and %d of %d were in sync at the end",
				name, got.lists.Delivered, got.lists.Refused, got.lists.Failed, got.lists.InSync, r.options.informers)
			notes = append(notes, line)
			r.say("  %s; in sync after %.1f s, engineer after %.1f s, died %d times more, memory %s MiB", line, got.synced.Seconds(), got.good.Seconds(), got.deaths, result.Number(mib(got.peak)))
			return nil
		})
		if err != nil {
			return err
		}
		cases := []result.Case{
			both.Case(c.name, "until all is well again", "s", gateName),
			synced.Case(c.name, "until the last informer is in sync", "s", gateName),
			good.Case(c.name, "until the engineer's last bad answer", "s", gateName),
			deaths.Case(c.name, "API server died again", "times", gateName),
			peak.Case(c.name, memory, "MiB", gateName),
		}
		cases[0].Note = fmt.Sprintf("%s. Bad is an answer that took longer than %s, or none; after %s it is given up, and counts as that.", strings.Join(notes, "; "), well.Round(time.Millisecond), mostRecovery)
		switch {
		case c.dies:
			cases[3].AtMost(0)
		case len(both[unlimitedName]) > 0:
			cases[0].AtMostTimes(both, gateName, unlimitedName, noSlower)
		}
		if err := r.blame(report, cases); err != nil {
			return err
		}
		report.Cases = append(report.Cases, cases...)
	}
	return nil
}

// recover attaches the informers, kills the API server, and waits until all is well again.
func (r *rig) recover(ctx context.Context, c recovery, w *way, well time.Duration) (*recovered, error) {
	if err := r.begin(ctx, w, r.bounds(r.options.memory)); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	n, err := r.renew(ctx, w.url)
	if err != nil {
		return nil, err
	}
	defer n.stop()
	config := r.lab.RESTConfig(ordinary)
	spec := &agents.Spec{
		URL: w.url, CA: r.ca, Does: agents.Inform, Tokens: make([]string, r.options.informers), Certificate: config.CertData, Key: config.KeyData,
		Period: renewEvery,
	}
	for _, d := range r.lab.Deployments() {
		spec.Paths = append(spec.Paths, "/api/v1/namespaces/"+d.Namespace+"/pods?labelSelector=app.kubernetes.io%2Fname%3D"+d.Name)
	}
	p, err := agents.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	defer p.Stop()
	if err := r.awaitSync(ctx, p); err != nil {
		return nil, fmt.Errorf("attaching informers: %w", err)
	}
	if err := r.calm(ctx); err != nil {
		return nil, err
	}
	engineer, err := r.engineer(w.url, well)
	if err != nil {
		return nil, err
	}
	defer engineer.transport.CloseIdleConnections()
	return r.kill(ctx, c, w, p, engineer)
}

func (r *rig) kill(ctx context.Context, c recovery, w *way, p *agents.Process, engineer *admin) (*recovered, error) {
	got := &recovered{synced: mostRecovery, good: mostRecovery}
	asking, stop := context.WithCancel(ctx)
	peak := r.observePeak(asking)
	var going sync.WaitGroup
	going.Go(func() { engineer.ask(asking, mostRecovery) })
	defer going.Wait()
	defer stop()
	r.server.Change(w.flags, r.bounds(c.memory))
	before := r.server.Restarts()
	killed := time.Now()
	r.server.Kill()
	switch err := r.awaitSync(ctx, p); {
	case err == nil:
		got.synced = time.Since(killed)
	case ctx.Err() != nil:
		return nil, err
	}
	// It may lose them again: who has died again meanwhile is not well. What is looked for is the end of what is bad.
	for {
		if bad := engineer.lastBad(); time.Since(bad) > goodFor && time.Since(killed) > goodFor {
			got.good = max(0, bad.Sub(killed))
			break
		}
		if time.Since(killed) > mostRecovery {
			break
		}
		if err := run.Pause(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
	}
	stop()
	got.peak = <-peak
	got.deaths = max(0, r.server.Restarts()-before-1)
	outcome, err := p.Finish()
	if err != nil {
		return nil, err
	}
	got.lists = *outcome
	return got, nil
}

// awaitSync waits until all informers are in sync, for as long as a recovery is waited for.
func (r *rig) awaitSync(ctx context.Context, p *agents.Process) error {
	synced := make(chan error, 1)
	go func() {
		_, err := p.Await(agents.Synced)
		synced <- err
	}()
	select {
	case err := <-synced:
		return err
	case <-time.After(mostRecovery):
		p.Release()
		<-synced
		return fmt.Errorf("not in sync after %s", mostRecovery)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
