package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
)

// forecastRights is the hint for a cluster that refuses.
const forecastRights = "docs/operations/forecast.md has the ClusterRole that this needs; 'kubectl auth can-i' says what this user has"

// schemaGrace is for how much longer than it is needed a flow schema may stay when this process dies.
const schemaGrace = 10 * time.Minute

// readAudits makes samples of audit logs.
func (o *forecastOptions) readAudits(ctx context.Context, env *Env) ([]forecast.Sample, error) {
	workload, err := observe.ParseWorkload(o.workload)
	if err != nil {
		return nil, usageError(err, forecastHint)
	}
	// The log does not know the workload; its ServiceAccount is asked for when the cluster can be, else it bears its name.
	account := workload.Namespace + "/" + workload.Name
	if config, err := o.config(env); err == nil {
		if client, err := kubernetes.NewForConfig(config); err == nil {
			asking, cancel := context.WithTimeout(ctx, 10*time.Second)
			found, err := workload.ServiceAccount(asking, client)
			cancel()
			if err == nil {
				account = found
			}
		}
	}
	log, err := observe.NewAuditLog(observe.AuditOptions{
		User: observe.ServiceAccountUser(account), Agents: o.agents, Cluster: o.name, Nodes: o.nodes, Window: o.window,
	})
	if err != nil {
		return nil, usageError(err, "--nodes says how many nodes the cluster has")
	}
	for _, name := range o.audits {
		if err := readAuditInto(ctx, env, log, name); err != nil {
			return nil, err
		}
	}
	if log.Malformed > 0 {
		fmt.Fprintf(env.Stderr, "warning: passed over %d malformed lines of %d\n", log.Malformed, log.Lines)
	}
	samples, err := log.Samples()
	return samples, withHint(err, "the log must be in JSON, at level Metadata or more, with the stages ResponseStarted and ResponseComplete")
}

func readAuditInto(ctx context.Context, env *Env, log *observe.AuditLog, name string) error {
	if name == "-" {
		return log.Read("<stdin>", contextReader{ctx, env.Stdin})
	}
	f, err := os.Open(name)
	if err != nil {
		return usageError(fmt.Errorf("reading audit log: %w", err), "")
	}
	defer f.Close()
	return log.Read(name, contextReader{ctx, f})
}

// measure takes samples of the step the workload is on.
func (o *forecastOptions) measure(ctx context.Context, env *Env) (samples []forecast.Sample, survey *observe.Survey, err error) {
	workload, err := observe.ParseWorkload(o.workload)
	if err != nil {
		return nil, nil, usageError(err, forecastHint)
	}
	config, err := o.config(env)
	if err != nil {
		return nil, nil, err
	}
	config.Timeout = 30 * time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, usageError(fmt.Errorf("preparing to call %s: %w", config.Host, err), "")
	}
	sources, err := apiServers(config, o.servers)
	if err != nil {
		return nil, nil, err
	}
	servers := make([]observe.Server, len(sources))
	for i, s := range sources {
		servers[i] = observe.Server{Name: s.name, URL: s.url, Client: s.client}
		defer utilnet.CloseIdleConnectionsFor(s.client.Transport)
	}
	account, err := workload.ServiceAccount(ctx, client)
	if err != nil {
		return nil, nil, withHint(err, forecastRights)
	}
	place := &observe.DaemonSet{Client: client, Cluster: o.name, Workload: workload, Servers: servers, Counted: o.resource(), Nodes: o.nodes}
	var meter observe.Meter
	if len(o.gates) > 0 {
		ledgers := make([]observe.Ledger, len(o.gates))
		for i, gate := range o.gates {
			ledgers[i] = gateLedger(gate)
			defer ledgers[i].Client.CloseIdleConnections()
		}
		meter = &observe.Gates{Ledgers: ledgers, User: observe.ServiceAccountUser(account), Agents: o.agents}
	} else {
		flow, remove, err := o.flow(ctx, env, client, servers, account)
		if err != nil || o.dryRun {
			return nil, nil, err
		}
		defer func() {
			if gone := remove(); gone != nil && err == nil {
				err = gone
			}
		}()
		meter = flow
	}
	looked, err := observe.Look(ctx, servers, min(o.window, 10*time.Second))
	if err != nil {
		return nil, nil, withHint(err, forecastRights)
	}
	hold := observe.Hold{Window: o.window, Windows: int(o.hold / o.window), Skip: func(why string) { fmt.Fprintf(env.Stderr, "no sample: %s\n", why) }}
	fmt.Fprintf(env.Stderr, "measuring %s for %s, one sample each %s\n", workload, o.hold, o.window)
	err = observe.Samples(ctx, meter, place, hold, func(s forecast.Sample) {
		samples = append(samples, s)
		fmt.Fprintf(env.Stderr, "%d of %d nodes: %s\n", s.Exposed, s.Nodes, costText(s))
		if kept := o.keep([]forecast.Sample{s}); kept != nil {
			fmt.Fprintf(env.Stderr, "warning: %v\n", kept)
		}
	})
	return samples, &looked, withHint(err, forecastRights)
}

