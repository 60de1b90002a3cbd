package v1alpha1

import (
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// RolloutAnalysis says what is looked at while a change is exposed, and what makes a verdict of it. What is built in is on
// unless it is disabled: a rollout that says nothing is still judged by control plane, DNS and workload.
type RolloutAnalysis struct {
	// ConsecutiveLooks is how many looks in a row must fail before the verdict is Fail, and how many must pass before it is
	// Pass; default 3, 1–100. Each look is another chance of a false alarm: at 5 % a look, 60 looks without this alarm 95
	// times in a hundred, with 3 in a row less than one time in a hundred.
	ConsecutiveLooks int `json:"consecutiveLooks,omitempty"`
	// MaxDataAge is how old the newest data may be; older is no data, and no data is Unknown. Default 3 times Interval, 1s–1d.
	MaxDataAge *metav1.Duration `json:"maxDataAge,omitempty"`
	// Slow is the second horizon, for what grows too slowly for the fast one: it may condemn clusters that were finished.
	Slow RolloutSlowAnalysis `json:"slow,omitempty"`
	// ControlPlane looks at API servers and etcd.
	ControlPlane RolloutControlPlane `json:"controlPlane,omitempty"`
	// DNS asks each DNS server for names that no cache can have.
	DNS RolloutDNS `json:"dns,omitempty"`
	// Workload looks at the change's own pods and their nodes.
	Workload RolloutWorkload `json:"workload,omitempty"`
	// Probes do what users do, past every cache.
	Probes RolloutProbes `json:"probes,omitempty"`
	// Metrics are the user's own, in the words of an Argo AnalysisTemplate.
	Metrics []RolloutMetric `json:"metrics,omitempty"`
	// Templates are files with Argo AnalysisTemplates or ClusterAnalysisTemplates, whose metrics are looked at too. Their
	// providers must be prometheus or web.
	Templates []string `json:"templates,omitempty"`
	// Args fill {{args.NAME}} in metrics and templates.
	Args []RolloutMetricArg `json:"args,omitempty"`
}

// RolloutSlowAnalysis compares over hours. It uses the same data as the fast one, and needs no more of it.
type RolloutSlowAnalysis struct {
	// Mode is Enabled (the default) or Disabled.
	Mode Switch `json:"mode,omitempty"`
	// Window is how far it looks back; default 3h, and at least four times the rollout's interval. 4s–14d.
	Window *metav1.Duration `json:"window,omitempty"`
	// Interval is how often; default 10m, 1s–1d.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// Watch is for how long after its last step a finished cluster may still be condemned; default 24h, 0–14d.
	Watch *metav1.Duration `json:"watch,omitempty"`
}

// RolloutControlPlane looks at API servers by reading their /metrics directly, never through the telemetry that may be what
// is rolled out.
type RolloutControlPlane struct {
	// Mode is Enabled (the default) or Disabled.
	Mode Switch `json:"mode,omitempty"`
	// MaxReadLatency bounds the 99th percentile of GETs of one object, MaxListLatency that of LISTs, MaxWriteLatency that of
	// writes, webhooks included. Defaults 1s, 30s and 1s: Kubernetes' own objectives. 1ms–5m.
	MaxReadLatency  *metav1.Duration `json:"maxReadLatency,omitempty"`
	MaxListLatency  *metav1.Duration `json:"maxListLatency,omitempty"`
	MaxWriteLatency *metav1.Duration `json:"maxWriteLatency,omitempty"`
	// MaxRejectedRatio bounds the requests answered 429, of all; default 0.01, 0–1.
	MaxRejectedRatio *float64 `json:"maxRejectedRatio,omitempty"`
	// MaxCPU bounds the processors in use, of those there are; default 0.85, > 0–1.
	MaxCPU float64 `json:"maxCPU,omitempty"`
	// MaxMemory bounds resident memory, of the API server's limit (GOMEMLIMIT, else the machine's); default 0.8, > 0–1. It
	// is left alone when no limit is known.
	MaxMemory float64 `json:"maxMemory,omitempty"`
	// MaxInFlight bounds the requests executing, of the seats there are; default 0.8, > 0–1.
	MaxInFlight float64 `json:"maxInFlight,omitempty"`
	// MaxEtcdLatency bounds the mean time of a request to etcd, LISTs left out; default 100ms, 1ms–1m.
	MaxEtcdLatency *metav1.Duration `json:"maxEtcdLatency,omitempty"`
	// Growth is by how much each of these may grow against the cluster's own level from before the change and against
	// clusters without it, as a ratio; default 0.5: half as much again. > 0–100.
	Growth float64 `json:"growth,omitempty"`
}

// RolloutDNS asks every DNS server itself, for names of its own.
type RolloutDNS struct {
	// Mode is Enabled (the default) or Disabled.
	Mode Switch `json:"mode,omitempty"`
	// Servers are asked, as IP:port; left out: the endpoints of the Service kube-system/kube-dns.
	Servers []string `json:"servers,omitempty"`
	// Names are asked for. "*" in one is replaced by a label never used before, so that no cache has the answer. Default
	// kubernetes.default.svc.CLUSTERDOMAIN and *.seakeep-probe.CLUSTERDOMAIN, which must be answered NXDOMAIN.
	Names []string `json:"names,omitempty"`
	// ClusterDomain ends the names of Services; default cluster.local.
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// Timeout of one question; default 2s, 10ms–30s.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Questions is how many each server is asked per look; default 5, 1–1000.
	Questions int `json:"questions,omitempty"`
	// MinSuccess is the share that must be answered; default 0.99, > 0–1.
	MinSuccess float64 `json:"minSuccess,omitempty"`
	// MaxLatency bounds the 90th percentile; default 500ms, 1ms–30s.
	MaxLatency *metav1.Duration `json:"maxLatency,omitempty"`
}

// RolloutWorkload looks at the pods of the update revision beside those of the stable one, and at exposed nodes beside
// nodes that are not.
type RolloutWorkload struct {
	// Mode is Enabled (the default) or Disabled.
	Mode Switch `json:"mode,omitempty"`
	// ReadyWithin is how long a new pod may take to become ready; default 2m, 1s–2h.
	ReadyWithin *metav1.Duration `json:"readyWithin,omitempty"`
	// MaxRestarts is how often a container of the update revision may have restarted; default 1, 0–1000.
	MaxRestarts *int `json:"maxRestarts,omitempty"`
	// Conditions are conditions of nodes that must be as they are on a healthy node; default Ready, MemoryPressure,
	// DiskPressure, PIDPressure, NetworkUnavailable.
	Conditions []string `json:"conditions,omitempty"`
	// Neighbours also looks at the other pods of exposed nodes: whether more of them are not ready than on nodes without
	// the change. Enabled is the default.
	Neighbours Switch `json:"neighbours,omitempty"`
}

// RolloutProbes are small requests that no cache answers: what is broken behind caches shows here first.
type RolloutProbes struct {
	// Mode is Enabled (the default) or Disabled.
	Mode Switch `json:"mode,omitempty"`
	// Timeout of one probe; default 5s, 100ms–1m.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// CreatePod is DryRun (the default: authentication, admission and quota are run, nothing is stored), Real (a pod is
	// created, waited for and deleted) or Disabled.
	CreatePod ProbeMode `json:"createPod,omitempty"`
	// Namespace is where; default default.
	Namespace string `json:"namespace,omitempty"`
	// Image is the pod's; default registry.k8s.io/pause:3.10.
	Image string `json:"image,omitempty"`
	// MaxLatency bounds each probe; default 2s, 10ms–1m.
	MaxLatency *metav1.Duration `json:"maxLatency,omitempty"`
}

// ProbeMode is how far a probe that writes goes.
type ProbeMode string

// The modes of a probe that writes.
const (
	ProbeDryRun   ProbeMode = "DryRun"
	ProbeReal     ProbeMode = "Real"
	ProbeDisabled ProbeMode = "Disabled"
)

// RolloutMetric is one measurement, repeated. The first half is Argo's, with Argo's meaning; the second half is Kayenta's,
// for metrics that have a value for each node or cluster and are compared with those that run without the change.
type RolloutMetric struct {
	// Name is unique.
	Name string `json:"name"`
	// Interval between measurements; default: the rollout's interval.
	Interval *metav1.Duration `json:"interval,omitempty"`
	// InitialDelay before the first one, from when the step's pods are ready; default none.
	InitialDelay *metav1.Duration `json:"initialDelay,omitempty"`
	// Count is how many measurements are taken; default 0: for as long as the change is exposed.
	Count int `json:"count,omitempty"`
	// SuccessCondition and FailureCondition are expressions over `result`, as "result[0] >= 0.95". With both, what neither
	// holds for is inconclusive; with one, the other is its opposite.
	SuccessCondition string `json:"successCondition,omitempty"`
	FailureCondition string `json:"failureCondition,omitempty"`
	// FailureLimit is how many measurements may fail (default 0), InconclusiveLimit how many may be inconclusive (default 0),
	// ConsecutiveErrorLimit how many errors may come one after the other (default 4). At the limit is still within it; -1
	// is no limit, for failures and inconclusive ones only: measurements that all fail to be taken are never a success.
	FailureLimit          int  `json:"failureLimit,omitempty"`
	InconclusiveLimit     int  `json:"inconclusiveLimit,omitempty"`
	ConsecutiveErrorLimit *int `json:"consecutiveErrorLimit,omitempty"`
	// ConsecutiveSuccessLimit is how many successes one after the other are enough; 0: they are not counted.
	ConsecutiveSuccessLimit int `json:"consecutiveSuccessLimit,omitempty"`
	// Provider takes the measurement.
	Provider RolloutMetricProvider `json:"provider"`
	// Compare compares nodes or clusters with the change against those without, instead of applying a condition.
	Compare *RolloutMetricCompare `json:"compare,omitempty"`
	// DryRun measures and shows, and does not count for the verdict.
	DryRun bool `json:"dryRun,omitempty"`
}

// RolloutMetricCompare compares two groups that run at the same time.
type RolloutMetricCompare struct {
	// Label is the label of the query's result that carries the name; default node.
	Label string `json:"label,omitempty"`
	// By is Node (the default) or Cluster: what a label's value names.
	By CompareBy `json:"by,omitempty"`
	// Direction is what is bad: Increase, Decrease or Either (the default).
	Direction CompareDirection `json:"direction,omitempty"`
	// NaNStrategy is what a value that is not a number means: Remove it (the default) or Replace it with 0.
	NaNStrategy NaNStrategy `json:"nanStrategy,omitempty"`
	// MustHaveData makes no data Fail instead of Unknown. It is never Pass.
	MustHaveData bool `json:"mustHaveData,omitempty"`
	// Critical makes one failed look enough.
	Critical bool `json:"critical,omitempty"`
	// EffectSize bounds the difference.
	EffectSize RolloutEffectSize `json:"effectSize,omitempty"`
	// Significance is the greatest probability of a false alarm in one look; default 0.01, > 0–0.2.
	Significance float64 `json:"significance,omitempty"`
}

// RolloutEffectSize is how large a difference must be to matter, as a ratio of the exposed group's mean to the controls': 1 is
// none. A difference that is certain and small is no harm.
type RolloutEffectSize struct {
	// AllowedIncrease (default 1.2) and AllowedDecrease (default 0.8) are the bounds of Pass.
	AllowedIncrease float64 `json:"allowedIncrease,omitempty"`
	AllowedDecrease float64 `json:"allowedDecrease,omitempty"`
	// CriticalIncrease and CriticalDecrease make one failed look enough; 0: none does.
	CriticalIncrease float64 `json:"criticalIncrease,omitempty"`
	CriticalDecrease float64 `json:"criticalDecrease,omitempty"`
}

// CompareBy is what is compared.
type CompareBy string

// What is compared.
const (
	CompareNodes    CompareBy = "Node"
	CompareClusters CompareBy = "Cluster"
)

// CompareDirection is which way is bad.
type CompareDirection string

// The directions.
const (
	DirectionIncrease CompareDirection = "Increase"
	DirectionDecrease CompareDirection = "Decrease"
	DirectionEither   CompareDirection = "Either"
)

// NaNStrategy is what becomes of a value that is not a number.
type NaNStrategy string

// The strategies.
const (
	NaNRemove  NaNStrategy = "Remove"
	NaNReplace NaNStrategy = "Replace"
)

// RolloutMetricProvider takes one measurement. Exactly one field is set.
type RolloutMetricProvider struct {
	Prometheus *RolloutPrometheus `json:"prometheus,omitempty"`
	Web        *RolloutWeb        `json:"web,omitempty"`
}

// RolloutPrometheus asks a server that speaks Prometheus' HTTP API.
type RolloutPrometheus struct {
	// Address is its URL.
	Address string `json:"address"`
	// Query is PromQL; `result` is a number for a scalar, a list of numbers for a vector.
	Query string `json:"query"`
	// Timeout in seconds; default 30, 1–600.
	Timeout int `json:"timeout,omitempty"`
	// Headers are sent along.
	Headers []RolloutHeader `json:"headers,omitempty"`
	// Insecure takes any certificate.
	Insecure bool `json:"insecure,omitempty"`
}

// RolloutWeb asks a URL that answers JSON.
type RolloutWeb struct {
	// URL is asked.
	URL string `json:"url"`
	// Method is GET (the default), POST or PUT.
	Method string `json:"method,omitempty"`
	// Headers are sent along, and Body with POST and PUT.
	Headers []RolloutHeader `json:"headers,omitempty"`
	Body    string          `json:"body,omitempty"`
	// TimeoutSeconds; default 10, 1–600.
	TimeoutSeconds int `json:"timeoutSeconds,omitempty"`
	// JSONPath picks `result` out of the answer, as "{$.data.ok}"; default all of it.
	JSONPath string `json:"jsonPath,omitempty"`
	// Insecure takes any certificate.
	Insecure bool `json:"insecure,omitempty"`
}

// RolloutHeader is one header of a request.
type RolloutHeader struct {
	Key string `json:"key"`
	// Value is sent. It is kept in the journal with the rest of the Rollout: a secret is better in a file.
	Value string `json:"value,omitempty"`
	// ValueFrom is where the value is, instead of Value. An object of a hub may not have it.
	ValueFrom *RolloutHeaderSource `json:"valueFrom,omitempty"`
}

// RolloutHeaderSource is where the value of a header is.
type RolloutHeaderSource struct {
	// File holds the whole value on one line, as "Bearer …". Its name is relative to the Rollout's file. It is read anew for each
	// measurement, so that it may be renewed.
	File string `json:"file"`
}

// RolloutMetricArg is one value for {{args.NAME}}.
type RolloutMetricArg struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// RolloutBake is how long a change must be exposed, with data that says it is well, before more of it is.
type RolloutBake struct {
	// MinDuration is the least; default 10m, or more when declared caches need it; 0–30d. It is refused when it is shorter than Factor times the longest lifetime
	// of a cached answer found or declared, plus DetectionWindow: on 2024-12-11 caches of 20 minutes hid the damage until
	// every cluster had it.
	MinDuration *metav1.Duration `json:"minDuration,omitempty"`
	// Factor is how many lifetimes must pass; default 2, 1–100.
	Factor float64 `json:"factor,omitempty"`
	// CacheTTLs are lifetimes that cannot be found by looking: resolvers in applications, tokens, leases.
	CacheTTLs []RolloutCacheTTL `json:"cacheTTLs,omitempty"`
	// Discover reads the Corefiles of the cluster's DNS: the ConfigMaps named here, namespace/name. Default
	// kube-system/coredns and kube-system/node-local-dns; those that do not exist are passed over.
	Discover []string `json:"discover,omitempty"`
	// DetectionWindow is what the verdict needs after damage shows; default consecutiveLooks times the rollout's interval,
	// and never less. 0–7d.
	DetectionWindow *metav1.Duration `json:"detectionWindow,omitempty"`
}

// RolloutCacheTTL is one cache that can hide damage.
type RolloutCacheTTL struct {
	// Name says which, for people.
	Name string `json:"name"`
	// TTL is how long it may answer from what it has; > 0–30d.
	TTL metav1.Duration `json:"ttl"`
}

// ScaleGateMetric is a cost of a component.
type ScaleGateMetric string

// The costs.
const (
	// ScaleSeats are seats of API Priority and Fairness: one is one request executing all the time.
	ScaleSeats ScaleGateMetric = "Seats"
	// ScaleRequests are requests a second, ScaleBytes bytes a second, of requests and answers together.
	ScaleRequests ScaleGateMetric = "Requests"
	ScaleBytes    ScaleGateMetric = "Bytes"
	// ScaleWatches are open streams.
	ScaleWatches ScaleGateMetric = "Watches"
	// ScaleCPU is the API servers' processors in use, ScaleMemory their resident bytes.
	ScaleCPU    ScaleGateMetric = "CPU"
	ScaleMemory ScaleGateMetric = "Memory"
)

var scaleGateMetrics = []ScaleGateMetric{ScaleSeats, ScaleRequests, ScaleBytes, ScaleWatches, ScaleCPU, ScaleMemory}

// RolloutScaleGate lets a step go on only when what the change would cost on all nodes, as forecast from the steps so far,
// fits into what the API servers have to spare.
type RolloutScaleGate struct {
	// Mode is Enabled (the default) or Disabled.
	Mode Switch `json:"mode,omitempty"`
	// Metrics are the costs that are forecast; default Seats, CPU and Memory. API servers tell the capacity of these three, and of
	// Memory too coarsely to hold a change back. What has no capacity, declared or told, is shown and does not gate, and one of them
	// must gate. Bytes are counted by the cluster's gates, which the Fleet must name; Watches by them where it does, else for
	// everybody together.
	Metrics []ScaleGateMetric `json:"metrics,omitempty"`
	// Capacity are declared capacities by metric, of all API servers of a cluster together, in the metric's unit: they stand
	// before measured ones. > 0.
	Capacity map[string]float64 `json:"capacity,omitempty"`
	// MaxUtilization is the share of what is to spare that the upper bound of the forecast's 95 % interval may take; default
	// 0.6, > 0–1.
	MaxUtilization float64 `json:"maxUtilization,omitempty"`
	// MinClusterSizes is from how many cluster sizes, the largest four times the smallest, the exponent is fitted; with fewer
	// PriorExponent is taken. Default 3, 2–100.
	MinClusterSizes int `json:"minClusterSizes,omitempty"`
	// PriorExponent says how the cost of one node grows with the number of nodes: 0 not at all, 1 (the default) as they do,
	// which makes the total grow with their square, as on 2024-12-11. 0–3.
	PriorExponent *float64 `json:"priorExponent,omitempty"`
	// Window is how long each exposure is measured; it should span two periods of the component's slowest timer. Default
	// 5m, 1s–1d.
	Window *metav1.Duration `json:"window,omitempty"`
}

// SetDefaults fills what was left out, for those who judge without a Rollout. It needs to know how often is looked.
func (a *RolloutAnalysis) SetDefaults(interval time.Duration) { a.setDefaults(interval) }

// setDefaults needs the rollout's interval, which is how often is looked.
func (a *RolloutAnalysis) setDefaults(interval time.Duration) {
	a.ConsecutiveLooks = orInt(a.ConsecutiveLooks, 3)
	defaultDuration(&a.MaxDataAge, 3*interval)
	a.Slow.setDefaults(interval)
	a.ControlPlane.setDefaults()
	a.DNS.setDefaults()
	a.Workload.setDefaults()
	a.Probes.setDefaults()
	for i := range a.Metrics {
		a.Metrics[i].setDefaults(interval)
	}
}

func (s *RolloutSlowAnalysis) setDefaults(interval time.Duration) {
	s.Mode = orEnabled(s.Mode)
	defaultDuration(&s.Window, max(3*time.Hour, 4*interval))
	defaultDuration(&s.Interval, 10*time.Minute)
	defaultDuration(&s.Watch, 24*time.Hour)
}

func (c *RolloutControlPlane) setDefaults() {
	c.Mode = orEnabled(c.Mode)
	defaultDuration(&c.MaxReadLatency, time.Second)
	defaultDuration(&c.MaxListLatency, 30*time.Second)
	defaultDuration(&c.MaxWriteLatency, time.Second)
	if c.MaxRejectedRatio == nil {
		c.MaxRejectedRatio = new(0.01)
	}
	c.MaxCPU = orFloat(c.MaxCPU, 0.85)
	c.MaxMemory = orFloat(c.MaxMemory, 0.8)
	c.MaxInFlight = orFloat(c.MaxInFlight, 0.8)
	defaultDuration(&c.MaxEtcdLatency, 100*time.Millisecond)
	c.Growth = orFloat(c.Growth, 0.5)
}

func (d *RolloutDNS) setDefaults() {
	d.Mode = orEnabled(d.Mode)
	defaultText(&d.ClusterDomain, "cluster.local")
	if len(d.Names) == 0 {
		d.Names = []string{"kubernetes.default.svc." + d.ClusterDomain, "*.seakeep-probe." + d.ClusterDomain}
	}
	defaultDuration(&d.Timeout, 2*time.Second)
	d.Questions = orInt(d.Questions, 5)
	d.MinSuccess = orFloat(d.MinSuccess, 0.99)
	defaultDuration(&d.MaxLatency, 500*time.Millisecond)
}

func (w *RolloutWorkload) setDefaults() {
	w.Mode = orEnabled(w.Mode)
	defaultDuration(&w.ReadyWithin, 2*time.Minute)
	if w.MaxRestarts == nil {
		w.MaxRestarts = new(1)
	}
	if len(w.Conditions) == 0 {
		w.Conditions = []string{"Ready", "MemoryPressure", "DiskPressure", "PIDPressure", "NetworkUnavailable"}
	}
	w.Neighbours = orEnabled(w.Neighbours)
}

func (p *RolloutProbes) setDefaults() {
	p.Mode = orEnabled(p.Mode)
	defaultDuration(&p.Timeout, 5*time.Second)
	if p.CreatePod == "" {
		p.CreatePod = ProbeDryRun
	}
	defaultText(&p.Namespace, "default")
	defaultText(&p.Image, "registry.k8s.io/pause:3.10")
	defaultDuration(&p.MaxLatency, 2*time.Second)
}

func (m *RolloutMetric) setDefaults(interval time.Duration) {
	defaultDuration(&m.Interval, interval)
	defaultDuration(&m.InitialDelay, 0)
	if m.ConsecutiveErrorLimit == nil {
		m.ConsecutiveErrorLimit = new(4)
	}
	if p := m.Provider.Prometheus; p != nil {
		p.Timeout = orInt(p.Timeout, 30)
	}
	if w := m.Provider.Web; w != nil {
		defaultText(&w.Method, "GET")
		w.TimeoutSeconds = orInt(w.TimeoutSeconds, 10)
	}
	if c := m.Compare; c != nil {
		defaultText(&c.Label, "node")
		if c.By == "" {
			c.By = CompareNodes
		}
		if c.Direction == "" {
			c.Direction = DirectionEither
		}
		if c.NaNStrategy == "" {
			c.NaNStrategy = NaNRemove
		}
		c.Significance = orFloat(c.Significance, 0.01)
		c.EffectSize.AllowedIncrease = orFloat(c.EffectSize.AllowedIncrease, 1.2)
		c.EffectSize.AllowedDecrease = orFloat(c.EffectSize.AllowedDecrease, 0.8)
	}
}

// SetDefaults fills what was left out. Metrics that come from an Argo template are filled by it too.
func (m *RolloutMetric) SetDefaults(interval time.Duration) { m.setDefaults(interval) }

// setDefaults needs the analysis's own to be filled before.
func (b *RolloutBake) setDefaults(a *RolloutAnalysis, interval time.Duration) {
	b.Factor = orFloat(b.Factor, 2)
	if b.Discover == nil {
		b.Discover = []string{"kube-system/coredns", "kube-system/node-local-dns"}
	}
	defaultDuration(&b.DetectionWindow, time.Duration(a.ConsecutiveLooks)*interval)
	defaultDuration(&b.MinDuration, max(10*time.Minute, b.Least(b.longest().TTL.Duration)))
}

// longest is the longest lifetime declared.
func (b *RolloutBake) longest() RolloutCacheTTL {
	longest := RolloutCacheTTL{}
	for _, c := range b.CacheTTLs {
		if c.TTL.Duration > longest.TTL.Duration {
			longest = c
		}
	}
	return longest
}

func (g *RolloutScaleGate) setDefaults() {
	g.Mode = orEnabled(g.Mode)
	if len(g.Metrics) == 0 {
		g.Metrics = []ScaleGateMetric{ScaleSeats, ScaleCPU, ScaleMemory}
	}
	g.MaxUtilization = orFloat(g.MaxUtilization, 0.6)
	g.MinClusterSizes = orInt(g.MinClusterSizes, 3)
	if g.PriorExponent == nil {
		g.PriorExponent = new(1.0)
	}
	defaultDuration(&g.Window, 5*time.Minute)
}

func orEnabled(s Switch) Switch {
	if s == "" {
		return Enabled
	}
	return s
}

func orInt(n, otherwise int) int {
	if n == 0 {
		return otherwise
	}
	return n
}

func orFloat(f, otherwise float64) float64 {
	if f == 0 {
		return otherwise
	}
	return f
}

const day = 24 * time.Hour

func (a *RolloutAnalysis) validate(interval time.Duration, path *field.Path) field.ErrorList {
	errs := between(a.ConsecutiveLooks, 1, 100, path.Child("consecutiveLooks"))
	errs = append(errs, durationBetween(a.MaxDataAge, time.Second, day, path.Child("maxDataAge"))...)
	if a.MaxDataAge.Duration < interval {
		errs = append(errs, field.Invalid(path.Child("maxDataAge"), a.MaxDataAge.Duration.String(), "must not be shorter than the rollout's interval: all data would be too old"))
	}
	errs = append(errs, a.Slow.validate(interval, path.Child("slow"))...)
	errs = append(errs, a.ControlPlane.validate(path.Child("controlPlane"))...)
	errs = append(errs, a.DNS.validate(path.Child("dns"))...)
	errs = append(errs, a.Workload.validate(path.Child("workload"))...)
	errs = append(errs, a.Probes.validate(path.Child("probes"))...)
	names := sets.New[string]()
	for i := range a.Metrics {
		p := path.Child("metrics").Index(i)
		errs = append(errs, a.Metrics[i].Validate(p)...)
		if names.Has(a.Metrics[i].Name) {
			errs = append(errs, field.Duplicate(p.Child("name"), a.Metrics[i].Name))
		}
		names.Insert(a.Metrics[i].Name)
	}
	for i, name := range a.Templates {
		errs = append(errs, required(name, path.Child("templates").Index(i), "a file")...)
	}
	seen := sets.New[string]()
	for i, arg := range a.Args {
		p := path.Child("args").Index(i).Child("name")
		errs = append(errs, required(arg.Name, p, "what {{args.NAME}} asks for")...)
		if seen.Has(arg.Name) {
			errs = append(errs, field.Duplicate(p, arg.Name))
		}
		seen.Insert(arg.Name)
	}
	if a.off() {
		errs = append(errs, field.Invalid(path, "everything is disabled", "something must be looked at: no data is never Pass, so nothing would move"))
	}
	return errs
}

// NamesFile is the first field that has a file read, below the analysis; "" when none has.
func (a *RolloutAnalysis) NamesFile() string {
	if len(a.Templates) > 0 {
		return "templates"
	}
	for i, m := range a.Metrics {
		var headers []RolloutHeader
		at := field.NewPath("metrics").Index(i).Child("provider")
		switch p := m.Provider; {
		case p.Prometheus != nil:
			headers, at = p.Prometheus.Headers, at.Child("prometheus")
		case p.Web != nil:
			headers, at = p.Web.Headers, at.Child("web")
		}
		for j, h := range headers {
			if h.ValueFrom != nil {
				return at.Child("headers").Index(j).Child("valueFrom").String()
			}
		}
	}
	return ""
}

func (a *RolloutAnalysis) off() bool {
	for _, s := range []Switch{a.ControlPlane.Mode, a.DNS.Mode, a.Workload.Mode, a.Probes.Mode} {
		if s != Disabled {
			return false
		}
	}
	return len(a.Metrics)+len(a.Templates) == 0
}

func (s *RolloutSlowAnalysis) validate(interval time.Duration, path *field.Path) field.ErrorList {
	errs := validateSwitch(s.Mode, path.Child("mode"))
	errs = append(errs, durationBetween(s.Window, 4*time.Second, 14*day, path.Child("window"))...)
	errs = append(errs, durationBetween(s.Interval, time.Second, day, path.Child("interval"))...)
	errs = append(errs, durationBetween(s.Watch, 0, 14*day, path.Child("watch"))...)
	if s.Mode == Enabled && s.Window.Duration < 4*interval {
		errs = append(errs, field.Invalid(path.Child("window"), s.Window.Duration.String(), "must span at least four of the rollout's intervals"))
	}
	return errs
}

func (c *RolloutControlPlane) validate(path *field.Path) field.ErrorList {
	errs := validateSwitch(c.Mode, path.Child("mode"))
	for name, d := range map[string]*metav1.Duration{"maxReadLatency": c.MaxReadLatency, "maxListLatency": c.MaxListLatency, "maxWriteLatency": c.MaxWriteLatency, "maxEtcdLatency": c.MaxEtcdLatency} {
		errs = append(errs, durationBetween(d, time.Millisecond, 5*time.Minute, path.Child(name))...)
	}
	errs = append(errs, ratio(*c.MaxRejectedRatio, 0, 1, path.Child("maxRejectedRatio"))...)
	errs = append(errs, share(c.MaxCPU, path.Child("maxCPU"))...)
	errs = append(errs, share(c.MaxMemory, path.Child("maxMemory"))...)
	errs = append(errs, share(c.MaxInFlight, path.Child("maxInFlight"))...)
	if !(c.Growth > 0 && c.Growth <= 100) {
		errs = append(errs, field.Invalid(path.Child("growth"), c.Growth, "must be greater than 0 and at most 100"))
	}
	return errs
}

func (d *RolloutDNS) validate(path *field.Path) field.ErrorList {
	errs := validateSwitch(d.Mode, path.Child("mode"))
	for i, s := range d.Servers {
		errs = append(errs, validateIPPort(s, path.Child("servers").Index(i))...)
	}
	for i, name := range d.Names {
		errs = append(errs, validateDomain(strings.ReplaceAll(name, "*", "x"), path.Child("names").Index(i))...)
	}
	errs = append(errs, validateDomain(d.ClusterDomain, path.Child("clusterDomain"))...)
	errs = append(errs, durationBetween(d.Timeout, 10*time.Millisecond, 30*time.Second, path.Child("timeout"))...)
	errs = append(errs, between(d.Questions, 1, 1000, path.Child("questions"))...)
	errs = append(errs, share(d.MinSuccess, path.Child("minSuccess"))...)
	return append(errs, durationBetween(d.MaxLatency, time.Millisecond, 30*time.Second, path.Child("maxLatency"))...)
}

func (w *RolloutWorkload) validate(path *field.Path) field.ErrorList {
	errs := validateSwitch(w.Mode, path.Child("mode"))
	errs = append(errs, durationBetween(w.ReadyWithin, time.Second, 2*time.Hour, path.Child("readyWithin"))...)
	errs = append(errs, between(*w.MaxRestarts, 0, 1000, path.Child("maxRestarts"))...)
	for i, c := range w.Conditions {
		errs = append(errs, required(c, path.Child("conditions").Index(i), "a type of node condition")...)
	}
	return append(errs, validateSwitch(w.Neighbours, path.Child("neighbours"))...)
}

func (p *RolloutProbes) validate(path *field.Path) field.ErrorList {
	errs := validateSwitch(p.Mode, path.Child("mode"))
	errs = append(errs, durationBetween(p.Timeout, 100*time.Millisecond, time.Minute, path.Child("timeout"))...)
	errs = append(errs, oneOf(string(p.CreatePod), path.Child("createPod"), string(ProbeDryRun), string(ProbeReal), string(ProbeDisabled))...)
	errs = append(errs, validateLabel(p.Namespace, path.Child("namespace"))...)
	errs = append(errs, required(p.Image, path.Child("image"), "a pod needs one")...)
	return append(errs, durationBetween(p.MaxLatency, 10*time.Millisecond, time.Minute, path.Child("maxLatency"))...)
}

// Validate returns every violation but those that need an expression or a query to be parsed, which rollout/analysis does.
func (m *RolloutMetric) Validate(path *field.Path) field.ErrorList {
	errs := required(m.Name, path.Child("name"), "a unique name")
	errs = append(errs, durationBetween(m.Interval, time.Second, day, path.Child("interval"))...)
	errs = append(errs, durationBetween(m.InitialDelay, 0, day, path.Child("initialDelay"))...)
	errs = append(errs, between(m.Count, 0, 1_000_000, path.Child("count"))...)
	for name, n := range map[string]int{"failureLimit": m.FailureLimit, "inconclusiveLimit": m.InconclusiveLimit} {
		errs = append(errs, between(n, -1, 1_000_000, path.Child(name))...)
	}
	errs = append(errs, between(*m.ConsecutiveErrorLimit, 0, 1_000_000, path.Child("consecutiveErrorLimit"))...)
	errs = append(errs, between(m.ConsecutiveSuccessLimit, 0, 1_000_000, path.Child("consecutiveSuccessLimit"))...)
	switch {
	case m.Compare == nil && m.SuccessCondition == "" && m.FailureCondition == "":
		errs = append(errs, field.Required(path.Child("successCondition"), "successCondition, failureCondition or compare: else every answer is a success"))
	case m.Compare != nil && m.SuccessCondition+m.FailureCondition != "":
		errs = append(errs, field.Forbidden(path.Child("compare"), "a metric is compared or has conditions, not both"))
	}
	errs = append(errs, m.Provider.validate(path.Child("provider"))...)
	if c := m.Compare; c != nil {
		errs = append(errs, c.validate(path.Child("compare"))...)
		if m.Provider.Web != nil {
			errs = append(errs, field.Forbidden(path.Child("compare"), "needs a result with labels, which provider web does not have"))
		}
	}
	return errs
}

func (p *RolloutMetricProvider) validate(path *field.Path) field.ErrorList {
	if (p.Prometheus == nil) == (p.Web == nil) {
		return field.ErrorList{field.Required(path, "exactly one of prometheus and web")}
	}
	if w := p.Web; w != nil {
		path = path.Child("web")
		errs := validateHTTP(w.URL, path.Child("url"))
		errs = append(errs, oneOf(w.Method, path.Child("method"), "GET", "POST", "PUT")...)
		if w.Body != "" && w.Method == "GET" {
			errs = append(errs, field.Forbidden(path.Child("body"), "a GET has none"))
		}
		errs = append(errs, between(w.TimeoutSeconds, 1, 600, path.Child("timeoutSeconds"))...)
		return append(errs, validateHeaders(w.Headers, path.Child("headers"))...)
	}
	q := p.Prometheus
	path = path.Child("prometheus")
	errs := validateHTTP(q.Address, path.Child("address"))
	errs = append(errs, required(strings.TrimSpace(q.Query), path.Child("query"), "PromQL")...)
	errs = append(errs, between(q.Timeout, 1, 600, path.Child("timeout"))...)
	return append(errs, validateHeaders(q.Headers, path.Child("headers"))...)
}

func validateHeaders(headers []RolloutHeader, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, h := range headers {
		p := path.Index(i)
		errs = append(errs, required(h.Key, p.Child("key"), "a header's name")...)
		switch {
		case h.ValueFrom == nil:
			errs = append(errs, required(h.Value, p.Child("value"), "value or valueFrom")...)
		case h.Value != "":
			errs = append(errs, field.Forbidden(p.Child("value"), "does not go with valueFrom"))
		default:
			errs = append(errs, required(h.ValueFrom.File, p.Child("valueFrom", "file"), "where the value is")...)
		}
	}
	return errs
}

func validateHTTP(value string, path *field.Path) field.ErrorList {
	if u, err := url.Parse(value); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return field.ErrorList{field.Invalid(path, value, "must be an http:// or https:// URL")}
	}
	return nil
}

