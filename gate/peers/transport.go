package peers

import (
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/memberlist"
)

// What others may send before it is known whether they have the key: a stream is read into memory and then decrypted.
const (
	maxStreams     = 16
	maxStreamBytes = 4 << 20 // a message, and the list of gates
)

// bounded is a transport whose streams are few and short.
type bounded struct {
	memberlist.NodeAwareTransport
	streams chan net.Conn
	open    atomic.Int64
	refused func()
	done    chan struct{}
	ended   sync.WaitGroup
}

func newBounded(t memberlist.NodeAwareTransport, refused func()) *bounded {
	b := &bounded{NodeAwareTransport: t, streams: make(chan net.Conn), refused: refused, done: make(chan struct{})}
	b.ended.Go(b.accept)
	return b
}

func (b *bounded) accept() {
	for {
		select {
		case <-b.done:
			return
		case conn := <-b.NodeAwareTransport.StreamCh():
			if b.open.Add(1) > maxStreams {
				b.open.Add(-1)
				b.refused()
				_ = conn.Close()
				continue
			}
			short := &short{Conn: conn, left: maxStreamBytes, closed: sync.OnceFunc(func() { b.open.Add(-1) })}
			select {
			case b.streams <- short:
			case <-b.done:
				_ = short.Close()
				return
			}
		}
	}
}

// StreamCh implements memberlist.Transport.
func (b *bounded) StreamCh() <-chan net.Conn { return b.streams }

// Shutdown implements memberlist.Transport.
func (b *bounded) Shutdown() error {
	err := b.NodeAwareTransport.Shutdown()
	close(b.done)
	b.ended.Wait()
	return err
}

// short is a connection of which only so much is read.
type short struct {
	net.Conn
	left   int
	closed func()
}

// Read implements io.Reader.
func (s *short) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

// Close implements io.Closer.
func (s *short) Close() error {
	s.closed()
	return s.Conn.Close()
}
