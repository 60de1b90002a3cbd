package breakglass

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/gate/flow"
)

// calls notes when which gate was called, in time since the start.
type calls struct {
	mu    sync.Mutex
	start time.Time
	at    []string
}

func (c *calls) post(_ context.Context, socket string, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var call struct{ For, Reason string }
	if err := json.Unmarshal(body, &call); err != nil {
		return err
	}
	c.at = append(c.at, fmt.Sprintf("%v %s %s", time.Since(c.start), socket, call.For))
	if socket == "dead" {
		return errors.New("connection refused")
	}
	return nil
}

func TestSqueezeTranscript(t *testing.T) {
	list := flow.Request{Verb: "list", Resource: "pods", Caller: flow.Caller{User: "alice"}}
	tests := map[string]struct {
		flow     flow.Request
		answered time.Duration
		again    time.Duration // when another request comes, which is answered at once; 0 for none
		want     []string
	}{
		"answered in time":                         {flow: list, answered: 299 * time.Millisecond},
		"slow once: held for 10s":                  {flow: list, answered: time.Second, want: renewedUntil(10 * time.Second)},
		"held while the lane is in use":            {flow: list, answered: time.Second, again: 8 * time.Second, want: renewedUntil(18 * time.Second)},
		"not begun again by a request that is not": {flow: list, answered: time.Second, again: 15 * time.Second, want: renewedUntil(10 * time.Second)},
		"renewed while slow":                       {flow: list, answered: 15 * time.Second, want: renewedUntil(15 * time.Second)},
		"given up on after 30s":                    {flow: list, answered: time.Minute, want: renewedUntil(30 * time.Second)},
		"a silent log is not a slow API server": {
			flow: flow.Request{Verb: "get", Resource: "pods", Subresource: "log", LongRunning: true}, answered: time.Minute,
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				made := &calls{start: time.Now()}
				episodes := 0
				s := newSqueezer([]string{"a"}, 300*time.Millisecond, discard(), newMetrics(prometheus.NewRegistry()), func(string, int, int) { episodes++ })
				s.post = made.post
				var wg sync.WaitGroup
				wg.Go(func() { s.run(ctx) })
				answered := s.watch(&test.flow)
				time.AfterFunc(test.answered, answered)
				if test.again > 0 {
					time.AfterFunc(test.again, func() { s.watch(&test.flow)() })
				}
				<-time.After(2 * time.Minute)
				cancel()
				wg.Wait()
				if diff := cmp.Diff(test.want, made.at); diff != "" {
					t.Errorf("calls (-want +got):\n%s", diff)
				}
				if want := min(len(test.want), 1); episodes != want {
					t.Errorf("%d episodes on record, want %d", episodes, want)
				}
			})
		})
	}
}

// renewedUntil is what an episode's calls look like when it begins at 300 ms and there is a reason until then.
func renewedUntil(end time.Duration) (calls []string) {
	for at := 300 * time.Millisecond; at < end; at += squeezeEvery {
		calls = append(calls, fmt.Sprintf("%v a 5s", at))
	}
	return calls
}

// TestSqueezeEndsForGood holds that polling over this lane does not squeeze everyone else for ever.
func TestSqueezeEndsForGood(t *testing.T) {
	s := newSqueezer([]string{"a"}, time.Second, discard(), newMetrics(prometheus.NewRegistry()), func(string, int, int) {})
	s.watch(&flow.Request{Verb: "get"})()
	if s.reason(time.Now().Add(-squeezeLongest+time.Minute)) == "" {
		t.Error("the squeeze is not held while the lane is in use")
	}
	if reason := s.reason(time.Now().Add(-squeezeLongest)); reason != "" {
		t.Errorf("the squeeze goes on after %s: %s", squeezeLongest, reason)
	}
}

func TestSqueezeReasonIsOneBoundedLine(t *testing.T) {
	got := oneLine("alice\n" + strings.Repeat("é", 400))
	if len(got) > 500 || strings.ContainsAny(got, "\n\uFFFD") || !strings.HasPrefix(got, "alice é") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}

func TestSqueezeIgnoresDeadGatesAndManyRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		made := &calls{start: time.Now()}
		s := newSqueezer([]string{"a", "dead"}, 300*time.Millisecond, discard(), newMetrics(prometheus.NewRegistry()), func(string, int, int) {})
		s.post = made.post
		var wg sync.WaitGroup
		wg.Go(func() { s.run(ctx) })
		for range 100 {
			time.AfterFunc(time.Second, s.watch(&flow.Request{Verb: "list"}))
		}
		<-time.After(time.Minute)
		cancel()
		wg.Wait()
		first := made.at[:2]
		slices.Sort(first)
		if diff := cmp.Diff([]string{"300ms a 5s", "300ms dead 5s"}, first); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
		if got, want := len(made.at), 2*len(renewedUntil(squeezeHold)); got != want {
			t.Errorf("%d calls for 100 requests, want those of one: %d", got, want)
		}
	})
}

func TestPostSqueezeSpeaksTheAdminProtocol(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "gate.sock")
	l := must(net.Listen("unix", socket))(t)
	got := make(chan string, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var b bytes.Buffer
		b.ReadFrom(q.Body)
		got <- q.Method + " " + q.URL.Path + " " + b.String()
	}))
	server.Listener.Close()
	server.Listener = l
	server.Start()
	defer server.Close()
	if err := postSqueeze(t.Context(), socket, []byte(`{"for":"5s"}`)); err != nil {
		t.Fatal(err)
	}
	if want, got := `POST /v1/squeeze {"for":"5s"}`, <-got; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := postSqueeze(t.Context(), socket+".gone", nil); err == nil {
		t.Error("a gate that is not there was reached")
	}
}
