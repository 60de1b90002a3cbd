package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream/choice"
)

// Own is the gate's own way to the API servers, as the user: for what it reads on behalf of many, and for the questions it
// asks about them. It is an http.RoundTripper; requests name a path and a query, the server is picked here, and every
// identity they carry is replaced. Answers come as the API server sent them, not decompressed.
//
// A LIST or GET with resourceVersion=0 may be answered by an API server that has lost its etcd; nothing else is sent to
// one. A watch with bookmarks may be ended, as an API server ends one, to be opened at another. A watch or a request that waits for a server holds its place there until its body is closed.
//
// It has no time limit of its own: whoever calls bounds the request by its context. A request is sent to the next server
// only while nothing of it was sent.
func (p *Proxy) Own(user string, groups ...string) http.RoundTripper {
	return p.group.own(p.headers, user, groups...)
}

func (g *Group) own(headers *identity.Headers, user string, groups ...string) *own {
	return &own{group: g, headers: headers, as: flow.Request{
		// Verified by being ours: it goes to the pool that carries the gate's certificate.
		Caller: flow.Caller{User: user, Groups: groups, Certainty: flow.CertificateVerified},
		Lane:   flow.Standard,
	}}
}

type own struct {
	group   *Group
	headers *identity.Headers
	as      flow.Request
}

// RoundTrip implements http.RoundTripper.
func (o *own) RoundTrip(in *http.Request) (*http.Response, error) {
	ctx, end := context.WithCancelCause(in.Context())
	response, err := o.send(in.Clone(ctx), end)
	if err != nil {
		end(nil)
	}
	return response, err
}

// send asks one server after the other until one can be reached. end ends the request's context, and is called when the
// answer's body is closed.
func (o *own) send(r *http.Request, end context.CancelCauseFunc) (*http.Response, error) {
	r.URL.Scheme = "https"
	r.Host = ""
	r.Header.Del("Authorization")
	o.headers.Set(r, &o.as.Caller)
	markAudit(r.Header)
	var lastErr error
	call := o.group.call(ownWants(r))
	for {
		if err := call.next(); err != nil {
			return nil, cmp.Or(lastErr, err)
		}
		r.URL.Host = call.server.url.Host
		connections := &call.server.pools[frontProxy]
		transport := connections.writes
		switch {
		case call.want.Stream:
			transport = connections.streams
		case r.Method == http.MethodGet:
			transport = connections.reads
		}
		response, err := shared(transport, r)
		if err == nil {
			if call.want.Stream && response.StatusCode == http.StatusOK && bookmarks(r.URL.RawQuery) {
				response.Body = &watchBody{ReadCloser: response.Body, ended: func() error { return context.Cause(r.Context()) }}
				remove := call.server.watches.add(end, time.Now())
				call.answered(response, r.URL.RawQuery, func() { remove(); end(nil) })
				return response, nil
			}
			call.answered(response, r.URL.RawQuery, func() { end(nil) })
			return response, nil
		}
		call.failed(outcomeOfError(r.Context(), err, false))
		lastErr = fmt.Errorf("asking upstream %s: %w", call.server.Name, err)
		if !neverSent(err) || r.Context().Err() != nil {
			return nil, lastErr
		}
	}
}

// NeverSent is true for an error of Own or Serve that happened before anything was sent: no API server could be reached.
func NeverSent(err error) bool { return neverSent(err) }

// WriteFailed tells a client, in the API's own form, why a request of Own's has no answer, and returns the code. patience is
// how long an answer was waited for before ErrNoAnswer.
func WriteFailed(w http.ResponseWriter, err error, patience time.Duration) int {
	status := brokenStatus("behind the gate", err)
	switch {
	case errors.Is(err, choice.ErrAllOut):
		status = allOutStatus()
	case neverSent(err):
		status = unreachableStatus("behind the gate", err)
	case errors.Is(err, ErrNoAnswer):
		status = timeoutStatus("behind the gate", patience)
	}
	WriteStatus(w, status)
	return int(status.Code)
}

// WriteEnded tells a client whose request's context has ended before there was an answer why that is, and returns the code
// and the cause. expired is the cause of a time limit that the client itself had set.
func WriteEnded(w http.ResponseWriter, ctx context.Context, expired error) (int, error) { //nolint:revive // w comes first in every handler
	cause := context.Cause(ctx)
	var status *metav1.Status
	switch {
	case errors.Is(cause, expired):
		status = timeoutStatus("behind the gate", 0)
		status.Message = "seakeep gate: " + cause.Error() + " before the API server had answered"
	case errors.Is(cause, ErrEndStream):
		status = endedStatus(cause)
	default:
		w.WriteHeader(StatusClientClosed) // nobody reads it
		return StatusClientClosed, nil
	}
	WriteStatus(w, status)
	return int(status.Code), cause
}
