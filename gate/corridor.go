package gate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/ledger"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/gate/relay"
	"github.com/seakeep/seakeep/gate/tracing"
	"github.com/seakeep/seakeep/gate/upstream"
)

// corridor is the way of every request on the standard lane: identity, flow, limit, relay, admit, upstream, ledger. Each room decides
// on what the rooms before it found out; nothing goes back. What the relay can answer goes no further. The rooms that
// depend on the configuration come from one snapshot, taken once per request, so that a reload never mixes two
// configurations in one request.
type corridor struct {
	gate *Gate
}

// ServeHTTP implements http.Handler.
func (c corridor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	rooms := c.gate.rooms.Load()
	c.gate.ledger.Started()
	defer c.gate.ledger.Finished()
	seen := c.gate.observe(r, arrived)
	defer seen.end()
	seen.enter(tracing.Identity)

	if err := rooms.headers.Strip(r); err != nil {
		c.refuse(w, r, seen, arrived, ledger.RejectedRequest, refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest, err))
		return
	}
	caller, err := rooms.identity.Authenticate(r)
	if err != nil {
		c.refuse(w, r, seen, arrived, ledger.RejectedIdentity, refusalOf(err))
		return
	}
	if rooms.mode == v1alpha1.Impersonation && caller.Certainty == flow.CertificateVerified && identity.CarriesImpersonation(r.Header) {
		c.refuse(w, r, seen, arrived, ledger.RejectedIdentity, refusal(http.StatusForbidden, metav1.StatusReasonForbidden, errNestedImpersonation))
		return
	}

	f, err := flow.Classify(r, caller, flow.Standard, arrived)
	if err != nil {
		c.refuse(w, r, seen, arrived, ledger.RejectedRequest, refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest, err))
		return
	}
	if f.Upgrade && !flow.MayUpgrade(f, r) {
		c.refuse(w, r, seen, arrived, ledger.RejectedRequest, refusal(http.StatusForbidden, metav1.StatusReasonForbidden, errUpgrade))
		return
	}

	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	end := func(cause error) { cancel(fmt.Errorf("%w: %w", upstream.ErrEndStream, cause)) }
	seen.enter(tracing.Limit)
	sharing := c.gate.relaying.Load()
	question := sharing.look(r, f)
	admit := c.gate.limits.Admit
	if question.Shared() {
		admit = c.gate.limits.AdmitShared
	}
	pass, rejection := admit(f, end)
	if rejection != nil {
		c.reject(w, seen, f, rejection)
		return
	}
	defer pass.Done()
	if f.LongRunning {
		stop := c.gate.streams.add(end)
		defer stop()
	}

	switch {
	case f.Unbounded():
		w = newEndless(w, rooms.config.UpstreamTimeout.Duration)
	case rooms.config.UpstreamTimeout.Duration != c.gate.config.UpstreamTimeout.Duration:
		asLongAs(w, arrived, rooms.config.UpstreamTimeout.Duration)
	}
	metered := newMeter(w, f, pass)
	defer metered.stop()
	done := func(result upstream.Result) {
		if result.Code == http.StatusUnauthorized && caller.Certainty == flow.TokenVerified {
			rooms.identity.Distrust(r)
		}
		seen.answered(f, &result, w.Header())
		outcome := ledger.Outcome{
			Code:          result.Code,
			Unanswered:    result.Err != nil,
			Upstream:      result.Upstream,
			SeatSeconds:   result.Upstream.Seconds() * metered.held(),
			RequestBytes:  result.RequestBytes,
			ResponseBytes: result.ResponseBytes,
			Shared:        result.Shared,
		}
		if f.InitialEvents && !result.Shared {
			outcome.SeatSeconds = metered.initialEvents().Seconds() * metered.held()
		}
		if f.LongRunning {
			c.gate.ledger.Closed(f, outcome)
			return
		}
		c.gate.ledger.Record(f, outcome)
	}
	if !c.share(sharing, metered, r.WithContext(ctx), f, question, seen, done) {
		account := pass
		if question.Shared() && !c.gate.limits.SqueezedUntil().IsZero() {
			own, rejection := c.gate.limits.Admit(f, end)
			if rejection != nil {
				c.reject(w, seen, f, rejection)
				return
			}
			defer own.Done()
			account = own
		}
		seen.enter(tracing.Admit)
		seats, turned := c.gate.enter(ctx, f, r)
		if seats == nil {
			c.turnAway(w, seen, f, turned)
			return
		}
		defer seats.Release()
		account.Seated(seats.Held())
		metered.seats.Store(seats)
		if f.LongRunning {
			c.gate.ledger.Opened(f)
		}
		seen.forward(r.Header)
		rooms.proxy.Serve(sharing.hears(metered.opening(f), r, f), r.WithContext(upstream.WithSeats(ctx, seats.Held())), f, func(result upstream.Result) {
			if f.Verb != "watch" {
				sharing.observed(r, f, result.Code)
			}
			done(result)
			seats.Done(metered.outcome(f, &result))
		})
	}
	metered.complete()
}

