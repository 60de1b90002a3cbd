package upstream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/signals"
)

// monitoringGroup may read /metrics by the ClusterRole that every API server makes for itself; no other right is needed.
const monitoringGroup = "system:monitoring"

const (
	// An API server takes about 38 ms of a processor to write the 2 MB of metrics it has with 1,000 pods (v1.36.3; as much
	// with gzip as without, though the gate asks without), and its metrics grow with the kinds of request it has seen. So a
	// reading is to cost no more than 2 % of one processor; but one that is older than loadSlowest is no use for a limit.
	loadCost    = 19 * time.Millisecond // for each MB
	loadBudget  = 0.02                  // of one processor
	loadFastest = time.Second
	loadSlowest = 5 * time.Second
	loadTimeout = 4 * time.Second
	maxLoad     = 64 << 20
)

// Results of a reading: the label values of "result".
const (
	loadRead        = "read"
	loadForbidden   = "forbidden"   // 401, 403: the group system:monitoring may not read /metrics
	loadRefused     = "refused"     // 429
	loadErred       = "errored"     // another status
	loadLate        = "late"        // no answer in time
	loadUnreachable = "unreachable" // no connection, or it broke
	loadUnreadable  = "unreadable"  // not an API server's metrics, or too many
)

// loadState is one server's.
type loadState struct {
	mu     sync.Mutex
	last   *signals.Load
	change signals.LoadChange
	failed error
	counts map[string]int // by result
}

func (s *loadState) latest() Load {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Load{Last: s.last, Change: s.change, Failed: s.failed}
}

// results counts the attempts by their result.
func (s *loadState) results() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.counts)
}

// take keeps the outcome of one reading, and returns whether that is another than the one before.
func (s *loadState) take(reading *signals.Load, result string, err error) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.counts == nil {
		s.counts = map[string]int{}
	}
	s.counts[result]++
	changed = (err != nil) != (s.failed != nil)
	s.failed = err
	if reading == nil {
		return changed
	}
	s.change = signals.LoadChange{}
	if s.last != nil {
		s.change = reading.Since(*s.last)
	}
	s.last = reading
	return changed
}

// loadReader reads one server's metrics, one reading after the other.
type loadReader struct {
	server  *Server
	headers func() *identity.Headers
	said    func(s *Server, err error) // that readings begin to fail, or are good again
}

// run reads until the context ends.
func (l *loadReader) run(ctx context.Context) {
	timer := time.NewTimer(rand.N(loadFastest))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		reading, bytes, result, err := l.read(ctx)
		if ctx.Err() != nil {
			return
		}
		if l.server.load.take(reading, result, err) {
			l.said(l.server, err)
		}
		next := loadPause(bytes, err)
		timer.Reset(max(loadFastest/4, next*9/10+rand.N(next/5)-time.Since(began)))
	}
}

// loadPause is the time from one reading to the next.
func loadPause(bytes int64, err error) time.Duration {
	if err != nil && bytes == 0 {
		return loadSlowest / 2 // what it costs to fail is not known, and how it is matters most now
	}
	cost := float64(loadCost) * float64(bytes) / (1 << 20)
	return time.Duration(min(max(cost/loadBudget, float64(loadFastest)), float64(loadSlowest)))
}

func (l *loadReader) read(ctx context.Context) (reading *signals.Load, bytes int64, result string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, loadTimeout, fmt.Errorf("no answer to /metrics within %s", loadTimeout))
	defer cancel()
	target := *l.server.url
	target.Path = "/metrics"
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return nil, 0, loadUnreachable, err
	}
	l.headers().Set(r, &flow.Caller{User: ProbeUser, Groups: []string{monitoringGroup}, Certainty: flow.CertificateVerified})
	r.Header.Set("User-Agent", "seakeep-gate")
	r.Header.Set("Accept", "text/plain;version=0.0.4")
	markAudit(r.Header)
	response, err := shared(l.server.probes, r)
	if err != nil {
		return nil, 0, lateOr(ctx, loadUnreachable), causeOf(ctx, err)
	}
	defer response.Body.Close()
	if code := response.StatusCode; code != http.StatusOK {
		result = loadErred
		switch code {
		case http.StatusUnauthorized, http.StatusForbidden:
			result = loadForbidden
		case http.StatusTooManyRequests:
			result = loadRefused
		}
		return nil, 0, result, fmt.Errorf("GET /metrics as %s of group %s: %s", ProbeUser, monitoringGroup, response.Status)
	}
	counted := &counting{Reader: io.LimitReader(response.Body, maxLoad)}
	load, err := signals.ReadLoad(counted, time.Now())
	switch {
	case err == nil && counted.n == maxLoad:
		return nil, counted.n, loadUnreadable, fmt.Errorf("the metrics are larger than %d MiB", maxLoad>>20)
	case err != nil && ctx.Err() != nil:
		return nil, counted.n, loadLate, causeOf(ctx, err)
	case counted.err != nil && !errors.Is(counted.err, io.EOF):
		return nil, counted.n, loadUnreachable, counted.err
	case err != nil:
		return nil, counted.n, loadUnreadable, err
	}
	return &load, counted.n, loadRead, nil
}

func lateOr(ctx context.Context, otherwise string) string {
	if ctx.Err() != nil {
		return loadLate
	}
	return otherwise
}

func causeOf(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// counting counts what is read.
type counting struct {
	io.Reader
	n   int64
	err error
}

// Read implements io.Reader.
func (c *counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	c.err = err
	return n, err
}
