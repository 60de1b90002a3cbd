package tracing

import (
	"context"
	"log/slog"
	"sync"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Bounds on what a collector may cost the gate. A span is a few kilobytes, so the queue is a few megabytes.
const (
	queueLength   = 2048
	batchLength   = 256
	exportTimeout = 5 * time.Second
	// flushAfter is how long a span waits for others to be sent with.
	flushAfter = time.Second
	// closeTimeout bounds what the end of a configuration, or of the gate, waits for the collector.
	closeTimeout = 2 * time.Second
	// sayAgain is how often a collector that fails is in the log.
	sayAgain = time.Minute
)

// queue takes spans that have ended, without ever waiting, and exports them from one goroutine. The SDK's own batch
// processor does nearly this, but tells nobody what it dropped.
type queue struct {
	exporter sdktrace.SpanExporter
	metrics  *Metrics
	log      *slog.Logger
	spans    chan sdktrace.ReadOnlySpan
	cancel   context.CancelFunc
	done     chan struct{}

	mu     sync.RWMutex // held for reading while sending, for writing while closing
	closed bool

	failing bool // belongs to run
	said    time.Time
}

func newQueue(exporter sdktrace.SpanExporter, m *Metrics, log *slog.Logger) *queue {
	ctx, cancel := context.WithCancel(context.Background())
	q := &queue{
		exporter: exporter, metrics: m, log: log, cancel: cancel,
		spans: make(chan sdktrace.ReadOnlySpan, queueLength), done: make(chan struct{}),
	}
	go q.run(ctx)
	return q
}

// OnStart implements sdktrace.SpanProcessor.
func (*queue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor.
func (q *queue) OnEnd(span sdktrace.ReadOnlySpan) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if !q.closed {
		select {
		case q.spans <- span:
			return
		default:
		}
	}
	q.metrics.dropped.Inc()
}

// ForceFlush implements sdktrace.SpanProcessor; nobody calls it.
func (*queue) ForceFlush(context.Context) error { return nil }

// Shutdown implements sdktrace.SpanProcessor.
func (q *queue) Shutdown(context.Context) error {
	q.close()
	return nil
}

func (q *queue) close() {
	q.mu.Lock()
	first := !q.closed
	q.closed = true
	if first {
		close(q.spans)
	}
	q.mu.Unlock()
	timer := time.AfterFunc(closeTimeout, q.cancel) // run then gives up on the collector
	defer timer.Stop()
	<-q.done
	q.cancel()
}

func (q *queue) run(ctx context.Context) {
	defer close(q.done)
	batch := make([]sdktrace.ReadOnlySpan, 0, batchLength)
	var flush <-chan time.Time
	for {
		select {
		case span, open := <-q.spans:
			if !open {
				q.export(ctx, batch)
				_ = q.exporter.Shutdown(ctx) // it has nothing left to send
				return
			}
			if batch = append(batch, span); len(batch) == 1 {
				flush = time.After(flushAfter)
			}
			if len(batch) < batchLength {
				continue
			}
		case <-flush:
		}
		q.export(ctx, batch)
		batch, flush = batch[:0], nil
	}
}

func (q *queue) export(ctx context.Context, batch []sdktrace.ReadOnlySpan) {
	if len(batch) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exportTimeout)
	defer cancel()
	if err := q.exporter.ExportSpans(ctx, batch); err != nil {
		q.metrics.failed.Add(float64(len(batch)))
		if !q.failing || time.Since(q.said) > sayAgain {
			q.failing, q.said = true, time.Now()
			q.log.Warn("Dropping spans: the collector does not take them", "spans", len(batch), "reason", err)
		}
		return
	}
	q.metrics.exported.Add(float64(len(batch)))
	if q.failing {
		q.failing = false
		q.log.Info("The collector takes spans again")
	}
}
