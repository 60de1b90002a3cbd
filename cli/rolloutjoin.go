package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/fleet"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/internal/fence"
	"github.com/seakeep/seakeep/rollout/analysis"
	"github.com/seakeep/seakeep/rollout/bake"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/target/beside"
	"github.com/seakeep/seakeep/rollout/target/daemonset"
	"github.com/seakeep/seakeep/rollout/target/deployment"
	"github.com/seakeep/seakeep/rollout/target/kruise"
	"github.com/seakeep/seakeep/rollout/target/manifests"
	"github.com/seakeep/seakeep/rollout/way"
)

// rolloutJoined is what a run needs of the other parts, joined for one plan.
type rolloutJoined struct {
	clusters map[string]engine.Cluster
	analyst  *analysis.Analyst
	growth   *rolloutGrowth
	opened   []*kubernetes.Clientset
	// forth is true for a run that goes forth: what that needs of the clusters is asked before. One that is paused or goes back
	// has been through that, and must not wait for a cluster whose ordinary way is cut.
	forth bool

	mu sync.Mutex
	e  *engine.Engine
}

// bind gives the workloads the engine, which knows the pins.
func (j *rolloutJoined) bind(e *engine.Engine) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.e = e
}

func (j *rolloutJoined) pins(cluster string) target.Pins {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.e == nil {
		return target.Pins{}
	}
	return j.e.Pins(cluster)
}

// scaleGate is the growth, or nothing when the rollout has none.
func (j *rolloutJoined) scaleGate() engine.Growth {
	if j.growth == nil {
		return nil
	}
	return j.growth
}

func (j *rolloutJoined) close(ctx context.Context, env *Env) {
	if j.growth != nil {
		if err := j.growth.close(ctx); err != nil {
			env.Log().Warn("What the change was measured with could not be taken away; the next run removes it when its time is over", "error", err)
		}
	}
	for _, c := range j.opened {
		if r, ok := c.CoreV1().RESTClient().(*rest.RESTClient); ok && r.Client != nil {
			utilnet.CloseIdleConnectionsFor(r.Client.Transport)
		}
	}
}

// joinRollout makes targets, fences, rungs and the analyst for the clusters of a plan, and checks what needs the clusters: that
// conditions and queries can be compiled, and for one that goes forth that the bake outlasts every cache that is found.
func joinRollout(ctx context.Context, env *Env, o *rolloutCarry, r *v1alpha1.Rollout, p *plan.Plan, forth bool, known map[string]fleet.Cluster) (*rolloutJoined, error) {
	joined := &rolloutJoined{clusters: map[string]engine.Cluster{}, forth: forth}
	metrics, invalid := analysis.Check(r.Analysis, r.Interval.Duration, field.NewPath("analysis"), func(name string) ([]byte, error) {
		if !filepath.IsAbs(name) {
			name = filepath.Join(o.folder, name)
		}
		return os.ReadFile(name)
	})
	if err := invalid.ToAggregate(); err != nil {
		return nil, usageError(fmt.Errorf("rollout %s: %w", r.Name, err), "")
	}
	host, err := os.Hostname()
	if err != nil {
		host = "seakeep"
	}
	holder := host + "-" + uuid.NewString()[:8]
	if r.ScaleGate.Mode != v1alpha1.Disabled {
		if joined.growth, err = newRolloutGrowth(r.ScaleGate, r.Change, journal.SamplesFile(o.state.dir, p.Run)); err != nil {
			return nil, err
		}
	}
	looked := analysis.Options{Analysis: r.Analysis, Interval: r.Interval.Duration, Metrics: metrics, Ahead: joined.growth != nil, File: journal.ReadingsFile(o.state.dir, p.Run), Log: env.Log()}
	var errs []error
	for _, stage := range p.Stages {
		for _, leg := range stage.Legs {
			if _, done := joined.clusters[leg.Cluster]; done {
				continue
			}
			c, has := known[leg.Cluster]
			if !has {
				errs = append(errs, fmt.Errorf("the fleet no longer has cluster %s, which the run needs", leg.Cluster))
				continue
			}
			made, measured, err := joined.cluster(ctx, env, o, r, p.Run, holder, c)
			if err != nil {
				errs = append(errs, fmt.Errorf("cluster %s: %w", c.Name, err))
				continue
			}
			joined.clusters[c.Name] = made
			looked.Clusters = append(looked.Clusters, measured)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usageError(fmt.Errorf("preparing rollout %s: %w", r.Name, err), "nothing was moved")
	}
	analyst, err := analysis.New(looked)
	if err != nil {
		return nil, usageError(fmt.Errorf("preparing the analysis of rollout %s: %w", r.Name, err), "")
	}
	joined.analyst = analyst
	return joined, nil
}

// measure measures all clusters until it is stopped, so that there is a time before the change to compare with, and clusters
// without it.
func (j *rolloutJoined) measure(ctx context.Context, env *Env) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var measuring sync.WaitGroup
	measuring.Go(func() {
		if err := j.analyst.Run(ctx); err != nil && ctx.Err() == nil {
			env.Log().Warn("The clusters are not measured between looks", "reason", err)
		}
	})
	return func() { cancel(); measuring.Wait() }
}

