package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/fleet"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/verdict"
	"github.com/seakeep/seakeep/signals"
)

const (
	// growthCheck begins the findings' names.
	growthCheck = "scaleGate"
	// growthWindows are the samples of one exposure.
	growthWindows = 6
	// probeFrom is how many nodes a cluster has, at least, whose first nodes run under a narrower cap than all will: three of so
	// many that want more than a fiftieth of the seats are a tenth of what wants a fifth of them and more.
	probeFrom = 30
	// growthStays is how long the flow schemas may stay when this process dies: the next run on the cluster removes them then.
	growthStays = 12 * time.Hour
)

// rolloutGrowth is the rollout's scale gate by a forecast: each exposure is measured by a flow schema of the change's own, which
// caps it at the same time, and beside it by the cluster's gates where they count what is judged; what the steps so far cost says
// what the next and the full one would. What was measured is kept in a file, so that a run that was killed goes on with it.
type rolloutGrowth struct {
	gate    v1alpha1.RolloutScaleGate
	change  v1alpha1.RolloutChange
	counted signals.Resource
	now     func() time.Time

	mu       sync.Mutex
	record   *observe.Record
	clusters map[string]*growthCluster
}

// growthCluster is what is measured on one cluster. Its mutex is held while it is measured: a lane asks for one thing at a time.
type growthCluster struct {
	name    string
	client  kubernetes.Interface
	servers []observe.Server
	// gates are all of the cluster's; none where none is known.
	gates []observe.Ledger
	// account reads whom the workload runs as there; nil when it has no nodes.
	account func(context.Context) (string, error)

	mu     sync.Mutex
	schema *observe.Schema
	nodes  int
	survey observe.Survey
}

var _ engine.Growth = (*rolloutGrowth)(nil)

// newRolloutGrowth reads what an earlier process of the run has measured.
func newRolloutGrowth(gate v1alpha1.RolloutScaleGate, change v1alpha1.RolloutChange, file string) (*rolloutGrowth, error) {
	g := &rolloutGrowth{gate: gate, change: change, counted: signals.Resource{Resource: "pods"}, now: time.Now, clusters: map[string]*growthCluster{}}
	var err error
	g.record, err = observe.OpenRecord(file, 0o600)
	if err != nil {
		return nil, fmt.Errorf("taking up what the steps so far cost: %w", err)
	}
	return g, nil
}

func (g *rolloutGrowth) add(c *growthCluster) { g.clusters[c.name] = c }

// refuseUncounted refuses a scale gate that judges bytes on a cluster that names no gate: nothing else counts them, and what is
// never measured would be Unknown for ever alone, and let by beside others.
func refuseUncounted(r *v1alpha1.Rollout, p *plan.Plan, known map[string]fleet.Cluster) error {
	i := slices.Index(r.ScaleGate.Metrics, v1alpha1.ScaleBytes)
	if r.ScaleGate.Mode == v1alpha1.Disabled || i < 0 || r.Change.Whole() {
		return nil
	}
	var without []string
	for _, stage := range p.Stages {
		for _, leg := range stage.Legs {
			if c, ok := known[leg.Cluster]; ok && len(c.Gates) == 0 && !slices.Contains(without, c.Name) {
				without = append(without, c.Name)
			}
		}
	}
	if len(without) == 0 {
		return nil
	}
	at := field.NewPath("scaleGate", "metrics").Index(i)
	return usageError(fmt.Errorf("rollout %s: %w", r.Name, field.Invalid(at, v1alpha1.ScaleBytes,
		"only a gate counts a component's bytes, and the fleet names no gate of "+strings.Join(without, ", "))),
		"name the gates of these clusters in the Fleet (clusters[].gates), or take Bytes out")
}

// close takes the flow schemas away, and lets go of the gates.
func (g *rolloutGrowth) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
	defer cancel()
	var errs []error
	for _, c := range g.clusters {
		for _, l := range c.gates {
			l.Client.CloseIdleConnections()
		}
		if c.schema != nil {
			errs = append(errs, c.schema.Remove(ctx, c.client))
		}
	}
	return errors.Join(errs...)
}

// account is the change's service account, before anything of it runs: what its template says, else what the workload has. ""
// when neither is there.
func (g *rolloutGrowth) account(ctx context.Context, c *growthCluster) (string, error) {
	var d *v1alpha1.WorkloadChange
	switch {
	case g.change.DaemonSet != nil:
		d = &g.change.DaemonSet.WorkloadChange
	case g.change.AdvancedDaemonSet != nil:
		d = &g.change.AdvancedDaemonSet.WorkloadChange
	default:
		return "", nil
	}
	for _, template := range []map[string]any{d.Template, d.Patch} {
		if spec, ok := template["spec"].(map[string]any); ok {
			if name, ok := spec["serviceAccountName"].(string); ok && name != "" {
				return d.Namespace + "/" + name, nil
			}
		}
	}
	account, err := c.account(ctx)
	if apierrors.IsNotFound(err) {
		return d.Namespace + "/default", nil
	}
	return account, err
}