func (c *RolloutMetricCompare) validate(path *field.Path) field.ErrorList {
	errs := required(c.Label, path.Child("label"), "the label with the node's or the cluster's name")
	errs = append(errs, oneOf(string(c.By), path.Child("by"), string(CompareNodes), string(CompareClusters))...)
	errs = append(errs, oneOf(string(c.Direction), path.Child("direction"), string(DirectionIncrease), string(DirectionDecrease), string(DirectionEither))...)
	errs = append(errs, oneOf(string(c.NaNStrategy), path.Child("nanStrategy"), string(NaNRemove), string(NaNReplace))...)
	if !(c.Significance > 0 && c.Significance <= 0.2) {
		errs = append(errs, field.Invalid(path.Child("significance"), c.Significance, "must be greater than 0 and at most 0.2"))
	}
	e := c.EffectSize
	p := path.Child("effectSize")
	if !(e.AllowedIncrease >= 1 && e.AllowedIncrease <= 1e6) {
		errs = append(errs, field.Invalid(p.Child("allowedIncrease"), e.AllowedIncrease, "must be a ratio of at least 1"))
	}
	if !(e.AllowedDecrease > 0 && e.AllowedDecrease <= 1) {
		errs = append(errs, field.Invalid(p.Child("allowedDecrease"), e.AllowedDecrease, "must be a ratio greater than 0 and at most 1"))
	}
	if e.CriticalIncrease != 0 && !(e.CriticalIncrease >= e.AllowedIncrease) {
		errs = append(errs, field.Invalid(p.Child("criticalIncrease"), e.CriticalIncrease, "must not be less than allowedIncrease"))
	}
	if e.CriticalDecrease != 0 && !(e.CriticalDecrease > 0 && e.CriticalDecrease <= e.AllowedDecrease) {
		errs = append(errs, field.Invalid(p.Child("criticalDecrease"), e.CriticalDecrease, "must be greater than 0 and not more than allowedDecrease"))
	}
	return errs
}

