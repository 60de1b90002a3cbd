package tracing

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/seakeep/seakeep/gate/flow"
)

// maxText bounds what a client's words take in a span.
const maxText = 256

// Span is one request's. All methods may be called on nil, which is a request that is not traced. They are for the
// goroutine that serves the request.
type Span struct {
	tracer trace.Tracer
	ctx    context.Context //nolint:containedctx // the SDK finds a span's parent in a context
	span   trace.Span
	room   trace.Span // the child that has begun and not ended
}

// Room is a part of the corridor where time passes.
type Room string

// The rooms that have a span.
const (
	Identity Room = "identity"
	Limit    Room = "limit"
	Relay    Room = "relay"
	Admit    Room = "admit"
	Upstream Room = "upstream"
)

// Enter begins a room's span, and ends the one before it.
func (s *Span) Enter(room Room) {
	if s == nil {
		return
	}
	s.leave()
	kind := trace.SpanKindInternal
	if room == Upstream {
		kind = trace.SpanKindClient
	}
	_, s.room = s.tracer.Start(s.ctx, string(room), trace.WithSpanKind(kind))
}

// Propagate makes the API server's spans children of the room that was entered last.
func (s *Span) Propagate(h http.Header) {
	if s != nil && s.room != nil {
		w3c.Inject(trace.ContextWithSpan(s.ctx, s.room), propagation.HeaderCarrier(h))
	}
}

func (s *Span) leave() {
	if s.room != nil {
		s.room.End()
		s.room = nil
	}
}

// Outcome is what became of a request.
type Outcome struct {
	// Code is the HTTP status the client got.
	Code int
	// Server is the API server that was asked, "" when none was.
	Server string
	// RejectedBy is why the gate itself refused.
	RejectedBy string
	// AuditID joins the span to the API server's audit log.
	AuditID string
}

// Describe says what the request was and what became of it. It names no object, and nothing of a header but the user
// agent.
func (s *Span) Describe(f *flow.Request, o *Outcome) {
	if s == nil {
		return
	}
	s.span.SetName(strings.TrimSpace(bounded(f.Verb) + " " + bounded(f.ResourcePath())))
	attributes := []attribute.KeyValue{
		attribute.String("seakeep.lane", string(f.Lane)),
		attribute.String("seakeep.scope", string(f.Scope)),
		attribute.String("k8s.verb", bounded(f.Verb)),
		attribute.String("k8s.resource", bounded(f.ResourcePath())),
		attribute.String("user.name", bounded(f.Caller.User)),
		attribute.String("user_agent.original", bounded(f.UserAgent)),
		attribute.String("client.address", f.Source.String()),
		attribute.Int("http.response.status_code", o.Code),
	}
	for _, optional := range []struct{ key, value string }{
		{"k8s.api_group", f.APIGroup},
		{"k8s.namespace.name", f.Namespace},
		{"seakeep.upstream", o.Server},
		{"seakeep.rejected_by", o.RejectedBy},
		{"k8s.audit_id", o.AuditID},
	} {
		if optional.value != "" {
			attributes = append(attributes, attribute.String(optional.key, bounded(optional.value)))
		}
	}
	s.span.SetAttributes(attributes...)
	if o.Code >= http.StatusInternalServerError {
		s.span.SetStatus(codes.Error, "")
	}
}

// End ends the span and the room that has not ended.
func (s *Span) End() {
	if s == nil {
		return
	}
	s.leave()
	s.span.End()
}

func bounded(text string) string {
	if len(text) > maxText {
		text = text[:maxText]
	}
	return strings.ToValidUTF8(text, "?")
}
