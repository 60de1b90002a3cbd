package upstream

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// Own is the gate's own way to the API servers, as the user: for what it reads on behalf of many, and for the questions it
// asks about them. It is an http.RoundTripper; requests name a path and a query, the server is picked here, and every
// identity they carry is replaced. Answers come as the API server sent them, not decompressed.
//
// It has no time limit of its own: whoever calls bounds the request by its context. A request is sent to the next server
// only while nothing of it was sent.
func (p *Proxy) Own(user string, groups ...string) http.RoundTripper {
	return &own{proxy: p, as: flow.Request{
		// Verified by being ours: it goes to the pool that carries the gate's certificate.
		Caller: flow.Caller{User: user, Groups: groups, Certainty: flow.CertificateVerified},
		Lane:   flow.Standard,
	}}
}

type own struct {
	proxy *Proxy
	as    flow.Request
}

// RoundTrip implements http.RoundTripper.
func (o *own) RoundTrip(in *http.Request) (*http.Response, error) {
	r := in.Clone(in.Context())
	r.URL.Scheme = "https"
	r.Host = ""
	r.Header.Del("Authorization")
	o.proxy.headers.Set(r, &o.as.Caller)
	markAudit(r.Header)
	var lastErr error
	for _, server := range (*transport)(o.proxy).order() {
		r.URL.Host = server.url.Host
		server.inFlight.Add(1)
		response, err := shared(server.transportFor(&o.as), r)
		if err == nil {
			server.downUntil.Store(0)
			response.Body = &releasingBody{ReadCloser: response.Body, release: sync.OnceFunc(func() { server.inFlight.Add(-1) })}
			return response, nil
		}
		server.inFlight.Add(-1)
		lastErr = fmt.Errorf("asking upstream %s: %w", server.Name, err)
		if !neverSent(err) || r.Context().Err() != nil {
			break
		}
		server.downUntil.Store(time.Now().Add(2 * time.Second).UnixNano())
	}
	return nil, lastErr
}

// NeverSent is true for an error of Own or Serve that happened before anything was sent: no API server could be reached.
func NeverSent(err error) bool { return neverSent(err) }