// validate refuses what can be known without looking at a cluster; what is found there is checked before stage 1.
func (b *RolloutBake) validate(a *RolloutAnalysis, interval time.Duration, path *field.Path) field.ErrorList {
	errs := durationBetween(b.MinDuration, 0, 30*day, path.Child("minDuration"))
	if !(b.Factor >= 1 && b.Factor <= 100) {
		errs = append(errs, field.Invalid(path.Child("factor"), b.Factor, "must be between 1 and 100"))
	}
	errs = append(errs, durationBetween(b.DetectionWindow, 0, 7*day, path.Child("detectionWindow"))...)
	if least := time.Duration(a.ConsecutiveLooks) * interval; b.DetectionWindow.Duration < least {
		errs = append(errs, field.Invalid(path.Child("detectionWindow"), b.DetectionWindow.Duration.String(), "must be at least "+least.String()+": analysis.consecutiveLooks times interval"))
	}
	for i, c := range b.CacheTTLs {
		p := path.Child("cacheTTLs").Index(i)
		errs = append(errs, required(c.Name, p.Child("name"), "which cache")...)
		if c.TTL.Duration <= 0 || c.TTL.Duration > 30*day {
			errs = append(errs, field.Invalid(p.Child("ttl"), c.TTL.Duration.String(), "must be greater than 0 and at most 30 days"))
		}
	}
	longest := b.longest()
	if least := b.Least(longest.TTL.Duration); len(errs) == 0 && b.MinDuration.Duration < least {
		errs = append(errs, field.Invalid(path.Child("minDuration"), b.MinDuration.Duration.String(), "must be at least "+least.String()+": factor times the lifetime of "+orText(longest.Name, "nothing declared")+", plus detectionWindow"))
	}
	for i, name := range b.Discover {
		namespace, object, ok := strings.Cut(name, "/")
		if !ok || namespace == "" || object == "" || strings.Contains(object, "/") {
			errs = append(errs, field.Invalid(path.Child("discover").Index(i), name, "must be namespace/name of a ConfigMap"))
		}
	}
	return errs
}

