package admin

import (
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// The gate itself sets emergency rules too: a clamp is one. They are kept, shown, audited and lifted like an operator's; by
// says which policy it was.

// Impose puts a rule of the gate's own in force.
func (s *Server) Impose(rule *v1alpha1.EmergencyRule, by string) (*v1alpha1.EmergencyRuleResult, error) {
	return s.rules.set(*rule, actor{name: by}, false)
}

// Prolong moves the end of a rule to duration from now, and returns it. The error is for a rule that is not in force any more.
func (s *Server) Prolong(id string, duration time.Duration, reason, by string) (until time.Time, err error) {
	return s.rules.prolong(id, duration, reason, actor{name: by})
}

// Withdraw lifts a rule of the gate's own.
func (s *Server) Withdraw(id, reason, by string) error {
	_, err := s.rules.lift(id, reason, actor{name: by})
	return err
}

// Rules returns the emergency rules in force.
func (s *Server) Rules() []v1alpha1.EmergencyRule {
	list, _ := s.rules.list()
	return list
}
