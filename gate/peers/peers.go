// Package peers lets several gates act as one: an emergency rule that is set or lifted on one of them is in force on all,
// and the budgets of throttles are divided among them. What they agree on, and how, is in gate/peers/agree; this is the
// shell that finds the others (hashicorp/memberlist, encrypted), tells them, and listens.
//
// Nothing here is needed to serve: a gate whose peers cannot be reached, whose port is taken or whose key is another serves
// with the rules and the share it has, and says so.
package peers

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/peers/agree"
	"github.com/seakeep/seakeep/internal/statefile"
)

// Options are what Peers need.
type Options struct {
	// Config says where; its Name must be set.
	Config v1alpha1.GatePeers
	// Keys are those of the key file.
	Keys [][]byte
	// StateDir keeps who was there, over a restart.
	StateDir string
	// Learn puts what others decided in force and says how much it refused. It is called from one goroutine and may use the
	// disk.
	Learn func(gate string, from agree.Decisions) (refused int)
	// SetShare is told which part of every budget this gate may hand out.
	SetShare   func(float64)
	Clock      func() time.Time
	Registerer prometheus.Registerer
	Log        *slog.Logger
	// wrap puts something between memberlist and the network, for tests.
	wrap func(memberlist.NodeAwareTransport) memberlist.NodeAwareTransport
}

// Peers is one gate among several. Its methods are safe for concurrent use.
type Peers struct {
	opts    Options
	log     *slog.Logger
	metrics *metrics
	state   *statefile.File

	inbox  chan []byte
	wake   chan struct{} // has room for one
	agreed chan struct{} // closed at the first agreement, or when there is nobody

	decisions atomic.Pointer[agree.Decisions]
	conflict  atomic.Pointer[string] // two gates of one name
	seen      names
	lost      atomic.Bool // a message that could not be sent

	mu       sync.Mutex
	list     *memberlist.Memberlist // nil while not open
	keyring  *memberlist.Keyring
	shares   *agree.Shares
	clocks   map[string]clock // of other gates
	sending  map[string]*sending
	problem  map[string]string // by what it is about; "" for none
	first    bool
	began    time.Time
	contact  bool // with another gate, since the start
	owned    sync.WaitGroup
	saveWant *agree.Memory
	saving   bool
}

type clock struct {
	offset time.Duration
	at     time.Time
}

// sending is one member's turn: a message under way, and whether there is something newer.
type sending struct{ busy, again bool }

// How often, and how long.
const (
	tick        = time.Second
	rejoinEvery = 3 * time.Second
	reopenEvery = 5 * time.Second
	// alone is how long a gate that starts waits for another before it goes by what it remembers.
	alone = 2 * time.Second
	// clockDiffers is from when a clock is complained about. Rules end by each gate's own.
	clockDiffers = 2 * time.Second
	stateName    = "peers"
	stateSchema  = 1
)

// New does nothing yet; Run opens the way to the others. Until there was an agreement the share is nothing but the least
// (see limit.Engine.SetShare), so a gate should Meet the others before it takes requests.
func New(opts Options) *Peers {
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	p := &Peers{
		opts: opts, log: opts.Log, metrics: newMetrics(opts.Registerer),
		state: statefile.New(opts.StateDir, stateName, stateSchema),
		inbox: make(chan []byte, 64), wake: make(chan struct{}, 1), agreed: make(chan struct{}),
		seen: names{known: map[string]time.Time{}, now: opts.Clock}, clocks: map[string]clock{}, sending: map[string]*sending{}, problem: map[string]string{}, began: opts.Clock(),
	}
	p.decisions.Store(&agree.Decisions{})
	p.shares = agree.NewShares(opts.Config.Name, opts.Config.ForgetAfter.Duration, p.began)
	var memory agree.Memory
	if _, err := p.state.Load(&memory); err == nil {
		p.shares.Remember(memory)
	}
	if !p.shared() {
		p.first = true
		close(p.agreed)
	} else {
		opts.SetShare(0)
	}
	return p
}

func (p *Peers) shared() bool { return p.opts.Config.Budgets == v1alpha1.BudgetsShared }

// Meet waits until this gate has its share, at most about two seconds: who is not there by then is waited for by nobody.
func (p *Peers) Meet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, alone+time.Second)
	defer cancel()
	select {
	case <-p.agreed:
	case <-ctx.Done():
	}
}

// Decided says what this gate has decided or learned, all of it, each time that changes. It does not wait.
func (p *Peers) Decided(d agree.Decisions) {
	p.decisions.Store(&d)
	p.awake()
}