func (j *rolloutJoined) cluster(ctx context.Context, env *Env, o *rolloutCarry, r *v1alpha1.Rollout, run, holder string, c fleet.Cluster) (engine.Cluster, analysis.Cluster, error) {
	var none, measured analysis.Cluster
	client, err := kubernetes.NewForConfig(c.Config)
	if err != nil {
		return engine.Cluster{}, none, err
	}
	j.opened = append(j.opened, client)
	objects, err := dynamic.NewForConfig(c.Config)
	if err != nil {
		return engine.Cluster{}, none, err
	}
	if j.forth {
		if err := bakeOutlasts(ctx, env, r.Bake, c.Name, client); err != nil {
			return engine.Cluster{}, none, err
		}
	}
	servers, err := analysis.ServersOf(c.Config, c.Servers...)
	if err != nil {
		return engine.Cluster{}, none, err
	}
	gates, err := gatesOf(c)
	if err != nil {
		return engine.Cluster{}, none, err
	}
	var spent func(context.Context) (float64, time.Time, error)
	if j.growth != nil {
		var metered []observe.Server
		for _, s := range servers {
			metered = append(metered, observe.Server{Name: s.Name, URL: s.URL + "/metrics", Client: s.Client})
		}
		of := &growthCluster{name: c.Name, client: client, servers: metered, account: accountOf(r, run, c, client, objects)}
		for _, gate := range gates {
			url, client := gate.HTTP()
			of.gates = append(of.gates, observe.Ledger{Name: gate.Name, URL: url, Client: client})
		}
		j.growth.add(of)
		// The same schema by which the scale gate measures tells the analysis what is the change's own.
		account, err := j.growth.account(ctx, j.growth.clusters[c.Name])
		if err != nil && j.forth {
			return engine.Cluster{}, none, fmt.Errorf("looking up whom the change runs as: %w", err)
		}
		if account != "" {
			measured.FlowSchema = observe.Schema{ServiceAccount: account}.Name()
			spent = spentBy(account, servers)
		}
	}
	made, err := j.steps(env, o, r, run, holder, c)
	if err != nil {
		return engine.Cluster{}, none, err
	}
	made.Spent = spent
	if len(gates) > 0 {
		made.Rungs = append([]jail.Rung{jail.Gate{Gates: gates}}, made.Rungs...)
	}
	measured.Name, measured.Config, measured.Servers, measured.DNS = c.Name, c.Config, servers, c.DNS
	if e := c.Etcd; e != nil {
		reach := &rest.Config{UserAgent: c.Config.UserAgent, Timeout: c.Config.Timeout, TLSClientConfig: rest.TLSClientConfig{CertFile: e.CertFile, KeyFile: e.KeyFile, CAFile: e.CAFile}}
		if measured.Etcd, err = analysis.EtcdOf(reach, e.Endpoints...); err != nil {
			return engine.Cluster{}, none, err
		}
	}
	pods := func(of podsOf) *rolloutPods {
		return &rolloutPods{pins: func() target.Pins { return j.pins(c.Name) }, of: of}
	}
	switch {
	case r.Change.DaemonSet != nil:
		measured.Workload = pods(&daemonset.Target{Cluster: c.Name, Client: client, Change: *r.Change.DaemonSet, Selector: r.Nodes.Selector, Run: run})
	case r.Change.AdvancedDaemonSet != nil:
		measured.Workload = pods(advancedDaemonSet(r, run, c, client, objects))
	case r.Change.Deployment != nil:
		measured.Workload = pods(&deployment.Target{Cluster: c.Name, Client: client, Change: *r.Change.Deployment, Run: run})
	}
	return made, measured, nil
}

