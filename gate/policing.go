package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/budget"
	"github.com/seakeep/seakeep/gate/clamp"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/internal/statefile"
)

const (
	// clampActor is who sets clamps, for the audit.
	clampActor = "growth clamp"
	// lookEvery is how often clients are looked at: a DaemonSet's first pods can saturate an API server within seconds.
	lookEvery = 500 * time.Millisecond
	// seatsPerProcessor is what an API server carries before it gets slow: a request waits for etcd and for its client most of
	// the time, a LIST does not.
	seatsPerProcessor = 4
	// processorsGuessed for an API server that does not say.
	processorsGuessed = 2
	// knownName keeps from how many sources clients came, every keepKnown.
	knownName = "clamp-known.json"
	keepKnown = time.Minute
)

// sparedNamespaces hold what pods cannot live without: network plugins and cluster DNS.
var sparedNamespaces = []string{
	"kube-system", "calico-system", "calico-apiserver", "tigera-operator", "kube-flannel", "cilium", "kube-ovn", "kube-router", "antrea-system",
	"openshift-dns", "openshift-multus", "openshift-ovn-kubernetes", "openshift-sdn",
}

// policing is what the gate does by itself about what clients cost: the growth clamp and API budgets. It outlives reloads.
type policing struct {
	gate    *Gate
	log     *slog.Logger
	began   time.Time
	reading *budget.Reading
	metrics *policingMetrics
	known   *statefile.File
	policy  atomic.Pointer[policy]
	cluster atomic.Pointer[budget.Cluster]

	mu      sync.Mutex // guards what follows
	decider *clamp.Decider
	last    time.Time
	saved   map[string]int
	kept    time.Time
	imposed map[string]imposed // clamps in force, by user
	status  clamp.Status
}

// imposed is a clamp's rule.
type imposed struct {
	id    string
	until time.Time
}

// policy is what a configuration says.
type policy struct {
	clamp   v1alpha1.GateClamp
	budgets *v1alpha1.GateBudgets
	exempt  *limit.Callers
	excused *limit.Callers // of budgets
	most    *v1alpha1.APIBudget
	fallen  v1alpha1.APIBudget // the default budget
}

func newPolicing(g *Gate, cfg *v1alpha1.GateConfiguration) *policing {
	p := &policing{
		gate: g, log: g.log, began: time.Now(), metrics: newPolicingMetrics(g.opts.Registerer), imposed: map[string]imposed{},
		known: statefile.New(cfg.StateDir, knownName, 1),
	}
	if _, err := p.known.Load(&p.saved); err != nil && !errors.Is(err, statefile.ErrNone) {
		p.log.Warn("Beginning without what is known of clients' sources", "reason", err)
	}
	p.policy.Store(policyOf(cfg))
	p.decider = clamp.New(p.policy.Load().decides(), p.saved)
	p.reading = budget.New(budget.Options{
		Upstream: p, StateDir: cfg.StateDir, Settings: p.settings, Changed: p.changed, Registerer: g.opts.Registerer, Log: g.log,
	})
	return p
}

func policyOf(cfg *v1alpha1.GateConfiguration) *policy {
	next := &policy{clamp: cfg.Clamp, budgets: cfg.Budgets, exempt: limit.CompileCallers(cfg.Clamp.Exempt)}
	if b := cfg.Budgets; b != nil {
		next.excused = limit.CompileCallers(b.Exempt)
		if most, err := v1alpha1.ParseAPIBudget(b.Max); err == nil {
			next.most = &most
		}
		next.fallen, _ = v1alpha1.ParseAPIBudget(b.Default) // "" is none; what is wrong was refused
	}
	return next
}

func (p *policy) decides() clamp.Policy {
	return clamp.Policy{HeadroomPercent: p.clamp.HeadroomPercent, Duration: p.clamp.Duration.Duration, Spare: p.spare}
}

