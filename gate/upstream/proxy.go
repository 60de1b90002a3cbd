package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream/choice"
)

// ErrEndStream is the cause with which a request's context is cancelled when its stream is to end as if the API server
// had closed it: a watch sees a clean end and is opened again elsewhere. Any other request is cut off, because a
// truncated answer must not look complete.
var ErrEndStream = errors.New("stream ended by the gate")

// Proxy forwards classified requests to one of its servers. It is safe for concurrent use and immutable.
type Proxy struct {
	group   *Group
	headers *identity.Headers
	// headerTimeout bounds how long a request that is no stream waits for the first byte of its answer.
	headerTimeout time.Duration
	bodies        *Bodies
	log           *slog.Logger
	// whole carries answers that end, streams those that go on.
	whole, streams *httputil.ReverseProxy
}

// Result is what became of a forwarded request.
type Result struct {
	// Code is the HTTP status the client got.
	Code int
	// Server is the name of the API server that was asked last.
	Server string
	// Upstream is how long the API server worked on the request: until the last byte of the answer, less the time
	// spent waiting for a slow client to take it. For streams, until the first byte.
	Upstream time.Duration
	// RequestBytes and ResponseBytes are what passed, headers not counted.
	RequestBytes, ResponseBytes int64
	// Shared is true for an answer that others got as well: Upstream is then this request's part of the time.
	Shared bool
	// Err is why no answer came from upstream, or why it was cut off; nil otherwise.
	Err error
}

// NewProxy returns a proxy over a group of at least one server. headerTimeout must be longer than the API server's own
// --request-timeout (default 60 s), so that the API server's word comes first. bodies are the process's own.
func NewProxy(group *Group, headers *identity.Headers, headerTimeout time.Duration, bodies *Bodies, log *slog.Logger) *Proxy {
	p := &Proxy{group: group, headers: headers, headerTimeout: headerTimeout, bodies: bodies, log: log}
	reverse := func(flush time.Duration, buffer int) *httputil.ReverseProxy {
		return &httputil.ReverseProxy{
			Rewrite:        p.rewrite,
			Transport:      (*transport)(p),
			ModifyResponse: p.modifyResponse,
			ErrorHandler:   p.answerError,
			FlushInterval:  flush,
			BufferPool:     &bufferPool{size: buffer},
			ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
	}
	p.whole = reverse(wholeFlush, wholeBuffer)
	p.streams = reverse(-1, streamBuffer) // watches and logs must not wait for a buffer to fill
	return p
}

// wholeFlush is how long a part of an answer that ends may wait for what comes next. Most answers are complete before
// that, and each flush is a record, a frame and a system call of its own.
const wholeFlush = 5 * time.Millisecond

// exchange is one request on its way, kept in its context.
type exchange struct {
	flow     *flow.Request
	result   *Result
	sent     time.Time
	headers  time.Time
	cancel   context.CancelCauseFunc
	deadline *time.Timer
	ended    func() error // why the request's context ended, if it did
	body     *countingBody
}

// clientAtFault is what was wrong with the request's body when the gate waited for that and not for the API server.
func (x *exchange) clientAtFault() error {
	failed := x.body.failed.Load()
	switch {
	case failed != nil && errors.Is(*failed, os.ErrDeadlineExceeded), errors.Is(x.ended(), ErrNoAnswer) && x.body.waiting.Load():
		return errClientLate
	case failed != nil:
		return fmt.Errorf("reading the request's body: %w", *failed)
	}
	return nil
}

type exchangeKey struct{}

func exchangeOf(r *http.Request) *exchange { return r.Context().Value(exchangeKey{}).(*exchange) }

var (
	// ErrNoAnswer says that an API server took a request and was silent for too long.
	ErrNoAnswer   = errors.New("no answer in time")
	errClientLate = errors.New("the client did not send the request's body in time")
)

// Serve forwards the request and streams the answer. The request's identity headers must have been stripped; Serve sets
// them from f.Caller. It returns when the answer has ended, for whatever reason.
//
// Like http.Handler it may panic with http.ErrAbortHandler after the answer was cut off, which is how the client
// learns of it; the Result is then given to done first. done is called exactly once, always.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, f *flow.Request, done func(Result)) {
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	result := &Result{}
	x := &exchange{flow: f, result: result, sent: time.Now(), cancel: cancel, ended: func() error { return context.Cause(ctx) }}
	// A watch is answered at once or not at all; a followed log or a shell may stay silent for as long as its container.
	if !f.Unbounded() || f.Verb == "watch" && !f.Upgrade {
		x.deadline = time.AfterFunc(p.headerTimeout, func() { cancel(ErrNoAnswer) })
		defer x.deadline.Stop()
	}
	client := &clientWriter{Counted: Counted{ResponseWriter: w}}
	body := &countingBody{ReadCloser: r.Body}
	out := r.WithContext(context.WithValue(ctx, exchangeKey{}, x))
	x.body = body
	if r.Body != nil && r.Body != http.NoBody {
		out.Body = body
	}
	defer func() {
		if client.Code != 0 { // else the connection was taken over, and modifyResponse knows the code
			result.Code = client.Code
		}
		result.ResponseBytes = client.Bytes
		result.RequestBytes = body.bytes.Load()
		switch {
		case f.LongRunning && !x.headers.IsZero():
			result.Upstream = x.headers.Sub(x.sent)
		default:
			result.Upstream = max(0, time.Since(x.sent)-client.blocked)
		}
		done(*result)
	}()
	if f.LongRunning {
		p.streams.ServeHTTP(client, out)
		return
	}
	p.whole.ServeHTTP(client, out)
}

