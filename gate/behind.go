package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/gate/endpoints"
)

// behind is this gate's part in standing behind the Service default/kubernetes; nil: it does not.
type behind struct {
	keeper *endpoints.Keeper
	ended  sync.WaitGroup
	stop   context.CancelFunc
	mu     sync.Mutex
}

// newBehind makes ready to announce this gate. A serving certificate without the Service's names is refused, because every
// client that was sent here would be turned away; the Service's addresses are looked up later, when there is an API server.
func (g *Gate) newBehind() (*behind, error) {
	cfg := g.config.Service
	if cfg == nil {
		return nil, nil
	}
	names := endpoints.Names(cfg.ClusterDomain)
	if missing := endpoints.Missing(g.rooms.Load().serving.Certificates[0].Leaf, names); len(missing) > 0 {
		return nil, fmt.Errorf("standing behind the Service: %w", endpoints.CertificateError(missing))
	}
	address, err := g.announced()
	if err != nil {
		return nil, err
	}
	name := cfg.Name
	if name == "" {
		host, err := os.Hostname()
		if name = strings.ToLower(strings.ReplaceAll(host, ".", "-")); err != nil || len(validation.IsDNS1123Label(name)) > 0 || len(name) > 50 {
			return nil, errors.New("the host's name cannot name a lease: set service.name")
		}
	}
	own := &http.Client{Transport: &ownWay{gate: g, user: cfg.User}}
	store, err := endpoints.NewStore(&rest.Config{Host: "https://" + cmp.Or(g.config.Listen.Address, "gate")}, own, false)
	if err != nil {
		return nil, fmt.Errorf("standing behind the Service: %w", err)
	}
	ready := &certified{gate: g, store: store, names: names}
	return &behind{keeper: endpoints.NewKeeper(endpoints.KeeperOptions{
		Gate:     endpoints.Gate{Name: name, Address: address, Holder: uuid.NewString(), Lifetime: cfg.LeaseDuration.Duration.Round(time.Second)},
		Interval: cfg.Interval.Duration, Store: store, Ready: ready.check, Registerer: g.opts.Registerer, Log: g.log,
	})}, nil
}

// announced is where clients are sent.
func (g *Gate) announced() (netip.AddrPort, error) {
	address, err := netip.ParseAddr(g.config.Service.Address)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("standing behind the Service: %w", err) // the configuration was checked
	}
	port := g.config.Service.Port
	if port == 0 {
		_, listening, err := net.SplitHostPort(g.standard.Addr().String())
		if err == nil {
			port, err = strconv.Atoi(listening)
		}
		if err != nil {
			return netip.AddrPort{}, fmt.Errorf("standing behind the Service: %w", err)
		}
	}
	return netip.AddrPortFrom(address, uint16(port)), nil
}

// certified says whether the certificate in force is good for what clients call the Service.
type certified struct {
	gate  *Gate
	store *endpoints.Store
	names []string

	mu  sync.Mutex
	ips []string // the Service's, which do not change
}

func (c *certified) check(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ips == nil {
		ips, err := c.store.ClusterIPs(ctx)
		if err != nil {
			return err
		}
		c.ips = ips
	}
	leaf := c.gate.rooms.Load().serving.Certificates[0].Leaf
	if missing := endpoints.Missing(leaf, append(c.names[:len(c.names):len(c.names)], c.ips...)); len(missing) > 0 {
		return endpoints.CertificateError(missing)
	}
	if time.Now().After(leaf.NotAfter) {
		return errors.New("the serving certificate has expired: in-cluster clients would refuse this gate")
	}
	return nil
}

// run announces this gate until the context or leave ends it.
func (b *behind) run(ctx context.Context) {
	if b == nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	b.mu.Lock()
	b.stop = cancel
	b.ended.Add(1)
	b.mu.Unlock()
	defer b.ended.Done()
	b.keeper.Run(ctx)
}

// leaving bounds how long a gate that stops tries to take itself out of the endpoints.
const leaving = 5 * time.Second

// leave takes this gate out of the endpoints, before it turns anybody away.
func (b *behind) leave() {
	if b == nil {
		return
	}
	b.mu.Lock()
	if b.stop != nil {
		b.stop()
	}
	b.mu.Unlock()
	b.ended.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), leaving)
	defer cancel()
	b.keeper.Leave(ctx)
}
