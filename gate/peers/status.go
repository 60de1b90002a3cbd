package peers

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/seakeep/seakeep/gate/peers/agree"
)

// Status is what `seakeep gate peers` shows.
type Status struct {
	Taken time.Time `json:"taken"`
	// Enabled is false when the configuration has no field peers.
	Enabled bool   `json:"enabled"`
	Name    string `json:"name,omitempty"`
	Address string `json:"address,omitempty"`
	// Open is true while this gate listens for others.
	Open    bool   `json:"open"`
	Budgets string `json:"budgets,omitempty"`
	// Share is the part of every throttle's budget this gate hands out; Agreed that all gates it reaches divide alike.
	Share  float64 `json:"share"`
	Agreed bool    `json:"agreed"`
	// Rules and Lifts are how many decisions are shared.
	Rules int    `json:"rules"`
	Lifts int    `json:"lifts"`
	Gates []Gate `json:"gates"`
	// Problems are in words.
	Problems []string `json:"problems,omitempty"`
}

// Gate is another gate.
type Gate struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"`
	// State is reachable, or away: it keeps its share until it is forgotten.
	State string `json:"state"`
	// AwaySeconds is for how long it has not been reached.
	AwaySeconds float64 `json:"awaySeconds,omitempty"`
	// Share is what it said last, absent when it said nothing yet.
	Share *float64 `json:"share,omitempty"`
	// ClockOffsetSeconds is how far its clock is ahead of this one's, the way of the message included.
	ClockOffsetSeconds *float64 `json:"clockOffsetSeconds,omitempty"`
}

// The states of another gate.
const (
	Reachable = "reachable"
	Away      = "away"
)

// Status says how it stands with the other gates.
func (p *Peers) Status() Status {
	decisions := *p.decisions.Load()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.opts.Clock()
	s := Status{
		Taken: now, Enabled: true, Name: p.opts.Config.Name, Open: p.list != nil, Budgets: string(p.opts.Config.Budgets),
		Share: 1, Agreed: true, Rules: len(decisions.Rules), Lifts: len(decisions.Lifts), Gates: []Gate{}, Problems: p.problems(),
	}
	gates := map[string]*Gate{}
	for _, n := range p.alive() {
		gates[n.Name] = &Gate{Name: n.Name, Address: n.Address(), State: Reachable}
	}
	if p.list != nil {
		s.Address = p.list.LocalNode().Address()
	}
	if p.shared() {
		s.Share, s.Agreed = float64(p.shares.Share())/agree.Whole, p.shares.Agreed()
		for _, o := range p.shares.Others() {
			g := gates[o.Name]
			if g == nil {
				g = &Gate{Name: o.Name, State: Away, AwaySeconds: now.Sub(o.There).Seconds()}
				gates[o.Name] = g
			}
			g.Share = o.Share
		}
	}
	for name, c := range p.clocks {
		if g := gates[name]; g != nil {
			offset := c.offset.Seconds()
			g.ClockOffsetSeconds = &offset
		}
	}
	for _, g := range gates {
		s.Gates = append(s.Gates, *g)
	}
	slices.SortFunc(s.Gates, func(a, b Gate) int { return cmp.Compare(a.Name, b.Name) })
	return s
}

// Warnings are what an operator should know of this gate and the others.
func (p *Peers) Warnings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problems()
}

func (p *Peers) problems() []string {
	var all []string
	if conflict := p.conflict.Load(); conflict != nil {
		all = append(all, *conflict)
	}
	for _, about := range slices.Sorted(maps.Keys(p.problem)) {
		all = append(all, p.problem[about])
	}
	return all
}
