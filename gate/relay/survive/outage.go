package survive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

const (
	// probeEvery is how often it is looked whether an API server answers again, while none does.
	probeEvery = time.Second
	// probeFor is how long one look may take. Looks overlap, because the way upstream prefers the server with the fewest
	// requests in flight: one that hangs holds one look, and the next goes elsewhere.
	probeFor = 4 * time.Second
	// probesAtOnce bounds that.
	probesAtOnce = 8
)

// outage says whether every API server is gone: none has answered anything for a while in which something was asked. It
// ends when one is ready again.
type outage struct {
	after time.Duration

	mu sync.Mutex
	// since is when the first question of an unbroken row failed; zero while the last answer was one.
	since time.Time
	// gone is closed when the outage ends; nil while there is none.
	gone chan struct{}
	// began and ended are those of the last outage.
	began, ended time.Time

	failing chan struct{} // holds a token when looking is called for
	hint    chan struct{} // holds a token when it may be worth it at once
}

func newOutage(after time.Duration) *outage {
	return &outage{after: after, failing: make(chan struct{}, 1), hint: make(chan struct{}, 1)}
}

// failed notes that no API server answered a question.
func (o *outage) failed() {
	o.mu.Lock()
	first := o.since.IsZero()
	if first {
		o.since = time.Now()
	}
	o.mu.Unlock()
	if first {
		select {
		case o.failing <- struct{}{}:
		default:
		}
	}
}

// answered notes that one did. It says whether there is an outage: that ends when a probe finds an API server ready, and
// not with a word of one that is just starting and forbids everything to everyone.
func (o *outage) answered() (gone bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.gone != nil {
		return true
	}
	o.since = time.Time{}
	return false
}

// end ends the outage, or the row of failures that would have become one. It says whether there was one.
func (o *outage) end() (was bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.since = time.Time{}
	if o.gone == nil {
		return false
	}
	close(o.gone)
	o.gone, o.ended = nil, time.Now()
	return true
}

// assess says whether the questions still fail, and whether an outage began just now.
func (o *outage) assess() (failing, began bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.since.IsZero() {
		return false, false
	}
	if o.gone == nil && time.Since(o.since) >= o.after {
		o.gone, o.began = make(chan struct{}), o.since
		return true, true
	}
	return true, false
}

// over is closed when the outage ends, and nil when there is none.
func (o *outage) over() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.gone
}

// Gone says whether every API server is gone.
func (s *Store) Gone() bool { return s.outage.over() != nil }

// Failed is to be told that a request found no API server that answers it.
func (s *Store) Failed(error) { s.outage.failed() }

// Answered is to be told that an API server answered a request, whatever it said.
func (s *Store) Answered() {
	if s.outage.answered() {
		select {
		case s.outage.hint <- struct{}{}:
		default:
		}
	}
}

func (s *Store) endOutage() {
	if s.outage.end() {
		s.metrics.gone.Set(0)
		s.answers.clear()
		s.log.Info("An API server is back; nothing more is served from what was kept")
	}
}

// watchOutage looks for API servers while questions fail, until the context ends.
func (s *Store) watchOutage(ctx context.Context) {
	var probes sync.WaitGroup
	defer probes.Wait()
	slots := make(chan struct{}, probesAtOnce)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.outage.failing:
		}
		for {
			failing, began := s.outage.assess()
			if !failing {
				break
			}
			if began {
				s.metrics.gone.Set(1)
				s.log.Warn("Every API server is gone; what was kept is served to whoever was allowed to read it", "after", s.outage.after)
			}
			select {
			case slots <- struct{}{}:
				probes.Go(func() {
					defer func() { <-slots }()
					if s.probe(ctx) == nil {
						s.endOutage()
					}
				})
			default:
			}
			every := min(probeEvery, s.outage.after/4)
			select {
			case <-ctx.Done():
				return
			case <-s.outage.hint:
				// An API server that starts and forbids everything gives a hint with every request it gets.
				select {
				case <-ctx.Done():
					return
				case <-time.After(100 * time.Millisecond):
				}
			case <-time.After(every/2 + rand.N(every)):
			}
		}
	}
}

var errUnable = errors.New("the API server cannot serve reads")

// probe finds out whether there is an API server that is better than us. One that reads kube-system from its cache is, with
// etcd or without. One that answers something else may be starting, and forbid everything until it has read who may what;
// or it is busy (429), or does not let us read that. Whether it is ready it says itself.
func (s *Store) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeFor)
	defer cancel()
	code, err := s.look(ctx, kubeSystem+"?resourceVersion=0")
	if err != nil || code == http.StatusOK {
		return err
	}
	if code < 500 {
		if code, err = s.look(ctx, "https://upstream.invalid/readyz"); err != nil || code == http.StatusOK {
			return err
		}
	}
	return fmt.Errorf("%w: %d", errUnable, code)
}

func (s *Store) look(ctx context.Context, target string) (code int, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return 0, err
	}
	response, err := s.upstream.RoundTrip(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20))
	return response.StatusCode, err
}
