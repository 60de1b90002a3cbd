// Package tracing makes OpenTelemetry spans of the requests that walk the gate's corridor: one span a request, and a
// child for each room where time passes. It continues the client's W3C trace and hands it on, so that the API server's
// own spans hang below the gate's.
//
// It must never be what slows the gate down: what is not sampled costs a header look-up, spans wait in a bounded queue
// for a collector that may be gone, and what does not fit is dropped and counted.
package tracing

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

// perMillion is what a sampling rate is a part of.
const perMillion = 1_000_000

// Options are what New needs.
type Options struct {
	// Config is defaulted and validated.
	Config v1alpha1.GateTracing
	// Version of the gate, and Address where it listens, are on every span.
	Version, Address string
	Metrics          *Metrics
	Log              *slog.Logger
}

// Tracer makes the spans of one configuration. It is safe for concurrent use; nil is a tracer that is off.
type Tracer struct {
	rate        uint64
	trustClient bool
	queue       *queue
	provider    *sdktrace.TracerProvider
	tracer      trace.Tracer
	random      func() uint64 // below perMillion
}

// New returns a tracer and starts the goroutine that exports; Close ends it. Nobody is asked anything yet.
func New(o Options) (*Tracer, error) {
	exporter, err := newExporter(&o.Config)
	if err != nil {
		return nil, err
	}
	t := &Tracer{
		rate:        uint64(*o.Config.SamplingRatePerMillion),
		trustClient: o.Config.ClientSampling == v1alpha1.Enabled,
		queue:       newQueue(exporter, o.Metrics, o.Log),
		random:      func() uint64 { return rand.Uint64N(perMillion) },
	}
	t.provider = sdktrace.NewTracerProvider(
		// What is sampled is decided in Begin, before anything is allocated.
		sdktrace.WithSampler(sdktrace.AlwaysSample()),
		sdktrace.WithSpanProcessor(t.queue),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "seakeep-gate"),
			attribute.String("service.version", o.Version),
			attribute.String("service.instance.id", o.Address),
		)),
		sdktrace.WithRawSpanLimits(sdktrace.SpanLimits{
			AttributeValueLengthLimit: maxText, AttributeCountLimit: 32, EventCountLimit: 8, LinkCountLimit: 1,
			AttributePerEventCountLimit: 4, AttributePerLinkCountLimit: 1,
		}),
	)
	t.tracer = t.provider.Tracer("github.com/seakeep/seakeep/gate", trace.WithInstrumentationVersion(o.Version))
	return t, nil
}

func newExporter(c *v1alpha1.GateTracing) (sdktrace.SpanExporter, error) {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("parsing the collector's URL: %w", err)
	}
	if strings.Trim(endpoint.Path, "/") == "" {
		endpoint.Path = "/v1/traces"
	}
	// A transport of our own: the proxy settings of the environment are not for spans, and idle connections end with it.
	transport := &http.Transport{
		MaxIdleConnsPerHost: 1, IdleConnTimeout: 30 * time.Second,
		TLSHandshakeTimeout: exportTimeout, ResponseHeaderTimeout: exportTimeout,
	}
	if c.CAFile != "" {
		roots, err := pki.LoadPool(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading the collector's CA: %w", err)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	exporter, err := otlptracehttp.New(context.Background(),
		otlptracehttp.WithEndpointURL(endpoint.String()),
		otlptracehttp.WithHTTPClient(&http.Client{Transport: transport}),
		otlptracehttp.WithTimeout(exportTimeout),
		// A batch that failed is dropped and counted: while it would be tried again, the queue behind it would overflow.
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: false}),
	)
	if err != nil {
		return nil, fmt.Errorf("preparing the OTLP exporter: %w", err)
	}
	return &closingExporter{SpanExporter: exporter, transport: transport}, nil
}

// closingExporter ends the connections with the exporter.
type closingExporter struct {
	sdktrace.SpanExporter
	transport *http.Transport
}

// Shutdown implements sdktrace.SpanExporter.
func (e *closingExporter) Shutdown(ctx context.Context) error {
	err := e.SpanExporter.Shutdown(ctx)
	e.transport.CloseIdleConnections()
	return err
}

// Close exports what is queued, within a bounded time, and ends the goroutine. Spans that end later are dropped and
// counted. It may be called on a nil Tracer.
func (t *Tracer) Close() {
	if t != nil {
		t.queue.close()
	}
}

const (
	traceparent = "Traceparent" // canonical form
	tracestate  = "Tracestate"
)

var w3c propagation.TraceContext

// Begin starts the span of a request when it is to be traced, and returns nil otherwise. The request's traceparent is
// then what the API server shall see: the span's once Upstream was called, and the client's own without its sampled
// flag where the client's flag counts for nothing.
func (t *Tracer) Begin(r *http.Request, arrived time.Time) *Span {
	if t == nil {
		return nil
	}
	parent := trace.SpanContext{}
	if r.Header[traceparent] != nil {
		parent = trace.SpanContextFromContext(w3c.Extract(context.Background(), propagation.HeaderCarrier(r.Header)))
	}
	if !t.sampled(parent) {
		if parent.IsSampled() {
			w3c.Inject(trace.ContextWithSpanContext(context.Background(), parent.WithTraceFlags(parent.TraceFlags()&^trace.FlagsSampled)),
				propagation.HeaderCarrier(r.Header))
		}
		return nil
	}
	if !parent.IsValid() {
		delete(r.Header, tracestate) // it belongs to a trace that nobody can name
	}
	ctx, span := t.tracer.Start(trace.ContextWithRemoteSpanContext(context.Background(), parent), "gate",
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(arrived))
	return &Span{tracer: t.tracer, ctx: ctx, span: span}
}

// sampled decides by chance, not by the trace's id: who picks the id would pick the decision.
func (t *Tracer) sampled(parent trace.SpanContext) bool {
	if t.trustClient && parent.IsValid() {
		return parent.IsSampled()
	}
	return t.rate > 0 && t.random() < t.rate
}
