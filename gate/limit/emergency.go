package limit

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// EndedError is the cause with which an open request was cancelled.
type EndedError struct {
	// Rule is the emergency rule's ID, or "break-glass" for a squeeze.
	Rule string
	// Why is the reason its author gave.
	Why string
}

// Error implements error.
func (e *EndedError) Error() string {
	return fmt.Sprintf("ended by emergency rule %q: %s", e.Rule, e.Why)
}

// emergencyRule is a compiled EmergencyRule.
type emergencyRule struct {
	rule
	kind         v1alpha1.EmergencyAction
	why          string
	expires      time.Time
	exceptUsers  *globs
	exceptGroups []string
}

// emergencySet is what SetEmergency swaps whole, the most severe first.
type emergencySet struct{ rules []*emergencyRule }

func (s *emergencySet) idle() bool { return len(s.rules) == 0 }

func (s *emergencySet) passthrough(now time.Time) bool {
	return slices.ContainsFunc(s.rules, func(r *emergencyRule) bool {
		return r.kind == v1alpha1.EmergencyPassthrough && now.Before(r.expires)
	})
}

func (s *emergencySet) inForce(now time.Time) int {
	n := 0
	for _, r := range s.rules {
		if now.Before(r.expires) {
			n++
		}
	}
	return n
}

// severity orders the actions, so that a Block is not charged to a throttle first.
var severity = map[v1alpha1.EmergencyAction]int{
	v1alpha1.EmergencyPassthrough: 0, v1alpha1.EmergencyLockdown: 1, v1alpha1.EmergencyBlock: 2, v1alpha1.EmergencyThrottle: 3,
}

// SetEmergency replaces the emergency rules. They are in force for the next request; when it returns, the open
// requests that a Block or a Lockdown selects are cancelled, and of those a new Throttle selects the streams and the
// LISTs: they come back through it. Rules end by the clock at their Expires. It returns how many requests it ended.
//
// While a Passthrough is in force nothing else is: no emergency rule, no limit, no squeeze.
func (e *Engine) SetEmergency(rules []v1alpha1.EmergencyRule) (ended int, err error) {
	e.configure.Lock()
	defer e.configure.Unlock()
	old := e.emergency.Load()
	set := &emergencySet{}
	isNew := make(map[*emergencyRule]bool)
	for i := range rules {
		r, fresh, err := compileEmergency(&rules[i], old, &e.share)
		if err != nil {
			return 0, err
		}
		isNew[r] = fresh
		set.rules = append(set.rules, r)
	}
	slices.SortStableFunc(set.rules, func(a, b *emergencyRule) int { return severity[a.kind] - severity[b.kind] })
	e.emergency.Store(set)
	e.epoch.Add(1)
	now := e.clock()
	if set.passthrough(now) {
		return 0, nil
	}
	ended = e.endMatching(func(p *Pass) error {
		s := newSubject(p.flow)
		for _, r := range set.rules {
			if !r.shadow && now.Before(r.expires) && e.selects(r, &s) && (r.kind != v1alpha1.EmergencyThrottle || isNew[r] && isCostly(p.flow)) {
				return &EndedError{Rule: r.name, Why: r.why}
			}
		}
		return nil
	})
	return ended, nil
}

func (e *Engine) endMatching(cause func(*Pass) error) int {
	n := e.open.endMatching(cause)
	e.metrics.ended.Add(float64(n))
	return n
}

// isCostly is true for what goes on costing the API server while it is open.
func isCostly(f *flow.Request) bool { return f.LongRunning || f.IsList() }

