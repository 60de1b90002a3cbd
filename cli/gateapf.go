package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/apf/plan"
)

const apfHint = "see 'seakeep gate apf --help'"

// defaultAPFState is where the journal is.
const defaultAPFState = "/var/lib/seakeep"

// newGateAPF is `seakeep gate apf`.
func newGateAPF(env *Env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "apf",
		Short: "Make API Priority and Fairness follow the gate's level, for what does not come through a gate; or jail a client there",
		Long: `API Priority and Fairness bounds what reaches the API servers by other ways than a gate, by constants. This moves them: a
ballast level that nobody uses withholds seats, so that everyone else has the number that is wanted. The levels that the
cluster lives by (leader-election, node-high, system; --protect names others) keep the seats they have, and exempt requests
are never limited.

A jail gives one client no seat at all, for a time.

Everything written carries Seakeep's label or, on a built-in level, an annotation with what was there before; 'restore' needs
no more than that. One process writes at a time (Lease kube-system/seakeep-apf) and one follows (kube-system/seakeep-apf-follow).`,
		Example: `  seakeep gate apf plan --seats 40                                  # what would be written; writes nothing
  seakeep gate apf follow --gate-metrics http://127.0.0.1:7445/metrics
  seakeep gate apf status
  seakeep gate apf restore
  seakeep gate apf jail --service-account monitoring/telemetry --for 30m --reason INC-42
  seakeep gate apf unjail --all`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			return usageError(errors.New("apf needs an action: plan, follow, status, restore, jail or unjail"), apfHint)
		},
	}
	cmd.AddCommand(newAPFPlan(env), newAPFFollow(env), newAPFStatus(env), newAPFRestore(env), newAPFJail(env), newAPFUnjail(env))
	return cmd
}

// apfTarget is which cluster, and how the answer is printed.
type apfTarget struct {
	cluster clusterTarget
	servers []string
	state   string
	timeout time.Duration
	output  string
	outputs []string
}

func (t *apfTarget) flags(cmd *cobra.Command, outputs ...string) {
	t.cluster.flags(cmd)
	t.outputs = outputs
	flags := cmd.Flags()
	flags.DurationVar(&t.timeout, "timeout", 15*time.Second, "how long each request may take, 1s to 5m")
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	if len(outputs) > 0 {
		flags.StringVarP(&t.output, "output", "o", outputs[0], strings.Join(outputs, " | "))
		_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	}
}

func (t *apfTarget) serverFlag(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&t.servers, "server", nil, "an API server's `URL`, whose metrics are read with the kubeconfig's credentials; may be repeated (default the kubeconfig's server)")
	_ = cmd.RegisterFlagCompletionFunc("server", cobra.NoFileCompletions)
}

func (t *apfTarget) stateFlag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&t.state, "state-dir", defaultAPFState, "`folder` of the journal that remembers what edited levels were")
	_ = cmd.MarkFlagDirname("state-dir")
}

func (t *apfTarget) check() error {
	if t.timeout < time.Second || t.timeout > 5*time.Minute {
		return usageError(fmt.Errorf("--timeout must be 1s to 5m, got %v", t.timeout), apfHint)
	}
	if len(t.outputs) > 0 && !slices.Contains(t.outputs, t.output) {
		return usageError(fmt.Errorf("output must be %s, got %q", strings.Join(t.outputs, " or "), t.output), apfHint)
	}
	return checkURLs("an API server", t.servers, apfHint)
}

// apfCluster is a cluster that is talked to.
type apfCluster struct {
	config *rest.Config
	client *kubernetes.Clientset
	http   *http.Client
	others []metricsSource
}

func (t *apfTarget) connect(env *Env) (*apfCluster, error) {
	if err := t.check(); err != nil {
		return nil, err
	}
	config, err := t.cluster.config(env)
	if err != nil {
		return nil, err
	}
	// Few requests, made while the control plane is in trouble.
	config.Timeout, config.QPS, config.Burst = t.timeout, 20, 40
	// Read once: a client of files would watch them for the life of the process.
	if err := rest.LoadTLSFiles(config); err != nil {
		return nil, usageError(fmt.Errorf("preparing to call %s: %w", config.Host, err), "")
	}
	c := &apfCluster{config: config}
	if c.http, err = rest.HTTPClientFor(config); err != nil {
		return nil, usageError(fmt.Errorf("preparing to call %s: %w", config.Host, err), "")
	}
	if c.client, err = kubernetes.NewForConfigAndClient(config, c.http); err != nil {
		return nil, usageError(fmt.Errorf("preparing to call %s: %w", config.Host, err), "")
	}
	return c, nil
}

func (c *apfCluster) close() {
	utilnet.CloseIdleConnectionsFor(c.http.Transport)
	for _, s := range c.others {
		utilnet.CloseIdleConnectionsFor(s.client.Transport)
	}
}

func (c *apfCluster) serversOf(t *apfTarget) (apf.Servers, error) {
	sources, err := apiServers(c.config, t.servers)
	if err != nil {
		return nil, err
	}
	c.others = append(c.others, sources...)
	var servers apf.Servers
	for _, s := range sources {
		servers = append(servers, apf.Endpoint{Name: s.name, URL: s.url, Client: s.client})
	}
	return servers, nil
}