func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	x := exchangeOf(pr.In)
	// ReverseProxy drops query parameters it cannot parse; the API server shall see what the client wrote.
	pr.Out.URL.RawQuery = pr.In.URL.RawQuery
	pr.Out.URL.Scheme = "https"
	p.headers.Set(pr.Out, &x.flow.Caller)
	markAudit(pr.Out.Header)
	setForwarded(pr, x.flow)
	if _, ok := pr.In.Header["User-Agent"]; !ok {
		pr.Out.Header["User-Agent"] = nil // keep net/http from putting its own name there
	}
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		// Under this spelling net/http takes a POST for one it may repeat when a connection breaks; the API server promises
		// nothing of the kind. In another spelling it is the same header, and only a header.
		if values, ok := pr.Out.Header[name]; ok {
			delete(pr.Out.Header, name)
			pr.Out.Header[strings.ToLower(name)] = values
		}
	}
}

// setForwarded tells the API server where the request came from, after what the client says of itself: the audit log's
// sourceIPs and the addresses that discovery names would otherwise be about the gate. ReverseProxy takes these headers
// away; directly they would arrive, and what stands behind the API server's own proxy may use them.
func setForwarded(pr *httputil.ProxyRequest, f *flow.Request) {
	for _, name := range [...]string{"Forwarded", "X-Forwarded-Host", "X-Forwarded-Proto"} {
		if values, ok := pr.In.Header[name]; ok {
			pr.Out.Header[name] = values
		}
	}
	addresses := slices.Clip(pr.In.Header["X-Forwarded-For"])
	if f.Source.IsValid() {
		addresses = append(addresses, f.Source.String())
	}
	if len(addresses) > 0 {
		pr.Out.Header["X-Forwarded-For"] = []string{strings.Join(addresses, ", ")}
	}
}

func (p *Proxy) modifyResponse(response *http.Response) error {
	x := exchangeOf(response.Request)
	x.headers = time.Now()
	x.result.Code = response.StatusCode
	if response.StatusCode == http.StatusSwitchingProtocols {
		// ReverseProxy would leave the connection open behind a switch to another protocol, and take one nobody asked for
		// for agreed.
		asked, got := response.Request.Header.Get("Upgrade"), response.Header.Get("Upgrade")
		if !x.flow.Upgrade || asked == "" || !strings.EqualFold(asked, got) {
			return fmt.Errorf("the API server switched protocols to %q, asked for was %q", got, asked)
		}
	}
	if x.flow.Upgrade && response.StatusCode != http.StatusSwitchingProtocols {
		// The refusal of a stream is none, and has to end.
		x.deadline = time.AfterFunc(p.headerTimeout, func() { x.cancel(ErrNoAnswer) })
	}
	switch {
	case x.deadline != nil && x.flow.LongRunning && !x.flow.Upgrade:
		x.deadline.Stop()
	case x.deadline != nil:
		x.deadline.Stop()
		// ReverseProxy flushes after each read of an answer whose length is not announced, which is every object of more
		// than 2 KB, and takes this for announced.
		response.ContentLength = max(0, response.ContentLength)
		response.Body = &steadyBody{ReadCloser: response.Body, stall: x.deadline, patient: p.headerTimeout}
	}
	if x.flow.Verb == "watch" && response.StatusCode == http.StatusOK {
		response.Body = &watchBody{ReadCloser: response.Body, ended: x.ended}
	}
	return nil
}

