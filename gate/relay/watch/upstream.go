package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/seakeep/seakeep/gate/relay/frame"
)

const (
	// headerTimeout is how long an API server may take to begin an answer; a watch is answered at once, or the server is
	// not well.
	headerTimeout = 15 * time.Second
	// initialTimeout is how long the objects of a whole resource may take to come.
	initialTimeout = 2 * time.Minute
	// sharedBuffer and ownBuffer hold what is read at once, by a source and by a subscriber that catches up.
	sharedBuffer, ownBuffer = 32 << 10, 8 << 10
	// refusalBytes is the most of an error's body that is passed on.
	refusalBytes = 64 << 10
)

// refusal is an answer of the API server that is not 200.
type refusal struct {
	status int
	header http.Header
	body   []byte
}

// Error implements error.
func (r *refusal) Error() string { return "the API server answered " + strconv.Itoa(r.status) }

// upstreamWatch is a watch of the API server under way.
type upstreamWatch struct {
	body    io.ReadCloser
	header  http.Header
	scanner *frame.Scanner
	buffer  []byte
	cancel  context.CancelFunc
}

// open asks for a watch from the version. It always asks for bookmarks: they keep the version of a quiet resource young
// enough to resume from.
func (h *Hub) open(ctx context.Context, k key, from uint64, initial bool, buffer int) (*upstreamWatch, error) {
	query := url.Values{"watch": {"true"}, "allowWatchBookmarks": {"true"}, "resourceVersion": {strconv.FormatUint(from, 10)}}
	if initial {
		query.Set("resourceVersion", "")
		query.Set("sendInitialEvents", "true")
		query.Set("resourceVersionMatch", "NotOlderThan")
	}
	if k.labels != "" {
		query.Set("labelSelector", k.labels)
	}
	if k.fields != "" {
		query.Set("fieldSelector", k.fields)
	}
	ctx, cancel := context.WithCancel(ctx)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "https", Host: "upstream", Path: k.path, RawQuery: query.Encode()}).String(), nil)
	if err != nil {
		cancel()
		return nil, err
	}
	if k.accept != "" {
		r.Header.Set("Accept", k.accept)
	}
	r.Header.Set("Accept-Encoding", "identity")
	impatient := time.AfterFunc(headerTimeout, cancel)
	response, err := h.o.Upstream.RoundTrip(r)
	if !impatient.Stop() && err == nil {
		err = context.DeadlineExceeded
		_ = response.Body.Close()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening a watch of %s: %w", k.path, err)
	}
	if response.StatusCode != http.StatusOK {
		defer cancel()
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(io.LimitReader(response.Body, refusalBytes))
		if err != nil {
			return nil, fmt.Errorf("reading why a watch of %s is refused: %w", k.path, err)
		}
		return nil, &refusal{status: response.StatusCode, header: response.Header, body: body}
	}
	scanner, err := frame.NewScanner(response.Header.Get("Content-Type"))
	if err == nil && response.Header.Get("Content-Encoding") != "" {
		err = errors.New("the watch is compressed")
	}
	if err != nil {
		cancel()
		_ = response.Body.Close()
		return nil, &NotSharedError{Reason: ReasonMediaType, Err: err}
	}
	return &upstreamWatch{body: response.Body, header: response.Header, scanner: scanner, buffer: make([]byte, buffer), cancel: cancel}, nil
}

func (u *upstreamWatch) close() {
	u.cancel()
	_ = u.body.Close()
}

// errEnough ends reading because nobody wants more.
var errEnough = errors.New("enough was read")

// errGarbled wraps what the scanner did not understand.
type errGarbled struct{ error }

// read reads once and calls found with each frame that is whole, whose bytes are valid during the call, until it is
// false. io.EOF is the clean end.
func (u *upstreamWatch) read(found func(frame.Frame) bool) error {
	n, readErr := u.body.Read(u.buffer)
	for f, err := range u.scanner.Frames(u.buffer[:n]) {
		if err != nil {
			return errGarbled{err}
		}
		if !found(f) {
			return errEnough
		}
	}
	return readErr
}