// shares are the cap of a change that so many nodes run. The first of them to start on a large cluster read everything at the same
// time, which costs more than all they do after; nobody else need wait for it.
func (c *growthCluster) shares(exposed int) int32 {
	if exposed <= v1alpha1.MaxFirstStep && c.nodes >= probeFrom {
		return observe.ProbeShares
	}
	return observe.DefaultShares
}

// begin makes the flow schema and looks at what there is without the change. Where it is made already, it is widened for more nodes.
func (g *rolloutGrowth) begin(ctx context.Context, c *growthCluster, account string, exposed int) error {
	if account == "" {
		return nil
	}
	if shares := c.shares(exposed); c.schema != nil {
		if c.schema.Shares >= shares {
			return nil
		}
		wider := *c.schema
		wider.Shares = shares
		if err := wider.Install(ctx, c.client, false); err != nil {
			return err
		}
		c.schema = &wider
		return nil
	}
	if _, err := observe.Sweep(ctx, c.client, g.now()); err != nil {
		return err
	}
	schema := observe.Schema{ServiceAccount: account, Shares: c.shares(exposed), For: growthStays}
	if err := schema.Install(ctx, c.client, false); err != nil {
		return err
	}
	c.schema = &schema
	if err := awaitFlow(ctx, c.flow()); err != nil {
		return err
	}
	looked, err := observe.Look(ctx, c.servers, min(5*time.Second, g.window()))
	if err != nil {
		return err
	}
	c.survey = looked
	return nil
}

func (c *growthCluster) flow() *observe.Flow {
	return &observe.Flow{Servers: c.servers, Schema: c.schema.Name(), Level: c.schema.Name()}
}

// meter asks the gates only for what is judged: one that does not answer leaves nothing measured.
func (g *rolloutGrowth) meter(c *growthCluster) observe.Meter {
	counts := slices.Contains(g.gate.Metrics, v1alpha1.ScaleBytes) || slices.Contains(g.gate.Metrics, v1alpha1.ScaleWatches)
	if !counts || len(c.gates) == 0 {
		return c.flow()
	}
	return &observe.GatedFlow{Flow: c.flow(), Gates: &observe.Gates{Ledgers: c.gates, User: observe.ServiceAccountUser(c.schema.ServiceAccount)}}
}

// window is the length of one sample.
func (g *rolloutGrowth) window() time.Duration {
	return max(observe.MinWindow, g.gate.Window.Duration/growthWindows)
}

// knownExposure is a place that the engine told of.
type knownExposure struct{ at observe.Exposure }

// Exposure implements observe.Place.
func (k knownExposure) Exposure(context.Context) (observe.Exposure, error) { return k.at, nil }

// measure takes samples of one exposure.
func (g *rolloutGrowth) measure(ctx context.Context, c *growthCluster, nodes, exposed, windows int) error {
	place := knownExposure{observe.Exposure{Cluster: c.name, Nodes: nodes, Exposed: exposed, Objects: c.survey.Objects[g.counted]}}
	var last error
	took := 0
	hold := observe.Hold{Window: g.window(), Windows: windows, Skip: func(why string) { last = errors.New(why) }}
	err := observe.Samples(ctx, g.meter(c), place, hold, func(s forecast.Sample) {
		took++
		if err := g.keep(s); err != nil {
			last = err
		}
	})
	if err == nil && took == 0 {
		err = last
	}
	return err
}

// keep adds a sample to those in memory and to the file.
func (g *rolloutGrowth) keep(s forecast.Sample) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.record.Keep(s); err != nil {
		return fmt.Errorf("keeping what a step cost: %w", err)
	}
	return nil
}

