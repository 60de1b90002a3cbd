package drill

import (
	"context"
	"time"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Target is what a drill runs against. Its methods may be called from several goroutines at once, also while
// components come and go, and must not ask the target's API server: they are needed when it is down.
type Target interface {
	// Config returns how to reach the target as this identity. Each call returns a copy the caller owns.
	Config(id v1alpha1.DrillIdentity) (*rest.Config, error)
	// APIServers returns every API server there is now, each reached directly as the observer.
	APIServers() []APIServer
	// Components returns every component there is now.
	Components() []Component
	// DNS says where to ask for names.
	DNS() DNS
}

// APIServer is one API server, reached directly.
type APIServer struct {
	Name   string
	Config *rest.Config
}

// DNS says where to ask for names, as host:port.
type DNS struct {
	// Cluster are the cluster's DNS servers, Caches the node-level caches in front of them.
	Cluster, Caches []string
	// Domain is the cluster's domain, "cluster.local".
	Domain string
}

// Component is a process of the target. Stop asks, Kill does not; Start and Restart return when the process runs, which
// does not mean that it serves; AwaitReady returns when it does.
type Component interface {
	// Name is unique: kube-apiserver-0, etcd-0, dns.
	Name() string
	Start(ctx context.Context) error
	Stop(ctx context.Context) error
	Kill(ctx context.Context) error
	Restart(ctx context.Context) error
	AwaitReady(ctx context.Context) error
	// Usage is what the operating system says of it, over all its lives.
	Usage() Usage
}

// Usage is what a component took since the target came up.
type Usage struct {
	CPUSeconds  float64
	RSSBytes    int64
	MaxRSSBytes int64
	Restarts    int
	Running     bool
}

// The optional abilities of a target. An action whose ability is missing fails and says so.
type (
	// CacheExpirer can drop every entry of the node-level DNS caches.
	CacheExpirer interface {
		ExpireDNSCaches(ctx context.Context) error
	}
	// AgentScaler can take machines away, with the agents on them, and bring them back.
	AgentScaler interface {
		ScaleAgents(ctx context.Context, percent int) error
	}
	// NetworkShutter can shut the agents' way to the admin API and leave the engineers' open.
	NetworkShutter interface {
		BlockAgents(ctx context.Context, block bool) error
	}
	// RollerOut can roll workloads out step by step instead of having them applied at once, and take them back by itself.
	// It returns false when it leaves them to be applied.
	RollerOut interface {
		RollOut(ctx context.Context, manifests []string) (bool, error)
		// RolledOut is true when something was rolled out and nothing more comes of it by itself: a run is over then, once all its
		// steps are.
		RolledOut() bool
	}
	// APIServerAdder can add API servers.
	APIServerAdder interface {
		AddAPIServers(ctx context.Context, count int) error
	}
	// EmergencySender can send a rule to the gate in front of the target.
	EmergencySender interface {
		Emergency(ctx context.Context, rule v1alpha1.EmergencyRule) error
	}
	// AgentReporter counts what the agents' requests, each retry one, came to since the target came up, by result:
	// AgentsOK, AgentsThrottled and AgentsFailed, and what else the target can say.
	AgentReporter interface {
		AgentResults() map[string]uint64
	}
)

// Results of the agents' requests.
const (
	AgentsOK        = "ok"
	AgentsThrottled = "throttled"
	AgentsFailed    = "failed"
)

// Action is one thing done to the target.
type Action interface {
	// Do does it once and returns when it is done, has failed or ctx has ended. It may be called again after a failure.
	Do(ctx context.Context) error
}

// Probe asks the target something, over and over.
type Probe interface {
	// Run probes until ctx ends and then returns; an error is one that made probing impossible. All samples go to the
	// sink; requests still open when ctx ends are not recorded, because nobody knows what would have become of them.
	Run(ctx context.Context, sink Sink) error
}

// Sink takes a probe's samples. It may be used from several goroutines.
type Sink interface {
	// Record takes one sample: when it was due, how long after that its answer came, and what the answer was.
	Record(series string, due time.Time, latency time.Duration, outcome Outcome)
}

// Env is what an action or a probe is made with.
type Env struct {
	Target Target
	Drill  *v1alpha1.Drill
	// Beside runs something beside the run until it ends, and then puts right what it changed. It is for actions, when they are
	// done: a target may outlive the run.
	Beside func(Beside)
	// StepDone is closed when the step of this name has succeeded.
	StepDone func(step string) <-chan struct{}
}

// Beside is what goes on after its step is done.
type Beside struct {
	// While returns when its context, the run's, has ended; nil: nothing goes on.
	While func(ctx context.Context)
	// Undo puts right what was changed, within a time of its own; nil: nothing was. An error is a problem of the run.
	Undo func(ctx context.Context) error
}
