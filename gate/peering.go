package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/peers"
	"github.com/seakeep/seakeep/gate/peers/agree"
	"github.com/seakeep/seakeep/internal/config"
)

// peering is this gate among several; nil: it is alone.
type peering struct{ *peers.Peers }

// newPeering makes ready to speak with other gates. It is made before the admin endpoint, which tells it what is decided.
func (g *Gate) newPeering() (*peering, error) {
	if g.config.Peers == nil {
		return nil, nil
	}
	cfg := *g.config.Peers
	if cfg.Name == "" {
		name, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("finding a name among the gates; set peers.name: %w", err)
		}
		cfg.Name = name
	}
	keys, err := peerKeys(&cfg)
	if err != nil {
		return nil, err
	}
	return &peering{peers.New(peers.Options{
		Config: cfg, Keys: keys, StateDir: g.config.StateDir, SetShare: g.limits.SetShare,
		Learn:      func(gate string, from agree.Decisions) int { return g.admin.Learn(gate, from) },
		Registerer: g.opts.Registerer, Log: g.log,
	})}, nil
}

func peerKeys(cfg *v1alpha1.GatePeers) ([][]byte, error) {
	data, err := os.ReadFile(cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading the gates' keys: %w", err)
	}
	keys, err := config.ParsePeerKeys(data)
	if err != nil {
		return nil, fmt.Errorf("reading the gates' keys %s: %w", cfg.KeyFile, err)
	}
	return keys, nil
}

// name is this gate's among several, "" for one alone.
func (p *peering) name(cfg *v1alpha1.GateConfiguration) string {
	if p == nil {
		return ""
	}
	host, _ := os.Hostname() // newPeering found one
	return cmp.Or(cfg.Peers.Name, host)
}

// decided is admin.Options.Decided.
func (p *peering) decided() func(agree.Decisions) {
	if p == nil {
		return nil
	}
	return p.Decided
}

// warnings are admin.Options.Warnings.
func (p *peering) warnings() []string {
	if p == nil {
		return nil
	}
	return p.Warnings()
}

// status answers the admin endpoint's question about the other gates.
func (p *peering) status() any {
	if p == nil {
		return peers.Status{Taken: time.Now(), Share: 1, Gates: []peers.Gate{}}
	}
	return p.Status()
}

// run speaks with the others until the context ends.
func (p *peering) run(ctx context.Context) {
	if p != nil {
		p.Run(ctx)
	}
}

// meet waits, before the gate takes requests, until it has its share; two seconds at most.
func (p *peering) meet(ctx context.Context) {
	if p != nil {
		p.Meet(ctx)
	}
}

var errPeersAppeared = errors.New("the field peers is read once: restart the gate")

// reload takes changed keys into use.
func (p *peering) reload(cfg *v1alpha1.GateConfiguration) error {
	switch {
	case p == nil && cfg.Peers == nil:
		return nil
	case p == nil || cfg.Peers == nil:
		return errPeersAppeared
	}
	keys, err := peerKeys(cfg.Peers)
	if err != nil {
		return err
	}
	return p.SetKeys(keys)
}
