package agents

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// answers is a transport that answers from memory, so that time can be a bubble's.
type answers func(n int64, r *http.Request) *http.Response

func (f answers) transport() http.RoundTripper {
	var n atomic.Int64
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		if resp := f(n.Add(1), r); resp != nil {
			return resp, nil
		}
		return nil, errors.New("connection refused")
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(status int, retryAfter, body string) *http.Response {
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: readCloser{strings.NewReader(body)}}
	if retryAfter != "" {
		resp.Header.Set("Retry-After", retryAfter)
	}
	return resp
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

func newTestAgent(f answers, b Behaviour) *agent {
	return &agent{
		behaviour: b, url: "https://127.0.0.1/api/v1/pods", header: b.header("test/1"),
		token:   func(context.Context, bool) (string, error) { return "token", nil },
		client:  &http.Client{Transport: f.transport()},
		metrics: NewMetrics(prometheus.NewRegistry()),
		random:  rand.New(rand.NewPCG(1, 2)),
	}
}

func (a *agent) count(result string) float64 {
	return testutil.ToFloat64(a.metrics.requests.WithLabelValues(result))
}

func TestAgentHonoursRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		a := newTestAgent(func(n int64, _ *http.Request) *http.Response {
			if n <= 3 {
				return answer(http.StatusTooManyRequests, "2", "")
			}
			return answer(http.StatusOK, "", "pods")
		}, Behaviour{Verb: VerbList, Period: time.Second})
		if err := a.request(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := time.Since(began); got != 6*time.Second {
			t.Errorf("it took %s, want three times Retry-After, 6s", got)
		}
		if ok, throttled := a.count(resultOK), a.count(resultThrottled); ok != 1 || throttled != 3 {
			t.Errorf("counted %v ok and %v throttled, want 1 and 3", ok, throttled)
		}
	})
}

func TestAgentGivesUpAfterTenRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newTestAgent(func(int64, *http.Request) *http.Response {
			return answer(http.StatusTooManyRequests, "1", "")
		}, Behaviour{Verb: VerbList, Period: time.Second})
		if err := a.request(t.Context()); !errors.Is(err, errThrottled) {
			t.Fatalf("error is %v, want errThrottled", err)
		}
		if got := a.count(resultThrottled); got != 11 {
			t.Errorf("%v requests, want the first and ten retries", got)
		}
	})
}

func TestAgentBacksOffOnErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		a := newTestAgent(func(int64, *http.Request) *http.Response { return nil }, Behaviour{Verb: VerbList, Period: 100 * time.Millisecond, Burst: 1})
		a.run(ctx)
		// At its period it would be 6,000; at 30–60 s each about 15, and the first few come sooner.
		if got := a.count(resultError); got < 10 || got > 30 {
			t.Errorf("%v requests in 10 min to a dead server, want 10–30", got)
		}
	})
}

func TestAgentKeepsItsPeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a := newTestAgent(func(int64, *http.Request) *http.Response { return answer(http.StatusOK, "", "x") },
			Behaviour{Verb: VerbList, Period: time.Second, Jitter: 0.2, Burst: 5})
		a.run(ctx)
		if got := a.count(resultOK); got < 54 || got > 65 {
			t.Errorf("%v requests in a minute, want about 4 and 55", got)
		}
	})
}

func TestAgentLoopsSideBySide(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a := newTestAgent(func(int64, *http.Request) *http.Response { return answer(http.StatusOK, "", "x") },
			Behaviour{Verb: VerbList, Period: time.Second, Burst: 1, Parallel: 4})
		a.run(ctx)
		if got := a.count(resultOK); got < 4*59 || got > 4*61 {
			t.Errorf("%v requests in a minute of four loops, want 240", got)
		}
	})
}

// open is a body that does not end before its request does.
type open struct{ ended <-chan struct{} }

func (o open) Read([]byte) (int, error) {
	<-o.ended
	return 0, io.ErrUnexpectedEOF
}

func (o open) Close() error { return nil }

// Watches that are leaked stay open until the agent ends, which waits for them, and there is an end to them.
func TestAgentLeaksWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var asked atomic.Int64
		a := newTestAgent(func(_ int64, r *http.Request) *http.Response {
			asked.Add(1)
			if _, limited := r.Context().Deadline(); limited {
				t.Error("a leaked watch has an end")
			}
			response := answer(http.StatusOK, "", "")
			response.Body = open{ended: r.Context().Done()}
			return response
		}, Behaviour{Verb: VerbLeak, Period: 40 * time.Millisecond, Burst: 1})
		ended := make(chan struct{})
		go func() {
			a.run(ctx)
			close(ended)
		}()
		<-time.After(time.Second - time.Millisecond)
		synctest.Wait()
		if got := asked.Load(); got != 25 {
			t.Errorf("%d watches after a second of one each 40 ms", got)
		}
		<-time.After(time.Hour)
		synctest.Wait()
		if got := asked.Load(); got != maxLeaked {
			t.Errorf("%d watches after an hour, want %d at most", got, maxLeaked)
		}
		cancel()
		<-ended
	})
}

func TestAgentFetchesANewTokenWhenRefused(t *testing.T) {
	a := newTestAgent(func(_ int64, r *http.Request) *http.Response {
		if r.Header.Get("Authorization") != "Bearer fresh" {
			return answer(http.StatusUnauthorized, "", "")
		}
		return answer(http.StatusOK, "", "")
	}, Behaviour{Verb: VerbList})
	a.token = func(_ context.Context, fresh bool) (string, error) {
		if fresh {
			return "fresh", nil
		}
		return "stale", nil
	}
	if err := a.request(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestDiscardFindsTheMarkAcrossReads(t *testing.T) {
	a := newTestAgent(nil, Behaviour{Verb: VerbWatchList})
	for name, body := range map[string]string{
		"short":  `{"k8s.io/initial-events-end":"true"}`,
		"long":   strings.Repeat("x", 100_000) + "k8s.io/initial-events-end" + strings.Repeat("y", 100_000),
		"at end": strings.Repeat("x", 32<<10-5) + "k8s.io/initial-events-end",
	} {
		n, complete, err := a.discard(strings.NewReader(body))
		if err != nil || !complete || n != int64(len(body)) {
			t.Errorf("%s: read %d of %d bytes, mark seen %t (%v)", name, n, len(body), complete, err)
		}
		if _, complete, err := a.discard(iotest.OneByteReader(strings.NewReader(body))); err != nil || !complete {
			t.Errorf("%s byte by byte: mark seen %t (%v)", name, complete, err)
		}
	}
	if _, complete, _ := a.discard(strings.NewReader("k8s.io/initial-events-en")); complete {
		t.Error("half a mark was taken for one")
	}
}
