package durability

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
)

// target is a user whom an operator blocks and lifts in turn, one change after the other.
type target struct {
	user   string
	client *http.Client

	// What the gate acknowledged last; known is false when it died over a change.
	known bool
	rule  string // the rule's id, "" when lifted
}

// ledger is everything the gate acknowledged so far.
type ledger struct{ set, lifted []string }

// TestKillAtAnyInstant kills the gate over and over, at instants drawn from a seed, while operators change rules and
// clients send requests. Whatever a gate acknowledged, the next one does, from its first answer on.
func TestKillAtAnyInstant(t *testing.T) {
	const (
		seed   = 20241211
		rounds = 30
	)
	random := rand.New(rand.NewPCG(seed, seed))
	r := newRig(t, "")
	var targets []*target
	for i := range 4 {
		user := fmt.Sprintf("target-%d", i)
		targets = append(targets, &target{user: user, client: r.client(user), known: true})
	}
	bystander := r.client("bystander")
	var acknowledged locked[ledger]
	inStart := 0
	for round := range rounds {
		r.start()
		if random.IntN(4) == 0 { // over its start
			<-time.After(time.Duration(random.IntN(60_000)) * time.Microsecond)
			inStart++
		} else {
			r.verify(round, targets)
			r.work(targets, bystander, &acknowledged, 1+random.IntN(8), time.Duration(random.IntN(20_000))*time.Microsecond)
		}
		r.kill()
		r.account(round, &acknowledged)
	}
	r.start()
	r.verify(rounds, targets)
	r.kill()
	r.account(rounds, &acknowledged)
	acknowledged.with(func(l *ledger) {
		t.Logf("%d rules set and %d lifted were acknowledged in %d rounds, %d of them killed over the start", len(l.set), len(l.lifted), rounds, inStart)
		if len(l.set) < rounds/2 || len(l.lifted) < rounds/2 {
			t.Error("too few changes to say anything")
		}
	})
	r.noLitter()
}

// verify holds the first answers of a new gate against what was acknowledged, and finds out how the changes ended over
// which the gate before died.
func (r *rig) verify(round int, targets []*target) {
	r.t.Helper()
	var asking sync.WaitGroup
	for _, to := range targets {
		asking.Go(func() {
			code, body := r.first(to.client)
			switch {
			case !to.known:
			case to.rule != "" && (code != http.StatusForbidden || !strings.Contains(body, to.rule)):
				r.t.Errorf("round %d: %s is blocked by %s, acknowledged, and gets %d: %s", round, to.user, to.rule, code, body)
			case to.rule == "" && code != http.StatusOK:
				r.t.Errorf("round %d: the block of %s was lifted, acknowledged, and it gets %d: %s", round, to.user, code, body)
			}
		})
	}
	asking.Wait()
	status, err := r.operator.Status(r.t.Context())
	if err != nil {
		r.t.Fatalf("round %d: %v", round, err)
	}
	if len(status.Warnings) > 0 {
		r.t.Errorf("round %d: the gate warns: %q", round, status.Warnings)
	}
	for _, to := range targets {
		i := slices.IndexFunc(status.Rules, func(rule v1alpha1.EmergencyRule) bool { return rule.Match.Users[0] == to.user })
		to.known, to.rule = true, ""
		if i >= 0 {
			to.rule = status.Rules[i].ID
		}
	}
}

// work changes rules and sends requests until the gate is killed, some time after a number of acknowledged changes.
func (r *rig) work(targets []*target, bystander *http.Client, acknowledged *locked[ledger], changes int, then time.Duration) {
	r.t.Helper()
	count := func() (n int) {
		acknowledged.with(func(l *ledger) { n = len(l.set) + len(l.lifted) })
		return n
	}
	enough := count() + changes
	ctx, cancel := context.WithCancel(r.t.Context())
	var working sync.WaitGroup
	for _, to := range targets {
		working.Go(func() {
			for ctx.Err() == nil && r.change(ctx, to, acknowledged) {
			}
		})
	}
	working.Go(func() {
		for ctx.Err() == nil {
			if code, body, err := r.ask(ctx, bystander); err == nil && code != http.StatusOK {
				r.t.Errorf("a bystander gets %d: %s", code, body)
				return
			}
		}
	})
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); count() < enough; {
		select {
		case <-tick.C:
		case <-deadline:
			r.t.Error("the gate acknowledges nothing")
			enough = 0
		}
	}
	<-time.After(then)
	_ = r.child.Process.Kill() // kill waits for it
	<-r.ended
	cancel()
	working.Wait()
}

// change makes one change and holds the next request against it. False: the gate is dead.
func (r *rig) change(ctx context.Context, to *target, acknowledged *locked[ledger]) bool {
	want := http.StatusOK
	if to.rule == "" {
		to.known = false
		result, err := r.operator.Set(ctx, emergency.Block(v1alpha1.LimitMatch{Users: []string{to.user}}, "a test", time.Hour), false)
		if err != nil {
			return false
		}
		if !result.Durable {
			r.t.Errorf("a rule is acknowledged and not durable: %q", result.Warnings)
		}
		to.known, to.rule, want = true, result.Rule.ID, http.StatusForbidden
		acknowledged.with(func(l *ledger) { l.set = append(l.set, to.rule) })
	} else {
		to.known = false
		if _, err := r.operator.Lift(ctx, to.rule, "a test"); err != nil {
			return false
		}
		lifted := to.rule
		to.known, to.rule = true, ""
		acknowledged.with(func(l *ledger) { l.lifted = append(l.lifted, lifted) })
	}
	code, body, err := r.ask(ctx, to.client)
	if err != nil {
		return false
	}
	if code != want {
		r.t.Errorf("%s gets %d after the answer, want %d: %s", to.user, code, want, body)
	}
	return true
}

// account looks at what a killed gate left on the disk.
func (r *rig) account(round int, acknowledged *locked[ledger]) {
	r.t.Helper()
	r.saved()
	if _, err := os.Stat(r.state + "/admin-audit.jsonl"); err != nil && round == 0 {
		return // killed before it made the file
	}
	seen := map[string]bool{}
	for _, e := range r.chain() {
		if e.Rule != nil {
			seen[e.Event+" "+e.Rule.ID] = true
		}
	}
	acknowledged.with(func(l *ledger) {
		for _, id := range l.set {
			if !seen["set "+id] {
				r.t.Errorf("round %d: setting %s was acknowledged and is not in the audit", round, id)
			}
		}
		for _, id := range l.lifted {
			if !seen["lift "+id] {
				r.t.Errorf("round %d: lifting %s was acknowledged and is not in the audit", round, id)
			}
		}
	})
}

// noLitter: what a dying gate leaves half-written must not pile up.
func (r *rig) noLitter() {
	r.t.Helper()
	entries, err := os.ReadDir(r.state)
	check(r.t, err)
	// The last death may have been over one file of each kind.
	litter := map[string]int{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			litter[strings.TrimRight(e.Name(), "0123456789")]++
		}
	}
	for name, n := range litter {
		if n > 1 {
			r.t.Errorf("%d temporary files %s… were left behind: %v", n, name, entries)
		}
	}
}