// bakeOutlasts refuses a bake that is shorter than what a cache of the cluster could hide.
func bakeOutlasts(ctx context.Context, env *Env, spec v1alpha1.RolloutBake, cluster string, client kubernetes.Interface) error {
	caches, unread, err := analysis.Caches(ctx, client, spec.Discover)
	if err != nil {
		return err
	}
	for _, part := range unread {
		env.Log().Warn("A part of the DNS configuration cannot be read; declare its caches in bake.cacheTTLs", "cluster", cluster, "part", part)
	}
	if _, short := bake.Of(spec, caches, field.NewPath("bake")); short != nil {
		return short
	}
	return nil
}

// steps is how a cluster is stepped. What it is measured by keeps to the ordinary way, and has a client of its own.
func (j *rolloutJoined) steps(env *Env, o *rolloutCarry, r *v1alpha1.Rollout, run, holder string, c fleet.Cluster) (made engine.Cluster, err error) {
	over, err := rest.HTTPClientFor(c.Config)
	if err != nil {
		return made, err
	}
	if c.BreakGlass != nil {
		made.Glass = new(engine.Glass)
		if made.Glass.Switch, err = way.New(c.Config, c.BreakGlass, o.patience()); err != nil {
			return made, err
		}
		over = &http.Client{Transport: made.Glass.Switch, Timeout: c.Config.Timeout}
	}
	client, err := kubernetes.NewForConfigAndClient(c.Config, over)
	if err != nil {
		return made, err
	}
	j.opened = append(j.opened, client)
	made.Fence = &fence.Fence{
		Client: client, Namespace: apf.LeaseNamespace, Name: rolloutLease(r), FieldManager: target.FieldManager, Holder: holder, Length: o.lease, Log: env.Log(),
	}
	if made.Target, err = rolloutTarget(r, run, c, over); err != nil {
		return made, err
	}
	made.Rungs = apiRungs(env, o, holder, client)
	made.Prove = proofBy(client, "kubeconfig")
	if c.BreakGlass == nil {
		return made, nil
	}
	// A rung that fails is passed over for the next, so that it cannot wait until the lane goes by the other way.
	glass, err := kubernetes.NewForConfig(c.BreakGlass)
	if err != nil {
		return made, fmt.Errorf("breakGlass: %w", err)
	}
	j.opened = append(j.opened, glass)
	made.Glass.Prove = proofBy(glass, "breakGlass")
	for i, rung := range apiRungs(env, o, holder, glass) {
		made.Rungs[i] = jail.Ways{Ordinary: made.Rungs[i], BreakGlass: rung, Patience: o.timeout}
	}
	return made, nil
}

// proofBy asks by one way to a cluster for the rights that a target names and those of the fence.
func proofBy(client kubernetes.Interface, whose string) func(context.Context, []authorizationv1.ResourceAttributes) error {
	return func(ctx context.Context, rights []authorizationv1.ResourceAttributes) error {
		leases := authorizationv1.ResourceAttributes{Group: "coordination.k8s.io", Resource: "leases", Namespace: apf.LeaseNamespace}
		return way.Prove(ctx, client, whose, append(rights, target.Verbs(leases, "get", "create", "update")...))
	}
}

// apiRungs are the rungs that are written to a cluster's API server, by one way to it.
func apiRungs(env *Env, o *rolloutCarry, holder string, client *kubernetes.Clientset) []jail.Rung {
	return []jail.Rung{
		jail.APF{Jailer: jailer{writer: apf.NewWriter(apf.Options{Client: client, Holder: holder, Lease: o.lease, Log: env.Log()})}},
		jail.RBAC{Client: client},
	}
}

// gatesOf are the cluster's gates, as the fleet knows them.
func gatesOf(c fleet.Cluster) (gateRules, error) {
	var gates gateRules
	for i, g := range c.Gates {
		if g.Socket != "" {
			gates = append(gates, emergency.OnSocket(g.Socket))
			continue
		}
		gate, err := emergency.OnAddress(g.Address, emergency.Credentials{CertFile: g.CertFile, KeyFile: g.KeyFile, CAFile: g.CAFile, ServerName: g.ServerName})
		if err != nil {
			return nil, fmt.Errorf("gates[%d]: preparing to call %s: %w", i, g.Address, err)
		}
		gates = append(gates, gate)
	}
	return gates, nil
}

