package replay

import (
	"context"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/lab"
)

// startDNS starts cluster DNS and the node caches. The lab counts times to live in whole seconds, as DNS does.
func (t *labTarget) startDNS(ctx context.Context, d *v1alpha1.Drill, layers Layers) error {
	ttl := max(time.Second, d.Compressed(d.DNS.TTL.Duration).Round(time.Second))
	dns, err := t.lab.StartDNS(ctx, lab.DNSOptions{
		TTL: ttl, Replicas: d.Target.DNSReplicas, NodeCaches: d.Target.NodeCaches, Plugin: layers.dnsPlugin(),
	})
	if err != nil {
		return err
	}
	t.dns = drill.DNS{Cluster: dns.ClusterAddrs, Caches: dns.CacheAddrs, Domain: lab.Domain}
	return nil
}

// statsTimeout bounds reading the agents' counters, which they tell over HTTP on this machine.
const statsTimeout = 3 * time.Second

// AgentResults implements drill.AgentReporter. Frozen agents could not answer; at the end of a run nobody minds them.
func (t *labTarget) AgentResults() map[string]uint64 {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	if err := t.BlockAgents(ctx, false); err != nil {
		return nil
	}
	s, err := t.lab.AgentStats(ctx)
	if err != nil {
		return nil
	}
	return map[string]uint64{
		drill.AgentsOK: uint64(s.OK), drill.AgentsThrottled: uint64(s.Throttled), drill.AgentsFailed: uint64(s.Errors), "receivedBytes": uint64(s.ReceivedBytes),
	}
}

// justStarted is how long a start may wait for readiness before it is enough that the process runs.
const justStarted = 300 * time.Millisecond

// Start implements drill.Component. That a process runs is enough: what does not get ready in an outage is what the
// drill is about.
func (c component) Start(ctx context.Context) error {
	short, cancel := context.WithTimeout(ctx, justStarted)
	defer cancel()
	if err := c.Process.Start(short); err != nil && (c.PID() == 0 || ctx.Err() != nil) {
		return err
	}
	return nil
}

// AwaitReady implements drill.Component: what runs is only waited for.
func (c component) AwaitReady(ctx context.Context) error { return c.Process.Start(ctx) }

// Restart implements drill.Component.
func (c component) Restart(ctx context.Context) error {
	if err := c.Stop(ctx); err != nil {
		return err
	}
	return c.Start(ctx)
}
