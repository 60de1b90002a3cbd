package analysis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/statefile"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// Workload tells the change's pods on a cluster from those of the revision before it. It is asked once a look, from one
// goroutine for each cluster. Pods that are being deleted are in neither.
type Workload interface {
	Pods(ctx context.Context, e engine.Exposure) (update, stable []corev1.Pod, err error)
}

// Cluster is one cluster that is measured, with the change or without.
type Cluster struct {
	Name   string
	Config *rest.Config
	// Servers are its API servers, each by itself; at least one.
	Servers []Endpoint
	// Etcd are its members, when they can be reached.
	Etcd []Endpoint
	// DNS are its DNS servers, IP:port, when they are not the endpoints of the Service kube-system/kube-dns.
	DNS []string
	// Workload is the changed one; nil for a change without pods, whose workload is then not looked at.
	Workload Workload
	// FlowSchema is the one made for the component, by which its cost is told from others'; "" when there is none.
	FlowSchema string
}

// Options are what an Analyst needs.
type Options struct {
	Analysis v1alpha1.RolloutAnalysis
	// Interval is how often is looked.
	Interval time.Duration
	// Metrics are the user's, compiled; see Check.
	Metrics []Metric
	// Clusters are all of the fleet's that can be reached: those without the change are what it is compared with.
	Clusters []Cluster
	// Ahead asks the workload's questions also where nothing runs the change yet. A scale gate takes what API servers do without it
	// from what they do with it, and what our own looks cost must be in both.
	Ahead bool
	// Record, if set, is told what each reading and each look measured.
	Record func(Record)
	// File, if set, is where readings are kept for the next process: the time before the change cannot be measured again. It is
	// of one run, and for one process at a time.
	File string
	// Replay, if set, is asked instead of the clusters: for judging records again.
	Replay func(cluster string) (Record, bool)
	Now    func() time.Time // default time.Now
	Log    *slog.Logger
}

// Analyst implements engine.Analyst. Its methods may be called from several goroutines; two looks at one cluster wait for each
// other.
type Analyst struct {
	o        Options
	clusters map[string]*cluster
	began    time.Time
	book     *statefile.Lines // nil without a file
}

var _ engine.Analyst = (*Analyst)(nil)

// cluster is a cluster with what is known of it.
type cluster struct {
	Cluster
	client  kubernetes.Interface
	names   metadata.Interface
	anew    *http.Client
	probing sync.Mutex // one measurement at a time

	mu      sync.Mutex
	history []reading
	servers map[string]serverReading
	// exposedAt is when the change first came here, step what the counts below are about.
	exposedAt time.Time
	step      int
	fast      verdict.Horizon
	looked    verdict.Look // what was said last
	slow      slowHorizon
	metrics   map[string]*measured
	seen      *verdict.Workload // at the last look
	nodes     nodeNames
}

