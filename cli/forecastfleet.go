package cli

import (
	"context"
	"fmt"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/fleet"
	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
	"github.com/seakeep/seakeep/internal/config"
)

// fleetLook is the time between the two readings of a cluster of the fleet.
const fleetLook = 5 * time.Second

// loadFleet reads the fleet, if one is named.
func (o *forecastOptions) loadFleet(ctx context.Context, env *Env) (map[string]fleet.Cluster, error) {
	if o.fleet == "" {
		return nil, nil
	}
	members, _, err := config.LoadKind[*v1alpha1.Fleet](o.fleet, env.Stdin)
	if err != nil {
		return nil, usageError(err, "'seakeep config check' says what is wrong with the file")
	}
	clusters, err := fleet.Load(ctx, members, fleet.Options{UserAgent: "seakeep/" + versionOf(version, nil).Version, Timeout: 30 * time.Second})
	if err != nil {
		return nil, usageError(err, "")
	}
	return clusters, nil
}

// config is how the cluster that is measured is reached: as the fleet says, if it has it, else by the kubeconfig.
func (o *forecastOptions) config(env *Env) (*rest.Config, error) {
	if c, ok := o.clusters[o.name]; ok {
		return rest.CopyConfig(c.Config), nil
	}
	return o.cluster.config(env)
}

// survey looks at every cluster of the fleet, at the same time: how large it is, and what is left. One that cannot be read is
// Unknown, and says why: what is not known of a cluster must not look like room.
func (o *forecastOptions) survey(ctx context.Context) []forecastTarget {
	names := fleet.Names(o.clusters)
	targets := make([]forecastTarget, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() {
			targets[i].at.Cluster = name
			looked, err := lookAt(ctx, o.clusters[name].Config)
			if err != nil {
				targets[i].unread = fmt.Errorf("it cannot be read: %w", err)
				return
			}
			targets[i].at.Nodes, targets[i].at.Objects = looked.Nodes, looked.Objects[o.resource()]
			targets[i].survey = &looked
			if looked.Nodes == 0 {
				targets[i].unread = fmt.Errorf("its API servers do not say how many nodes there are: they count about a minute after their start")
			}
		})
	}
	all.Wait()
	return targets
}

func lookAt(ctx context.Context, config *rest.Config) (observe.Survey, error) {
	sources, err := apiServers(config, nil)
	if err != nil {
		return observe.Survey{}, err
	}
	defer utilnet.CloseIdleConnectionsFor(sources[0].client.Transport)
	return observe.Look(ctx, []observe.Server{{Name: sources[0].name, URL: sources[0].url, Client: sources[0].client}}, fleetLook)
}

// merge puts what the fleet says beside what was measured: a cluster that is in both is one.
func mergeTargets(measured, more []forecastTarget) []forecastTarget {
	for _, t := range more {
		known := false
		for i := range measured {
			if measured[i].at.Cluster != t.at.Cluster {
				continue
			}
			known = true
			if t.unread == nil {
				measured[i] = t
			}
		}
		if !known {
			measured = append(measured, t)
		}
	}
	return measured
}

// unreadRow is a cluster of which nothing is known.
func unreadRow(t forecastTarget) forecastRow {
	reason := t.unread.Error()
	return forecastRow{
		Cluster: t.at.Cluster, Prediction: forecast.Prediction{At: t.at, Unknown: reason},
		Judgement: forecast.Judgement{Outcome: forecast.Unknown, Reason: reason},
	}
}
