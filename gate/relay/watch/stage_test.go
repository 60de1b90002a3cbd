package watch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/flow"
)

// stage is an API server in memory, for what depends on time only: how it answers each watch is the test's. What a
// real one answers is tested on a real one.
type stage struct {
	mu     sync.Mutex
	asked  []string // the versions asked from, in order
	at     []time.Duration
	began  time.Time
	answer func(n int, r *http.Request) (*http.Response, error)
}

func (s *stage) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	n := len(s.asked)
	s.asked = append(s.asked, r.URL.Query().Get("resourceVersion"))
	s.at = append(s.at, time.Since(s.began))
	s.mu.Unlock()
	return s.answer(n, r)
}

func (s *stage) versions() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.asked, " ")
}

// stream is a watch that is answered, and stays open until the test or the caller ends it.
type stream struct {
	*io.PipeWriter
}

func answered(r *http.Request) (*http.Response, stream) {
	pr, pw := io.Pipe()
	context.AfterFunc(r.Context(), func() { _ = pw.CloseWithError(r.Context().Err()) })
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: pr}, stream{pw}
}

func (s stream) send(typ string, version int) {
	_, _ = io.WriteString(s, event(typ, version))
}

func event(typ string, version int) string {
	return fmt.Sprintf(`{"type":%q,"object":{"metadata":{"name":"a","resourceVersion":"%d"}}}`+"\n", typ, version)
}

// client is who reads a subscriber's stream.
type client struct {
	mu      sync.Mutex
	header  http.Header
	code    int
	body    bytes.Buffer
	flushes int
	block   chan struct{} // while set, writes wait for it
	err     error
	ended   bool
	at      time.Duration
	cancel  context.CancelFunc
}

func (c *client) Header() http.Header { return c.header }
func (c *client) WriteHeader(code int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.code = code
}

func (c *client) Write(b []byte) (int, error) {
	c.mu.Lock()
	block := c.block
	c.mu.Unlock()
	if block != nil {
		<-block
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.body.Write(b)
}

func (c *client) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushes++
}

// got is the types and versions the client was sent.
func (c *client) got() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for line := range strings.Lines(c.body.String()) {
		typ := strings.Split(line, `"`)[3]
		version := strings.Split(line, `"resourceVersion":"`)
		if len(version) > 1 {
			typ += " " + strings.TrimRight(strings.Split(version[1], `"`)[0], "\n")
		}
		all = append(all, typ)
	}
	return strings.Join(all, ", ")
}

func (c *client) over() (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended, c.err
}

type theatre struct {
	*Hub
	*stage
	t *testing.T
}

func open(t *testing.T, o Options, answer func(n int, r *http.Request) (*http.Response, error)) *theatre {
	s := &stage{answer: answer, began: time.Now()}
	o.Upstream, o.Budget, o.Log, o.Registerer = s, &locked{purse: purse{most: 1 << 30}}, slog.New(slog.NewTextHandler(t.Output(), nil)), prometheus.NewRegistry()
	h := New(o)
	t.Cleanup(h.Close)
	return &theatre{h, s, t}
}

type locked struct {
	sync.Mutex
	purse
}

func (l *locked) Take(n int) bool {
	l.Lock()
	defer l.Unlock()
	return l.purse.Take(n)
}

func (l *locked) Give(n int) {
	l.Lock()
	defer l.Unlock()
	l.purse.Give(n)
}

// follow starts a subscriber.
func (h *theatre) follow(from uint64, o Subscriber) *client { return h.followPart(from, "", o) }

// followPart starts one with a selector.
func (h *theatre) followPart(from uint64, selector string, o Subscriber) *client {
	ctx, cancel := context.WithCancel(context.Background())
	h.t.Cleanup(cancel)
	c := &client{header: http.Header{}, cancel: cancel}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://gate/api/v1/pods?watch=1&resourceVersion="+strconv.FormatUint(from, 10)+"&labelSelector="+selector, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	go func() {
		err := h.Follow(c, r, f, from, o)
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err, c.ended, c.at = err, true, time.Since(h.began)
	}()
	return c
}

func (h *theatre) want(what, got, want string) {
	h.t.Helper()
	if got != want {
		h.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func (h *theatre) wantOver(c *client, want bool) {
	h.t.Helper()
	if over, err := c.over(); over != want || err != nil {
		h.t.Errorf("after %s: the stream is over: %t (%v), want %t", time.Since(h.began), over, err, want)
	}
}

var errUnreachable = errors.New("unreachable")

// pass lets time pass, and everything happen that is due.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}