// New checks what is given, reads what an earlier process kept, and asks no cluster.
func New(o Options) (*Analyst, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if len(o.Clusters) == 0 {
		return nil, errors.New("an analysis needs at least one cluster")
	}
	a := &Analyst{o: o, clusters: map[string]*cluster{}, began: o.Now()}
	for _, c := range o.Clusters {
		if len(c.Servers) == 0 && o.Analysis.ControlPlane.Mode == v1alpha1.Enabled {
			return nil, fmt.Errorf("cluster %s: no API server is known whose metrics can be read; name them, or disable analysis.controlPlane", c.Name)
		}
		made, err := open(c, o.Analysis.Probes.Timeout.Duration)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.Name, err)
		}
		a.clusters[c.Name] = made
	}
	if o.File != "" {
		if err := a.recall(); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// now is the time since this process began, on the clock as it was then. Readings are put in order by it, over processes too, so
// that a clock that is set does not put what was measured with the change before it.
func (a *Analyst) now() time.Time {
	if a.o.Replay != nil {
		return a.o.Now() // records have times of their own
	}
	return a.began.Add(a.o.Now().Sub(a.began))
}

func open(c Cluster, timeout time.Duration) (*cluster, error) {
	config := rest.CopyConfig(c.Config)
	config.QPS = -1 // a look sends some tens of requests, and waiting behind ourselves would look like a slow API server
	config.AcceptContentTypes, config.ContentType = "application/vnd.kubernetes.protobuf,application/json", "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	names, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	anew, err := fresh(c.Config, timeout)
	if err != nil {
		return nil, err
	}
	return &cluster{Cluster: c, client: client, names: names, anew: anew, servers: map[string]serverReading{}, metrics: map[string]*measured{}}, nil
}

func hostOf(server string) (string, error) {
	u, err := url.Parse(server)
	if err != nil {
		return "", err
	}
	return u.Hostname(), nil
}

// Run measures all clusters every interval until the context ends, so that there is a time before the change to compare with,
// and clusters without it.
func (a *Analyst) Run(ctx context.Context) error {
	tick := time.NewTicker(a.o.Interval)
	defer tick.Stop()
	for {
		a.Measure(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// atOnce bounds how many clusters are measured side by side.
const atOnce = 32

// Measure takes a reading of every cluster now, as Run does every interval.
func (a *Analyst) Measure(ctx context.Context) {
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, c := range a.clusters {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			a.measure(ctx, c, time.Time{})
		})
	}
	all.Wait()
}

// measure takes a reading of a cluster unless there is one that is young enough, and not older than a time.
func (a *Analyst) measure(ctx context.Context, c *cluster, since time.Time) {
	c.probing.Lock()
	defer c.probing.Unlock()
	now := a.now()
	if a.o.Replay != nil {
		if r, ok := a.o.Replay(c.Name); ok {
			if last, seen := c.last(); !seen || r.At.After(last.at) {
				a.remember(c, r.reading())
			}
		}
		return
	}
	if last, ok := c.last(); ok && now.Sub(last.at) < a.o.Interval/2 && !last.at.Before(since) {
		return
	}
	// What takes longer than the time between two looks is no data.
	ctx, cancel := context.WithTimeout(ctx, a.lookWithin())
	defer cancel()
	r := reading{at: now, levels: map[string]float64{}, asked: map[string]verdict.Asked{}}
	var parts sync.WaitGroup
	var merge sync.Mutex
	add := func(mode v1alpha1.Switch, f func() part) {
		if mode != v1alpha1.Enabled {
			return
		}
		parts.Go(func() {
			p := f()
			merge.Lock()
			defer merge.Unlock()
			r.executed, r.own = r.executed+p.executed, r.own+p.own
			for k, v := range p.levels {
				r.levels[k] = v
			}
			for k, v := range p.asked {
				r.asked[k] = v
			}
			r.troubles = append(r.troubles, p.troubles...)
		})
	}
	add(a.o.Analysis.ControlPlane.Mode, func() part { return c.readServers(ctx, a.o.Now) })
	add(v1alpha1.Enabled, func() part { return c.askReady(ctx, a.o.Now, a.o.Analysis.Probes.Timeout.Duration) })
	add(a.o.Analysis.DNS.Mode, func() part { return c.askDNS(ctx, a.o.Analysis.DNS, a.o.Now) })
	add(a.o.Analysis.Probes.Mode, func() part { return c.probe(ctx, a.o.Analysis.Probes, a.o.Now) })
	parts.Wait()
	r.done = a.now()
	a.remember(c, r)
	if a.o.Record != nil {
		a.o.Record(r.record(c.Name, nil))
	}
}

// lookWithin bounds each half of a look.
func (a *Analyst) lookWithin() time.Duration { return max(a.o.Interval, 5*time.Second) }

// Look implements engine.Analyst. The look's verdict is settled over several looks in a row, so that one that is chance neither
// stops nor lets on. Asked more often than there is something new, it says the same again.
func (a *Analyst) Look(ctx context.Context, e engine.Exposure) (verdict.Look, error) {
	c, ok := a.clusters[e.Cluster]
	if !ok {
		return verdict.Look{}, fmt.Errorf("looking at %s: the analysis does not know this cluster", e.Cluster)
	}
	c.begin(e, a.now())
	a.measure(ctx, c, e.Since)
	last, _ := c.last()
	c.mu.Lock()
	if c.looked.At.Equal(last.at) && !last.at.IsZero() {
		defer c.mu.Unlock()
		return c.looked, nil
	}
	c.mu.Unlock()
	now := a.o.Now()
	if e.Since.After(a.now()) {
		e.Since = a.began // the clock was set back between two processes: all that this one measures is since then
	}
	findings := a.findings(c, e, a.now())
	within, cancel := context.WithTimeout(ctx, a.lookWithin())
	defer cancel()
	if a.o.Analysis.Workload.Mode == v1alpha1.Enabled && (c.Workload != nil || a.o.Replay != nil) && len(e.Exposed)+e.Planned > 0 {
		findings = append(findings, a.judgeWorkload(within, c, e, last, now)...)
	} else if a.o.Ahead && a.o.Analysis.Workload.Mode == v1alpha1.Enabled {
		c.lookAhead(within, a.o.Analysis.Workload, now)
	}
	findings = append(findings, a.askMetrics(ctx, c, e, now)...)
	findings = append(findings, a.lookSlowly(c, e, a.now())...)
	if err := a.unkept(); err != nil {
		findings = append(findings, verdict.Finding{Check: checkKept, Verdict: verdict.Unknown, Fresh: true, At: last.at, Reason: "what is measured cannot be kept, and a restart would lose it: " + err.Error()})
	}
	if ctx.Err() != nil {
		return verdict.Look{}, fmt.Errorf("looking at %s: %w", e.Cluster, context.Cause(ctx))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = c.fast.Next(verdict.Of(last.at, findings...), a.o.Analysis.ConsecutiveLooks)
	return c.looked, nil
}

// begin starts the counts of a step anew: what passed before it says nothing about it. Rows of failures go on.
func (c *cluster) begin(e engine.Exposure, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// Before a step has begun there is nothing of the change, and what is measured is of before it.
	if c.exposedAt.IsZero() && (e.Step > 0 && !e.Since.IsZero() || len(e.Exposed) > 0) {
		c.exposedAt = now
		if !e.Since.IsZero() && e.Since.Before(now) {
			c.exposedAt = e.Since
		}
	}
	if e.Step != c.step {
		c.step = e.Step
		c.fast.Passing, c.looked = 0, verdict.Look{}
		for _, m := range c.metrics {
			m.taken, m.samples = nil, verdict.Groups{}
		}
	}
}

// findings are what the readings so far say.
func (a *Analyst) findings(c *cluster, e engine.Exposure, now time.Time) []verdict.Finding {
	controls := a.controls(c)
	var findings []verdict.Finding
	findings = append(findings, c.ready(now, a.o.Analysis.MaxDataAge.Duration))
	if a.o.Analysis.ControlPlane.Mode == v1alpha1.Enabled {
		findings = append(findings, c.judgeLevels(a.o.Analysis, e, controls, now)...)
	}
	return append(findings, c.judgeAsked(a.o.Analysis, controls, now)...)
}

// controls are the clusters without the change.
func (a *Analyst) controls(but *cluster) []*cluster {
	var without []*cluster
	for _, c := range a.clusters {
		if c == but {
			continue
		}
		c.mu.Lock()
		if c.exposedAt.IsZero() {
			without = append(without, c)
		}
		c.mu.Unlock()
	}
	slices.SortFunc(without, func(x, y *cluster) int { return strings.Compare(x.Name, y.Name) })
	return without
}
