package survive

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// sea is a way upstream of which a test says what comes back.
type sea struct {
	answer atomic.Pointer[func(path string) (int, error)]
	probes atomic.Int64
}

func (s *sea) is(answer func(path string) (int, error)) { s.answer.Store(&answer) }

func (s *sea) RoundTrip(r *http.Request) (*http.Response, error) {
	s.probes.Add(1)
	code, err := (*s.answer.Load())(r.URL.Path)
	if code == hangs {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader("{}")), Header: http.Header{}}, nil
}

const hangs = -1

func storeAt(t *testing.T, dir string, upstream http.RoundTripper, resources ...string) (*Store, error) {
	t.Helper()
	return New(Options{
		Upstream: upstream, Dir: dir, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
		Survive: v1alpha1.RelaySurvive{Resources: resources, After: &metav1.Duration{Duration: 5 * time.Second}, GrantTTL: &metav1.Duration{Duration: time.Hour}},
	})
}

// An outage begins when nothing was answered for the time, and ends with an API server that is ready.
func TestWhenAnOutageIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sea{}
		refused := func(string) (int, error) { return 0, errors.New("connection refused") }
		s.is(refused)
		store, err := storeAt(t, t.TempDir(), s)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			store.watchOutage(t.Context())
		}()
		after := func(d time.Duration) bool {
			<-time.After(d)
			synctest.Wait()
			return store.Gone()
		}
		want := func(what string, got, want bool) {
			t.Helper()
			if got != want {
				t.Errorf("%s: gone %t, want %t", what, got, want)
			}
		}
		want("at the beginning", after(time.Hour), false)
		if s.probes.Load() != 0 {
			t.Error("it is probed while nothing fails")
		}
		store.Failed(nil)
		want("after 4 s of failing", after(4*time.Second), false)
		store.Answered()
		want("one request was answered", after(time.Minute), false)
		store.Failed(nil)
		want("after 7 s of failing", after(7*time.Second), true)
		probes := s.probes.Load()
		after(time.Minute)
		if n := s.probes.Load() - probes; n < 40 || n > 130 {
			t.Errorf("%d probes in a minute, want about one a second", n)
		}
		s.is(func(string) (int, error) { return hangs, nil })
		want("they hang", after(time.Minute), true)
		s.is(func(string) (int, error) { return http.StatusServiceUnavailable, nil })
		want("a balancer in front of nothing", after(time.Minute), true)
		s.is(func(path string) (int, error) {
			if path == "/readyz" {
				return http.StatusInternalServerError, nil
			}
			return http.StatusForbidden, nil
		})
		for range 1000 {
			store.Answered() // it forbids everything to everyone
		}
		want("one that starts", after(time.Minute), true)
		s.is(func(path string) (int, error) {
			if path == "/readyz" {
				return http.StatusOK, nil
			}
			return http.StatusForbidden, nil
		})
		want("one that is ready and does not let us read", after(2*time.Second), false)
		s.is(func(path string) (int, error) {
			if path == "/readyz" {
				return http.StatusInternalServerError, nil
			}
			return http.StatusOK, nil
		})
		store.Failed(nil)
		want("one without etcd, that reads from its cache", after(time.Minute), false)
		s.is(refused)
		store.Failed(nil)
		want("again", after(10*time.Second), true)
	})
}
