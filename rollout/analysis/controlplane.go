package analysis

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
	"github.com/seakeep/seakeep/signals"
)

// The checks of the control plane.
const (
	checkReadLatency  = "controlPlane.readLatency"
	checkListLatency  = "controlPlane.listLatency"
	checkWriteLatency = "controlPlane.writeLatency"
	checkRejected     = "controlPlane.rejected"
	checkCPU          = "controlPlane.cpu"
	checkMemory       = "controlPlane.memory"
	checkResident     = "controlPlane.residentBytes"
	checkInFlight     = "controlPlane.inFlight"
	checkEtcdLatency  = "controlPlane.etcdLatency"
	checkEtcdLeader   = "controlPlane.etcdLeader"
	checkObjects      = "controlPlane.objects"
	checkWatches      = "controlPlane.watches"
	checkMetrics      = "controlPlane.metrics"
)

// serverReading is the newest reading of one API server's process, to take the next one's difference to.
type serverReading struct {
	load      signals.Load
	latencies signals.Latencies
	flows     signals.Flows
	// since are the readings that percentiles are counted from, by class: where few ask, several readings make one.
	since map[signals.RequestClass]signals.Latencies
}

// forgetServers is when a process that was not met again is taken for dead.
const forgetServers = time.Hour

// readServers reads all API servers and etcd. A level of the cluster is the worst server's: one of three that is overloaded is
// a third of the requests that fail.
func (c *cluster) readServers(ctx context.Context, now func() time.Time) part {
	p := part{levels: map[string]float64{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	worst := func(check string, v float64) {
		if old, ok := p.levels[check]; !ok || v > old {
			p.levels[check] = v
		}
	}
	for _, server := range c.Servers {
		all.Go(func() {
			read, seats, err := readServer(ctx, server, now)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				p.troubles = append(p.troubles, err.Error())
				return
			}
			c.mu.Lock()
			// Behind one address may be several: a counter is compared with the same process's only.
			process := fmt.Sprintf("%s@%d", server.Name, read.load.Started.Unix())
			before, seen := c.servers[process]
			read.since = map[signals.RequestClass]signals.Latencies{}
			for _, class := range signals.RequestClasses {
				read.since[class] = read.latencies
				// Too few since then: counting goes on from there.
				if from, ok := before.since[class]; ok && read.latencies.Since(from)[class].Total() < fewRequests {
					read.since[class] = from
				}
			}
			c.servers[process] = read
			for name, old := range c.servers {
				if read.load.Read.Sub(old.load.Read) > forgetServers {
					delete(c.servers, name)
				}
			}
			c.mu.Unlock()
			levelsOf(read, before, seen, seats, worst)
			if seen && c.FlowSchema != "" {
				for name, flow := range read.flows.Since(before.flows) {
					p.executed += flow.ExecutionSeconds
					if name == c.FlowSchema {
						p.own += flow.ExecutionSeconds
					}
				}
			}
		})
	}
	for _, member := range c.Etcd {
		all.Go(func() {
			body, err := member.Metrics(ctx)
			var state signals.Etcd
			if err == nil {
				state, err = signals.ReadEtcd(bytes.NewReader(body), now())
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				p.troubles = append(p.troubles, err.Error())
			case !state.Leader:
				worst(checkEtcdLeader, 1)
			default:
				worst(checkEtcdLeader, 0)
			}
		})
	}
	all.Wait()
	return p
}

func readServer(ctx context.Context, server Endpoint, now func() time.Time) (r serverReading, seats float64, err error) {
	body, err := server.Metrics(ctx)
	if err != nil {
		return r, 0, err
	}
	at := now()
	if r.load, err = signals.ReadLoad(bytes.NewReader(body), at); err == nil {
		r.latencies, err = signals.ReadLatencies(bytes.NewReader(body), at)
	}
	var about signals.About
	if err == nil {
		about, err = signals.ReadAbout(bytes.NewReader(body))
	}
	if err != nil {
		return r, 0, fmt.Errorf("reading the metrics of %s: %w", server.Name, err)
	}
	// Without priority and fairness there are no flows, and all else is still true.
	r.flows, _ = signals.ReadFlows(bytes.NewReader(body), at)
	for _, n := range about.Seats {
		seats += n
	}
	return r, seats, nil
}

// fewRequests is how many requests a percentile needs: of fewer, one slow one is the percentile. What slows requests down also
// makes them fewer, so that too few in one reading must not mean that nothing is known.
const fewRequests = 20

func levelsOf(r, before serverReading, seen bool, seats float64, worst func(string, float64)) {
	l := r.load
	worst(checkResident, l.ResidentBytes)
	if l.MemoryLimit > 0 {
		worst(checkMemory, l.ResidentBytes/l.MemoryLimit)
	}
	if seats > 0 {
		worst(checkInFlight, l.ExecutingSeats/seats)
	}
	objects, watches := 0.0, 0.0
	for _, n := range l.Objects {
		objects += n
	}
	for _, n := range l.Watches {
		watches += n
	}
	worst(checkObjects, objects)
	worst(checkWatches, watches)
	if !seen {
		return
	}
	change := l.Since(before.load)
	if l.Processors > 0 && change.Seconds > 0 {
		worst(checkCPU, max(0, change.CPU())/l.Processors)
	}
	if change.Requests > 0 {
		worst(checkRejected, max(0, change.TooMany)/change.Requests)
	}
	if change.EtcdRequests > 0 {
		worst(checkEtcdLatency, change.EtcdLatency().Seconds())
	}
	for class, from := range before.since {
		h := r.latencies.Since(from)[class]
		check := map[signals.RequestClass]string{signals.ClassRead: checkReadLatency, signals.ClassList: checkListLatency, signals.ClassWrite: checkWriteLatency}[class]
		if p99, ok := h.Quantile(0.99); ok && h.Total() >= fewRequests {
			worst(check, p99)
		}
	}
}

// askReady asks every API server whether it is ready, over a connection of its own, as somebody from outside does; a cluster
// without known API servers is asked by its address.
func (c *cluster) askReady(ctx context.Context, now func() time.Time, timeout time.Duration) part {
	servers := c.Servers
	if len(servers) == 0 {
		servers = []Endpoint{{Name: c.Config.Host, URL: strings.TrimSuffix(c.Config.Host, "/")}}
	}
	asked := verdict.Asked{Check: verdict.CheckReady, Whom: "the control plane"}
	var mu sync.Mutex
	var all sync.WaitGroup
	for _, server := range servers {
		all.Go(func() {
			took, err := c.readyOne(ctx, server, timeout)
			mu.Lock()
			defer mu.Unlock()
			asked.Asked++
			asked.At = now()
			if err != nil {
				asked.Wrong = server.Name + ": " + err.Error()
				return
			}
			asked.Answered++
			asked.Took = append(asked.Took, took)
		})
	}
	all.Wait()
	return part{asked: map[string]verdict.Asked{verdict.CheckReady: asked}}
}

// readyWithin is how long an API server may take to say that it is ready; kubelet's own probe gives it 1 s to 15 s.
const readyWithin = 2 * time.Second

// readyOne asks twice before it takes no for an answer.
func (c *cluster) readyOne(ctx context.Context, server Endpoint, timeout time.Duration) (took time.Duration, err error) {
	timeout = min(timeout, readyWithin)
	for range 2 {
		within, cancel := context.WithTimeout(ctx, timeout)
		started := time.Now()
		client := c.anew
		if server.Client != nil && server.URL != strings.TrimSuffix(c.Config.Host, "/") {
			client = server.Client // its certificate may carry another name than its address
		}
		_, err = get(within, client, server.URL+"/readyz", 64<<10)
		cancel()
		if err == nil {
			return time.Since(started), nil
		}
	}
	return 0, err
}

// ready is Fail when no API server is ready, and Unknown when some are not: one of three may be restarting.
func (c *cluster) ready(now time.Time, maxAge time.Duration) verdict.Finding {
	f := verdict.Finding{Check: verdict.CheckReady, At: now}
	last, ok := c.last()
	asked := last.asked[verdict.CheckReady]
	f.At = asked.At
	f.Fresh = ok && now.Sub(last.done) <= maxAge
	f.Figures = []verdict.Figure{{Name: "API servers ready", Value: float64(asked.Answered)}, {Name: "of", Value: float64(asked.Asked)}}
	switch {
	case !f.Fresh || asked.Asked == 0:
		f.Verdict, f.Reason = verdict.Unknown, "the API servers were not asked whether they are ready"
	case asked.Answered == 0:
		// Each was asked twice; there is no second look to wait for when nothing answers.
		f.Verdict, f.Critical, f.Reason = verdict.Fail, true, "no API server is ready: "+asked.Wrong
	case asked.Answered < asked.Asked:
		f.Verdict, f.Reason = verdict.Unknown, fmt.Sprintf("%d of %d API servers are ready: %s", asked.Answered, asked.Asked, asked.Wrong)
	default:
		f.Verdict, f.Reason = verdict.Pass, fmt.Sprintf("all %d API servers are ready", asked.Asked)
	}
	return f
}

// figure is how a level is named and bounded.
type figure struct {
	check, name, unit string
	bound             float64
	// optional levels may be missing: not every API server says them, and some need requests to be seen.
	optional bool
	// usage is what is used and not suffered.
	usage bool
}

func figures(c v1alpha1.RolloutControlPlane) []figure {
	return []figure{
		{checkReadLatency, "99th percentile of GETs", "s", c.MaxReadLatency.Seconds(), true, false},
		{checkListLatency, "99th percentile of LISTs", "s", c.MaxListLatency.Seconds(), true, false},
		{checkWriteLatency, "99th percentile of writes", "s", c.MaxWriteLatency.Seconds(), true, false},
		{checkRejected, "share of requests answered 429", "ratio", *c.MaxRejectedRatio, true, false},
		{checkCPU, "processors in use", "ratio", c.MaxCPU, true, true},
		{checkMemory, "memory of its limit", "ratio", c.MaxMemory, true, true},
		{checkInFlight, "seats in use", "ratio", c.MaxInFlight, true, true},
		// A mean of small numbers that moves with whatever else the machine does; what it does to requests is above.
		{checkEtcdLatency, "mean time of a request to etcd", "s", c.MaxEtcdLatency.Seconds(), true, true},
		{checkEtcdLeader, "members of etcd without a leader", "", 0.5, true, true},
	}
}

// judgeLevels judges every level of the newest reading, if that is new enough.
func (c *cluster) judgeLevels(a v1alpha1.RolloutAnalysis, e engine.Exposure, controls []*cluster, now time.Time) []verdict.Finding {
	before, since := c.split(e.Since)
	last, ok := c.last()
	if !ok || now.Sub(last.done) > a.MaxDataAge.Duration {
		return []verdict.Finding{{Check: checkMetrics, Verdict: verdict.Unknown, Reason: "the newest reading of the API servers is too old", At: last.at}}
	}
	var findings []verdict.Finding
	if _, ok := last.levels[checkResident]; !ok || len(last.troubles) > 0 {
		findings = append(findings, verdict.Finding{Check: checkMetrics, Verdict: verdict.Unknown, Reason: "not all could be read: " + strings.Join(last.troubles, "; "), At: last.at, Fresh: true})
	}
	own := ownShare(since, now.Add(-a.MaxDataAge.Duration))
	for _, f := range figures(a.ControlPlane) {
		newest, ok := newestWith(f.check, since, now.Add(-a.MaxDataAge.Duration))
		if !ok && f.optional {
			continue
		}
		l := verdict.Level{Check: f.check, Name: f.name, Unit: f.unit, Bound: f.bound, At: newest.at, Own: own, Usage: f.usage, Before: values(before, f.check), Now: values(since, f.check)}
		if !ok {
			l.At, l.Now = last.at, nil // what was before is not now
		}
		l.ControlBefore, l.ControlNow = elsewhere(controls, before, since, f.check)
		findings = append(findings, l.Judge(a.ControlPlane.Growth))
	}
	return findings
}

// newestWith is the newest reading that has a level, if it was taken after a time. A percentile waits for enough requests, over
// several readings where few ask, and stands until the next one.
func newestWith(check string, readings []reading, after time.Time) (reading, bool) {
	for _, r := range slices.Backward(readings) {
		if r.done.Before(after) {
			break
		}
		if _, ok := r.levels[check]; ok {
			return r, true
		}
	}
	return reading{}, false
}

// elsewhere are a level's values on clusters without the change, over the same two spans of time.
func elsewhere(controls []*cluster, before, since []reading, check string) (was, is []float64) {
	if len(before) == 0 || len(since) == 0 {
		return nil, nil
	}
	const slack = time.Second
	for _, c := range controls {
		was = append(was, values(c.between(before[0].at.Add(-slack), before[len(before)-1].at.Add(slack)), check)...)
		is = append(is, values(c.between(since[0].at.Add(-slack), since[len(since)-1].at.Add(slack)), check)...)
	}
	return was, is
}

// ownShare is the component's share of the time that all requests executed for, over readings after a time: as old as the newest level
// may be, because a percentile waits for enough requests, and the burst that made it may be over. NaN when it has no FlowSchema of its
// own.
func ownShare(readings []reading, after time.Time) float64 {
	own, executed := 0.0, 0.0
	for _, r := range readings {
		if r.done.After(after) {
			own, executed = own+r.own, executed+r.executed
		}
	}
	if executed <= 0 {
		return math.NaN()
	}
	return own / executed
}