// flow makes the flow schema and says how it is taken back.
func (o *forecastOptions) flow(ctx context.Context, env *Env, client kubernetes.Interface, servers []observe.Server, account string) (_ *observe.Flow, remove func() error, err error) {
	schema := observe.Schema{ServiceAccount: account, Shares: o.shares, For: max(time.Minute, min(o.hold+schemaGrace, 24*time.Hour))}
	if err := schema.Validate(); err != nil {
		return nil, nil, usageError(err, forecastHint)
	}
	if !o.dryRun {
		removed, err := observe.Sweep(ctx, client, time.Now())
		if err != nil {
			return nil, nil, withHint(err, forecastRights)
		}
		for _, name := range removed {
			fmt.Fprintf(env.Stderr, "removed %s, whose time was over\n", name)
		}
	}
	if err := schema.Install(ctx, client, o.dryRun); err != nil {
		return nil, nil, withHint(err, forecastRights)
	}
	if o.dryRun {
		fmt.Fprintf(env.Stdout, "the flow schema and the priority level %s can be made (dry run)\n", schema.Name())
		return nil, nil, nil
	}
	remove = func() error {
		// The interrupt that ended the measurement must not leave it there.
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer cancel()
		return schema.Remove(ending, client)
	}
	flow := &observe.Flow{Servers: servers, Schema: schema.Name(), Level: schema.Name()}
	if err := awaitFlow(ctx, flow); err != nil {
		_ = remove()
		return nil, nil, withHint(err, "every API server must be named with --server, and have API Priority and Fairness on")
	}
	return flow, remove, nil
}

// awaitFlow waits until every API server has the level, which it learns of by its watch.
func awaitFlow(ctx context.Context, flow *observe.Flow) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := flow.Mark(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for the priority level: %w", err)
		case <-tick.C:
		}
	}
}

// gateLedger reaches a gate by its socket, or by a URL that needs no certificate.
func gateLedger(at string) observe.Ledger {
	if strings.Contains(at, "://") {
		return observe.Ledger{Name: at, URL: strings.TrimSuffix(at, "/"), Client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{}}}
	}
	return observe.Ledger{Name: at, URL: "http://gate", Client: socketClient(at)}
}

func costText(s forecast.Sample) string {
	var parts []string
	for _, costs := range []map[forecast.Kind]float64{s.Cost, s.Server} {
		for _, kind := range forecast.Kinds() {
			if v, ok := costs[kind]; ok {
				parts = append(parts, fmt.Sprintf("%s %s", kind, forecast.Number(v)))
			}
		}
	}
	text := strings.Join(parts, ", ")
	if s.Startup {
		text += fmt.Sprintf("; %d started", s.Started)
	}
	if s.Censored != forecast.Whole {
		text += "; cut off by " + string(s.Censored)
	}
	return text
}