// run is the source's goroutine: it keeps the watch up until the source ends.
func (s *source) run() {
	defer func() {
		s.finish(ending{cause: endShutdown})
		s.learn()
		s.hub.remove(s)
		s.release()
	}()
	initial := s.key.filtered
	var lost time.Time // since when the watch is down; zero while it is up
	for attempt := 0; ; attempt++ {
		began := time.Now()
		answered, err := s.follow(&initial)
		s.down()
		if s.ctx.Err() != nil {
			return
		}
		if answered {
			if lost = time.Now(); lost.Sub(began) > time.Second {
				attempt = 0
			}
		}
		if e, over := s.verdict(answered, err, lost); over {
			s.finish(e)
			return
		}
		if !s.pause(backoff(attempt, err)) {
			return
		}
		s.mu.Lock()
		s.resumed++
		s.mu.Unlock()
		s.hub.metrics.resumed.Inc()
	}
}

// learn keeps what cannot be served here from being tried for each who comes.
func (s *source) learn() {
	s.mu.Lock()
	e := *s.ended
	s.mu.Unlock()
	switch {
	case e.cause == endGarbled:
		s.hub.shun(s.key)
		s.hub.o.Log.Warn("A watch is not understood, its subscribers are left to the API server", "path", s.key.path, "reason", e.err)
	case s.key.filtered && (e.cause == endStarved || e.cause == endRefused):
		s.hub.shun(s.key)
		s.hub.o.Log.Warn("A resource cannot be watched as a whole, each selection is watched on its own", "path", s.key.path, "reason", e.err)
	}
}

// verdict says whether the source is over, after a watch ended or could not be had.
func (s *source) verdict(answered bool, err error, lost time.Time) (ending, bool) {
	var refused *refusal
	var notShared *NotSharedError
	var garbled errGarbled
	select {
	case <-s.opened:
	default:
		// Whoever waits has been told nothing, and can still be sent to the API server itself.
		if !answered {
			errors.As(err, &refused)
			return ending{cause: endRefused, refusal: refused, err: err}, true
		}
	}
	switch {
	case errors.As(err, &garbled), errors.As(err, &notShared):
		return ending{cause: endGarbled, err: err}, true
	case errors.As(err, &refused) && refused.status != http.StatusTooManyRequests && refused.status < http.StatusInternalServerError:
		return ending{cause: endRefused, err: err}, true
	case !answered && time.Since(lost) > s.hub.o.Patience:
		s.hub.o.Log.Warn("A watch cannot be resumed, ending its subscribers", "path", s.key.path, "readers", s.status().Readers, "reason", err)
		return ending{cause: endOutage, err: err}, true
	}
	return ending{}, false
}

// backoff is how long to wait before the watch is asked for again: not at all in step with others, and not more often than an API
// server that wants to be left alone says.
func backoff(attempt int, err error) time.Duration {
	wait := min(50*time.Millisecond<<min(attempt, 8), 2*time.Second)
	var refused *refusal
	if errors.As(err, &refused) {
		if seconds, parseErr := strconv.Atoi(refused.header.Get("Retry-After")); parseErr == nil && seconds > 0 {
			wait = max(wait, min(time.Duration(seconds)*time.Second, 10*time.Second))
		}
	}
	return wait/2 + rand.N(wait)
}

func (s *source) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// follow opens the watch and reads it to its end. answered is true when the API server had agreed to it.
func (s *source) follow(initial *bool) (answered bool, err error) {
	u, err := s.hub.open(s.ctx, s.key, s.newest(), *initial, sharedBuffer)
	if err != nil {
		return false, err
	}
	defer u.close()
	var behind []frame.Frame
	if *initial {
		impatient := time.AfterFunc(initialTimeout, u.cancel)
		behind, err = s.readInitial(u)
		impatient.Stop()
		if err != nil {
			return false, err
		}
		*initial = false
	}
	s.open(u.header)
	if len(behind) > 0 && !s.add(behind) {
		return true, errEnough
	}
	var batch []frame.Frame
	keep := func(f frame.Frame) bool {
		f.Bytes = bytes.Clone(f.Bytes)
		batch = append(batch, f)
		return true
	}
	for {
		err := u.read(keep)
		s.hub.metrics.received.Add(float64(len(batch)))
		s.received.Add(int64(len(batch)))
		if len(batch) > 0 && !s.add(batch) {
			return true, errEnough
		}
		if err != nil {
			return true, err
		}
		clear(batch)
		batch = batch[:0]
	}
}

// down says that the API server is not listened to any more.
func (s *source) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.live = false
}

// release lets those go on who wait for the first answer, and gives memory back: at once what nobody needs, the rest
// when nobody reads any more.
func (s *source) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.openedOnce()
	s.objects.clear(s.hub.o.Budget)
	if s.readers == 0 {
		s.ring.clear()
	}
	s.hub.metrics.sources.Dec()
}
