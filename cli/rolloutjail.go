package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seakeep/seakeep/apf"
	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/rollout/jail"
)

// jailer joins the ladder's rung to the one writer of API Priority and Fairness.
type jailer struct{ writer *apf.Writer }

var _ jail.Jailer = jailer{}

// Jail implements jail.Jailer.
func (j jailer) Jail(ctx context.Context, serviceAccount, reason string, length time.Duration, dryRun bool) error {
	_, err := j.writer.Jail(ctx, apf.Jail{ServiceAccount: serviceAccount, For: length, Reason: reason}, dryRun)
	return err
}

// Unjail implements jail.Jailer.
func (j jailer) Unjail(ctx context.Context, serviceAccount string) error {
	err := j.writer.Unjail(ctx, apf.Jail{ServiceAccount: serviceAccount}.Name())
	if errors.Is(err, apf.ErrNoJail) {
		return nil
	}
	return err
}

// gateRules joins the ladder's rung to the gates' admin endpoints. What not every gate does is an error: load would go round by
// the one that does not.
type gateRules []*emergency.Gate

var _ jail.Gates = gateRules{}

// Set implements jail.Gates.
func (g gateRules) Set(ctx context.Context, rule v1alpha1.EmergencyRule, dryRun bool) error {
	return joined(emergency.Each(ctx, g, func(ctx context.Context, gate *emergency.Gate) (*v1alpha1.EmergencyRuleResult, error) {
		return gate.Set(ctx, &rule, dryRun)
	}), func(error) bool { return false })
}

// Rules implements jail.Gates.
func (g gateRules) Rules(ctx context.Context) ([]v1alpha1.EmergencyRule, error) {
	outcomes := emergency.Each(ctx, g, func(ctx context.Context, gate *emergency.Gate) (*v1alpha1.EmergencyStatus, error) {
		return gate.Status(ctx)
	})
	var all []v1alpha1.EmergencyRule
	for _, o := range outcomes {
		if o.Result == nil {
			continue
		}
		for _, r := range o.Result.Rules {
			if !slices.ContainsFunc(all, func(have v1alpha1.EmergencyRule) bool { return have.ID == r.ID }) {
				all = append(all, r)
			}
		}
	}
	return all, joined(outcomes, func(error) bool { return false })
}

// Lift implements jail.Gates.
func (g gateRules) Lift(ctx context.Context, id, reason string) error {
	return joined(emergency.Each(ctx, g, func(ctx context.Context, gate *emergency.Gate) (*v1alpha1.EmergencyRuleResult, error) {
		return gate.Lift(ctx, id, reason)
	}), emergency.IsNotInForce)
}

func joined[T any](outcomes []emergency.Outcome[T], fine func(error) bool) error {
	if len(outcomes) == 0 {
		return errors.New("no gate is known")
	}
	var errs []error
	for _, o := range outcomes {
		if o.Err != nil && !fine(o.Err) {
			errs = append(errs, fmt.Errorf("%s: %w", o.Gate, o.Err))
		}
	}
	return errors.Join(errs...)
}