// transport picks a server for each request and goes on to the next only while nothing was sent, except for a
// break-glass GET: it may be sent again when no answer began, because the engineer would only type it again.
type transport Proxy

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.roundTrip(r, exchangeOf(r))
}

// send asks one server after the other until one can be reached.
func (t *transport) send(r *http.Request, x *exchange) (*http.Response, error) {
	var lastErr error
	again := x.flow.Lane == flow.BreakGlass && r.Method == http.MethodGet && r.Body == nil && !x.flow.Upgrade
	call := t.group.call(wants(r, x.flow))
	for {
		if err := call.next(); err != nil {
			return nil, cmp.Or(lastErr, err)
		}
		server := call.server
		x.result.Server = server.Name
		r.URL.Host = server.url.Host
		response, err := shared(server.transportFor(x.flow, r.Method), r)
		if err == nil {
			then := func() {}
			if response.StatusCode == http.StatusOK && movable(x.flow, r.URL.RawQuery) {
				then = server.watches.add(x.cancel, time.Now())
			}
			call.answered(response, r.URL.RawQuery, then)
			return response, nil
		}
		call.failed(outcomeOfError(r.Context(), err, x.clientAtFault() != nil))
		lastErr = err
		if !neverSent(err) && !again || r.Context().Err() != nil {
			return nil, lastErr
		}
		if !neverSent(err) {
			t.log.Warn("API server broke off, asking the next", "upstream", server.Name, "reason", err)
			continue
		}
		t.log.Warn("API server cannot be reached", "upstream", server.Name, "reason", err)
	}
}

// neverSent is true when the error happened before any byte of the request left: only then may it be tried elsewhere,
// because a mutation sent twice may happen twice.
func neverSent(err error) bool {
	var unreachable *errUnreachable
	return errors.As(err, &unreachable)
}

// answerError tells the client, in the API's own form, why no answer came from upstream.
func (p *Proxy) answerError(w http.ResponseWriter, r *http.Request, err error) {
	x := exchangeOf(r)
	cause := x.ended()
	x.result.Err = err
	fault := x.clientAtFault()
	switch {
	case errors.Is(fault, errClientLate):
		x.result.Err = fault
		WriteStatus(w, clientLateStatus(p.headerTimeout))
	case errors.Is(cause, ErrNoAnswer):
		x.result.Err = fmt.Errorf("%w from API server %s after %s", ErrNoAnswer, x.result.Server, p.headerTimeout)
		WriteStatus(w, timeoutStatus(x.result.Server, p.headerTimeout))
	case errors.Is(cause, ErrEndStream):
		x.result.Err = cause
		WriteStatus(w, endedStatus(cause))
	case r.Context().Err() != nil && cause != nil && errors.Is(cause, context.Canceled):
		// The client is gone; nobody reads what is written here. 499 is for the ledger only.
		w.WriteHeader(StatusClientClosed)
	case fault != nil:
		x.result.Err = fault
		WriteStatus(w, badBodyStatus(fault))
	case errors.Is(err, http.ErrAbortHandler), errors.Is(err, io.ErrUnexpectedEOF):
		WriteStatus(w, brokenStatus(x.result.Server, err))
	case errors.Is(err, errNotKept):
		WriteStatus(w, notKeptStatus(x.result.Server))
	case errors.Is(err, choice.ErrAllOut):
		WriteStatus(w, allOutStatus())
	case neverSent(err):
		status := unreachableStatus(x.result.Server, err)
		if x.flow.Lane == flow.BreakGlass {
			status.Details = nil // no Retry-After: kubectl would try ten times in silence, and the engineer is waiting
		}
		WriteStatus(w, status)
	default:
		WriteStatus(w, brokenStatus(x.result.Server, err))
	}
}

// StatusClientClosed is what the ledger shows for a request whose client left before the answer (nginx's 499).
const StatusClientClosed = 499
