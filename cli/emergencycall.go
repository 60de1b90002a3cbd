package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
)

func setEmergency(ctx context.Context, env *Env, target *emergencyTarget, rule *v1alpha1.EmergencyRule, dryRun bool) error {
	rule.SetDefaults()
	if errs := rule.Validate(); len(errs) > 0 {
		return usageError(fmt.Errorf("the rule is refused: %w", errs.ToAggregate()), emergencyHint)
	}
	gates, err := target.gates()
	if err != nil {
		return err
	}
	outcomes := emergency.Each(ctx, gates, func(ctx context.Context, g *emergency.Gate) (*v1alpha1.EmergencyRuleResult, error) {
		defer g.Close()
		return g.Set(ctx, rule, dryRun)
	})
	if err := writeEmergencyResults(env, target.output, outcomes); err != nil {
		return err
	}
	return emergencyError(outcomes)
}

// liftEmergency lifts the IDs on every gate that has them, or all rules when none is named. Rules have an ID of their
// own on each gate, so an ID that no gate knows is an error and one that some gate knows is not.
func liftEmergency(ctx context.Context, env *Env, target *emergencyTarget, ids []string, reason string) error {
	gates, err := target.gates()
	if err != nil {
		return err
	}
	found := make(map[string]bool)
	var outcomes []emergency.Outcome[v1alpha1.EmergencyRuleResult]
	for _, gate := range gates {
		defer gate.Close()
		lift := ids
		if len(ids) == 0 {
			status, err := gate.Status(ctx)
			if err != nil {
				outcomes = append(outcomes, emergency.Outcome[v1alpha1.EmergencyRuleResult]{Gate: gate.Name, Err: err})
				continue
			}
			for _, rule := range status.Rules {
				lift = append(lift, rule.ID)
			}
		}
		for _, id := range lift {
			result, err := gate.Lift(ctx, id, reason)
			if emergency.IsNotInForce(err) {
				continue
			}
			found[id] = true
			if err != nil {
				result = nil
			}
			outcomes = append(outcomes, emergency.Outcome[v1alpha1.EmergencyRuleResult]{Gate: gate.Name, Result: result, Err: err})
		}
	}
	if err := writeEmergencyResults(env, target.output, outcomes); err != nil {
		return err
	}
	if err := emergencyError(outcomes); err != nil {
		return err
	}
	for _, id := range ids {
		if !found[id] {
			return withHint(fmt.Errorf("no gate has a rule %q in force", id), "it may have expired; 'seakeep emergency status' shows what is in force")
		}
	}
	return nil
}

func showEmergency(ctx context.Context, env *Env, target *emergencyTarget) error {
	gates, err := target.gates()
	if err != nil {
		return err
	}
	outcomes := emergency.Each(ctx, gates, func(ctx context.Context, g *emergency.Gate) (*v1alpha1.EmergencyStatus, error) {
		defer g.Close()
		return g.Status(ctx)
	})
	if err := writeEmergencyStatus(env, target.output, outcomes); err != nil {
		return err
	}
	return emergencyError(outcomes)
}

// emergencyError is the end of a call on several gates: each failure is on Stderr already, this one sums up.
func emergencyError[T any](outcomes []emergency.Outcome[T]) error {
	var failed []error
	refused := 0
	for _, o := range outcomes {
		if o.Err == nil {
			continue
		}
		failed = append(failed, fmt.Errorf("gate %s: %w", o.Gate, o.Err))
		if emergency.IsRefused(o.Err) {
			refused++
		}
	}
	switch {
	case len(failed) == 0:
		return nil
	case refused == len(outcomes):
		return usageError(errors.Join(failed...), "nothing was changed; narrow the rule or name those who repair")
	}
	return withHint(fmt.Errorf("%d of %d: %w", len(failed), len(outcomes), errors.Join(failed...)),
		"is the gate running, and are you root or the user it runs as? If no gate answers, use the break-glass lane: 'seakeep break-glass check'")
}
