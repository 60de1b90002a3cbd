package upstream

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"
)

// errUnreachable is an error of before the connection was ready for a request: nothing was sent, and another server may
// be asked. A server that is stopped or out of memory accepts (its kernel does) and never shakes hands, which net/http
// reports like any other silence.
type errUnreachable struct{ cause error }

// Error implements error.
func (e *errUnreachable) Error() string { return e.cause.Error() }

// Unwrap lets errors.As find the cause.
func (e *errUnreachable) Unwrap() error { return e.cause }

// secured returns how a pool opens connections: dialed, shaken hands on, or not at all. It verifies the server.
func secured(dialer *net.Dialer, config *tls.Config, handshake time.Duration) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		inner, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return nil, &errUnreachable{err}
		}
		own := config
		if own.ServerName == "" {
			host, _, err := net.SplitHostPort(address)
			if err != nil {
				return nil, &errUnreachable{err}
			}
			own = config.Clone()
			own.ServerName = host
		}
		ctx, cancel := context.WithTimeoutCause(ctx, handshake, fmt.Errorf("the server accepts and does not shake hands within %s", handshake))
		defer cancel()
		conn := tls.Client(&readAhead{Conn: inner, buffer: bufio.NewReaderSize(inner, readAheadBytes)}, own)
		if err := conn.HandshakeContext(ctx); err != nil {
			_ = inner.Close()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, &errUnreachable{err}
		}
		return conn, nil
	}
}

// readAhead reads what has come, and not record by record: an API server written in Go begins each answer after a pause
// with records of 1.4 KB, and two system calls for each would be most of what carrying a small object costs.
type readAhead struct {
	net.Conn
	buffer *bufio.Reader
}

// readAheadBytes is two full records; a connection to an API server has one such buffer, and there are few of them.
const readAheadBytes = 32 << 10

// Read implements net.Conn.
func (c *readAhead) Read(p []byte) (int, error) { return c.buffer.Read(p) }

// steadyBody bounds how long an answer may stand still: a server that stops in the middle keeps answering pings, and the
// client would wait for ever. stall is reset for every part and fires otherwise.
type steadyBody struct {
	io.ReadCloser
	stall   *time.Timer
	patient time.Duration
}

// Read implements io.Reader.
func (b *steadyBody) Read(p []byte) (int, error) {
	b.stall.Reset(b.patient)
	n, err := b.ReadCloser.Read(p)
	b.stall.Stop()
	return n, err
}