// reject answers a request that the limits turned away.
func (c corridor) reject(w http.ResponseWriter, seen *observation, f *flow.Request, rejection *limit.Rejection) {
	outcome := ledger.Outcome{Code: rejection.Code, RejectedBy: reasonOf(rejection) + ":" + rejection.Rule}
	c.gate.ledger.Record(f, outcome)
	seen.refused(f, &outcome)
	upstream.WriteStatus(w, rejection.Status())
}

// turnAway answers a request that admission did not let in; nil when its client did not wait for it.
func (c corridor) turnAway(w http.ResponseWriter, seen *observation, f *flow.Request, turned *admit.Rejection) {
	outcome := ledger.Outcome{Code: upstream.StatusClientClosed}
	if turned == nil {
		c.gate.ledger.Record(f, outcome)
		seen.refused(f, &outcome)
		w.WriteHeader(upstream.StatusClientClosed)
		return
	}
	status := turned.Status()
	outcome = ledger.Outcome{Code: int(status.Code), RejectedBy: ledger.RejectedOverload + ":" + string(turned.Level)}
	c.gate.ledger.Record(f, outcome)
	seen.refused(f, &outcome)
	upstream.WriteStatus(w, status)
}

// share lets the relay answer, and says whether it did.
func (c corridor) share(sharing *relaying, w http.ResponseWriter, r *http.Request, f *flow.Request, q relay.Question, seen *observation, done func(upstream.Result)) bool {
	if sharing == nil {
		return false
	}
	seen.enter(tracing.Relay)
	if !f.LongRunning {
		return sharing.relay.Serve(w, r, f, q, done)
	}
	open := sync.OnceFunc(func() { c.gate.ledger.OpenedShared(f) })
	return sharing.relay.Serve(&begins{ResponseWriter: w, begun: func(int) { open() }}, r, f, q, func(result upstream.Result) {
		open()
		done(result)
	})
}

// begins tells when an answer begins, and with what status.
type begins struct {
	http.ResponseWriter
	begun func(code int)
}

// WriteHeader implements http.ResponseWriter.
func (b *begins) WriteHeader(code int) {
	b.begun(code)
	b.ResponseWriter.WriteHeader(code)
}

// Hijack implements http.Hijacker: a connection that is taken over has no status that is written.
func (b *begins) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	b.begun(http.StatusSwitchingProtocols)
	return http.NewResponseController(b.ResponseWriter).Hijack()
}

// Unwrap lets http.ResponseController reach Flush and deadlines.
func (b *begins) Unwrap() http.ResponseWriter { return b.ResponseWriter }

// refuse answers a request that did not get as far as the limits. It is recorded under its source: whoever it claims to
// be was not believed.
func (c corridor) refuse(w http.ResponseWriter, r *http.Request, seen *observation, arrived time.Time, reason string, status *metav1.Status) {
	source := flow.SourceOf(r)
	f := &flow.Request{
		Caller:    flow.Caller{User: "unverified:" + source.String()},
		UserAgent: r.UserAgent(),
		Source:    source,
		Lane:      flow.Standard,
		Arrived:   arrived,
		Verb:      strings.ToLower(r.Method),
		Path:      r.URL.Path,
		Scope:     v1alpha1.ScopeNonResource,
	}
	outcome := ledger.Outcome{Code: int(status.Code), RejectedBy: reason}
	c.gate.ledger.Record(f, outcome)
	seen.refused(f, &outcome)
	upstream.WriteStatus(w, status)
}

func reasonOf(rejection *limit.Rejection) string {
	if rejection.Emergency {
		return ledger.RejectedEmergency
	}
	return ledger.RejectedLimit
}

var (
	errNestedImpersonation = errors.New("this gate speaks to the API server by impersonation and cannot pass on a client's own; use a token, or the API server directly")
	errUpgrade             = errors.New("only SPDY and WebSocket, and only where the Kubernetes API streams, may switch protocols (kubernetes/kubernetes#71411)")
)