// spare says why a user is never clamped.
func (p *policy) spare(user string) string {
	switch {
	case isSystem(user), strings.ContainsAny(user, "*?"): // a rule for such a name would select others as well
		return clamp.SparedSystem
	case p.exempt.Match(user):
		return clamp.SparedExempt
	}
	return ""
}

// isSystem is true for what keeps the cluster alive.
func isSystem(user string) bool {
	rest, account := strings.CutPrefix(user, "system:serviceaccount:")
	if !account {
		return strings.HasPrefix(user, "system:") || strings.HasPrefix(user, "seakeep:")
	}
	namespace, _, _ := strings.Cut(rest, ":")
	return slices.Contains(sparedNamespaces, namespace)
}

// use puts a configuration in force.
func (p *policing) use(cfg *v1alpha1.GateConfiguration) {
	next := policyOf(cfg)
	before := p.policy.Swap(next)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.decider.SetPolicy(next.decides())
	if before.clamp.Mode != next.clamp.Mode {
		for user, rule := range maps.Clone(p.imposed) {
			p.withdraw(user, rule)
		}
	}
	p.enforceBudgets(next)
}

func (p *policing) withdraw(user string, rule imposed) {
	if p.gate.admin == nil {
		return
	}
	if err := p.gate.admin.Withdraw(rule.id, "the policy's mode was changed", clampActor); err != nil {
		p.log.Warn("Withdrawing a clamp", "rule", rule.id, "reason", err)
	}
	delete(p.imposed, user)
	p.decider.Ended(user, time.Now(), false)
}

// settings tell the reading what to read.
func (p *policing) settings() budget.Settings {
	now := p.policy.Load()
	s := budget.Settings{Callees: p.gate.admission.Limit() > 0}
	switch {
	case now.budgets != nil && now.budgets.Mode != v1alpha1.PolicyDisabled:
		s.Refresh, s.Declarations = now.budgets.Refresh.Duration, true
	case s.Callees, now.clamp.Mode != v1alpha1.PolicyDisabled && (now.clamp.Nodes == 0 || now.clamp.Capacity == 0):
		s.Refresh = 3 * time.Minute
	}
	return s
}

// RoundTrip implements http.RoundTripper: the gate's own way, as the policy's user.
func (p *policing) RoundTrip(r *http.Request) (*http.Response, error) {
	user := v1alpha1.PolicyUser
	if b := p.policy.Load().budgets; b != nil {
		user = b.User
	}
	return (&ownWay{gate: p.gate, user: user}).RoundTrip(r)
}

// changed takes what was read of the cluster.
func (p *policing) changed(c *budget.Cluster) {
	p.cluster.Store(c)
	callees := make([]string, len(c.Callees))
	for i, callee := range c.Callees {
		callees[i] = callee.User
	}
	p.gate.admission.SetCallees(callees)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.enforceBudgets(p.policy.Load())
}

// enforceBudgets hands the budgets to the limits; p.mu is held.
func (p *policing) enforceBudgets(now *policy) {
	b := now.budgets
	if b == nil {
		p.gate.limits.SetBudgets(limit.Budgets{Mode: v1alpha1.PolicyDisabled})
		return
	}
	cluster := p.cluster.Load()
	nodes, _ := p.nodes(now, cluster, limit.Usage{Nodes: p.status.Nodes})
	budgets := limit.Budgets{Mode: b.Mode, Seats: map[string]float64{}, Default: now.fallen.On(nodes), Exempt: func(user string) bool {
		return strings.HasPrefix(user, "system:serviceaccount:kube-system:") || now.excused.Match(user)
	}}
	if cluster != nil {
		for _, account := range budget.Accounts(cluster.Declarations, nodes, now.most) {
			budgets.Seats[account.User] = account.Seats
		}
	}
	p.gate.limits.SetBudgets(budgets)
}

