package peers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/seakeep/seakeep/gate/peers/agree"
)

// The Meta of a member says whether it shares budgets.
const (
	metaShared   = "shared"
	metaSeparate = "separate"
)

// label keeps other users of memberlist apart, should one have the same key.
const label = "seakeep-gate"

func (p *Peers) create() (*memberlist.Memberlist, error) {
	p.mu.Lock()
	keyring, err := memberlist.NewKeyring(p.opts.Keys[1:], p.opts.Keys[0])
	p.keyring = keyring
	p.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("taking the keys: %w", err)
	}
	c := memberlist.DefaultLANConfig()
	c.Name = p.opts.Config.Name
	c.BindAddr, c.BindPort = addrPort(p.opts.Config.Bind)
	c.AdvertisePort = c.BindPort
	if p.opts.Config.Advertise != "" {
		c.AdvertiseAddr, c.AdvertisePort = addrPort(p.opts.Config.Advertise)
	}
	c.Label, c.Keyring, c.EnableCompression = label, keyring, false
	// A few gates in one network: found dead in about two seconds, everything made up for in five.
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult, c.SuspicionMaxTimeoutMult = 500*time.Millisecond, 300*time.Millisecond, 3, 2
	c.TCPTimeout, c.PushPullInterval, c.GossipToTheDeadTime = 2*time.Second, 5*time.Second, time.Minute
	c.DeadNodeReclaimTime = time.Second // a gate that was restarted elsewhere has its name again
	c.DNSConfigPath = ""
	logger := slog.NewLogLogger(&lines{log: p.log, m: p.metrics, said: map[string]time.Time{}, now: p.opts.Clock}, slog.LevelInfo)
	c.Logger = logger
	c.Delegate, c.Events, c.Alive, c.Conflict = (*delegate)(p), (*delegate)(p), (*delegate)(p), (*delegate)(p)
	network, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{BindAddrs: []string{c.BindAddr}, BindPort: c.BindPort, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("listening on %s: %w", p.opts.Config.Bind, err)
	}
	var transport memberlist.NodeAwareTransport = network
	if p.opts.wrap != nil {
		transport = p.opts.wrap(transport)
	}
	b := newBounded(transport, func() { p.metrics.refused.WithLabelValues(refusedStream).Inc() })
	c.Transport = b
	list, err := memberlist.Create(c)
	if err != nil {
		return nil, errors.Join(err, b.Shutdown())
	}
	return list, nil
}

// SetKeys takes the keys of the file into use after it changed: the first encrypts, each decrypts.
func (p *Peers) SetKeys(keys [][]byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opts.Keys = keys
	if p.keyring == nil {
		return nil
	}
	for _, key := range keys {
		if err := p.keyring.AddKey(key); err != nil {
			return fmt.Errorf("taking a key: %w", err)
		}
	}
	if err := p.keyring.UseKey(keys[0]); err != nil {
		return fmt.Errorf("using the first key: %w", err)
	}
	for _, old := range p.keyring.GetKeys() {
		if !slices.ContainsFunc(keys, func(key []byte) bool { return slices.Equal(key, old) }) {
			if err := p.keyring.RemoveKey(old); err != nil {
				return fmt.Errorf("forgetting a key: %w", err)
			}
		}
	}
	return nil
}

// alive are the members but this one. The caller holds mu.
func (p *Peers) alive() []*memberlist.Node {
	if p.list == nil {
		return nil
	}
	return slices.DeleteFunc(p.list.Members(), func(n *memberlist.Node) bool { return n.Name == p.opts.Config.Name })
}

// reached are the names of members that share budgets. The caller holds mu.
func (p *Peers) reached() []string {
	var names []string
	for _, n := range p.alive() {
		if string(n.Meta) == metaShared {
			names = append(names, n.Name)
		}
	}
	return names
}

