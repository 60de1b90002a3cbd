// Package catalog is the one list of what a scenario may do and ask. A new action is a folder in drill/action, a field of
// v1alpha1.DrillAction and a line in NewAction; a new probe likewise.
package catalog

import (
	"errors"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/action/apiservers"
	"github.com/seakeep/seakeep/drill/action/apply"
	"github.com/seakeep/seakeep/drill/action/component"
	"github.com/seakeep/seakeep/drill/action/dnscache"
	"github.com/seakeep/seakeep/drill/action/emergency"
	"github.com/seakeep/seakeep/drill/action/neighbours"
	"github.com/seakeep/seakeep/drill/action/network"
	"github.com/seakeep/seakeep/drill/action/nodecondition"
	"github.com/seakeep/seakeep/drill/action/podstatus"
	"github.com/seakeep/seakeep/drill/action/remove"
	"github.com/seakeep/seakeep/drill/action/scale"
	"github.com/seakeep/seakeep/drill/action/update"
	"github.com/seakeep/seakeep/drill/action/webhook"
	"github.com/seakeep/seakeep/drill/probe/controllers"
	"github.com/seakeep/seakeep/drill/probe/dns"
	"github.com/seakeep/seakeep/drill/probe/leases"
	"github.com/seakeep/seakeep/drill/probe/readyz"
	"github.com/seakeep/seakeep/drill/probe/requests"
)

// NewAction makes the action a step names.
func NewAction(a v1alpha1.DrillAction, env drill.Env) (drill.Action, error) {
	switch {
	case a.Apply != nil:
		return apply.New(*a.Apply, env)
	case a.Delete != nil:
		return remove.New(*a.Delete, env)
	case a.Component != nil:
		return component.New(*a.Component, env)
	case a.DNSCache != nil:
		return dnscache.New(*a.DNSCache, env)
	case a.Emergency != nil:
		return emergency.New(*a.Emergency, env)
	case a.Scale != nil:
		return scale.New(*a.Scale, env)
	case a.Network != nil:
		return network.New(*a.Network, env)
	case a.AddAPIServers != nil:
		return apiservers.New(*a.AddAPIServers, env)
	case a.Update != nil:
		return update.New(*a.Update, env)
	case a.PodStatus != nil:
		return podstatus.New(*a.PodStatus, env)
	case a.NodeCondition != nil:
		return nodecondition.New(*a.NodeCondition, env)
	case a.Neighbours != nil:
		return neighbours.New(*a.Neighbours, env)
	case a.Webhook != nil:
		return webhook.New(*a.Webhook, env)
	}
	return nil, errors.New("BUG: an action that passed validation and is not in the catalog")
}

// NewProbe makes a probe and returns its name.
func NewProbe(p v1alpha1.DrillProbe, env drill.Env) (string, drill.Probe, error) {
	name := p.Names()[0]
	probe, err := newProbe(p, env)
	return name, probe, err
}

func newProbe(p v1alpha1.DrillProbe, env drill.Env) (drill.Probe, error) {
	switch {
	case p.Admin != nil:
		return requests.New(*p.Admin, v1alpha1.AsAdmin, env)
	case p.BreakGlass != nil:
		return requests.New(*p.BreakGlass, v1alpha1.AsBreakGlass, env)
	case p.Controllers != nil:
		return controllers.New(*p.Controllers, env)
	case p.Leases != nil:
		return leases.New(*p.Leases, env)
	case p.DNS != nil:
		return dns.New(*p.DNS, env)
	case p.Readyz != nil:
		return readyz.New(*p.Readyz, env)
	}
	return nil, errors.New("BUG: a probe that passed validation and is not in the catalog")
}
