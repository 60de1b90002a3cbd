package admin

import (
	"slices"

	"github.com/seakeep/seakeep/gate/peers/agree"
)

// on says who decided something, and on which gate when there are several.
func (r *rules) on(by string) string {
	if r.gate == "" {
		return by
	}
	return by + " on " + r.gate
}

// tell says what other gates should know; r.mu is held, or nobody else is there yet.
func (r *rules) tell() {
	if r.decided != nil {
		r.decided(agree.Decisions{Rules: slices.Clone(r.inForce), Lifts: slices.Clone(r.lifts)})
	}
}

// learn puts in force what another gate decided: whoever set it there was asked whether it locks anybody out, and is in the
// audit chain there; here the chain says what this gate did about it.
func (r *rules) learn(gate string, from agree.Decisions) (refused int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	learned := agree.Merge(agree.Decisions{Rules: r.inForce, Lifts: r.lifts}, from, r.clock())
	if !learned.News {
		return learned.Refused
	}
	ended := 0
	if len(learned.Set) > 0 || len(learned.Ended) > 0 {
		var err error
		if ended, err = r.engine.SetEmergency(learned.Rules); err != nil {
			r.log.Error("Putting another gate's emergency rules in force", "gate", gate, "reason", err)
			return learned.Refused + len(learned.Set)
		}
	}
	r.inForce, r.lifts = learned.Rules, learned.Lifts
	r.tell()
	r.save()
	for i := range learned.Set {
		rule := &learned.Set[i]
		r.log.Warn("Emergency rule in force", "rule", rule.ID, "action", rule.Action, "by", rule.By, "reason", rule.Reason,
			"expires", rule.Expires.Time, "gate", gate, "endedRequests", ended)
		r.trail.record(event{Event: "learn", By: rule.By, Rule: rule, Ended: ended})
		r.metrics.changes.WithLabelValues("learn").Inc()
		ended = 0 // counted once
	}
	for i := range learned.Ended {
		over := &learned.Ended[i]
		r.log.Warn("Emergency rule lifted", "rule", over.Rule.ID, "by", over.Lift.By, "reason", over.Lift.Reason, "gate", gate)
		r.trail.record(event{Event: "lift", By: over.Lift.By, Rule: &over.Rule, Reason: over.Lift.Reason})
		r.metrics.changes.WithLabelValues("lift").Inc()
	}
	r.metrics.inForce.Set(float64(len(r.inForce)))
	select {
	case r.changed <- struct{}{}:
	default:
	}
	return learned.Refused
}