func compileEmergency(spec *v1alpha1.EmergencyRule, old *emergencySet, part *share) (r *emergencyRule, fresh bool, err error) {
	for _, o := range old.rules {
		if o.name != spec.ID {
			continue
		}
		// An ID is never used twice, so this is the same rule with its balances; a clamp may have been prolonged.
		if o.expires.Equal(spec.Expires.Time) {
			return o, false, nil
		}
		prolonged := *o
		prolonged.expires = spec.Expires.Time
		return &prolonged, false, nil
	}
	action := v1alpha1.LimitDeny
	if spec.Action == v1alpha1.EmergencyThrottle {
		action = v1alpha1.LimitThrottle
	}
	if _, ok := severity[spec.Action]; !ok {
		return nil, false, fmt.Errorf("compiling emergency rule %q: unknown action %q", spec.ID, spec.Action)
	}
	if spec.ID == "" {
		return nil, false, errors.New("compiling an emergency rule: it has no ID")
	}
	compiled, err := compileRule(&v1alpha1.LimitRule{Name: spec.ID, Match: spec.Match, Action: action, Throttle: spec.Throttle, Mode: spec.Mode}, nil, part)
	if err != nil {
		return nil, false, err
	}
	return &emergencyRule{rule: *compiled, kind: spec.Action, why: spec.Reason, expires: spec.Expires.Time,
		exceptUsers: compileGlobs(spec.ExceptUsers), exceptGroups: spec.ExceptGroups}, true, nil
}

// selects is true when the rule is about this request. The break-glass lane is out of every emergency rule's reach.
func (e *Engine) selects(r *emergencyRule, s *subject) bool {
	if s.Lane == flow.BreakGlass {
		return false
	}
	switch r.kind {
	case v1alpha1.EmergencyLockdown:
		// An exception is for a proven name only.
		excepted := s.Caller.Certainty != flow.Unverified && r.excepts(s.Caller.User, s.Caller.Groups)
		return !excepted && !e.squeeze.exempts(s)
	case v1alpha1.EmergencyThrottle:
		return r.match.match(s) && (r.match.resources != nil || !e.squeeze.exempts(s))
	case v1alpha1.EmergencyBlock:
		return r.match.match(s)
	}
	return false
}

func (r *emergencyRule) excepts(user string, groups []string) bool {
	return r.exceptUsers != nil && r.exceptUsers.match(user) ||
		slices.ContainsFunc(r.exceptGroups, func(g string) bool { return slices.Contains(groups, g) })
}

// LocksOut is true when the rule would deny this caller entry by name: a Lockdown that does not except it, or a Block
// of its name or one of its groups. Who sets a rule must not be able to saw off the branch they sit on.
func LocksOut(spec *v1alpha1.EmergencyRule, user string, groups []string) bool {
	if spec.Mode == v1alpha1.Shadow {
		return false
	}
	switch spec.Action {
	case v1alpha1.EmergencyLockdown:
		r := emergencyRule{exceptUsers: compileGlobs(spec.ExceptUsers), exceptGroups: spec.ExceptGroups}
		return !r.excepts(user, groups)
	case v1alpha1.EmergencyBlock:
		m := &spec.Match
		byUser, byGroup := len(m.Users) > 0, len(m.Groups) > 0
		return (byUser || byGroup) &&
			(!byUser || compileGlobs(m.Users).match(user)) &&
			(!byGroup || slices.ContainsFunc(m.Groups, func(g string) bool { return slices.Contains(groups, g) }))
	}
	return false
}

// shadowReasons are what those who deny would have said.
var shadowReasons = map[v1alpha1.EmergencyAction]Reason{v1alpha1.EmergencyLockdown: ReasonLockdown, v1alpha1.EmergencyBlock: ReasonBlocked}

// decideEmergency asks the emergency rules. A throttle that admits does not end the search: it may only tighten.
func (e *Engine) decideEmergency(set *emergencySet, p *Pass, s *subject, now time.Time) *Rejection {
	for _, r := range set.rules {
		if !now.Before(r.expires) || !e.selects(r, s) {
			continue
		}
		if r.shadow {
			e.shadow(&r.rule, shadowReasons[r.kind], true, p, now)
			continue
		}
		d := denials{emergency: true, why: r.why}
		switch r.kind {
		case v1alpha1.EmergencyLockdown:
			return e.deny(r.name, ReasonLockdown, d)
		case v1alpha1.EmergencyBlock:
			return e.deny(r.name, ReasonBlocked, d)
		case v1alpha1.EmergencyThrottle:
			if refused := r.charge(p, e.clock); refused != nil {
				return e.throttle(r.name, refused, d)
			}
		}
	}
	return nil
}
