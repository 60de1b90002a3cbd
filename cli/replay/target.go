package replay

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"syscall"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/lab"
)

// labTarget is a lab as a drill sees it.
type labTarget struct {
	lab *lab.Lab
	dns drill.DNS

	// lane is the break-glass lane's URL; empty: break-glass credentials go straight to the first API server.
	lane string
	// rollouts takes changes; nil: they are applied at once.
	rollouts *rollouts
	// addServer tells what stands in front about one more API server.
	addServer func(url string) error

	mu sync.Mutex
	// serving is how many of the lab's API servers take part; the rest wait, stopped, to be added.
	serving int
	blocked bool
}

// Config implements drill.Target. The engineer comes by the way of everyone, the observer by none.
func (t *labTarget) Config(id v1alpha1.DrillIdentity) (*rest.Config, error) {
	switch id {
	case v1alpha1.AsAdmin:
		config := t.lab.RESTConfig(lab.Admin)
		config.Host, _ = t.lab.Server()
		return config, nil
	case v1alpha1.AsBreakGlass:
		config := t.lab.RESTConfig(lab.BreakGlass)
		if t.lane != "" {
			config.Host = t.lane
		}
		return config, nil
	case v1alpha1.AsObserver:
		return t.lab.RESTConfig(lab.Masters), nil
	}
	return nil, fmt.Errorf("the lab knows no identity %q", id)
}

// APIServers implements drill.Target.
func (t *labTarget) APIServers() []drill.APIServer {
	t.mu.Lock()
	defer t.mu.Unlock()
	servers := make([]drill.APIServer, t.serving)
	for i := range servers {
		config := t.lab.RESTConfig(lab.Masters)
		config.Host = t.lab.APIServerURL(i)
		servers[i] = drill.APIServer{Name: apiServerName(i), Config: config}
	}
	return servers
}

func apiServerName(i int) string {
	if i == 0 {
		return lab.KindAPIServer
	}
	return fmt.Sprintf("%s-%d", lab.KindAPIServer, i)
}

// Components implements drill.Target.
func (t *labTarget) Components() []drill.Component {
	var components []drill.Component
	for _, p := range t.lab.Processes() {
		components = append(components, component{p})
	}
	return components
}

// DNS implements drill.Target.
func (t *labTarget) DNS() drill.DNS { return t.dns }

// ExpireDNSCaches implements drill.CacheExpirer.
func (t *labTarget) ExpireDNSCaches(ctx context.Context) error {
	var errs []error
	for _, p := range t.lab.Processes() {
		if p.Kind == lab.KindNodeDNS {
			errs = append(errs, p.Reload(ctx))
		}
	}
	return errors.Join(errs...)
}

// AddAPIServers implements drill.APIServerAdder: it starts servers that were held back.
func (t *labTarget) AddAPIServers(ctx context.Context, count int) error {
	for range count {
		t.mu.Lock()
		i := t.serving
		t.mu.Unlock()
		p, ok := t.lab.Process(apiServerName(i))
		if !ok {
			return fmt.Errorf("the lab has no more than %d API servers", i)
		}
		if err := p.Start(ctx); err != nil {
			return err
		}
		if err := t.addServer(t.lab.APIServerURL(i)); err != nil {
			return err
		}
		t.mu.Lock()
		t.serving++
		t.mu.Unlock()
	}
	return nil
}

// holdBack stops the API servers beyond the first n, to be added later.
func (t *labTarget) holdBack(ctx context.Context, n int) error {
	for i := n; i < t.lab.APIServers(); i++ {
		if p, ok := t.lab.Process(apiServerName(i)); ok {
			if err := p.Stop(ctx); err != nil {
				return err
			}
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serving = n
	return nil
}

// BlockAgents implements drill.NetworkShutter. The agents' process is frozen: as behind a firewall that drops their
// packets, their requests are neither sent nor ended, and the API server has to find out by itself.
func (t *labTarget) BlockAgents(_ context.Context, block bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.blocked == block {
		return nil
	}
	p, ok := t.lab.Process(lab.KindAgents)
	if !ok {
		return errors.New("the lab runs no agents in a process of their own")
	}
	signal := syscall.SIGCONT
	if block {
		signal = syscall.SIGSTOP
	}
	if err := p.Signal(signal); err != nil {
		return err
	}
	t.blocked = block
	return nil
}

// ScaleAgents implements drill.AgentScaler.
func (t *labTarget) ScaleAgents(ctx context.Context, percent int) error {
	return t.lab.SetMachines(ctx, percent)
}

// component is a lab process as a drill sees it.
type component struct{ *lab.Process }

// Name implements drill.Component.
func (c component) Name() string { return c.Process.Name }

// Kill implements drill.Component.
func (c component) Kill(context.Context) error {
	c.Process.Kill()
	return nil
}

// Usage implements drill.Component.
func (c component) Usage() drill.Usage {
	cpu, rss, maxRSS := c.Process.Usage()
	return drill.Usage{CPUSeconds: cpu, RSSBytes: rss, MaxRSSBytes: maxRSS, Restarts: c.Restarts(), Running: c.PID() != 0}
}

func hostOf(address string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	return u.Host, nil
}