// join tries the addresses of the list that no member is at. A name is resolved each time.
func (p *Peers) join(ctx context.Context) {
	list := p.members()
	there := map[string]bool{}
	for _, n := range list.Members() {
		there[n.Address()] = true
	}
	var trying sync.WaitGroup
	for _, address := range p.opts.Config.Join {
		trying.Go(func() {
			found, err := resolve(ctx, address)
			missing := slices.DeleteFunc(found, func(a string) bool { return there[a] })
			if err == nil && len(missing) > 0 {
				_, err = list.Join(missing)
			}
			if ctx.Err() != nil {
				return
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			switch {
			case err != nil:
				p.metrics.joins.WithLabelValues("failed").Inc()
				p.say("join "+address, fmt.Sprintf("no gate at %s can be joined: %v", address, err))
			case len(missing) > 0:
				p.metrics.joins.WithLabelValues("joined").Inc()
				fallthrough
			default:
				p.say("join "+address, "")
			}
		})
	}
	trying.Wait()
}

func resolve(ctx context.Context, address string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	hosts, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var found []string
	for _, h := range hosts[:min(len(hosts), agree.MaxGates)] {
		found = append(found, net.JoinHostPort(h.Unmap().String(), port))
	}
	return found, nil
}

// said is everything this gate has to say. The caller does not hold mu.
func (p *Peers) said() []byte {
	decisions := *p.decisions.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.opts.Clock()
	m := message{From: p.opts.Config.Name, Now: now, Decisions: decisions}
	if p.shared() {
		m.Words = p.shares.Words(now)
	}
	data, left := m.encode()
	problem := ""
	if left > 0 {
		problem = fmt.Sprintf("%d emergency rules are too large to be shared and are in force on this gate alone", left)
	}
	p.say("size", problem)
	return data
}

// tell sends what there is to say to every member, each at its own pace: one that does not take it holds up no other.
func (p *Peers) tell() {
	data := p.said()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.alive() {
		s := p.sending[n.Name]
		if s == nil {
			s = &sending{}
			p.sending[n.Name] = s
		}
		if s.busy {
			s.again = true
			continue
		}
		s.busy = true
		list := p.list
		p.owned.Go(func() { p.send(list, n, s, data) })
	}
}

func (p *Peers) send(list *memberlist.Memberlist, to *memberlist.Node, s *sending, data []byte) {
	for {
		result := "sent"
		if err := list.SendReliable(to, data); err != nil {
			result = "failed"
			p.lost.Store(true)
			p.log.Debug("Telling another gate", "gate", to.Name, "reason", err)
		}
		p.metrics.sends.WithLabelValues(result).Inc()
		p.mu.Lock()
		again := s.again
		s.again, s.busy = false, again
		p.mu.Unlock()
		if !again {
			return
		}
		data = p.said()
	}
}

// take takes in what another gate said.
func (p *Peers) take(data []byte) {
	m, err := decode(data)
	if err != nil {
		p.metrics.refused.WithLabelValues(refusedMessage).Inc()
		p.log.Debug("Passing over a message", "reason", err)
		return
	}
	if m.From == p.opts.Config.Name {
		return
	}
	if refused := p.opts.Learn(m.From, m.Decisions); refused > 0 {
		p.metrics.refused.WithLabelValues(refusedDecision).Add(float64(refused))
		p.log.Warn("Passing over what another gate decided", "gate", m.From, "decisions", refused)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.opts.Clock()
	if len(p.clocks) < agree.MaxGates || p.clocks[m.From] != (clock{}) {
		offset := m.Now.Sub(now)
		p.clocks[m.From] = clock{offset, now}
		problem := ""
		if offset.Abs() > clockDiffers {
			problem = fmt.Sprintf("the clock of gate %s differs by %s: emergency rules end there as much earlier or later", m.From, offset.Round(time.Second))
		}
		if (problem == "") != (p.problem["clock "+m.From] == "") {
			p.say("clock "+m.From, problem)
		}
	}
	if p.shared() {
		p.shares.Hear(m.Words, now)
	}
}

// leave gives the share back and tells everyone, for a second at most.
func (p *Peers) leave() {
	p.mu.Lock()
	if p.shared() {
		p.shares.Leave()
		p.keep()
		p.opts.SetShare(0)
	}
	list := p.list
	p.mu.Unlock()
	if list != nil {
		p.tell()
		_ = list.Leave(time.Second)
		_ = list.Shutdown()
	}
	p.owned.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = nil
	p.metrics.open.Set(0)
}

// delegate is what memberlist calls, mostly with its lock held: none of it may ask memberlist anything, or wait for mu, whose
// holder may.
type delegate Peers

// NodeMeta implements memberlist.Delegate.
func (d *delegate) NodeMeta(int) []byte {
	if (*Peers)(d).shared() {
		return []byte(metaShared)
	}
	return []byte(metaSeparate)
}

// NotifyMsg implements memberlist.Delegate.
func (d *delegate) NotifyMsg(data []byte) {
	select {
	case d.inbox <- slices.Clone(data):
	default: // all of it comes again with the next exchange
		d.metrics.refused.WithLabelValues(refusedCongested).Inc()
	}
}

// GetBroadcasts implements memberlist.Delegate: what there is to say does not fit a packet.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (d *delegate) LocalState(bool) []byte { return (*Peers)(d).said() }

// MergeRemoteState implements memberlist.Delegate.
func (d *delegate) MergeRemoteState(data []byte, _ bool) { d.NotifyMsg(data) }

// NotifyJoin implements memberlist.EventDelegate.
func (d *delegate) NotifyJoin(*memberlist.Node) { (*Peers)(d).awake() }

// NotifyLeave implements memberlist.EventDelegate.
func (d *delegate) NotifyLeave(*memberlist.Node) { (*Peers)(d).awake() }

// NotifyUpdate implements memberlist.EventDelegate.
func (d *delegate) NotifyUpdate(*memberlist.Node) {}

var errNoGate = errors.New("not taken for a gate")

// NotifyAlive implements memberlist.AliveDelegate: more gates than are ever run are not taken in.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	p := (*Peers)(d)
	if n.Name == p.opts.Config.Name {
		return nil
	}
	if !gateName.MatchString(n.Name) || !p.seen.take(n.Name) {
		p.metrics.refused.WithLabelValues(refusedGate).Inc()
		return errNoGate
	}
	return nil
}

// NotifyConflict implements memberlist.ConflictDelegate.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) {
	problem := fmt.Sprintf("two gates call themselves %s, at %s and %s: give each a name of its own", existing.Name, existing.Address(), other.Address())
	d.conflict.Store(&problem)
}

// names bounds how many gates are taken for some. It is asked with memberlist's lock held and asks nobody.
type names struct {
	mu    sync.Mutex
	known map[string]time.Time
	now   func() time.Time
}

// take is false for one more than are ever run. A name not heard for an hour makes room.
func (n *names) take(name string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.now()
	if _, ok := n.known[name]; !ok && len(n.known) >= agree.MaxGates {
		maps.DeleteFunc(n.known, func(_ string, at time.Time) bool { return now.Sub(at) > time.Hour })
		if len(n.known) >= agree.MaxGates {
			return false
		}
	}
	n.known[name] = now
	return true
}
