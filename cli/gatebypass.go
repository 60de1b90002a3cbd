package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/gate/bypass"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/signals"
)

// bypassOptions are the flags of `gate bypass`.
type bypassOptions struct {
	cluster   clusterTarget
	gates     emergencyTarget
	servers   []string
	metrics   []string
	audit     []string
	length    time.Duration
	n         int
	failAbove float64
}

// newGateBypass is `seakeep gate bypass`.
func newGateBypass(env *Env) *cobra.Command {
	var o bypassOptions
	cmd := &cobra.Command{
		Use:   "bypass",
		Short: "Name what goes round the gates: by verb and resource, and by client where an audit log can be read",
		Long: `Reads the API servers' own request counters and the gates' at the beginning and the end of an interval and compares them.
What the API servers sent to themselves is taken off and shown apart. Every number has its bounds.

Name every API server (--server, with the kubeconfig's credentials, or --server-metrics for a URL that needs none) and
every gate: an API server that is not read hides what it answers, and a gate that is not asked makes all it forwards look
as if it had gone round. With --audit-log, on the API server's host, the clients are named, exactly.

Nothing is changed anywhere.`,
		Example: `  seakeep gate bypass --kubeconfig admin.kubeconfig
  seakeep gate bypass --server https://10.0.0.1:6443 --server https://10.0.0.2:6443 --for 2m
  seakeep gate bypass --audit-log /var/log/kubernetes/audit.log
  seakeep gate bypass --fail-above 1 -o json   # in a job: exit code 3 when more than 1 % certainly goes round`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runBypass(cmd.Context(), env, &o) },
	}
	o.cluster.flags(cmd)
	flags := cmd.Flags()
	flags.StringArrayVar(&o.servers, "server", nil, "an API server's `URL`, read with the kubeconfig's credentials; may be repeated (default the kubeconfig's server)")
	flags.StringArrayVar(&o.metrics, "server-metrics", nil, "`URL` of an API server's metrics that needs no credentials; may be repeated")
	flags.StringArrayVar(&o.audit, "audit-log", nil, "an API server's audit log `file`, JSON lines; may be repeated")
	flags.DurationVar(&o.length, "for", 30*time.Second, "how long to count, 1s to 1h")
	flags.IntVarP(&o.n, "limit", "n", 20, "lines to show of each list, 0 for all")
	flags.Float64Var(&o.failAbove, "fail-above", 100, "exit with code 3 when certainly more than this many percent go round")
	o.gates.flags(flags)
	_ = cmd.MarkFlagFilename("audit-log")
	_ = cmd.MarkFlagFilename("socket")
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"server", "server-metrics", "for", "limit", "fail-above"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
	return cmd
}

func (o *bypassOptions) check() error {
	const hint = "see 'seakeep gate bypass --help'"
	switch {
	case o.length < time.Second || o.length > time.Hour:
		return usageError(fmt.Errorf("--for must be 1s to 1h, got %v", o.length), hint)
	case o.n < 0:
		return usageError(fmt.Errorf("--limit must be ≥ 0, got %d", o.n), hint)
	case !(o.failAbove >= 0 && o.failAbove <= 100):
		return usageError(fmt.Errorf("--fail-above must be 0 to 100 percent, got %v", o.failAbove), hint)
	case len(o.metrics) > 0 && (len(o.servers) > 0 || o.cluster.kubeconfig != ""):
		return usageError(errors.New("--server-metrics reads without credentials: leave out --kubeconfig and --server"), hint)
	}
	return checkURLs("an API server", append(o.servers, o.metrics...), hint)
}

func checkURLs(what string, urls []string, hint string) error {
	for _, at := range urls {
		if u, err := url.Parse(at); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			return usageError(fmt.Errorf("%s must be https://host:port, got %q", what, at), hint)
		}
	}
	return nil
}

// metricsSource is one API server's metrics.
type metricsSource struct {
	name   string
	url    string
	client *http.Client
}

func (o *bypassOptions) sources(env *Env) ([]metricsSource, error) {
	var sources []metricsSource
	for _, at := range o.metrics {
		sources = append(sources, metricsSource{name: at, url: at, client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}})
	}
	if len(sources) > 0 {
		return sources, nil
	}
	config, err := o.cluster.config(env)
	if err != nil {
		return nil, err
	}
	return apiServers(config, o.servers)
}

// apiServers are the metrics of the API servers named, or of the kubeconfig's.
func apiServers(config *rest.Config, servers []string) ([]metricsSource, error) {
	if len(servers) == 0 {
		servers = []string{config.Host}
	}
	var sources []metricsSource
	for _, server := range servers {
		one := rest.CopyConfig(config)
		one.Host, one.Timeout = server, time.Minute
		// Read once: a client of files would watch them for the life of the process.
		if err := rest.LoadTLSFiles(one); err != nil {
			return nil, usageError(fmt.Errorf("preparing to call %s: %w", server, err), "")
		}
		client, err := rest.HTTPClientFor(one)
		if err != nil {
			return nil, usageError(fmt.Errorf("preparing to call %s: %w", server, err), "")
		}
		sources = append(sources, metricsSource{name: server, url: strings.TrimSuffix(server, "/") + "/metrics", client: client})
	}
	return sources, nil
}

