package gate

import (
	"net/http"
	"sync"
	"time"
)

// bounds are the server's for one request that is no stream: when its body must have come, and when its answer must have
// been taken. The API server bounds both together by its --request-timeout; upstreamTimeout is longer than that, and as
// much again is for what the gate still holds of the answer when the API server is done.
func bounds(upstreamTimeout time.Duration) (read, write time.Duration) {
	return upstreamTimeout, 2 * upstreamTimeout
}

// asLongAs gives a request of a gate whose timeout was changed since it listens the bounds of the one in force.
func asLongAs(w http.ResponseWriter, arrived time.Time, upstreamTimeout time.Duration) {
	read, write := bounds(upstreamTimeout)
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(arrived.Add(read)) // not possible: the server's own bounds hold
	_ = c.SetWriteDeadline(arrived.Add(write))
}

// endless takes the server's bounds off a stream, and bounds each write instead: a client that takes nothing for
// as long as the gate waits for an API server is cut off. Without that a client with a window of zero, which HTTP/2 allows it and which no bound on
// the connection sees, holds its stream here and at the API server for as long as it answers pings.
type endless struct {
	http.ResponseWriter
	patience time.Duration

	mu      sync.Mutex
	writing bool
	timer   *time.Timer
}

func newEndless(w http.ResponseWriter, patience time.Duration) *endless {
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Time{})
	_ = c.SetWriteDeadline(time.Time{})
	return &endless{ResponseWriter: w, patience: patience}
}

// Write implements http.ResponseWriter.
func (e *endless) Write(b []byte) (int, error) {
	e.begin()
	defer e.end()
	return e.ResponseWriter.Write(b)
}

// FlushError implements what http.ResponseController looks for; a flush waits for the client as a write does.
func (e *endless) FlushError() error {
	e.begin()
	defer e.end()
	return http.NewResponseController(e.ResponseWriter).Flush()
}

func (e *endless) begin() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.writing = true
	if e.timer == nil {
		e.timer = time.AfterFunc(e.patience, e.over)
		return
	}
	e.timer.Reset(e.patience)
}

func (e *endless) end() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.writing = false
	e.timer.Stop()
}

// over fails the write under way. Holding the lock keeps the handler from ending meanwhile, after which its writer is
// not there any more.
func (e *endless) over() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.writing {
		_ = http.NewResponseController(e.ResponseWriter).SetWriteDeadline(time.Now())
	}
}

// Unwrap lets http.ResponseController reach Hijack.
func (e *endless) Unwrap() http.ResponseWriter { return e.ResponseWriter }
