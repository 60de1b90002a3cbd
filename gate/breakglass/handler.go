package breakglass

import (
	"bufio"
	"context"
	"crypto/x509"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/upstream"
)

const (
	// maxBody is more than the API server itself takes (3 MiB), which refuses with better words. Upgraded streams
	// have no body and no bound.
	maxBody = 8 << 20
	// serialExtra carries the certificate's serial to the API server, so that its own audit log shows who broke the
	// glass, and with which credential.
	serialExtra = "seakeep.dev/break-glass-serial"
	// auditIDHeader joins our record and the API server's.
	auditIDHeader = "Audit-ID"
	// unrecordedWarning is what kubectl prints when the audit file cannot be written (RFC 7234 §5.5).
	unrecordedWarning = `299 seakeep "the break-glass audit file cannot be written; what you do is on the lane's standard error only"`
)

// serve takes one request through the lane. The certificate was verified at the handshake and is judged again here,
// because connections outlive decisions.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	arrived := s.clock()
	chain := r.TLS.PeerCertificates
	serial := serialText(chain[0].SerialNumber)
	id := uuid.NewString()
	if err := s.trust.check(chain); err != nil {
		s.refuse(w, r, refusedCertificate, record{ID: id, Serial: serial, User: chain[0].Subject.CommonName}, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, err)
		return
	}
	f, err := s.classify(r, chain, serial, arrived)
	if err != nil {
		s.refuse(w, r, refusedRequest, record{ID: id, Serial: serial, User: chain[0].Subject.CommonName}, http.StatusBadRequest, metav1.StatusReasonBadRequest, err)
		return
	}
	r.Header.Set(auditIDHeader, id)
	first := recordOf(eventRequest, id, serial, f, r.URL.RawQuery)
	first.As = bounded(r.Header.Get("Impersonate-User"))
	last := first
	last.Event = eventResponse
	if recordedFirst(f) {
		last.Unrecorded = s.recorder.write(first) != nil
	}
	if last.Unrecorded || s.recorder.broken() {
		w.Header().Add("Warning", unrecordedWarning)
	}
	if !f.Upgrade {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	}
	ctx, ended := s.live.begin(r.Context(), chain, f.LongRunning)
	defer ended()
	answer := &answer{ResponseWriter: w, began: sync.OnceFunc(s.squeezer.watch(f))}
	defer answer.began()
	answer.onHeader = sync.OnceFunc(func() {
		s.metrics.headerSeconds.Observe(time.Since(arrived).Seconds())
		answer.began()
	})
	s.proxy.Serve(answer, r.WithContext(ctx), f, func(result upstream.Result) {
		last.Code, last.Upstream, last.Seconds = result.Code, result.Server, s.clock().Sub(arrived).Seconds()
		if result.Err != nil {
			last.Reason = bounded(result.Err.Error())
		}
		s.metrics.requests.WithLabelValues(verbLabel(f.Verb), codeLabel(result.Code)).Inc()
		s.recorder.note(last)
	})
}

// classify strips what the client claims to be and says who it is by its certificate.
func (s *Server) classify(r *http.Request, chain []*x509.Certificate, serial string, arrived time.Time) (*flow.Request, error) {
	if err := s.headers.Strip(r); err != nil {
		return nil, err
	}
	caller, err := identity.CallerFromCertificate(chain)
	if err != nil {
		return nil, err
	}
	extra := map[string][]string{serialExtra: {serial}}
	for key, values := range caller.Extra {
		extra[key] = values
	}
	caller.Extra = extra
	return flow.Classify(r, caller, flow.BreakGlass, arrived)
}

func (s *Server) refuse(w http.ResponseWriter, r *http.Request, label string, event record, code int, reason metav1.StatusReason, why error) {
	s.metrics.refused.WithLabelValues(label).Inc()
	event.Event, event.Reason, event.Code = eventRefused, bounded(why.Error()), code
	event.Source, event.UserAgent = flow.SourceOf(r).String(), bounded(r.UserAgent())
	s.recorder.note(event)
	w.Header().Set("Connection", "close") // a client that is not heard keeps no connection
	upstream.WriteStatus(w, &metav1.Status{Code: int32(code), Reason: reason, Message: "seakeep break-glass: " + why.Error()})
}

// refusedHandshake puts on record that somebody came with a certificate of the break-glass CA that is not heard.
func (s *Server) refusedHandshake(leaf *x509.Certificate, why error) {
	s.metrics.refused.WithLabelValues(refusedCertificate).Inc()
	s.recorder.note(record{Event: eventRefused, User: leaf.Subject.CommonName, Serial: serialText(leaf.SerialNumber), Reason: why.Error()})
}

// answer sees when the answer begins, by header or by the connection being taken over for a stream.
type answer struct {
	http.ResponseWriter
	began    func()
	onHeader func()
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	if code >= 200 || code == http.StatusSwitchingProtocols {
		a.onHeader()
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.onHeader()
	return a.ResponseWriter.Write(b)
}

// Hijack implements http.Hijacker.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	a.onHeader()
	return http.NewResponseController(a.ResponseWriter).Hijack()
}

// Unwrap lets http.ResponseController reach Flush.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// handshakeErrors counts what net/http only logs: clients that did not get past the handshake.
type handshakeErrors struct {
	slog.Handler
	refused prometheus.Counter
}

// Handle implements slog.Handler.
func (h *handshakeErrors) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "TLS handshake error") {
		h.refused.Inc()
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// Enabled implements slog.Handler: everything, so that nothing goes uncounted.
func (h *handshakeErrors) Enabled(context.Context, slog.Level) bool { return true }
