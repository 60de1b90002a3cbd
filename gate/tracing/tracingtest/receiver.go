// Package tracingtest is an OpenTelemetry collector for tests: it takes spans over HTTP, from the gate, and over gRPC,
// from an API server, and keeps them. It is compiled into tests only.
package tracingtest

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// Receiver is a running collector.
type Receiver struct {
	// URL takes OTLP over HTTP.
	URL string
	// GRPC is the address that takes OTLP over gRPC.
	GRPC string

	stop func()

	mu    sync.Mutex
	spans []Span
	raw   []byte
}

// Span is what a test wants to know of a span.
type Span struct {
	Name                    string
	TraceID, ID, Parent     string // hexadecimal
	Kind                    tracev1.Span_SpanKind
	Attributes              map[string]string
	Service, Scope          string
	Begin, End              time.Time
	Status                  tracev1.Status_StatusCode
	TraceState, StatusWords string
}

// New starts a collector that stops when the test ends.
func New(t testing.TB) *Receiver {
	t.Helper()
	r := &Receiver{}
	server := httptest.NewServer(http.HandlerFunc(r.serveHTTP))
	r.URL = server.URL
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		server.Close()
		t.Fatal(err)
	}
	r.GRPC = listener.Addr().String()
	rpc := grpc.NewServer()
	collector.RegisterTraceServiceServer(rpc, &service{receiver: r})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = rpc.Serve(listener) // ends with Stop
	}()
	r.stop = sync.OnceFunc(func() {
		server.Close()
		rpc.Stop()
		<-done
	})
	t.Cleanup(r.stop)
	return r
}

// Stop ends the collector and its connections before the test does. It may be called more than once.
func (r *Receiver) Stop() { r.stop() }

func (r *Receiver) serveHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, 16<<20))
	var export collector.ExportTraceServiceRequest
	if err != nil || request.URL.Path != "/v1/traces" || proto.Unmarshal(body, &export) != nil {
		http.Error(w, "not OTLP", http.StatusBadRequest)
		return
	}
	r.keep(&export, body)
	w.Header().Set("Content-Type", "application/x-protobuf")
}

type service struct {
	collector.UnimplementedTraceServiceServer
	receiver *Receiver
}

// Export implements the collector's service.
func (s *service) Export(_ context.Context, export *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.receiver.keep(export, nil)
	return &collector.ExportTraceServiceResponse{}, nil
}

func (r *Receiver) keep(export *collector.ExportTraceServiceRequest, raw []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.raw = append(r.raw, raw...)
	for _, resource := range export.ResourceSpans {
		service := ""
		for _, a := range resource.GetResource().GetAttributes() {
			if a.Key == "service.name" {
				service = a.Value.GetStringValue()
			}
		}
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				r.spans = append(r.spans, spanOf(span, service, scope.GetScope().GetName()))
			}
		}
	}
}

func spanOf(s *tracev1.Span, service, scope string) Span {
	span := Span{
		Name: s.Name, TraceID: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
		Kind: s.Kind, Attributes: map[string]string{}, Service: service, Scope: scope, TraceState: s.TraceState,
		Begin: time.Unix(0, int64(s.StartTimeUnixNano)), End: time.Unix(0, int64(s.EndTimeUnixNano)),
		Status: s.GetStatus().GetCode(), StatusWords: s.GetStatus().GetMessage(),
	}
	for _, a := range s.Attributes {
		span.Attributes[a.Key] = a.Value.GetStringValue()
	}
	return span
}

// Spans are those that arrived so far.
func (r *Receiver) Spans() []Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Span(nil), r.spans...)
}

// Raw is every byte that came over HTTP, for a test that looks for what must not be there.
func (r *Receiver) Raw() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]byte(nil), r.raw...)
}

// Await waits until enough is true of the spans that arrived, and returns them.
func (r *Receiver) Await(t testing.TB, what string, enough func([]Span) bool) []Span {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		spans := r.Spans()
		if enough(spans) {
			return spans
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in time: %s; spans: %+v", what, spans)
		}
	}
}
