package access

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// spareFor is how long an API server that failed to answer a review is left alone. A thousand clients that reconnect to
// an API server that is down are to cost it one review a second, not a thousand.
const spareFor = time.Second

// patience bounds how much is asked at one time, and stops asking for a while when the answers fail. What it turns away is
// neither granted nor denied.
type patience struct {
	slots chan struct{}

	mu sync.Mutex
	// failed is whether the last answer was a failure; until is when one question may find out whether that is over, and
	// trying that one is under way.
	failed, trying bool
	until          time.Time
}

func newPatience(atOnce int) *patience { return &patience{slots: make(chan struct{}, atOnce)} }

// enter waits for a slot. leave must be called with whether the API server failed; abandoned questions say nothing.
func (p *patience) enter(ctx context.Context) (leave func(outcome), err error) {
	if p.sparing() {
		return nil, ErrSpared // without a place in the queue, which stands while an API server hangs
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: %w", ErrSpared, ctx.Err())
	}
	if !p.begin() {
		<-p.slots
		return nil, ErrSpared
	}
	return func(o outcome) {
		p.finish(o)
		<-p.slots
	}, nil
}

func (p *patience) sparing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spares()
}

func (p *patience) spares() bool { return p.failed && (p.trying || time.Now().Before(p.until)) }

func (p *patience) begin() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.spares() {
		return false
	}
	p.trying = p.failed
	return true
}

func (p *patience) finish(o outcome) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trying = false
	switch o {
	case answered:
		p.failed = false
	case failed:
		p.failed, p.until = true, time.Now().Add(spareFor)
	}
}

// outcome is what a question says about the API server.
type outcome int

const (
	// answered: the API server works, whatever it said.
	answered outcome = iota
	// failed: it did not answer, or said that it cannot.
	failed
	// abandoned: whoever asked gave up; it says nothing.
	abandoned
)

// answer notes the status code of a question's answer, 0 for none.
type answer struct{ code int }

// ok is true when the API server did what it was asked.
func (a *answer) ok() bool { return a.code/100 == 2 }

// outcome tells a failing API server from a question it does not like: the latter is one client's doing and must not
// keep the others from being reviewed.
func (a *answer) outcome() outcome {
	switch {
	case a.code == 0, a.code >= 500,
		a.code == http.StatusUnauthorized, a.code == http.StatusForbidden, a.code == http.StatusNotFound, a.code == http.StatusTooManyRequests:
		return failed
	default:
		return answered
	}
}

type answerKey struct{}

// noting tells the question in the request's context the status code of its answer.
type noting struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (n noting) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := n.RoundTripper.RoundTrip(r)
	if a, ok := r.Context().Value(answerKey{}).(*answer); ok && err == nil {
		a.code = response.StatusCode
	}
	return response, err
}

var errEnded = errors.New("the gate's relay ended")

// ask asks the API server one question, bounded in time and by the patience. question says what came of it, for the
// metrics, and must not keep the context.
func (a *Access) ask(ctx context.Context, p *patience, k kind, question func(context.Context, *answer) (string, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reviewTimeout, fmt.Errorf("no answer within %s", reviewTimeout))
	defer cancel()
	defer context.AfterFunc(a.ended, cancel)()
	leave, err := p.enter(ctx)
	if err != nil {
		a.metrics.count(k, resultSpared)
		return err
	}
	said := &answer{}
	began := time.Now()
	result, err := question(context.WithValue(ctx, answerKey{}, said), said)
	said.settle(ctx, a.ended, leave)
	a.metrics.observe(k, result, time.Since(began))
	a.tally.reviewed(k, err != nil)
	if err != nil && a.ended.Err() != nil {
		return fmt.Errorf("%w: %w", errEnded, err)
	}
	return err
}

// settle gives back the slot. An answer that came counts as such even if nobody waited for it any more.
func (a *answer) settle(ctx, ended context.Context, leave func(outcome)) {
	if a.code == 0 && (ended.Err() != nil || errors.Is(context.Cause(ctx), context.Canceled)) {
		leave(abandoned)
		return
	}
	leave(a.outcome())
}
