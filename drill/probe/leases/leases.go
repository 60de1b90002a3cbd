// Package leases is the probe of the nodes' heartbeats. It watches the leases of kube-node-lease and judges the time
// between two renewals by the times written in the leases themselves, so that a watch that comes late is not mistaken
// for a node that is. A node whose lease is missed is called dead, and its pods are moved: the second storm.
package leases

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/apicall"
	"github.com/seakeep/seakeep/drill/session"
)

// The series: Renewal has a sample for every renewal, Overdue one a second for the cluster's longest silence.
const (
	Renewal = "renewal"
	Overdue = "overdue"
)

const (
	path        = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
	every       = time.Second
	reconnect   = 500 * time.Millisecond
	listTimeout = 10 * time.Second
)

type probe struct {
	spec   v1alpha1.LeasesProbe
	caller *apicall.Caller

	mu      sync.Mutex
	tracker *tracker
	// connected is true while the watch runs: silence is then the nodes', not ours.
	connected bool
	version   string // resume the watch here; "" must list first
}

// New returns the probe.
func New(spec v1alpha1.LeasesProbe, env drill.Env) (drill.Probe, error) {
	caller, err := session.As(env.Target, v1alpha1.AsObserver)
	if err != nil {
		return nil, err
	}
	return &probe{spec: spec, caller: caller, tracker: newTracker(spec.Late.Duration, spec.Missed.Duration)}, nil
}

// Run implements drill.Probe.
func (p *probe) Run(ctx context.Context, sink drill.Sink) error {
	defer p.caller.Close()
	var parts sync.WaitGroup
	parts.Go(func() { p.watchAll(ctx, sink) })
	parts.Go(func() {
		drill.OpenLoop(ctx, every, func(_ context.Context, _ int, due time.Time) { p.recordOverdue(sink, due) })
	})
	parts.Wait()
	p.settle(context.WithoutCancel(ctx), sink)
	return nil
}

// watchAll lists and watches, again and again, until ctx ends.
func (p *probe) watchAll(ctx context.Context, sink drill.Sink) {
	for ctx.Err() == nil {
		if p.version == "" {
			_ = p.list(ctx, sink) // a failure shows as undetermined samples and is tried again
		}
		if p.version != "" {
			p.watch(ctx, sink)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reconnect):
		}
	}
}

// list takes the leases as they are. What happened since they were last seen is not known.
func (p *probe) list(ctx context.Context, sink drill.Sink) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	code, body, err := p.caller.Do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	if code != http.StatusOK {
		return fmt.Errorf("listing leases: answered %d", code)
	}
	var list coordinationv1.LeaseList
	if err := json.Unmarshal(body, &list); err != nil {
		return fmt.Errorf("listing leases: %w", err)
	}
	for _, lease := range list.Items {
		p.observe(sink, lease, false)
	}
	p.version = list.ResourceVersion
	return nil
}

func (p *probe) watch(ctx context.Context, sink drill.Sink) {
	code, body, err := p.caller.Stream(ctx, path+"?watch=true&allowWatchBookmarks=true&resourceVersion="+p.version)
	if err != nil {
		return
	}
	defer body.Close()
	if code != http.StatusOK {
		if code == http.StatusGone {
			p.version = ""
		}
		return
	}
	p.setConnected(true)
	defer p.setConnected(false)
	decoder := json.NewDecoder(body)
	for {
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := decoder.Decode(&event); err != nil {
			return // the next watch resumes where this one ended
		}
		if event.Type == "ERROR" {
			p.version = "" // too old to resume: what happened in between is lost
			return
		}
		var lease coordinationv1.Lease
		if err := json.Unmarshal(event.Object, &lease); err != nil {
			p.version = ""
			return
		}
		p.version = lease.ResourceVersion
		switch event.Type {
		case "ADDED", "MODIFIED":
			p.observe(sink, lease, true)
		case "DELETED":
			p.mu.Lock()
			p.tracker.forget(lease.Name)
			p.mu.Unlock()
		}
	}
}

func (p *probe) observe(sink drill.Sink, lease coordinationv1.Lease, unbroken bool) {
	if lease.Spec.RenewTime == nil {
		return
	}
	renewed := lease.Spec.RenewTime.Time
	p.mu.Lock()
	gap, outcome, ok := p.tracker.observe(lease.Name, renewed, unbroken)
	p.mu.Unlock()
	if ok {
		// The sample belongs to the moment of the renewal; its latency looks back to the one before.
		sink.Record(Renewal, renewed, gap, outcome)
	}
}

func (p *probe) recordOverdue(sink drill.Sink, due time.Time) {
	p.mu.Lock()
	longest, connected, nodes := p.tracker.overdue(time.Now()), p.connected, len(p.tracker.renewed)
	p.mu.Unlock()
	switch {
	case nodes == 0:
	case !connected:
		sink.Record(Overdue, due, longest, drill.Undetermined)
	default:
		sink.Record(Overdue, due, longest, p.tracker.judge(longest))
	}
}

func (p *probe) setConnected(connected bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.connected = connected
}

// settle judges, at the end, the nodes that have been silent for longer than a lease lasts: they have no next renewal
// whose time would tell.
func (p *probe) settle(ctx context.Context, sink drill.Sink) {
	seen := p.list(ctx, sink) == nil
	now := time.Now()
	for _, renewed := range p.tracker.renewed {
		silent := now.Sub(renewed)
		if silent <= p.spec.Missed.Duration {
			continue
		}
		outcome := drill.Missed
		if !seen {
			outcome = drill.Undetermined
		}
		sink.Record(Renewal, now, silent, outcome)
	}
}
