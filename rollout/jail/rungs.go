package jail

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Freeze is the first rung. It does nothing, which is what it is: each wave needs a grant, and none is given any more.
type Freeze struct{}

// Name implements Rung.
func (Freeze) Name() string { return string(v1alpha1.RungFreeze) }

// HitsStable implements Rung.
func (Freeze) HitsStable() bool { return false }

// ReducesLoad implements Rung.
func (Freeze) ReducesLoad() bool { return true }

// Prove implements Rung.
func (Freeze) Prove(context.Context, Component) error { return nil }

// Do implements Rung.
func (Freeze) Do(context.Context, Component, string, time.Duration) error { return nil }

// Undo implements Rung: a frozen rollout is resumed by people, not here.
func (Freeze) Undo(context.Context, Component) error { return nil }

// Gates are all gates of a cluster, over their admin endpoints.
type Gates interface {
	// Set puts a rule in force on every gate, or has every gate check it.
	Set(ctx context.Context, rule v1alpha1.EmergencyRule, dryRun bool) error
	// Rules are those in force on any gate.
	Rules(ctx context.Context) ([]v1alpha1.EmergencyRule, error)
	// Lift takes a rule out of force on every gate that has it.
	Lift(ctx context.Context, id, reason string) error
}

// Gate blocks the pods of the update revision at the gates, and ends what they have open. Where a token does not say which pod it
// was issued to there is nothing to tell the revisions apart by, and nothing is blocked: the next rung is for the whole component.
type Gate struct{ Gates Gates }

// maxRulePods is how many pods one rule may name; more are blocked by a pattern over their common beginning.
const maxRulePods = 200

// Name implements Rung.
func (Gate) Name() string { return string(v1alpha1.RungGate) }

// HitsStable implements Rung: only pods of the update revision match.
func (Gate) HitsStable() bool { return false }

// ReducesLoad implements Rung.
func (Gate) ReducesLoad() bool { return true }

// mark begins the reason of a rule of ours, so that the next process finds it.
func mark(c Component) string { return "rollout " + c.Rollout + ": " }

func (g Gate) rule(c Component, pods []string, reason string, length time.Duration) (v1alpha1.EmergencyRule, error) {
	namespace, name, ok := strings.Cut(c.ServiceAccount, "/")
	if !ok || namespace == "" || name == "" {
		return v1alpha1.EmergencyRule{}, fmt.Errorf("the component runs under no service account of its own (%q)", c.ServiceAccount)
	}
	rule := v1alpha1.EmergencyRule{
		Action: v1alpha1.EmergencyBlock, Reason: oneLine(mark(c) + reason), Duration: metav1.Duration{Duration: length},
		// User agents would only narrow, and a component that changed its own would slip through.
		Match: v1alpha1.LimitMatch{Users: []string{"system:serviceaccount:" + namespace + ":" + name}, Pods: pods},
	}
	rule.SetDefaults()
	if errs := rule.Validate(); len(errs) > 0 {
		return rule, errs.ToAggregate()
	}
	return rule, nil
}

// Prove implements Rung: every gate is asked to check the rule.
func (g Gate) Prove(ctx context.Context, c Component) error {
	pods := c.UpdatePods
	if len(pods) == 0 {
		pods = []string{c.Namespace + "/" + c.Name + "-xxxxx"} // nobody runs the update yet
	}
	rule, err := g.rule(c, pods[:min(len(pods), maxRulePods)], "pre-flight", time.Minute)
	if err != nil {
		return err
	}
	if err := g.Gates.Set(ctx, rule, true); err != nil {
		return fmt.Errorf("asking the gates to check a rule: %w", err)
	}
	return nil
}

// Do implements Rung. Done again, it names the pods that there are now.
func (g Gate) Do(ctx context.Context, c Component, reason string, length time.Duration) error {
	if len(c.UpdatePods) == 0 {
		return errors.New("no pod of the update revision is known to block")
	}
	old, err := g.ours(ctx, c)
	if err != nil {
		return err
	}
	for pods := range slices.Chunk(c.UpdatePods, maxRulePods) {
		rule, err := g.rule(c, pods, reason, length)
		if err != nil {
			return err
		}
		if err := g.Gates.Set(ctx, rule, false); err != nil {
			return fmt.Errorf("blocking at the gates: %w", err)
		}
	}
	return g.lift(ctx, old, "replaced")
}

// Undo implements Rung.
func (g Gate) Undo(ctx context.Context, c Component) error {
	old, err := g.ours(ctx, c)
	if err != nil {
		return err
	}
	return g.lift(ctx, old, "taken back")
}

func (g Gate) ours(ctx context.Context, c Component) ([]string, error) {
	rules, err := g.Gates.Rules(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking the gates for their rules: %w", err)
	}
	var ids []string
	for _, r := range rules {
		if strings.HasPrefix(r.Reason, mark(c)) && !slices.Contains(ids, r.ID) {
			ids = append(ids, r.ID)
		}
	}
	return ids, nil
}

