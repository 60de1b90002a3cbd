package lab

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// Component kinds: the keys of Options.Bounds and Options.ExtraArgs, and what Process.Kind returns.
const (
	KindEtcd              = "etcd"
	KindAPIServer         = "kube-apiserver"
	KindControllerManager = "kube-controller-manager"
	KindScheduler         = "kube-scheduler"
	KindKWOK              = "kwok"
	KindDNS               = "dns"
	KindNodeDNS           = "node-dns"
	KindAgents            = "agents"
)

// Options says what lab to bring up. The zero value of a field means its default.
type Options struct {
	Dir    string // the lab's one folder: PKI, etcd's data, logs, state; made with mode 0700 if absent
	BinDir string // where the components' binaries are; default: see FindBinDir
	Nodes  int    // simulated nodes
	Pods   int    // pods, spread over Deployments with Services by the real controllers and scheduler
	// PodBytes is how large a pod is in etcd, about; 0 is 7.5 KB, some 8 KB in JSON.
	PodBytes int
	// APIServers is the number of API servers, default 1. Clients without a front door talk to the first.
	APIServers int
	Etcd       int // etcd members: 1 (default) or 3
	// EtcdServers says which etcd endpoints API server i is given, counted from 0; members are the URLs of all. Default:
	// all of them. It is how an API server is put on its own member, as kubeadm's stacked control planes are, or behind a
	// relay that a test can cut; the certificates are good for any port of 127.0.0.1.
	EtcdServers func(apiServer int, members []string) []string
	// Bounds limit CPU and memory by component kind, to model a small control plane; each process of the kind gets
	// the whole bound. Absent means unbounded.
	Bounds map[string]Bounds
	// Seed makes what is random about the population (the pods' environment, their zones) repeatable.
	Seed int64
	// ExtraArgs are flags added after a component's own, by kind, so that they win.
	ExtraArgs map[string][]string
	// FrontDoor is called when the API servers are ready and before any client starts. The controller-manager, the
	// scheduler, KWOK, DNS and the agents then use the URL it returns, trusting the certificates in caFile. This is
	// how a gate is put in front. It usually starts one with Lab.Run.
	FrontDoor func(ctx context.Context, l *Lab) (url, caFile string, err error)
	// Restore is a folder written by Lab.Freeze: the lab starts from that etcd data and PKI instead of empty.
	Restore string
	// Self is a seakeep executable, for the agent runner to be a process of its own; see Lab.StartAgents.
	Self string
	// AgentLimit bounds the number of agents, default 10,000.
	AgentLimit int
	// Exec lets `kubectl exec` into any pod run programs of this machine, as the user who runs the lab. KWOK asks nobody
	// who they are, so that with this everyone on the machine may: it is for tests, and no command sets it. Without, exec
	// is refused; logs, attach and port-forward work either way. KWOK (v0.8) never ends a command's standard input, and
	// any failure is exit code 1.
	Exec bool
	// Backoff is how a component that died is restarted.
	Backoff Backoff
	// Progress, if set, is told in a sentence what happens, for a person who waits. It is called from one goroutine
	// at a time.
	Progress func(msg string)
	Log      *slog.Logger // default: discard
}

// Backoff is the wait before a component that died by itself is started again: Initial, doubled with each death up
// to Max, and back to Initial once it has lived for ResetAfter. The kubelet's own values for a static pod are 10 s,
// 5 min and 10 min; the lab's defaults are a tenth, as replays compress time.
type Backoff struct {
	Initial, Max, ResetAfter time.Duration
}

// after returns the wait after the given number of deaths in a row before this one.
func (b Backoff) after(deaths int) time.Duration {
	wait := b.Initial
	for range deaths {
		if wait *= 2; wait >= b.Max {
			return b.Max
		}
	}
	return min(wait, b.Max)
}

// Bounds limit one process. A zero field does not limit.
type Bounds struct {
	CPU    float64 // cores; 0.5 is half a core
	Memory int64   // bytes
}

// IsZero says that nothing is limited.
func (b Bounds) IsZero() bool { return b == Bounds{} }

// Validate says what is wrong with the options, if anything.
func (o Options) Validate() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults returns the options with defaults filled in, or the first thing wrong with them.
func (o Options) withDefaults() (Options, error) {
	if o.APIServers == 0 {
		o.APIServers = 1
	}
	if o.Etcd == 0 {
		o.Etcd = 1
	}
	if o.AgentLimit == 0 {
		o.AgentLimit = 10_000
	}
	if o.Backoff.Initial == 0 {
		o.Backoff.Initial = time.Second
	}
	if o.Backoff.Max == 0 {
		o.Backoff.Max = 30 * time.Second
	}
	if o.Backoff.ResetAfter == 0 {
		o.Backoff.ResetAfter = time.Minute
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case o.Dir == "":
		return o, fmt.Errorf("dir must not be empty")
	case o.Nodes < 0 || o.Nodes > maxNodes:
		return o, fmt.Errorf("nodes must be 0–%d, got %d", maxNodes, o.Nodes)
	case o.Pods < 0:
		return o, fmt.Errorf("pods must be ≥ 0, got %d", o.Pods)
	case o.PodBytes < 0 || o.PodBytes > 1<<20:
		return o, fmt.Errorf("pods must be of 0–%d bytes, got %d", 1<<20, o.PodBytes)
	case o.Pods > 0 && o.Nodes == 0:
		return o, fmt.Errorf("pods need nodes: got %d pods and no node", o.Pods)
	case o.APIServers < 1 || o.APIServers > 9:
		return o, fmt.Errorf("API servers must be 1–9, got %d", o.APIServers)
	case o.Etcd != 1 && o.Etcd != 3:
		return o, fmt.Errorf("etcd members must be 1 or 3, got %d", o.Etcd)
	}
	kinds := []string{KindEtcd, KindAPIServer, KindControllerManager, KindScheduler, KindKWOK, KindDNS, KindNodeDNS, KindAgents}
	for kind, b := range o.Bounds {
		if !slices.Contains(kinds, kind) {
			return o, fmt.Errorf("bounds name %q, which is no component; the components are %v", kind, kinds)
		}
		if b.CPU < 0 || b.Memory < 0 {
			return o, fmt.Errorf("bounds of %s must be ≥ 0, got %g cores and %d bytes", kind, b.CPU, b.Memory)
		}
	}
	for kind := range o.ExtraArgs {
		if !slices.Contains(kinds, kind) {
			return o, fmt.Errorf("extra arguments name %q, which is no component; the components are %v", kind, kinds)
		}
	}
	return o, nil
}