// Observe implements engine.Growth: it measures the exposure for as long as the scale gate's window. Without the change it is
// measured once, also when a process before did.
func (g *rolloutGrowth) Observe(ctx context.Context, e engine.Exposure) error {
	c := g.clusters[e.Cluster]
	if c == nil {
		return fmt.Errorf("cluster %s is not measured", e.Cluster)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = e.Nodes
	account := e.Component.ServiceAccount
	var err error
	if len(e.Exposed) == 0 {
		account, err = g.account(ctx, c) // none of it is there that could be asked
	}
	if err == nil {
		err = g.begin(ctx, c, account, len(e.Exposed))
	}
	if err != nil || len(e.Exposed) == 0 && (account == "" || g.any(e.Cluster)) {
		return err
	}
	return g.measure(ctx, c, max(e.Nodes, len(e.Exposed)), len(e.Exposed), growthWindows)
}

// May implements engine.Growth.
func (g *rolloutGrowth) May(ctx context.Context, cluster string, nodes int) (verdict.Finding, error) {
	c := g.clusters[cluster]
	if c == nil {
		return verdict.Finding{}, fmt.Errorf("cluster %s is not measured", cluster)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.schema == nil {
		account, err := g.account(ctx, c)
		if err == nil {
			err = g.begin(ctx, c, account, nodes)
		}
		if err != nil {
			return verdict.Finding{}, fmt.Errorf("looking at %s: %w", cluster, err)
		}
	}
	return g.judge(c, nodes)
}

// any is true when something was measured on the cluster.
func (g *rolloutGrowth) any(cluster string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, s := range g.record.Samples {
		if s.Cluster == cluster {
			return true
		}
	}
	return false
}

func (g *rolloutGrowth) judge(c *growthCluster, nodes int) (verdict.Finding, error) {
	g.mu.Lock()
	samples := append([]forecast.Sample(nil), g.record.Samples...)
	g.mu.Unlock()
	// A ticker cuts the windows, and each begins with an answer: all of them together are the gate's window but for some milliseconds.
	hold := growthWindows*g.window() - g.window()/2
	options := forecast.Options{Window: g.window(), MinHold: hold, MinSizes: g.gate.MinClusterSizes}
	if g.gate.PriorExponent != nil {
		// Options have no word for none; this is none to the last digit.
		options.PriorExponent = max(*g.gate.PriorExponent, 1e-9)
	}
	model, err := forecast.Fit(samples, options)
	if err != nil {
		return verdict.Finding{}, err
	}
	total := max(nodes, c.nodes, c.survey.Nodes)
	p := model.Predict(forecast.At{Cluster: c.name, Nodes: total, Exposed: nodes, Objects: c.survey.Objects[g.counted]})
	own := 0.0
	if background, ok := model.Background(c.name, forecast.CPU); ok {
		own = max(0, c.survey.CPU-background)
	}
	rooms := g.rooms(c.survey.Room(own))
	j := forecast.Judge(p, forecast.Capacity{Kinds: rooms, MaxUtilization: g.gate.MaxUtilization})
	finding := verdict.Finding{
		Check: growthCheck, Verdict: verdict.Verdict(j.Outcome), Reason: fmt.Sprintf("on %d of %d nodes: %s", nodes, total, j.Reason),
		Attributed: p.Earned != "", Fresh: true, At: g.now(),
	}
	for _, s := range samples {
		if s.Cluster == c.name {
			finding.At = s.To
		}
	}
	for _, s := range j.Shares {
		finding.Figures = append(finding.Figures, verdict.Figure{Name: string(s.Kind) + ", upper bound", Value: s.Upper, Bound: j.Bound, Unit: "ratio"})
		// What a flow schema of its own counted is the change's and nobody else's.
		finding.Attributed = finding.Attributed || s.Outcome == forecast.Fail && s.Kind != forecast.CPU && s.Kind != forecast.Memory
	}
	// What has no capacity is shown, and does not gate.
	for _, metric := range g.gate.Metrics {
		kind := kindOf(metric)
		if i, ok := p.Kinds[kind]; ok && rooms[kind].Capacity == 0 && !i.Unbounded {
			finding.Figures = append(finding.Figures, verdict.Figure{Name: string(kind) + ", upper bound", Value: i.Upper, Unit: kind.Unit()})
		}
	}
	// Processors are counted for everybody: they are the change's when they rise with its nodes, which is what was fitted.
	finding.Attributed = finding.Attributed || j.Outcome == forecast.Fail && !p.Untested
	return finding, nil
}

func kindOf(metric v1alpha1.ScaleGateMetric) forecast.Kind {
	return forecast.Kind(strings.ToLower(string(metric)))
}

// rooms are the capacities that gate: declared ones before measured ones, of the metrics the rollout names.
func (g *rolloutGrowth) rooms(measured map[forecast.Kind]forecast.Room) map[forecast.Kind]forecast.Room {
	rooms := map[forecast.Kind]forecast.Room{}
	for _, metric := range g.gate.Metrics {
		kind := kindOf(metric)
		room, ok := measured[kind]
		if declared := g.gate.Capacity[string(metric)]; declared > 0 {
			room.Capacity, room.Advisory, ok = declared, false, true
		}
		if ok {
			rooms[kind] = room
		}
	}
	return rooms
}
