package source

import (
	"net/http"
	"path"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

// What relays say of the age of their data; dns/relay has the same names.
const (
	headerAge     = "Age"
	headerState   = "Seakeep-State"
	annotationAge = "seakeep.dev/age-seconds"
)

// tellTale remembers how old a relay said its data is. The zero value has been told nothing; nil is of an API server.
type tellTale struct {
	confirmed [store.KindCount]atomic.Pointer[time.Time]
	cutOff    atomic.Bool
}

// wrap reads the headers of every answer: the clients' types do not show those of a watch.
func (t *tellTale) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTripper(func(q *http.Request) (*http.Response, error) {
		answer, err := next.RoundTrip(q)
		if err != nil {
			return nil, err
		}
		state := keeper.State(answer.Header.Get(headerState))
		t.cutOff.Store(state != "" && state != keeper.Live && state != keeper.Guarded)
		if kind, known := store.ParseKind(path.Base(q.URL.Path)); known == nil && answer.StatusCode == http.StatusOK {
			t.set(kind, answer.Header.Get(headerAge))
		}
		return answer, nil
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(q *http.Request) (*http.Response, error) { return f(q) }

// maxAge keeps an age that makes no sense from overflowing.
const maxAge = 10 * 365 * 24 * 3600

// set takes an age in seconds. Text that is none tells nothing, and then the data is as new as the answer.
func (t *tellTale) set(kind store.Kind, text string) {
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil || !(seconds >= 0 && seconds < maxAge) {
		t.confirmed[kind].Store(nil)
		return
	}
	at := time.Now().Add(-time.Duration(seconds * float64(time.Second)))
	t.confirmed[kind].Store(&at)
}

func (t *tellTale) bookmark(kind store.Kind, annotations map[string]string) {
	if text, ok := annotations[annotationAge]; ok && t != nil {
		t.set(kind, text)
	}
}

func (t *tellTale) age(kind store.Kind) time.Duration {
	if t == nil {
		return 0
	}
	at := t.confirmed[kind].Load()
	if at == nil {
		return 0
	}
	return max(time.Since(*at), 0)
}

// behind is true when the relay's last answer said that it follows nothing.
func (t *tellTale) behind() bool { return t != nil && t.cutOff.Load() }