// Least is the shortest bake that sees through a cache of this lifetime.
func (b *RolloutBake) Least(longest time.Duration) time.Duration {
	return time.Duration(math.Ceil(b.Factor*longest.Seconds()))*time.Second + b.DetectionWindow.Duration
}

func orText(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func (g *RolloutScaleGate) validate(path *field.Path) field.ErrorList {
	errs := validateSwitch(g.Mode, path.Child("mode"))
	for i, m := range g.Metrics {
		if !slices.Contains(scaleGateMetrics, m) {
			errs = append(errs, field.NotSupported(path.Child("metrics").Index(i), m, scaleGateMetrics))
		}
		if slices.Contains(g.Metrics[:i], m) {
			errs = append(errs, field.Duplicate(path.Child("metrics").Index(i), m))
		}
	}
	gates := func(m ScaleGateMetric) bool { return m == ScaleSeats || m == ScaleCPU || g.Capacity[string(m)] > 0 }
	if g.Mode == Enabled && len(errs) == 0 && !slices.ContainsFunc(g.Metrics, gates) {
		errs = append(errs, field.Required(path.Child("capacity"), "one of the metrics must have a capacity that can hold a change back: API servers tell that of Seats and CPU, any other is declared here"))
	}
	for name, c := range g.Capacity {
		p := path.Child("capacity").Key(name)
		if !slices.Contains(scaleGateMetrics, ScaleGateMetric(name)) {
			errs = append(errs, field.NotSupported(p, ScaleGateMetric(name), scaleGateMetrics))
		}
		if !(c > 0) || math.IsInf(c, 0) {
			errs = append(errs, field.Invalid(p, c, "must be greater than 0"))
		}
	}
	errs = append(errs, share(g.MaxUtilization, path.Child("maxUtilization"))...)
	errs = append(errs, between(g.MinClusterSizes, 2, 100, path.Child("minClusterSizes"))...)
	errs = append(errs, ratio(*g.PriorExponent, 0, 3, path.Child("priorExponent"))...)
	return append(errs, durationBetween(g.Window, time.Second, day, path.Child("window"))...)
}

// share wants a part of a whole that is not nothing.
func share(f float64, path *field.Path) field.ErrorList {
	if !(f > 0 && f <= 1) {
		return field.ErrorList{field.Invalid(path, f, "must be greater than 0 and at most 1")}
	}
	return nil
}

func ratio(f, low, high float64, path *field.Path) field.ErrorList {
	if !(f >= low && f <= high) {
		return field.ErrorList{field.Invalid(path, f, "must be between "+number(low)+" and "+number(high))}
	}
	return nil
}
