//go:build !linux

// Package batch reads and writes UDP in batches, on Linux; elsewhere it refuses to.
package batch

import (
	"errors"
	"net"
	"net/netip"
)

// Options of the sockets of one address.
type Options struct{ Sockets, Before, ReceiveBuffer int }

// Listen refuses.
func Listen(string, Options) ([]*Conn, error) { return nil, errors.ErrUnsupported }

// Conn is never made.
type Conn struct{}

// Message is one datagram.
type Message struct{ Data []byte }

// Peer is the address the datagram came from.
func (*Message) Peer() netip.AddrPort { return netip.AddrPort{} }

// Reply returns a message to where m came from.
func (m *Message) Reply(data []byte) Message { return Message{Data: data} }

// Buffers returns n messages.
func Buffers(n int) []Message { return make([]Message, n) }

// Read refuses.
func (*Conn) Read([]Message) (int, error) { return 0, errors.ErrUnsupported }

// Write refuses.
func (*Conn) Write([]Message) (int, error) { return 0, errors.ErrUnsupported }

// WriteOne refuses.
func (*Conn) WriteOne(Message) error { return errors.ErrUnsupported }

// Steer refuses.
func (*Conn) Steer(int, int) error { return errors.ErrUnsupported }

// Queue refuses.
func (*Conn) Queue() (used, limit, lost uint32, err error) { return 0, 0, 0, errors.ErrUnsupported }

// LocalAddr is nil.
func (*Conn) LocalAddr() *net.UDPAddr { return nil }

// Close does nothing.
func (*Conn) Close() error { return nil }

// Part is one source's.
type Part struct {
	Source netip.Addr
	Pass   float64
}

// MaxParts is how many a filter takes.
const MaxParts = 16

// Filter refuses.
func (*Conn) Filter([]Part) error { return errors.ErrUnsupported }