// journal opens the cluster's journal.
func (c *apfCluster) journal(ctx context.Context, dir string) (*apf.Journal, error) {
	namespace, err := c.client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("reading the namespace %s, whose UID names the cluster in the journal: %w", metav1.NamespaceSystem, err)
	}
	return apf.OpenJournal(dir, namespace.UID)
}

func (c *apfCluster) writer(env *Env, journal *apf.Journal) *apf.Writer {
	host, err := os.Hostname()
	if err != nil {
		host = "seakeep"
	}
	return apf.NewWriter(apf.Options{Client: c.client, Journal: journal, Holder: host + "-" + uuid.NewString()[:8], Log: env.Log()})
}

// apfRights is the hint for a cluster that refuses.
const apfRights = "docs/operations/apf.md has the ClusterRole that this needs; 'kubectl auth can-i' says what this user has"

// write prints a value as JSON or YAML.
func (t *apfTarget) write(env *Env, v any) error {
	if t.output == "json" {
		return writeJSON(env.Stdout, v, true)
	}
	text, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	_, err = env.Stdout.Write(text)
	return err
}

// apfLevel is where the wanted number comes from.
type apfLevel struct {
	seats     float64
	gates     []string
	cpu       float64
	memory    string
	count     int
	protected []string
}

func (l *apfLevel) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Float64Var(&l.seats, "seats", 0, "a fixed `number` of seats for everyone else, on all API servers together")
	flags.StringArrayVar(&l.gates, "gate-metrics", nil, "`URL` of a gate's metrics, whose limit is followed; may be repeated, and then their sum is")
	flags.IntVar(&l.count, "api-servers", 0, "how many API servers share the seats (default: those that hold a lease in kube-system)")
	flags.StringSliceVar(&l.protected, "protect", plan.Protected, "priority levels that keep their seats")
	for _, name := range []string{"seats", "gate-metrics", "api-servers", "protect"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

func (l *apfLevel) check() error {
	switch {
	case !(l.seats >= 0 && l.seats <= 1e6):
		return usageError(fmt.Errorf("--seats must be 1 to 1000000, got %v", l.seats), apfHint)
	case l.count < 0 || l.count > 1000:
		return usageError(fmt.Errorf("--api-servers must be 0 to 1000, got %d", l.count), apfHint)
	case slices.Contains(l.protected, "catch-all"):
		return usageError(errors.New("--protect catch-all: the API server lets nobody edit that level"), apfHint)
	}
	return checkURLs("a gate's metrics", l.gates, apfHint)
}

func (l *apfLevel) level() apf.Level {
	if l.seats > 0 {
		return apf.Fixed(l.seats)
	}
	var gates apf.Gates
	for _, at := range l.gates {
		gates = append(gates, apf.Endpoint{Name: at, URL: at, Client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}})
	}
	return gates
}

// apfPlanned is the output of plan.
type apfPlanned struct {
	APIServers int `json:"apiServers"`
	plan.Plan
}

// newAPFPlan is `seakeep gate apf plan`.
func newAPFPlan(env *Env) *cobra.Command {
	var t apfTarget
	var l apfLevel
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Print what follow would write for a number of seats, level by level; write nothing",
		Long: `Reads the priority levels and an API server's metrics, and prints each level's shares and nominal seats before and after.
Levels that Seakeep has edited already are shown as they are without.`,
		Example: `  seakeep gate apf plan --seats 40
  seakeep gate apf plan --gate-metrics http://127.0.0.1:7445/metrics -o yaml`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAPFPlan(cmd.Context(), env, &t, &l) },
	}
	t.flags(cmd, "table", "json", "yaml")
	t.serverFlag(cmd)
	l.flags(cmd)
	return cmd
}

func runAPFPlan(ctx context.Context, env *Env, t *apfTarget, l *apfLevel) error {
	if err := l.check(); err != nil {
		return err
	}
	if (l.seats > 0) == (len(l.gates) > 0) {
		return usageError(errors.New("plan needs --seats or --gate-metrics, one of them"), apfHint)
	}
	cluster, err := t.connect(env)
	if err != nil {
		return err
	}
	defer cluster.close()
	servers, err := cluster.serversOf(t)
	if err != nil {
		return err
	}
	planned, err := planOnce(ctx, cluster, servers, l)
	if err != nil {
		return withHint(err, apfRights)
	}
	if t.output == "table" {
		return writeAPFPlan(env.Stdout, planned)
	}
	return t.write(env, planned)
}

func planOnce(ctx context.Context, c *apfCluster, servers apf.Servers, l *apfLevel) (*apfPlanned, error) {
	wanted, err := l.level().Level(ctx)
	if err != nil {
		return nil, err
	}
	state, err := apf.Read(ctx, c.client, nil)
	if err != nil {
		return nil, err
	}
	seats, err := servers.Seats(ctx, state.Now)
	if err != nil {
		return nil, err
	}
	count := l.count
	if count == 0 {
		if count, err = apf.CountServers(ctx, c.client, time.Now()); err != nil {
			return nil, err
		}
	}
	p, err := plan.Make(plan.Request{Levels: state.Before, Seats: seats, Protected: l.protected, Wanted: int(wanted) / count})
	return &apfPlanned{APIServers: count, Plan: p}, err
}