func (p *Peers) awake() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run speaks with the others until the context ends; then it gives its share back and says goodbye.
func (p *Peers) Run(ctx context.Context) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	var reopen, rejoin time.Time
	for {
		now := p.opts.Clock()
		if p.members() == nil && !now.Before(reopen) {
			reopen = now.Add(reopenEvery)
			p.open()
			rejoin = now
		}
		if p.members() != nil && !now.Before(rejoin) {
			rejoin = now.Add(rejoinEvery)
			p.owned.Go(func() { p.join(ctx) })
		}
		tell := false
		select {
		case <-ctx.Done():
			p.leave()
			return
		case <-ticker.C:
			tell = p.unsettled()
		case <-p.wake:
			tell = true
		case data := <-p.inbox:
			p.take(data)
		}
		if p.conclude() || tell {
			p.tell()
		}
	}
}

// unsettled is true when a message got lost, or may have been.
func (p *Peers) unsettled() bool {
	lost := p.lost.Swap(false)
	p.mu.Lock()
	defer p.mu.Unlock()
	return lost || p.shared() && len(p.alive()) > 0 && !p.shares.Agreed()
}

func (p *Peers) members() *memberlist.Memberlist {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.list
}

// open starts memberlist. An address that cannot be listened on is tried again.
func (p *Peers) open() {
	list, err := p.create()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil {
		p.say("open", "cannot speak with other gates: "+err.Error())
		p.metrics.open.Set(0)
		return
	}
	p.list = list
	p.say("open", "")
	p.metrics.open.Set(1)
	p.log.Info("Open to other gates", "address", list.LocalNode().Address(), "name", p.opts.Config.Name)
}

// say notes a problem, or that it is over, and logs a change. The caller holds mu.
func (p *Peers) say(about, problem string) {
	if p.problem[about] == problem {
		return
	}
	if len(p.problem) > 200 {
		clear(p.problem)
	}
	p.problem[about] = problem
	if problem == "" {
		delete(p.problem, about)
		return
	}
	p.log.Warn("Speaking with other gates", "problem", problem)
}

func addrPort(address string) (string, int) {
	a, err := netip.ParseAddrPort(address)
	if err != nil {
		return "", 0 // the configuration was checked
	}
	return a.Addr().String(), int(a.Port())
}

// conclude works out the share from what is known now, and says whether there is news for the others.
func (p *Peers) conclude() (news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.opts.Clock()
	if p.shared() {
		reached := p.reached()
		p.shares.Reach(reached, now)
		p.contact = p.contact || len(reached) > 0
		// A gate that has just started waits a moment for others before it takes what it may be entitled to alone.
		if p.contact || now.Sub(p.began) >= alone {
			news = p.shares.Step(now)
		}
		if news {
			p.keep()
		}
		part := float64(p.shares.Share()) / agree.Whole
		p.opts.SetShare(part)
		p.metrics.share.Set(part)
		if !p.first && p.shares.Agreed() && (p.shares.Share() > 0 || !p.contact) {
			p.first = true
			close(p.agreed)
		}
	} else {
		p.metrics.share.Set(1)
	}
	p.measure(now)
	return news
}

// measure sets the gauges. The caller holds mu.
func (p *Peers) measure(now time.Time) {
	reachable, away := len(p.alive()), 0
	if p.shared() {
		for _, g := range p.shares.Others() {
			if !g.Reachable {
				away++
			}
		}
	}
	p.metrics.gates.WithLabelValues("reachable").Set(float64(reachable))
	p.metrics.gates.WithLabelValues("away").Set(float64(away))
	var most time.Duration
	for name, c := range p.clocks {
		if now.Sub(c.at) > time.Minute {
			delete(p.clocks, name)
			p.say("clock "+name, "")
			continue
		}
		if c.offset.Abs() > most.Abs() {
			most = c.offset
		}
	}
	p.metrics.clock.Set(most.Seconds())
}

// keep has the memory saved, by one goroutine at a time: a disk that hangs must not hang the talk. The caller holds mu.
func (p *Peers) keep() {
	memory := p.shares.Memory()
	p.saveWant = &memory
	if p.saving {
		return
	}
	p.saving = true
	p.owned.Go(func() {
		for {
			p.mu.Lock()
			want := p.saveWant
			p.saveWant = nil
			if want == nil {
				p.saving = false
				p.mu.Unlock()
				return
			}
			p.mu.Unlock()
			err := p.state.Save(want)
			p.mu.Lock()
			if err != nil {
				p.say("state", "who the other gates are would not survive a restart: "+err.Error())
			} else {
				p.say("state", "")
			}
			p.mu.Unlock()
		}
	})
}