// run looks at clients, and reads the cluster, until the context ends.
func (p *policing) run(ctx context.Context) {
	var owned sync.WaitGroup
	owned.Go(func() { p.reading.Run(ctx) })
	defer owned.Wait()
	p.restore()
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			p.keep(time.Now())
			return
		case <-ticker.C:
			p.look(time.Now())
		}
	}
}

// restore learns of the clamps that were in force before a restart.
func (p *policing) restore() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, rule := range p.gate.admin.Rules() {
		if rule.By != clampActor || len(rule.Match.Users) != 1 || rule.Throttle == nil || rule.Throttle.Concurrency == nil {
			continue
		}
		user := rule.Match.Users[0]
		p.imposed[user] = imposed{id: rule.ID, until: rule.Expires.Time}
		p.decider.Clamped(user, rule.ID, rule.Created.Time, rule.Expires.Time, *rule.Throttle.Concurrency)
	}
}

// look takes one observation and does what is decided on it.
func (p *policing) look(now time.Time) {
	usage := p.gate.limits.TakeUsage()
	p.mu.Lock()
	defer p.mu.Unlock()
	elapsed := now.Sub(p.last).Seconds()
	p.last = now
	rules := p.policy.Load()
	if rules.clamp.Mode == v1alpha1.PolicyDisabled || elapsed <= 0 || elapsed > 10*lookEvery.Seconds() { // the first, or the clock jumped
		p.status = clamp.Status{Nodes: p.status.Nodes}
		return
	}
	p.reconcile(now)
	o := p.observation(rules, &usage, now, elapsed)
	for _, d := range p.decider.Observe(o) {
		p.act(rules, &d, now)
	}
	p.status.Suspects = p.decider.Suspects()
	p.metrics.tell(p.status.Suspects)
	if now.Sub(p.kept) >= keepKnown {
		p.kept = now
		p.keepLocked()
	}
}

func (p *policing) observation(rules *policy, usage *limit.Usage, now time.Time, elapsed float64) clamp.Observation {
	o := clamp.Observation{At: now, Seats: usage.SeatSeconds / elapsed, Clients: make([]clamp.Client, 0, len(usage.Clients))}
	for _, c := range usage.Clients {
		o.Clients = append(o.Clients, clamp.Client{
			User: c.User, Seats: c.SeatSeconds / elapsed, SettledSeats: c.SettledSeatSeconds / elapsed, BytesPerSecond: float64(c.Bytes) / elapsed,
			Sources: c.Sources, Settled: c.Settled, Refused: c.Refused,
		})
	}
	cluster := p.cluster.Load()
	s := clamp.Status{Taken: now, Mode: string(rules.clamp.Mode), HeadroomPercent: rules.clamp.HeadroomPercent, Seats: o.Seats}
	s.Nodes, s.NodesSource = p.nodes(rules, cluster, *usage)
	s.Capacity, s.CapacitySource = p.seats(rules, cluster)
	o.Nodes, o.Capacity = s.Nodes, s.Capacity
	p.status = s
	return o
}

// nodes is how many sources a client may come to have, and how that is known.
func (p *policing) nodes(rules *policy, cluster *budget.Cluster, usage limit.Usage) (n int, source string) {
	switch {
	case rules.clamp.Nodes > 0:
		return rules.clamp.Nodes, "configured"
	case cluster != nil && cluster.Nodes > 0:
		return max(cluster.Nodes, usage.Nodes), "nodes"
	}
	return usage.Nodes, "kubelets seen"
}

// seats is how many seats all API servers have, and how that is known.
func (p *policing) seats(rules *policy, cluster *budget.Cluster) (seats float64, source string) {
	servers := max(1, len(p.gate.upstreams.Servers()))
	limit := p.gate.admission.Limit()
	switch {
	case rules.clamp.Capacity > 0:
		return float64(rules.clamp.Capacity), "configured"
	case limit > 0: // a LIST holds up to ten of these, and one of those below
		return float64(limit), "admission"
	case cluster != nil && cluster.Processors > 0:
		return float64(servers * cluster.Processors * seatsPerProcessor), "processors"
	}
	return float64(servers * processorsGuessed * seatsPerProcessor), "guessed"
}

