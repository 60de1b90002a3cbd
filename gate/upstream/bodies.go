package upstream

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Counted notes what a client is answered, for a Result. It is for the goroutine that answers.
type Counted struct {
	http.ResponseWriter
	// Code is the status of the answer, 0 before it begins.
	Code int
	// Bytes are the body's.
	Bytes int64
}

// WriteHeader implements http.ResponseWriter.
func (w *Counted) WriteHeader(code int) {
	if w.Code == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		w.Code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Write implements http.ResponseWriter.
func (w *Counted) Write(b []byte) (int, error) {
	if w.Code == 0 {
		w.Code = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(b)
	w.Bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach Flush and Hijack.
func (w *Counted) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// clientWriter also measures how long the client kept us waiting.
type clientWriter struct {
	Counted
	blocked time.Duration
}

// Write implements http.ResponseWriter.
func (w *clientWriter) Write(b []byte) (int, error) {
	start := time.Now()
	n, err := w.Counted.Write(b)
	w.blocked += time.Since(start)
	return n, err
}

// countingBody counts the request's bytes. The transport reads it from a goroutine of its own.
type countingBody struct {
	io.ReadCloser
	bytes atomic.Int64
	// waiting is true while the client is waited for.
	waiting atomic.Bool
	// failed is why the client's body could not be read: late, torn or malformed; nil while it can.
	failed atomic.Pointer[error]
}

// Read implements io.Reader.
func (b *countingBody) Read(p []byte) (int, error) {
	b.waiting.Store(true)
	n, err := b.ReadCloser.Read(p)
	b.waiting.Store(false)
	if err != nil && !errors.Is(err, io.EOF) {
		b.failed.CompareAndSwap(nil, &err)
	}
	b.bytes.Add(int64(n))
	return n, err
}

// watchBody ends cleanly when the gate ends the stream, so that the client sees the end of a watch and not a torn one.
type watchBody struct {
	io.ReadCloser
	ended func() error
}

// Read implements io.Reader.
func (b *watchBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(b.ended(), ErrEndStream) {
		err = io.EOF
	}
	return n, err
}

// releasingBody tells when the answer has ended. It passes writes on, because the body of a 101 is the connection.
type releasingBody struct {
	io.ReadCloser
	release func()
}

// Close implements io.Closer.
func (b *releasingBody) Close() error {
	b.release()
	return b.ReadCloser.Close()
}

// Write implements io.Writer for upgraded connections; net/http gives those bodies a Write method, others have none.
func (b *releasingBody) Write(p []byte) (int, error) {
	w, ok := b.ReadCloser.(io.Writer)
	if !ok {
		return 0, errors.New("BUG: writing to the body of an answer that was not upgraded")
	}
	return w.Write(p)
}

// bufferPool lends the copy buffers of ReverseProxy.
type bufferPool struct {
	size int
	pool sync.Pool
}

const (
	// wholeBuffer holds most objects, and two full records of a LIST.
	wholeBuffer = 32 << 10
	// streamBuffer is held for as long as a stream is open, whether anything happens on it or not: thousands of idle
	// watches must not cost more than what happens on them.
	streamBuffer = 4 << 10
)

// Get implements httputil.BufferPool.
func (b *bufferPool) Get() []byte {
	if buffer, ok := b.pool.Get().(*[]byte); ok {
		return *buffer
	}
	return make([]byte, b.size)
}

// Put implements httputil.BufferPool.
func (b *bufferPool) Put(buffer []byte) { b.pool.Put(&buffer) }
