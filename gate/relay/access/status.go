package access

import "sync/atomic"

// Status is what finding out who may read what took, since the gate's relay began.
type Status struct {
	// TokenReviews and AccessReviews were asked of the API server; TokensKnown and AccessKnown are questions that needed
	// none, because the answer was still good or another was asking.
	TokenReviews, TokensKnown, AccessReviews, AccessKnown int64
	// Errors are reviews that could not be had.
	Errors int64
}

// tally counts for Status. Its zero value is ready.
type tally struct{ tokens, rights, tokenReviews, accessReviews, errors atomic.Int64 }

// reviewed counts a question that went to the API server.
func (t *tally) reviewed(k kind, failed bool) {
	switch k {
	case kindToken:
		t.tokenReviews.Add(1)
	case kindAccess:
		t.accessReviews.Add(1)
	default:
		return
	}
	if failed {
		t.errors.Add(1)
	}
}

// Status says what was asked so far.
func (a *Access) Status() Status {
	s := Status{TokenReviews: a.tally.tokenReviews.Load(), AccessReviews: a.tally.accessReviews.Load(), Errors: a.tally.errors.Load()}
	s.TokensKnown = max(0, a.tally.tokens.Load()-s.TokenReviews)
	s.AccessKnown = max(0, a.tally.rights.Load()-s.AccessReviews)
	return s
}
