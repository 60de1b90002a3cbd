package limit

import (
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// Matcher is a compiled LimitMatch, for those who sort requests by the same words and do not limit them.
type Matcher struct{ m *matcher }

// Subject is a request with what matchers ask of it computed once.
type Subject struct{ s subject }

// NewMatcher compiles a match. It fails on what validation would have refused.
func NewMatcher(m *v1alpha1.LimitMatch) (*Matcher, error) {
	compiled, err := compileMatch(m)
	if err != nil {
		return nil, err
	}
	return &Matcher{compiled}, nil
}

// SubjectOf prepares a request for any number of matchers.
func SubjectOf(f *flow.Request) Subject { return Subject{newSubject(f)} }

// Matches says whether the request is meant.
func (m *Matcher) Matches(s *Subject) bool { return m.m.match(&s.s) }

// Passthrough is true while an operator has switched all of the gate's own judgement off.
func (e *Engine) Passthrough(now time.Time) bool {
	set := e.emergency.Load()
	return !set.idle() && set.passthrough(now)
}
