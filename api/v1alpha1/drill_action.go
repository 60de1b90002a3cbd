package v1alpha1

import (
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DrillAction is what a step does: exactly one of its fields is set.
type DrillAction struct {
	// Apply creates or updates objects, as the named identity would.
	Apply *ApplyAction `json:"apply,omitempty"`
	// Delete deletes one object, in the background.
	Delete *DeleteAction `json:"delete,omitempty"`
	// Component starts, stops, kills or restarts a part of the control plane.
	Component *ComponentAction `json:"component,omitempty"`
	// DNSCache acts on the node-level DNS caches.
	DNSCache *DNSCacheAction `json:"dnsCache,omitempty"`
	// Emergency sends an emergency rule to the gate; it fails on a target without one.
	Emergency *EmergencyRule `json:"emergency,omitempty"`
	// Scale changes how many nodes run their agents.
	Scale *ScaleAction `json:"scale,omitempty"`
	// Network shuts or opens the agents' way to the admin API.
	Network *NetworkAction `json:"network,omitempty"`
	// AddAPIServers scales the control plane up.
	AddAPIServers *AddAPIServersAction `json:"addAPIServers,omitempty"`
	// Update brings a new version of the fixtures' agent to some nodes.
	Update *UpdateAction `json:"update,omitempty"`
	// PodStatus reports what a kubelet would of the containers of a change.
	PodStatus *PodStatusAction `json:"podStatus,omitempty"`
	// NodeCondition reports that the nodes of a change are sick.
	NodeCondition *NodeConditionAction `json:"nodeCondition,omitempty"`
	// Neighbours reports that what else runs on the nodes of a change is not ready.
	Neighbours *NeighboursAction `json:"neighbours,omitempty"`
	// Webhook registers an admission webhook that takes its time.
	Webhook *WebhookAction `json:"webhook,omitempty"`
}

// DrillIdentity is who acts or asks.
type DrillIdentity string

// The identities a target has credentials for.
const (
	// AsAdmin is an engineer with an ordinary cluster-admin certificate, by the ordinary way.
	AsAdmin DrillIdentity = "Admin"
	// AsBreakGlass is the same engineer through the break-glass lane.
	AsBreakGlass DrillIdentity = "BreakGlass"
	// AsObserver is the drill itself: exempt from API Priority and Fairness and straight to an API server, so that what is
	// measured is the cluster and not the way the drill looks at it.
	AsObserver DrillIdentity = "Observer"
)

var drillIdentities = []DrillIdentity{AsAdmin, AsBreakGlass, AsObserver}

// ApplyAction applies manifests by server-side apply.
type ApplyAction struct {
	// Manifests are the objects, in order, each as YAML.
	Manifests []string `json:"manifests"`
	// As defaults to Admin.
	As DrillIdentity `json:"as,omitempty"`
}

// DeleteAction deletes one object. An object that is already gone counts as deleted, because the answer to an
// earlier attempt may have been lost.
type DeleteAction struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	// As defaults to Admin.
	As DrillIdentity `json:"as,omitempty"`
}

// ComponentAction acts on a process of the target. What is stopped or killed is started again when the drill is over.
type ComponentAction struct {
	// Name is etcd, kube-apiserver, kube-controller-manager, kube-scheduler, dns, gate or break-glass. A name stands for
	// all instances; "name-1" is one of them.
	Name string `json:"name"`
	// Op is Start, Stop, Kill or Restart.
	Op ComponentOp `json:"op"`
	// ReadyWithin makes a Start or Restart of several instances a rolling one: each may take so long, in machine time, to be
	// ready before the next one's turn comes. One that is not by then is left behind: what ends a process in an outage,
	// the kernel or the node, does not wait for ever. Default 0: it is enough that it runs; at most 5m.
	ReadyWithin metav1.Duration `json:"readyWithin,omitempty"`
}

// ComponentOp is what is done to a component.
type ComponentOp string

// The operations on a component.
const (
	ComponentStart   ComponentOp = "Start"
	ComponentStop    ComponentOp = "Stop"
	ComponentKill    ComponentOp = "Kill"
	ComponentRestart ComponentOp = "Restart"
)

var componentOps = []ComponentOp{ComponentStart, ComponentStop, ComponentKill, ComponentRestart}

// DNSCacheAction acts on the node-level DNS caches.
type DNSCacheAction struct {
	// Op is Expire: every entry is dropped, as when its time to live has passed.
	Op string `json:"op"`
}

// CacheExpire empties the node-level DNS caches.
const CacheExpire = "Expire"

// ScaleAction changes how many nodes run their agents: machines are taken away, or brought back.
type ScaleAction struct {
	// AgentsPercent of the agents run afterwards; 0–100.
	AgentsPercent *int `json:"agentsPercent"`
}

// NetworkAction shuts or opens the agents' way to the admin API.
type NetworkAction struct {
	// Op is Block or Unblock.
	Op string `json:"op"`
}

// The operations of a NetworkAction.
const (
	NetworkBlock   = "Block"
	NetworkUnblock = "Unblock"
)

// AddAPIServersAction scales the control plane up.
type AddAPIServersAction struct {
	// Count is how many are added; 1–4.
	Count int `json:"count"`
}

