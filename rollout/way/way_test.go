package way

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// fake is a way that does what a test says.
type fake func(*http.Request) (*http.Response, error)

func (f fake) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func says(status int) fake {
	return func(*http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(strings.NewReader("{}"))}, nil
	}
}

func refuses(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func hangs(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// breaks sends headers, and breaks in the middle of the body.
func breaks(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(io.MultiReader(strings.NewReader("{"), failing{}))}, nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

const patience = 5 * time.Second

func switched(ordinary, glass fake) *Switch {
	base := func(host string) *url.URL { return &url.URL{Scheme: "https", Host: host} }
	return &Switch{ordinary: path{ordinary, base("ordinary")}, glass: path{glass, base("glass")}, patience: patience}
}

// ask sends one request and reads the answer.
func ask(ctx context.Context, s *Switch) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://ordinary/api", nil)
	if err != nil {
		return err
	}
	answer, err := s.RoundTrip(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	_, err = io.ReadAll(answer.Body)
	return err
}

// A request a second, as a lane sends them; the time until the break-glass way is gone by is what is looked at.
func TestSwitch(t *testing.T) {
	for name, test := range map[string]struct {
		ordinary fake
		forth    bool
		done     bool // each round is done
		want     time.Duration
	}{
		"connections are refused":   {ordinary: refuses, want: patience},
		"nobody answers":            {ordinary: hangs, want: patience + time.Second},
		"too many requests":         {ordinary: says(http.StatusTooManyRequests), want: patience},
		"not available":             {ordinary: says(http.StatusServiceUnavailable), want: patience},
		"lists break off":           {ordinary: breaks, want: patience},
		"well":                      {ordinary: says(http.StatusOK)},
		"not allowed":               {ordinary: says(http.StatusForbidden)},
		"a conflict":                {ordinary: says(http.StatusConflict)},
		"not there":                 {ordinary: says(http.StatusNotFound)},
		"forth":                     {ordinary: refuses, forth: true},
		"a failure here and there":  {ordinary: refuses, done: true},
		"half of what is asked for": {ordinary: half(says(http.StatusOK), refuses), want: patience + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := switched(test.ordinary, says(http.StatusOK))
				s.Back(!test.forth)
				began := time.Now()
				for time.Since(began) < time.Minute {
					_ = ask(t.Context(), s)
					if byGlass, why := s.Now(); byGlass {
						if took := time.Since(began); took != test.want || !strings.Contains(why, "the ordinary way has failed for ") {
							t.Errorf("the way was changed after %v: %s", took, why)
						}
						return
					}
					if test.done {
						s.Done()
					}
					<-time.After(time.Second)
				}
				if test.want != 0 {
					t.Error("the way was not changed")
				}
			})
		})
	}
}

// half does one thing and then another, in turn.
func half(one, other fake) fake {
	n := 0
	return func(r *http.Request) (*http.Response, error) {
		if n++; n%2 == 1 {
			return one(r)
		}
		return other(r)
	}
}

// Who goes forth again, or has nothing left to take back, goes by the ordinary way; so does whoever finds the other one cut.
func TestSwitchBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		glass := fake(says(http.StatusOK))
		s := switched(refuses, func(r *http.Request) (*http.Response, error) { return glass(r) })
		s.Back(true)
		until := func(want bool) {
			t.Helper()
			began := time.Now()
			for byGlass := !want; byGlass != want; byGlass, _ = s.Now() {
				if time.Since(began) > time.Minute {
					t.Fatalf("the break-glass way is not %v", want)
				}
				_ = ask(t.Context(), s)
				<-time.After(time.Second)
			}
		}
		until(true)
		for range 100 {
			if err := ask(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		if byGlass, _ := s.Now(); !byGlass {
			t.Error("a way that is well was left")
		}
		s.Back(false)
		if err := ask(t.Context(), s); err == nil {
			t.Error("a move forth was made by the break-glass way")
		}
		s.Back(true)
		until(true)
		glass = refuses
		if err := ask(t.Context(), s); err == nil || !strings.Contains(err.Error(), "by the break-glass way: ") {
			t.Errorf("got %v", err)
		}
		until(false)
		if _, why := s.Now(); !strings.Contains(why, "the break-glass way has failed") {
			t.Errorf("the way was changed because %s", why)
		}
	})
}

// What its sender gave up says nothing of the way.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := switched(hangs, says(http.StatusOK))
		s.Back(true)
		for range 20 {
			ctx, cancel := context.WithCancel(t.Context())
			stop := time.AfterFunc(time.Second, cancel)
			_ = ask(ctx, s)
			stop.Stop()
		}
		if byGlass, why := s.Now(); byGlass {
			t.Errorf("the way was changed: %s", why)
		}
	})
}

// Each way has its own address, path and credentials: the token of one is never sent by the other.
func TestEachWayHasItsOwn(t *testing.T) {
	var asked []string
	serve := func(name string, status int) string {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked = append(asked, name+" "+r.URL.Path+"?"+r.URL.RawQuery+" "+r.Header.Get("Authorization"))
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"kind":"PodList","apiVersion":"v1","items":[]}`)
		}))
		t.Cleanup(server.Close)
		return server.URL
	}
	ordinary := &rest.Config{Host: serve("ordinary", http.StatusServiceUnavailable) + "/clusters/one", BearerToken: "one"}
	glass := &rest.Config{Host: serve("glass", http.StatusOK), BearerToken: "two"}
	s, err := New(ordinary, glass, time.Nanosecond)
	if err != nil {
		t.Fatal(err)
	}
	defer s.CloseIdleConnections()
	client, err := kubernetes.NewForConfigAndClient(ordinary, &http.Client{Transport: s})
	if err != nil {
		t.Fatal(err)
	}
	list := func() error {
		_, err := client.CoreV1().Pods("a").List(t.Context(), metav1.ListOptions{LabelSelector: "a=b"})
		return err
	}
	if err := list(); err == nil { // forth: it waits for no patience, and it fails
		t.Error("503 is no error")
	}
	s.Back(true)
	if err := list(); err != nil {
		t.Error(err)
	}
	want := []string{"ordinary /clusters/one/api/v1/namespaces/a/pods?labelSelector=a%3Db Bearer one", "glass /api/v1/namespaces/a/pods?labelSelector=a%3Db Bearer two"}
	if len(asked) != 2 || asked[0] != want[0] || asked[1] != want[1] {
		t.Errorf("asked %q, want %q", asked, want)
	}
}