// rolloutTarget is what changes on a cluster, written over an HTTP client.
func rolloutTarget(r *v1alpha1.Rollout, run string, c fleet.Cluster, over *http.Client) (engine.Target, error) {
	client, err := kubernetes.NewForConfigAndClient(c.Config, over)
	if err != nil {
		return nil, fmt.Errorf("preparing to call cluster %s: %w", c.Name, err)
	}
	objects, err := dynamic.NewForConfigAndClient(c.Config, over)
	if err != nil {
		return nil, fmt.Errorf("preparing to call cluster %s: %w", c.Name, err)
	}
	var workload engine.Target
	namespace := ""
	switch change := r.Change; {
	case change.DaemonSet != nil:
		workload, namespace = &daemonset.Target{Cluster: c.Name, Client: client, Change: *change.DaemonSet, Selector: r.Nodes.Selector, Run: run, UserAgents: change.UserAgents, MakesNamespace: makesNamespace(change.Manifests, change.DaemonSet.Namespace)}, change.DaemonSet.Namespace
	case change.Deployment != nil:
		workload, namespace = &deployment.Target{Cluster: c.Name, Client: client, Change: *change.Deployment, Run: run, UserAgents: change.UserAgents}, change.Deployment.Namespace
	case change.AdvancedDaemonSet != nil:
		workload, namespace = advancedDaemonSet(r, run, c, client, objects), change.AdvancedDaemonSet.Namespace
	}
	if len(r.Change.Manifests) == 0 {
		return workload, nil
	}
	first := &manifests.Target{
		Cluster: c.Name, Client: objects, Objects: r.Change.Manifests, Namespace: namespace, Run: run,
		Mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(client.Discovery())),
	}
	if workload == nil {
		return first, nil
	}
	return &beside.Target{Manifests: first, Workload: workload}, nil
}

// accountOf reads whom a workload of nodes runs as now; nil for what the scale gate does not measure.
func accountOf(r *v1alpha1.Rollout, run string, c fleet.Cluster, client kubernetes.Interface, objects dynamic.Interface) func(context.Context) (string, error) {
	switch {
	case r.Change.DaemonSet != nil:
		d := r.Change.DaemonSet
		return func(ctx context.Context) (string, error) {
			return observe.Workload{Namespace: d.Namespace, Name: d.Name}.ServiceAccount(ctx, client)
		}
	case r.Change.AdvancedDaemonSet != nil:
		return advancedDaemonSet(r, run, c, client, objects).ServiceAccount
	}
	return nil
}

// advancedDaemonSet is OpenKruise's DaemonSet on a cluster.
func advancedDaemonSet(r *v1alpha1.Rollout, run string, c fleet.Cluster, client kubernetes.Interface, objects dynamic.Interface) *kruise.Target {
	change := *r.Change.AdvancedDaemonSet
	return &kruise.Target{
		Cluster: c.Name, Client: client, Objects: objects, Change: change, Selector: r.Nodes.Selector, Run: run, UserAgents: r.Change.UserAgents,
		MakesNamespace: makesNamespace(r.Change.Manifests, change.Namespace),
	}
}

// makesNamespace is whether manifests have the namespace among them.
func makesNamespace(manifests []map[string]any, name string) bool {
	return slices.ContainsFunc(manifests, func(m map[string]any) bool {
		u := unstructured.Unstructured{Object: m}
		return u.GetKind() == "Namespace" && u.GetName() == name
	})
}

// rolloutLease names the lease that fences others out: one for each object that changes, so that two changes can run side by
// side.
func rolloutLease(r *v1alpha1.Rollout) string {
	id := "manifests/" + r.Name
	switch {
	case r.Change.DaemonSet != nil:
		id = "daemonset/" + r.Change.DaemonSet.Namespace + "/" + r.Change.DaemonSet.Name
	case r.Change.AdvancedDaemonSet != nil:
		id = "advanceddaemonset/" + r.Change.AdvancedDaemonSet.Namespace + "/" + r.Change.AdvancedDaemonSet.Name
	case r.Change.Deployment != nil:
		id = "deployment/" + r.Change.Deployment.Namespace + "/" + r.Change.Deployment.Name
	}
	sum := sha256.Sum256([]byte(id))
	return "seakeep-rollout-" + hex.EncodeToString(sum[:6])
}

// podsOf tells a workload's pods apart, by its pins.
type podsOf interface {
	Pods(ctx context.Context, pins target.Pins) (update, stable []corev1.Pod, err error)
}

// rolloutPods tells the change's pods from the others, for the analyst.
type rolloutPods struct {
	pins func() target.Pins

	mu sync.Mutex // a target is for one goroutine at a time
	of podsOf
}

// Pods implements analysis.Workload.
func (p *rolloutPods) Pods(ctx context.Context, _ engine.Exposure) (update, stable []corev1.Pod, err error) {
	pins := p.pins()
	if pins.Object == "" {
		return nil, nil, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.of.Pods(ctx, pins)
}
