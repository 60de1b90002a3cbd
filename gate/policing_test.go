package gate

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admin"
	"github.com/seakeep/seakeep/gate/admit"
	"github.com/seakeep/seakeep/gate/budget"
	"github.com/seakeep/seakeep/gate/clamp"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/gate/upstream"
)

// policed is a gate without listeners: what its policies see and do, with time in the test's hand.
type policed struct {
	*Gate
	t      *testing.T
	now    time.Time
	passes []*limit.Pass
	stop   func()
}

const rolledOut = "system:serviceaccount:telemetry:telemetry"

func police(t *testing.T, dir string, change func(*v1alpha1.GateConfiguration)) *policed {
	t.Helper()
	cfg := &v1alpha1.GateConfiguration{StateDir: dir, Admin: v1alpha1.GateAdmin{Socket: filepath.Join(dir, "s")}}
	cfg.Clamp = v1alpha1.GateClamp{Mode: v1alpha1.PolicyEnforce, Capacity: 8, Nodes: 300}
	if change != nil {
		change(cfg)
	}
	cfg.SetDefaults()
	p := &policed{t: t, now: time.Now().Truncate(time.Second)}
	clock := func() time.Time { return p.now }
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	p.Gate = &Gate{
		opts: Options{Registerer: prometheus.NewRegistry()}, log: log, config: cfg, limits: limit.New(limit.Options{Clock: clock}),
		upstreams: upstream.NewKeeper(nil, log),
	}
	var err error
	if p.admission, err = admit.New(admit.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := p.admission.Configure(cfg.Overload); err != nil {
		t.Fatal(err)
	}
	p.policy = newPolicing(p.Gate, cfg)
	p.policy.use(cfg)
	p.admin, err = admin.New(admin.Options{Config: cfg.Admin, StateDir: dir, Engine: p.limits, Clock: clock, Clamp: p.policy.clampStatus})
	if err != nil {
		t.Fatal(err)
	}
	p.policy.restore()
	p.look()
	stopped := false
	p.stop = func() {
		if stopped {
			return
		}
		stopped = true
		p.policy.keep(p.now)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := p.admin.Run(ctx); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(p.stop)
	return p
}

func (p *policed) look() {
	p.now = p.now.Add(lookEvery)
	p.policy.look(p.now)
}

// arrive sends a LIST of an address that does not end by itself; it says why it was turned away, nil when it was not.
func (p *policed) arrive(user string, source int) *limit.Rejection {
	f := &flow.Request{
		Caller: flow.Caller{User: user, Certainty: flow.TokenVerified}, UserAgent: fmt.Sprint("made-up/", source), Lane: flow.Standard, Verb: "list",
		Resource: "pods", Scope: v1alpha1.ScopeCluster, Source: netip.AddrFrom4([4]byte{10, 0, byte(source >> 8), byte(source)}),
	}
	pass, rejection := p.limits.Admit(f, func(error) {})
	if pass != nil {
		pass.Seated(1)
		p.passes = append(p.passes, pass)
	}
	return rejection
}

// end lets everything end that is open.
func (p *policed) end() {
	for _, pass := range p.passes {
		pass.Done()
	}
	p.passes = nil
}

// rollOut starts three sources in each half second, each with three LISTs, until the user is suspect.
func (p *policed) rollOut(user string) {
	p.t.Helper()
	for source := range 150 {
		for range 3 {
			p.arrive(user, source)
		}
		if source%3 == 2 {
			p.look()
			if len(p.suspects()) > 0 {
				return
			}
		}
	}
	p.t.Fatal("nobody is suspect")
}

func (p *policed) suspects() []clamp.Suspect { return p.policy.clampStatus().(clamp.Status).Suspects }

// A rollout is clamped within seconds, whatever its user agent, shown and kept like an operator's rule, and let go when it is
// lifted.
func TestGrowthClamp(t *testing.T) {
	dir := t.TempDir()
	p := police(t, dir, nil)
	began := p.now
	p.rollOut(rolledOut)
	if took := p.now.Sub(began); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	rules := p.admin.Rules()
	if len(rules) != 1 || rules[0].By != clampActor || rules[0].Mode != v1alpha1.Enforce || !strings.Contains(rules[0].Reason, "grows with its nodes") ||
		len(rules[0].Match.Users) != 1 || rules[0].Match.Users[0] != rolledOut || rules[0].Expires.Sub(p.now) > 10*time.Minute {
		t.Fatalf("%+v", rules)
	}
	p.end()
	if r := p.arrive(rolledOut, 900); r != nil {
		t.Errorf("the first through the clamp: %s", r.Reason)
	}
	if r := p.arrive(rolledOut, 901); r == nil || r.Rule != rules[0].ID || r.Code != 429 {
		t.Errorf("the second: %+v", r)
	}
	if r := p.arrive("system:serviceaccount:other:agent", 902); r != nil {
		t.Errorf("another: %s", r.Reason)
	}

	// It is prolonged while it is asked for, over a restart, and ends when an operator says so.
	p.stop()
	p.end()
	at := p.now
	p = police(t, dir, nil)
	p.now = at
	p.look()
	if s := p.suspects(); len(s) != 1 || s[0].Rule != rules[0].ID {
		t.Fatalf("after a restart: %+v", s)
	}
	p.arrive(rolledOut, 1)
	for range 80 { // 320 s: past its half
		p.now = p.now.Add(4*time.Second - lookEvery)
		p.look()
	}
	p.arrive(rolledOut, 2) // one that has no place, which takes it a second to find out
	p.look()
	if now := p.admin.Rules(); len(now) != 1 || now[0].Expires.Sub(p.now) < 5*time.Minute {
		t.Errorf("not prolonged: %+v", now)
	}
	if err := p.admin.Withdraw(rules[0].ID, "it is ours", "uid 0"); err != nil {
		t.Fatal(err)
	}
	p.look()
	for source := range 60 {
		p.arrive(rolledOut, 100+source)
		p.look()
	}
	if now := p.admin.Rules(); len(now) != 0 {
		t.Errorf("clamped again after it was lifted: %+v", now)
	}
	if s := p.suspects(); len(s) != 1 || s[0].Spared != clamp.SparedLifted {
		t.Errorf("%+v", s)
	}
	p.end()
	audit, err := os.ReadFile(filepath.Join(dir, "admin-audit.jsonl"))
	for _, event := range []string{`"event":"set","by":"growth clamp"`, `"event":"prolong","by":"growth clamp"`, `"event":"lift","by":"uid 0"`} {
		if err != nil || !strings.Contains(string(audit), event) {
			t.Errorf("the audit has no %s, %v", event, err)
		}
	}
}

func TestGrowthClampInShadow(t *testing.T) {
	p := police(t, t.TempDir(), func(c *v1alpha1.GateConfiguration) { c.Clamp.Mode = "" })
	p.rollOut(rolledOut)
	if rules := p.admin.Rules(); len(rules) != 1 || rules[0].Mode != v1alpha1.Shadow {
		t.Fatalf("%+v", rules)
	}
	for source := range 20 {
		if r := p.arrive(rolledOut, source); r != nil {
			t.Fatalf("turned away: %+v", r)
		}
	}
	p.now = p.now.Add(2 * time.Second)
	if s := p.policy.shadowStatus().(v1alpha1.ShadowStatus); len(s.Rejected) == 0 || s.Rejected[0].User != rolledOut {
		t.Errorf("%+v", s)
	}
	// Another mode takes the rule back.
	cfg := *p.config
	cfg.Clamp.Mode = v1alpha1.PolicyDisabled
	p.policy.use(&cfg)
	if rules := p.admin.Rules(); len(rules) != 0 {
		t.Errorf("%+v", rules)
	}
	p.look()
	if s := p.policy.clampStatus().(clamp.Status); s.Mode != "Disabled" || len(s.Suspects) != 0 {
		t.Errorf("%+v", s)
	}
	p.end()
}

// Where requests are admitted, a LIST holds up to ten seats; what they are held against must be in the same seats.
func TestGrowthClampAgainstAdmission(t *testing.T) {
	p := police(t, t.TempDir(), func(c *v1alpha1.GateConfiguration) {
		c.Clamp.Capacity = 0
		c.Overload = v1alpha1.NewGateOverload(v1alpha1.OverloadEnforce)
		c.Overload.Limit.Initial = 120
	})
	p.look()
	if s := p.policy.status; s.Capacity != 120 || s.CapacitySource != "admission" {
		t.Errorf("%+v", s)
	}
}

// What the cluster lives by is named and never clamped.
func TestGrowthClampSpares(t *testing.T) {
	for user, why := range map[string]string{
		"system:serviceaccount:kube-system:kube-proxy":    clamp.SparedSystem,
		"system:serviceaccount:calico-system:calico-node": clamp.SparedSystem,
		"system:kube-scheduler":                           clamp.SparedSystem,
		"system:node:a":                                   clamp.SparedSystem,
		"a*":                                              clamp.SparedSystem,
		"system:serviceaccount:backup:agent":              clamp.SparedExempt,
		"batch-jane":                                      clamp.SparedExempt,
	} {
		t.Run(user, func(t *testing.T) {
			p := police(t, t.TempDir(), func(c *v1alpha1.GateConfiguration) {
				c.Clamp.Exempt = []v1alpha1.CallerMatch{{ServiceAccountNamespaces: []string{"backup"}}, {Users: []string{"batch-*"}}}
			})
			p.rollOut(user)
			if s := p.suspects(); s[0].Spared != why || len(p.admin.Rules()) != 0 {
				t.Errorf("%+v", s)
			}
			p.end()
		})
	}
}

// A budget that was read holds over a restart, without an API server.
func TestBudgetsWithoutAnAPIServer(t *testing.T) {
	dir := t.TempDir()
	budgets := func(c *v1alpha1.GateConfiguration) {
		c.Budgets = &v1alpha1.GateBudgets{Mode: v1alpha1.PolicyEnforce, Default: "seats=2", Max: "seats=100"}
	}
	p := police(t, dir, budgets)
	p.policy.changed(&budget.Cluster{Nodes: 300, Declarations: []budget.Declaration{
		{Account: "telemetry/telemetry", Kind: "DaemonSet", Name: "t", Budget: "seats-per-node=0.001"}, // 0.3 seats on 300 nodes
		{Account: "telemetry/telemetry", Kind: "Deployment", Name: "h", Budget: "nonsense", Error: "…"},
	}})
	hold := func(user string) (held int) {
		for i := range 20 {
			if p.arrive(user, i) == nil {
				held++
			}
		}
		return held
	}
	if n := hold(rolledOut); n != 2 {
		t.Errorf("%d at once of 0.3 seats, want 2", n)
	}
	if n := hold("system:serviceaccount:other:agent"); n != 8 {
		t.Errorf("%d at once of the default of 2 seats, want 8", n)
	}
	for _, user := range []string{"system:serviceaccount:kube-system:job-controller", "jane"} {
		if n := hold(user); n != 20 {
			t.Errorf("%s: %d of 20", user, n)
		}
	}
	status := p.policy.budgetStatus().(budget.Status)
	if status.Mode != "Enforce" || len(status.Accounts) != 2 {
		t.Errorf("%+v", status)
	}
	p.end()
}
