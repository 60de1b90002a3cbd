package rollouttest

import (
	"net/http"
	"sync"

	"k8s.io/client-go/rest"
)

// Meanwhile is a way to a lab by which something is done once, just before the first request that matches is sent: what somebody
// else does between a read and the write that follows it.
func Meanwhile(config *rest.Config, matches func(*http.Request) bool, do func()) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &meanwhile{next: next, matches: matches, do: sync.OnceFunc(do)}
	})
	return config
}

type meanwhile struct {
	next    http.RoundTripper
	matches func(*http.Request) bool
	do      func()
}

// RoundTrip implements http.RoundTripper.
func (m *meanwhile) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.matches(r) {
		m.do()
	}
	return m.next.RoundTrip(r)
}