func (a *DrillAction) validate(path *field.Path) field.ErrorList {
	var set []string
	var errs field.ErrorList
	check := func(present bool, name string, validate func(*field.Path) field.ErrorList) {
		if present {
			set = append(set, name)
			errs = append(errs, validate(path.Child(name))...)
		}
	}
	check(a.Apply != nil, "apply", func(p *field.Path) field.ErrorList { return a.Apply.validate(p) })
	check(a.Delete != nil, "delete", func(p *field.Path) field.ErrorList { return a.Delete.validate(p) })
	check(a.Component != nil, "component", func(p *field.Path) field.ErrorList { return a.Component.validate(p) })
	check(a.DNSCache != nil, "dnsCache", func(p *field.Path) field.ErrorList {
		return oneOf(a.DNSCache.Op, p.Child("op"), CacheExpire)
	})
	check(a.Emergency != nil, "emergency", func(p *field.Path) field.ErrorList {
		errs := required(string(a.Emergency.Action), p.Child("action"), "what is done")
		return append(errs, required(a.Emergency.Reason, p.Child("reason"), "it goes to the audit chain")...)
	})
	check(a.Scale != nil, "scale", func(p *field.Path) field.ErrorList { return a.Scale.validate(p) })
	check(a.Network != nil, "network", func(p *field.Path) field.ErrorList {
		return oneOf(a.Network.Op, p.Child("op"), NetworkBlock, NetworkUnblock)
	})
	check(a.AddAPIServers != nil, "addAPIServers", func(p *field.Path) field.ErrorList {
		if n := a.AddAPIServers.Count; n < 1 || n > 4 {
			return field.ErrorList{field.Invalid(p.Child("count"), n, "must be between 1 and 4")}
		}
		return nil
	})
	check(a.Update != nil, "update", func(p *field.Path) field.ErrorList { return a.Update.validate(p) })
	check(a.PodStatus != nil, "podStatus", func(p *field.Path) field.ErrorList { return a.PodStatus.validate(p) })
	check(a.NodeCondition != nil, "nodeCondition", func(p *field.Path) field.ErrorList { return a.NodeCondition.validate(p) })
	check(a.Neighbours != nil, "neighbours", func(*field.Path) field.ErrorList { return nil })
	check(a.Webhook != nil, "webhook", func(p *field.Path) field.ErrorList { return a.Webhook.validate(p) })
	switch len(set) {
	case 0:
		errs = append(errs, field.Required(path, "one action"))
	case 1:
	default:
		errs = append(errs, field.Invalid(path, strings.Join(set, ", "), "a step does exactly one action"))
	}
	return errs
}

func (a *ApplyAction) validate(path *field.Path) field.ErrorList {
	errs := validateIdentity(a.As, path.Child("as"))
	if len(a.Manifests) == 0 {
		errs = append(errs, field.Required(path.Child("manifests"), "at least one object"))
	}
	for i, m := range a.Manifests {
		errs = append(errs, required(strings.TrimSpace(m), path.Child("manifests").Index(i), "an object as YAML")...)
	}
	return errs
}

func (a *DeleteAction) validate(path *field.Path) field.ErrorList {
	errs := validateIdentity(a.As, path.Child("as"))
	errs = append(errs, required(a.APIVersion, path.Child("apiVersion"), "which object")...)
	errs = append(errs, required(a.Kind, path.Child("kind"), "which object")...)
	return append(errs, required(a.Name, path.Child("name"), "which object")...)
}

func (a *ComponentAction) validate(path *field.Path) field.ErrorList {
	errs := required(a.Name, path.Child("name"), "which component")
	if !slices.Contains(componentOps, a.Op) {
		errs = append(errs, field.NotSupported(path.Child("op"), a.Op, componentOps))
	}
	p := path.Child("readyWithin")
	switch d := a.ReadyWithin.Duration; {
	case d < 0 || d > 5*time.Minute:
		errs = append(errs, field.Invalid(p, d.String(), "must be between 0s and 5m"))
	case d > 0 && a.Op != ComponentStart && a.Op != ComponentRestart:
		errs = append(errs, field.Forbidden(p, "only what is started gets ready"))
	}
	return errs
}

func (a *ScaleAction) validate(path *field.Path) field.ErrorList {
	p := path.Child("agentsPercent")
	if a.AgentsPercent == nil {
		return field.ErrorList{field.Required(p, "how many agents run afterwards")}
	}
	if n := *a.AgentsPercent; n < 0 || n > 100 {
		return field.ErrorList{field.Invalid(p, n, "must be between 0 and 100")}
	}
	return nil
}

func validateIdentity(id DrillIdentity, path *field.Path) field.ErrorList {
	if id != "" && !slices.Contains(drillIdentities, id) {
		return field.ErrorList{field.NotSupported(path, id, drillIdentities)}
	}
	return nil
}

func oneOf(value string, path *field.Path, allowed ...string) field.ErrorList {
	if !slices.Contains(allowed, value) {
		return field.ErrorList{field.NotSupported(path, value, allowed)}
	}
	return nil
}

// Kind is the action's name as it is written in a scenario.
func (a *DrillAction) Kind() string {
	switch {
	case a.Apply != nil:
		return "apply"
	case a.Delete != nil:
		return "delete"
	case a.Component != nil:
		return "component"
	case a.DNSCache != nil:
		return "dnsCache"
	case a.Emergency != nil:
		return "emergency"
	case a.Scale != nil:
		return "scale"
	case a.Network != nil:
		return "network"
	case a.AddAPIServers != nil:
		return "addAPIServers"
	case a.Update != nil:
		return "update"
	case a.PodStatus != nil:
		return "podStatus"
	case a.NodeCondition != nil:
		return "nodeCondition"
	case a.Neighbours != nil:
		return "neighbours"
	case a.Webhook != nil:
		return "webhook"
	}
	panic(fmt.Sprintf("BUG: an action without a kind: %+v", *a))
}