func refusalOf(err error) *metav1.Status {
	if errors.Is(err, identity.ErrForbidden) {
		return refusal(http.StatusForbidden, metav1.StatusReasonForbidden, err)
	}
	return refusal(http.StatusUnauthorized, metav1.StatusReasonUnauthorized, err)
}

func refusal(code int32, reason metav1.StatusReason, err error) *metav1.Status {
	return &metav1.Status{Code: code, Reason: reason, Message: "seakeep gate: " + err.Error()}
}

// meter charges what a response writes to its limits, and finds out when a watch has sent its initial events.
type meter struct {
	http.ResponseWriter
	pass *limit.Pass
	// initial is nil unless the request is a watch that sends initial events.
	initial *initialEvents
	charge  bool
	charged int64
	gzip    gzipSize
	blocked time.Duration // what writing has taken
	stall   *time.Timer
	// seats are what the request holds of the API servers, once it was admitted.
	seats atomic.Pointer[admit.Seats]
}

func newMeter(w http.ResponseWriter, f *flow.Request, pass *limit.Pass) *meter {
	m := &meter{ResponseWriter: w, pass: pass, charge: !f.LongRunning || f.InitialEvents}
	if f.InitialEvents {
		m.initial = watchInitialEvents(func() {
			pass.InitialEventsDone()
			m.release()
		})
	}
	return m
}

// held is how many seats the request held.
func (m *meter) held() float64 {
	if s := m.seats.Load(); s != nil {
		return float64(s.Held())
	}
	return 1
}

func (m *meter) release() {
	if s := m.seats.Load(); s != nil {
		s.Release()
	}
}

// opening is the writer of an answer; a stream costs the API server its opening, and what it sends of what existed.
func (m *meter) opening(f *flow.Request) http.ResponseWriter {
	if !f.LongRunning || f.InitialEvents {
		return m
	}
	return &begins{ResponseWriter: m, begun: func(int) { m.release() }}
}

// outcome is what admission learns from.
func (m *meter) outcome(f *flow.Request, result *upstream.Result) admit.Outcome {
	o := admit.Outcome{Code: result.Code, Upstream: result.Upstream, Bytes: m.charged}
	if f.InitialEvents {
		o.Upstream, o.Gzip = m.initialEvents(), m.gzip.compressed
	} else {
		o.Bytes += m.gzip.saved()
	}
	if m.blocked > max(slowReader, o.Upstream) {
		o.Upstream = 0 // how long the API server itself would have taken is not known
	}
	o.TimedOut = errors.Is(result.Err, upstream.ErrNoAnswer) || result.Code == http.StatusGatewayTimeout
	o.Failed = result.Err != nil && result.Code != upstream.StatusClientClosed
	return o
}

// Write implements http.ResponseWriter.
func (m *meter) Write(b []byte) (int, error) {
	n, err := m.write(b)
	if m.charge {
		if m.initial != nil && !m.initial.wrote(b) {
			m.charge = false // live events are what the client asked to be told, not a LIST
			return n, err
		}
		m.pass.Wrote(int64(n))
		m.charged += int64(n)
		m.gzip.wrote(m.Header(), b[:n])
	}
	return n, err
}

// patienceWithReader is how long, in all, a client may keep its answer from being written before its seats go to others.
const patienceWithReader = 2 * time.Second

// slowReader is from when on what an answer took may say more of the client than of the API server.
const slowReader = 100 * time.Millisecond

// write writes, and gives the seats back when the client does not read.
func (m *meter) write(b []byte) (int, error) {
	seats := m.seats.Load()
	if seats == nil || !m.charge || m.blocked >= patienceWithReader {
		return m.ResponseWriter.Write(b)
	}
	if m.stall == nil {
		m.stall = time.AfterFunc(patienceWithReader-m.blocked, seats.Stalled)
	} else {
		m.stall.Reset(patienceWithReader - m.blocked)
	}
	since := time.Now()
	n, err := m.ResponseWriter.Write(b)
	m.stall.Stop()
	m.blocked += time.Since(since)
	return n, err
}

// complete is to be called when the whole answer was written: what the API server encoded and then compressed is
// charged as it was encoded, because that is what it cost.
func (m *meter) complete() {
	if m.charge {
		m.pass.Wrote(m.gzip.saved())
	}
}

// Unwrap lets http.ResponseController reach Flush and Hijack.
func (m *meter) Unwrap() http.ResponseWriter { return m.ResponseWriter }

func (m *meter) initialEvents() time.Duration {
	if m.initial == nil {
		return 0
	}
	return m.initial.took()
}

func (m *meter) stop() {
	if m.initial != nil {
		m.initial.finish()
	}
}
