package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// KindDrill is a scenario: a timeline of actions against a target, probes that run throughout, and a hypothesis. A
// replay of an incident, a drill and a game day are all one of these.
const KindDrill = "Drill"

// Drill is what `seakeep drill run` and `seakeep lab replay` read.
//
// It knows two kinds of time. Incident time (at, plus, until, dns.ttl) is told as it was in the incident and divided by
// parameters.factor when the drill runs, so that 20 minutes of DNS caching take 40 seconds at factor 30. Machine time
// (interval, timeout, within, deadline) is never divided: an API server does not answer 30 times faster because the
// story is told 30 times faster.
type Drill struct {
	TypeMeta `json:",inline"`
	// Name is the scenario's name, a DNS label.
	Name string `json:"name"`
	// Title is one line for people.
	Title string `json:"title"`
	// Description says what happened, or what is practised, and what is simplified.
	Description string `json:"description,omitempty"`
	// Labels group scenarios, as Kubernetes' labels do.
	Labels map[string]string `json:"labels,omitempty"`
	// Sources are URLs of what the scenario is made from.
	Sources []string `json:"sources,omitempty"`
	// Target is what the drill runs against.
	Target DrillTarget `json:"target"`
	// Parameters have defaults here and can be changed on the command line.
	Parameters DrillParameters `json:"parameters,omitempty"`
	// Rehearsal names a scenario that is run once before this one, on its own target: the staging cluster.
	Rehearsal string `json:"rehearsal,omitempty"`
	// Fixtures are what the drill creates for its probes before time starts to run.
	Fixtures DrillFixtures `json:"fixtures,omitempty"`
	// DNS sets the cluster DNS up.
	DNS DrillDNS `json:"dns,omitempty"`
	// Phases cut the report into pieces with names, in order.
	Phases []DrillPhase `json:"phases"`
	// Timeline is what is done, and when. Steps run side by side; each starts when its time or its mark has come.
	Timeline []DrillStep `json:"timeline"`
	// Probes run from the first phase to the end.
	Probes []DrillProbe `json:"probes"`
	// Recovered says when the target is well again: every condition holds at once. It decides `when: Unhealthy`, the
	// recovery time and an early end.
	Recovered []DrillCondition `json:"recovered,omitempty"`
	// Hypothesis is what must hold; each line becomes Pass, Fail or Unknown.
	Hypothesis []DrillHypothesis `json:"hypothesis,omitempty"`
	// Headline names the phases whose samples the report's first figures are about, so that runs which end early and
	// runs which end late are compared over the same part of the story; default: everything after the first phase.
	Headline []string `json:"headline,omitempty"`
	// End says when the drill is over.
	End DrillEnd `json:"end"`
}

// DrillTarget is what a drill runs against.
type DrillTarget struct {
	// Kind is "Lab": a control plane made for the drill and thrown away after it.
	Kind string `json:"kind"`
	// APIServers is how many API servers it starts with; default 1, 1–5.
	APIServers int `json:"apiServers,omitempty"`
	// DNSReplicas is how many replicas cluster DNS has; default 2, as kubeadm makes it, 1–10.
	DNSReplicas int `json:"dnsReplicas,omitempty"`
	// NodeCaches is how many node-level DNS caches it has; default 2, 1–64.
	NodeCaches int `json:"nodeCaches,omitempty"`
	// Bounds are what components may take of the machine, so that a big one shows what a small control plane does.
	Bounds []ComponentBounds `json:"bounds,omitempty"`
}

// ComponentBounds bounds each process of one kind. What is left out is not bounded.
type ComponentBounds struct {
	// Component is the kind: kube-apiserver, etcd, kube-controller-manager, kube-scheduler.
	Component string `json:"component"`
	// CPU is in cores, > 0.
	CPU float64 `json:"cpu,omitempty"`
	// Memory is resident memory, at least 64Mi; a process that needs more is killed and started again, as a kubelet
	// does with a static pod. It grows with the pods when a replay is made larger than its scenario.
	Memory *resource.Quantity `json:"memory,omitempty"`
}

