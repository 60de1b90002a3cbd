package main

import (
	"context"
	"fmt"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/lab"
)

// drilled is a world as a drill sees it. The run is over when over says so; nil never does.
type drilled struct {
	*world
	over func() bool
	// roll rolls a new version of the agent out; nil: the drill itself brings it to its nodes.
	roll func(ctx context.Context, manifest string) error
}

var _ drill.RollerOut = drilled{}

// Config implements drill.Target: nothing stands in front of the API server.
func (t drilled) Config(id v1alpha1.DrillIdentity) (*rest.Config, error) {
	switch id {
	case v1alpha1.AsAdmin:
		return t.lab.RESTConfig(lab.Admin), nil
	case v1alpha1.AsBreakGlass:
		return t.lab.RESTConfig(lab.BreakGlass), nil
	case v1alpha1.AsObserver:
		return t.lab.RESTConfig(lab.Masters), nil
	}
	return nil, fmt.Errorf("the lab knows no identity %q", id)
}

// APIServers implements drill.Target.
func (t drilled) APIServers() []drill.APIServer {
	return []drill.APIServer{{Name: lab.KindAPIServer, Config: t.lab.RESTConfig(lab.Masters)}}
}

// DNS implements drill.Target: there are no caches.
func (t drilled) DNS() drill.DNS { return drill.DNS{Cluster: t.dns.ClusterAddrs, Domain: lab.Domain} }

// Components implements drill.Target.
func (t drilled) Components() (all []drill.Component) {
	for _, p := range t.lab.Processes() {
		all = append(all, component{p})
	}
	return all
}

// RollOut implements drill.RollerOut.
func (t drilled) RollOut(ctx context.Context, manifests []string) (bool, error) {
	if t.roll == nil || len(manifests) != 1 {
		return false, nil
	}
	return true, t.roll(ctx, manifests[0])
}

// RolledOut implements drill.RollerOut.
func (t drilled) RolledOut() bool { return t.over != nil && t.over() }

// component is a process of the lab.
type component struct{ *lab.Process }

func (c component) Name() string { return c.Process.Name }

func (c component) Kill(context.Context) error {
	c.Process.Kill()
	return nil
}

func (c component) AwaitReady(ctx context.Context) error { return c.Start(ctx) }

func (c component) Usage() drill.Usage {
	cpu, rss, maxRSS := c.Process.Usage()
	return drill.Usage{CPUSeconds: cpu, RSSBytes: rss, MaxRSSBytes: maxRSS, Restarts: c.Restarts(), Running: c.PID() != 0}
}