// reconcile finds out which clamps have ended, and whether somebody ended them.
func (p *policing) reconcile(now time.Time) {
	if len(p.imposed) == 0 {
		return
	}
	left := map[string]bool{}
	for _, rule := range p.gate.admin.Rules() {
		left[rule.ID] = true
	}
	for user, rule := range p.imposed {
		if left[rule.id] {
			continue
		}
		lifted := now.Before(rule.until.Add(-time.Second))
		p.log.Info("Growth clamp is over", "user", user, "rule", rule.id, "lifted", lifted)
		delete(p.imposed, user)
		p.decider.Ended(user, now, lifted)
	}
}

func (p *policing) act(rules *policy, d *clamp.Decision, now time.Time) {
	s := &d.Suspect
	switch d.Kind {
	case clamp.Name:
		p.metrics.named.WithLabelValues(cmp.Or(s.Spared, "none")).Inc()
		p.log.Warn("The cost of a client grows with the nodes it runs on and would pass the headroom", "user", s.User, "sources", s.Sources,
			"nodes", s.Nodes, "seats", round(s.Seats), "seatsPerSource", round(s.SeatsPerSource), "forecast", round(s.Forecast), "headroom", round(s.Headroom), "spared", s.Spared)
	case clamp.Clamp:
		p.impose(rules, s, now)
	case clamp.Renew:
		until, err := p.gate.admin.Prolong(s.Rule, rules.clamp.Duration.Duration, "its cause persists", clampActor)
		if err != nil {
			p.log.Warn("Prolonging a growth clamp", "user", s.User, "rule", s.Rule, "reason", err)
			return
		}
		p.metrics.clamps.WithLabelValues("renewed").Inc()
		p.imposed[s.User] = imposed{id: s.Rule, until: until}
		p.decider.Clamped(s.User, s.Rule, now, until, s.Concurrency)
	}
}

// impose clamps a suspect: an emergency throttle of that user, which everybody sees and anybody in charge can lift.
func (p *policing) impose(rules *policy, s *clamp.Suspect, now time.Time) {
	reason := fmt.Sprintf("its cost grows with its nodes: %.1f seats from %d of %d nodes, %.1f on all of them, %.1f are free for it",
		s.Seats, s.Sources, s.Nodes, s.Forecast, s.Headroom)
	concurrency := s.Concurrency
	result, err := p.gate.admin.Impose(&v1alpha1.EmergencyRule{
		Action: v1alpha1.EmergencyThrottle, Match: v1alpha1.LimitMatch{Users: []string{s.User}}, Mode: v1alpha1.Mode(rules.clamp.Mode),
		Throttle: &v1alpha1.Throttle{Concurrency: &concurrency, Per: v1alpha1.PerUser},
		Reason:   reason, Duration: metav1.Duration{Duration: rules.clamp.Duration.Duration},
	}, clampActor)
	if err != nil {
		p.metrics.clamps.WithLabelValues("failed").Inc()
		p.log.Error("Clamping a client", "user", s.User, "reason", err)
		return
	}
	p.metrics.clamps.WithLabelValues(strings.ToLower(string(rules.clamp.Mode))).Inc()
	p.imposed[s.User] = imposed{id: result.Rule.ID, until: result.Rule.Expires.Time}
	p.decider.Clamped(s.User, result.Rule.ID, now, result.Rule.Expires.Time, concurrency)
}

func (p *policing) keep(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept = now
	p.keepLocked()
}

func (p *policing) keepLocked() {
	known := p.decider.Known()
	if maps.Equal(known, p.saved) {
		return
	}
	if err := p.known.Save(known); err != nil {
		p.log.Error("What is known of clients' sources will not survive a restart", "reason", err)
	}
	p.saved = known
}

func round(f float64) float64 { return float64(int(f*1000+0.5)) / 1000 }