// TargetLab is the one kind of target a scenario may name.
const TargetLab = "Lab"

// DrillParameters are the knobs of a scenario.
type DrillParameters struct {
	// Nodes is the size of the cluster; default 300, 1–10000.
	Nodes int `json:"nodes,omitempty"`
	// Pods is how many pods run before the drill starts; default 20 per node, 0–200000.
	Pods *int `json:"pods,omitempty"`
	// Factor divides incident time; default 30, 1–1000.
	Factor float64 `json:"factor,omitempty"`
	// Seed makes what is random repeatable; default 1.
	Seed uint64 `json:"seed,omitempty"`
}

// DrillFixtures are what a drill creates for its probes.
type DrillFixtures struct {
	// Namespace holds them; default seakeep-drill.
	Namespace string `json:"namespace,omitempty"`
	// Services is how many Services exist to be asked for, half of them for "cached", half for "unique" names;
	// default 400, 2–10000.
	Services int `json:"services,omitempty"`
	// Agent makes a DaemonSet called agent, under OnDelete, whose account may read pods, nodes and ConfigMaps: what an update brings
	// a new version of.
	Agent bool `json:"agent,omitempty"`
}

// DrillDNS sets the cluster DNS up.
type DrillDNS struct {
	// TTL is how long an answer may be cached, in incident time; default 20m, the incident's.
	TTL metav1.Duration `json:"ttl,omitempty"`
}

// DrillPhase is a named piece of the run. Exactly one of At and After is set; the first phase has At.
type DrillPhase struct {
	Name string `json:"name"`
	// At is incident time, zero being the start of the incident; a baseline has a negative one.
	At *metav1.Duration `json:"at,omitempty"`
	// After starts the phase when the step of this name has succeeded.
	After string `json:"after,omitempty"`
}

// DrillStep is one action of the timeline.
type DrillStep struct {
	// Name is unique; other steps and phases refer to it.
	Name string `json:"name"`
	// Title is what people read; default Name.
	Title string `json:"title,omitempty"`
	// At is incident time. Exactly one of At and After is set.
	At *metav1.Duration `json:"at,omitempty"`
	// After starts the step when the step of this name has succeeded, Plus (incident time) later.
	After string           `json:"after,omitempty"`
	Plus  *metav1.Duration `json:"plus,omitempty"`
	// When is Always (default) or Unhealthy: skip the step when by then the target is well or the cause is removed.
	When StepCondition `json:"when,omitempty"`
	// Action is what is done.
	Action DrillAction `json:"action"`
	// Retry tries again, at this interval of machine time, until the step succeeds or Until has come.
	Retry *metav1.Duration `json:"retry,omitempty"`
	// Timeout bounds one attempt, in machine time; default 30s.
	Timeout *metav1.Duration `json:"timeout,omitempty"`
	// Until is the incident time at which a retried step gives up; required with Retry.
	Until *metav1.Duration `json:"until,omitempty"`
	// Expect is Success (default) or MayFail. A step that fails and may not makes the run invalid.
	Expect StepExpectation `json:"expect,omitempty"`
	// Mitigates is true for the step whose success ends the cause: the report's mitigationSeconds is the time from
	// its first attempt to its success.
	Mitigates bool `json:"mitigates,omitempty"`
}

// StepCondition says whether a step is needed.
type StepCondition string

// The conditions of a step.
const (
	WhenAlways    StepCondition = "Always"
	WhenUnhealthy StepCondition = "Unhealthy"
)

// StepExpectation says what a failed step means.
type StepExpectation string

// The expectations of a step.
const (
	ExpectSuccess StepExpectation = "Success"
	ExpectMayFail StepExpectation = "MayFail"
)

// DrillCondition holds when the last Consecutive samples of a probe's series were all successes.
type DrillCondition struct {
	// Probe is the probe's name, Series one of its series ("" is all of them).
	Probe  string `json:"probe"`
	Series string `json:"series,omitempty"`
	// Consecutive is how many; ≥ 1.
	Consecutive int `json:"consecutive"`
}

