package emergency

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Outcome is what one of several gates did.
type Outcome[T any] struct {
	Gate string
	// Result is nil when Err is not.
	Result *T
	Err    error
}

// Each does the same on every gate at once, so that one that hangs does not delay the others, and returns the
// outcomes in the gates' order.
func Each[T any](ctx context.Context, gates []*Gate, do func(context.Context, *Gate) (*T, error)) []Outcome[T] {
	outcomes := make([]Outcome[T], len(gates))
	var all sync.WaitGroup
	for i, g := range gates {
		all.Go(func() {
			result, err := do(ctx, g)
			if err != nil {
				result = nil
			}
			outcomes[i] = Outcome[T]{Gate: g.Name, Result: result, Err: err}
		})
	}
	all.Wait()
	return outcomes
}

// IsNotInForce is true when a gate says it has no such rule.
func IsNotInForce(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && refused.Code == http.StatusNotFound
}

// IsRefused is true when a gate found the rule wrong.
func IsRefused(err error) bool {
	var refused *RefusedError
	return errors.As(err, &refused) && (refused.Code == http.StatusUnprocessableEntity || refused.Code == http.StatusBadRequest)
}

// Throttle returns a rule that bounds what the match takes.
func Throttle(match v1alpha1.LimitMatch, bounds v1alpha1.Throttle, reason string, length time.Duration) *v1alpha1.EmergencyRule {
	r := rule(v1alpha1.EmergencyThrottle, reason, length)
	r.Match, r.Throttle = match, &bounds
	return r
}

// Block returns a rule that denies what the match selects.
func Block(match v1alpha1.LimitMatch, reason string, length time.Duration) *v1alpha1.EmergencyRule {
	r := rule(v1alpha1.EmergencyBlock, reason, length)
	r.Match = match
	return r
}

// Lockdown returns a rule that denies everyone but those named.
func Lockdown(users, groups []string, reason string, length time.Duration) *v1alpha1.EmergencyRule {
	r := rule(v1alpha1.EmergencyLockdown, reason, length)
	r.ExceptUsers, r.ExceptGroups = users, groups
	return r
}

// Passthrough returns a rule that switches every limit off.
func Passthrough(reason string, length time.Duration) *v1alpha1.EmergencyRule {
	return rule(v1alpha1.EmergencyPassthrough, reason, length)
}

func rule(action v1alpha1.EmergencyAction, reason string, length time.Duration) *v1alpha1.EmergencyRule {
	return &v1alpha1.EmergencyRule{Action: action, Reason: reason, Duration: metav1.Duration{Duration: length}}
}