func (s *metricsSource) read(ctx context.Context) (signals.Requests, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url, nil)
	if err != nil {
		return signals.Requests{}, err
	}
	response, err := s.client.Do(request)
	if err != nil {
		return signals.Requests{}, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return signals.Requests{}, fmt.Errorf("it answers %s", response.Status)
	}
	return signals.ReadRequests(response.Body, time.Now())
}

func readRequests(ctx context.Context, sources []metricsSource) ([]signals.Requests, error) {
	readings, errs := make([]signals.Requests, len(sources)), make([]error, len(sources))
	var all sync.WaitGroup
	for i := range sources {
		all.Go(func() {
			if readings[i], errs[i] = sources[i].read(ctx); errs[i] != nil {
				errs[i] = fmt.Errorf("reading the metrics of %s: %w", sources[i].name, errs[i])
			}
		})
	}
	all.Wait()
	return readings, withHint(errors.Join(errs...), "reading /metrics needs the right to get that path, as the ClusterRole system:monitoring gives; has the API server --bind-address where you are?")
}

func readTotals(ctx context.Context, gates []*emergency.Gate) ([]ledger.Totals, error) {
	outcomes := emergency.Each(ctx, gates, func(ctx context.Context, g *emergency.Gate) (*ledger.Totals, error) {
		totals := new(ledger.Totals)
		return totals, g.Totals(ctx, totals)
	})
	if err := emergencyError(outcomes); err != nil {
		return nil, withHint(err, "without every gate's count all it forwards would look as if it had gone round; --socket and --addr name the gates")
	}
	totals := make([]ledger.Totals, len(outcomes))
	for i, o := range outcomes {
		totals[i] = *o.Result
	}
	return totals, nil
}

func runBypass(ctx context.Context, env *Env, o *bypassOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	gates, err := o.gates.gates()
	if err != nil {
		return err
	}
	defer func() {
		for _, g := range gates {
			g.Close()
		}
	}()
	sources, err := o.sources(env)
	if err != nil {
		return err
	}
	defer func() {
		for _, s := range sources {
			utilnet.CloseIdleConnectionsFor(s.client.Transport) // unlike the client's own method it reaches below wrappers
		}
	}()
	report, err := measureBypass(ctx, env, o, sources, gates)
	if err != nil {
		return err
	}
	if o.gates.output == "json" {
		err = writeJSON(env.Stdout, report, true)
	} else {
		err = writeBypass(env.Stdout, report, o.n)
	}
	if err == nil && report.ShareAtLeast*100 > o.failAbove {
		return findings()
	}
	return err
}

// measureBypass reads the gates before and after the API servers, at both ends: what a gate forwarded between the inner
// readings is certainly in the API servers' interval, and between the outer ones certainly all of it.
func measureBypass(ctx context.Context, env *Env, o *bypassOptions, sources []metricsSource, gates []*emergency.Gate) (*bypass.Report, error) {
	tails, err := openTails(o.audit)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, t := range tails {
			_ = t.Close() // only read
		}
	}()
	var totals [4][]ledger.Totals // outer, inner, inner, outer
	var servers [2][]signals.Requests
	var from, to time.Time
	for end := range 2 {
		if end == 1 {
			from = time.Now()
			fmt.Fprintf(env.Stderr, "counting for %v\n", o.length)
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-time.After(o.length):
			}
			to = time.Now()
		}
		if totals[2*end], err = readTotals(ctx, gates); err != nil {
			return nil, err
		}
		if servers[end], err = readRequests(ctx, sources); err != nil {
			return nil, err
		}
		if totals[2*end+1], err = readTotals(ctx, gates); err != nil {
			return nil, err
		}
	}

	changes := make([]signals.RequestChange, len(sources))
	open := make([]map[signals.RequestKind]float64, len(sources))
	for i := range sources {
		changes[i] = servers[1][i].Since(servers[0][i])
		open[i] = servers[1][i].Open
	}
	readings := make([]bypass.GateReading, len(gates))
	var marks []string
	for i := range gates {
		readings[i] = bypass.GateReading{
			Outer: [2]ledger.Totals{totals[0][i], totals[3][i]},
			Inner: [2]ledger.Totals{totals[1][i], totals[2][i]},
		}
		marks = append(marks, totals[3][i].AuditMark)
	}
	report := bypass.Compare(changes, open, readings)
	if len(tails) > 0 {
		audit := bypass.NewAudit(marks, from, to)
		for _, t := range tails {
			if err := t.Read(func(r io.Reader) error { return audit.Read(contextReader{ctx, r}) }); err != nil {
				return nil, err
			}
		}
		report.Clients = audit.Clients(o.n)
	}
	return &report, nil
}

func openTails(paths []string) (tails []*bypass.Tail, err error) {
	for _, path := range paths {
		tail, err := bypass.OpenTail(path)
		if err != nil {
			for _, t := range tails {
				_ = t.Close() // only read
			}
			return nil, usageError(err, "the API server's --audit-log-path on its own host, and you must be able to read it")
		}
		tails = append(tails, tail)
	}
	return tails, nil
}