func (g Gate) lift(ctx context.Context, ids []string, reason string) error {
	var errs []error
	for _, id := range ids {
		if err := g.Gates.Lift(ctx, id, reason); err != nil {
			errs = append(errs, fmt.Errorf("lifting the rule %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}

// oneLine is a reason as rules take it: one line, at most 500 bytes.
func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return strings.ToValidUTF8(s[:min(len(s), 400)], "")
}

// Jailer puts a service account into a priority level of API Priority and Fairness that dispatches nothing.
type Jailer interface {
	// Jail jails it for so long, or has the API server check that. Again is the same, for longer.
	Jail(ctx context.Context, serviceAccount, reason string, length time.Duration, dryRun bool) error
	// Unjail frees it; nil when it is not in jail.
	Unjail(ctx context.Context, serviceAccount string) error
}

// APF jails the component's service account. Watches that are open stay open, and cost nothing more than events; requests are
// queued in vain and then answered 429.
type APF struct{ Jailer Jailer }

// Name implements Rung.
func (APF) Name() string { return string(v1alpha1.RungAPF) }

// HitsStable implements Rung: API Priority and Fairness sees users, not pods.
func (APF) HitsStable() bool { return true }

// ReducesLoad implements Rung.
func (APF) ReducesLoad() bool { return true }

// Prove implements Rung: the API server checks both objects, with the rights and the admission they would meet, and stores
// neither.
func (a APF) Prove(ctx context.Context, c Component) error {
	if err := ownAccount(c); err != nil {
		return err
	}
	if err := a.Jailer.Jail(ctx, c.ServiceAccount, "pre-flight", time.Minute, true); err != nil {
		return fmt.Errorf("having the API server check a jail for %s: %w", c.ServiceAccount, err)
	}
	return nil
}

// Do implements Rung.
func (a APF) Do(ctx context.Context, c Component, reason string, length time.Duration) error {
	if err := ownAccount(c); err != nil {
		return err
	}
	return a.Jailer.Jail(ctx, c.ServiceAccount, oneLine(mark(c)+reason), length, false)
}

// Undo implements Rung.
func (a APF) Undo(ctx context.Context, c Component) error {
	return a.Jailer.Unjail(ctx, c.ServiceAccount)
}

// ownAccount refuses an account that is not the component's alone: default is whatever runs in the namespace.
func ownAccount(c Component) error {
	namespace, name, ok := strings.Cut(c.ServiceAccount, "/")
	switch {
	case !ok || namespace == "" || name == "":
		return fmt.Errorf("the component runs under no service account (%q): give it one of its own", c.ServiceAccount)
	case name == "default":
		return fmt.Errorf("the component runs as %s, like everything else in its namespace: give it a service account of its own", c.ServiceAccount)
	}
	return nil
}

// Reverter puts the template from before the change back and deletes the new pods, within the rollout's budget.
type Reverter interface {
	// Prove has the API server check the write and its rights, and stores nothing.
	Prove(ctx context.Context, c Component) error
	Revert(ctx context.Context, c Component, reason string) error
}

// Revert takes the change back.
type Revert struct{ Target Reverter }

// Name implements Rung.
func (Revert) Name() string { return string(v1alpha1.RungRevert) }

// HitsStable implements Rung.
func (Revert) HitsStable() bool { return false }

// ReducesLoad implements Rung: deletes and the pods that follow them cost something first.
func (Revert) ReducesLoad() bool { return false }

// Prove implements Rung.
func (r Revert) Prove(ctx context.Context, c Component) error { return r.Target.Prove(ctx, c) }

// Do implements Rung.
func (r Revert) Do(ctx context.Context, c Component, reason string, _ time.Duration) error {
	return r.Target.Revert(ctx, c, reason)
}

// Undo implements Rung: a change that was taken back is rolled out anew, not put back.
func (Revert) Undo(context.Context, Component) error { return nil }

// Emergency hands over to people, with the commands that do what was not done by itself.
type Emergency struct {
	// Tell is given the page; it must not need the cluster.
	Tell func(page string) error
}

// Name implements Rung.
func (Emergency) Name() string { return string(v1alpha1.RungEmergency) }

// HitsStable implements Rung.
func (Emergency) HitsStable() bool { return false }

// ReducesLoad implements Rung.
func (Emergency) ReducesLoad() bool { return true }

// Prove implements Rung.
func (e Emergency) Prove(context.Context, Component) error {
	if e.Tell == nil {
		return errors.New("there is nobody to tell")
	}
	return nil
}

// Do implements Rung.
func (e Emergency) Do(_ context.Context, c Component, reason string, _ time.Duration) error {
	return e.Tell(Page(c, reason))
}

// Undo implements Rung.
func (Emergency) Undo(context.Context, Component) error { return nil }

// Page is what people are given.
func Page(c Component, reason string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Cluster %s: the rollout %s of %s %s/%s is frozen and was not taken back by itself.\nWhy: %s\n", c.Cluster, c.Rollout, c.Kind, c.Namespace, c.Name, reason)
	fmt.Fprintf(&b, `
What is left, lightest first:
  seakeep emergency block --service-account %[1]s --for 1h --reason "rollout %[2]s"             # at the gates
  seakeep gate apf jail --service-account %[1]s --for 1h --detach --reason "rollout %[2]s"      # at the API servers, by the break-glass lane
  seakeep rollout rollback %[2]s --reason "%[2]s"                                               # back to the template from before
If the API server does not answer at all: stop the pods on their nodes, or drop their way to the API server
(seakeep emergency lockdown prints firewall rules).
`, c.ServiceAccount, c.Rollout)
	return b.String()
}