// DrillHypothesis is one claim about a run.
type DrillHypothesis struct {
	// Name is unique among the hypotheses that may judge the same run, and is what people read.
	Name string `json:"name"`
	// Layers names the layers this claim is about; it judges only runs that have one of them. Empty: every run.
	Layers []string `json:"layers,omitempty"`
	// Probe and Series select samples. They are left out for the run's own metrics.
	Probe  string `json:"probe,omitempty"`
	Series string `json:"series,omitempty"`
	// During names phases; empty is the whole run after the first phase.
	During []string `json:"during,omitempty"`
	// Metric is successRatio, withinRatio, p50Seconds, p99Seconds, maxSeconds, samples, missed or late of a probe, or
	// mitigationSeconds, recoverySeconds or agentSuccessRatio of the run: the share of the agents' requests, retries
	// included, that got their answer; or, of a change that was rolled out in steps, exposedRatio, the share of the nodes that ever
	// ran it, and stopped, 1 when it was stopped by itself and 0 when not.
	Metric string `json:"metric"`
	// Within is the limit of withinRatio, in machine time.
	Within *metav1.Duration `json:"within,omitempty"`
	// Op and Value are the claim.
	Op    string  `json:"op"`
	Value float64 `json:"value"`
}

// DrillEnd says when a drill is over.
type DrillEnd struct {
	// At is the incident time of the end, at the latest.
	At metav1.Duration `json:"at"`
	// WhenRecovered ends it as soon as the target has recovered after the mitigation.
	WhenRecovered bool `json:"whenRecovered,omitempty"`
}

// Defaults of a drill.
const (
	DefaultDrillFactor  = 30
	DefaultDrillNodes   = 300
	DefaultPodsPerNode  = 20
	defaultDrillSeed    = 1
	defaultStepTimeout  = 30 * time.Second
	defaultDNSTTL       = 20 * time.Minute
	defaultFixtureNS    = "seakeep-drill"
	defaultFixtureCount = 400
)

// SetDefaults implements Object.
func (d *Drill) SetDefaults() {
	if d.Target.APIServers == 0 {
		d.Target.APIServers = 1
	}
	if d.Target.DNSReplicas == 0 {
		d.Target.DNSReplicas = 2
	}
	if d.Target.NodeCaches == 0 {
		d.Target.NodeCaches = 2
	}
	if d.Parameters.Nodes == 0 {
		d.Parameters.Nodes = DefaultDrillNodes
	}
	if d.Parameters.Pods == nil {
		pods := DefaultPodsPerNode * d.Parameters.Nodes
		d.Parameters.Pods = &pods
	}
	if d.Parameters.Factor == 0 {
		d.Parameters.Factor = DefaultDrillFactor
	}
	if d.Parameters.Seed == 0 {
		d.Parameters.Seed = defaultDrillSeed
	}
	if d.Fixtures.Namespace == "" {
		d.Fixtures.Namespace = defaultFixtureNS
	}
	if d.Fixtures.Services == 0 {
		d.Fixtures.Services = defaultFixtureCount
	}
	if d.DNS.TTL.Duration == 0 {
		d.DNS.TTL.Duration = defaultDNSTTL
	}
	for i := range d.Timeline {
		d.Timeline[i].setDefaults()
	}
	for i := range d.Probes {
		d.Probes[i].setDefaults()
	}
}

func (s *DrillStep) setDefaults() {
	if s.Title == "" {
		s.Title = s.Name
	}
	if s.When == "" {
		s.When = WhenAlways
	}
	if s.Expect == "" {
		s.Expect = ExpectSuccess
	}
	if s.Timeout == nil {
		s.Timeout = &metav1.Duration{Duration: defaultStepTimeout}
	}
}

// Compressed turns incident time into machine time.
func (d *Drill) Compressed(incident time.Duration) time.Duration {
	return time.Duration(float64(incident) / d.Parameters.Factor)
}
