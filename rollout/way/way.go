// Package way is how a rollout reaches a cluster while it takes a change back: by the ordinary way, or by the break-glass way
// when that fails. What the change harms may be the way itself.
package way

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// Switch is two ways to one API server under one client. Each request goes by the way that is chosen when it is sent, and none is
// ever sent twice: who sent it fails, reads again and decides anew, as after any failure. So a write whose answer was lost is
// repeated, by whichever way, no less safely than without a switch.
//
// Only what takes a change back goes by the break-glass way. A way fails by refusing or breaking connections, by not answering in
// time, and by 429 and 5xx; whatever else is said, a 403 too, is an answer. One that has failed for the patience, without one
// round of work done in between, is left for the other. So the break-glass way is kept to until it fails itself or nothing is
// left to take back: the ordinary way is not tried in between, because one that is saturated answers now and then, and each
// try would cost the patience again.
//
// Its methods may be called from any goroutine.
type Switch struct {
	ordinary, glass path
	// patience is also how long a request by the ordinary way may take on the way back.
	patience time.Duration

	mu      sync.Mutex
	back    bool
	byGlass bool
	// failing is the last failure of the way that is gone by, why is why it was changed last.
	failing, why string
	// since is when the first request was sent that failed after the last round that was done.
	since time.Time
}

// path is one way.
type path struct {
	http.RoundTripper
	base *url.URL
}

var _ http.RoundTripper = (*Switch)(nil)

// New makes a switch that goes by the ordinary way. Patience is > 0.
func New(ordinary, glass *rest.Config, patience time.Duration) (*Switch, error) {
	s := &Switch{patience: patience}
	var err error
	if s.ordinary, err = pathOf(ordinary); err != nil {
		return nil, err
	}
	if s.glass, err = pathOf(glass); err != nil {
		return nil, fmt.Errorf("breakGlass: %w", err)
	}
	return s, nil
}

func pathOf(config *rest.Config) (path, error) {
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return path{}, fmt.Errorf("reading the server's URL: %w", err)
	}
	base.Path = strings.TrimSuffix(base.Path, "/")
	transport, err := rest.TransportFor(config)
	return path{transport, base}, err
}

// Back says whether the change is being taken back. It must be called between two moves: what was decided before it was said to
// be so is not done by the break-glass way.
func (s *Switch) Back(back bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back = back
	if !back && s.byGlass {
		s.change("nothing is being taken back any more")
	}
}

// Done says that a round of work was done: whatever failed before it has passed.
func (s *Switch) Done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Time{}
}

// Now is by which way requests go, and why that was changed last.
func (s *Switch) Now() (byGlass bool, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byGlass, s.why
}

// change changes the way. The lock must be held.
func (s *Switch) change(why string) {
	s.byGlass, s.why, s.since = !s.byGlass, why, time.Time{}
}

// choose says by which way a request goes now.
func (s *Switch) choose() (byGlass, back bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if since := time.Since(s.since); s.back && !s.since.IsZero() && since >= s.patience {
		s.change(fmt.Sprintf("the %s way has failed for %v: %s", map[bool]string{false: "ordinary", true: "break-glass"}[s.byGlass], since.Round(time.Second), s.failing))
	}
	return s.byGlass, s.back
}

// failed notes a failure of a way, unless another one was chosen since.
func (s *Switch) failed(byGlass bool, sent time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if byGlass != s.byGlass {
		return
	}
	if s.since.IsZero() {
		s.since = sent
	}
	s.failing = err.Error()
}

// RoundTrip implements http.RoundTripper.
func (s *Switch) RoundTrip(r *http.Request) (*http.Response, error) {
	byGlass, back := s.choose()
	sent := time.Now()
	failed := func(err error) {
		if !errors.Is(r.Context().Err(), context.Canceled) { // whoever asked no longer wants to know
			s.failed(byGlass, sent, err)
		}
	}
	by, ctx, cancel := s.ordinary, r.Context(), context.CancelFunc(func() {})
	switch {
	case byGlass:
		by = s.glass
	case back:
		ctx, cancel = context.WithTimeout(ctx, s.patience)
	}
	answer, err := by.RoundTrip(s.lead(r.Clone(ctx), by.base))
	if err != nil {
		cancel()
		failed(err)
		if byGlass {
			err = fmt.Errorf("by the break-glass way: %w", err)
		}
		return nil, err
	}
	if answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= http.StatusInternalServerError {
		failed(errors.New(answer.Status))
	}
	answer.Body = &body{answer.Body, failed, cancel}
	return answer, nil
}

// lead leads a request that was made for the ordinary way to where a way begins.
func (s *Switch) lead(r *http.Request, base *url.URL) *http.Request {
	if base != s.ordinary.base {
		r.URL.Scheme, r.URL.Host, r.Host = base.Scheme, base.Host, ""
		r.URL.Path, r.URL.RawPath = base.Path+strings.TrimPrefix(r.URL.Path, s.ordinary.base.Path), ""
	}
	return r
}

// CloseIdleConnections closes those of both ways.
func (s *Switch) CloseIdleConnections() {
	utilnet.CloseIdleConnectionsFor(s.ordinary.RoundTripper)
	utilnet.CloseIdleConnectionsFor(s.glass.RoundTripper)
}

// body is an answer's body: a way that lets headers through and no lists fails too.
type body struct {
	io.ReadCloser
	failed func(error)
	cancel context.CancelFunc
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed(err)
	}
	return n, err
}

// Close implements io.Closer.
func (b *body) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
