package batch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// owner is a server that knows nothing of batches, and answers "owner".
func owner(t *testing.T, addr string) *net.UDPConn {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	packets, err := lc.ListenPacket(context.Background(), "udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		b := make([]byte, bufferSize)
		for {
			_, peer, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte("owner"), peer)
		}
	})
	t.Cleanup(func() { _ = packets.Close(); wg.Wait() })
	return packets.(*net.UDPConn)
}

// echo answers what it reads, in batches, until the socket is closed.
func echo(t *testing.T, conns []*Conn) (closed func()) {
	t.Helper()
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Go(func() {
			ms := Buffers(16)
			for {
				n, err := c.Read(ms)
				if err != nil {
					if !errors.Is(err, net.ErrClosed) {
						t.Errorf("reading: %v", err)
					}
					return
				}
				var replies []Message
				for i := range ms[:n] {
					replies = append(replies, ms[i].Reply(slices.Clone(ms[i].Data)))
				}
				if sent, err := c.Write(replies); err != nil || sent != n {
					t.Errorf("sent %d of %d: %v", sent, n, err)
				}
			}
		})
	}
	return sync.OnceFunc(func() {
		for _, c := range conns {
			_ = c.Close()
		}
		wg.Wait()
	})
}

func ask(t *testing.T, addr, text string) string {
	t.Helper()
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, bufferSize)
	n, err := c.Read(b)
	if err != nil {
		t.Fatalf("no answer from %s: %v", addr, err)
	}
	if from := c.RemoteAddr().String(); from != addr {
		t.Errorf("answered from %s, want %s", from, addr)
	}
	return string(b[:n])
}

func TestStandsInFrontAndSteps(t *testing.T) {
	tests := map[string]struct{ bind, ask string }{
		"one address":         {"127.0.0.1:0", "127.0.0.1"},
		"one IPv6 address":    {"[::1]:0", "::1"},
		"all addresses":       {":0", "127.0.0.7"}, // the answer must come from where the question went
		"all, asked by IPv6":  {":0", "::1"},
		"all IPv4 addresses":  {"0.0.0.0:0", "127.0.0.9"},
		"all IPv4, loopbacks": {"0.0.0.0:0", "127.0.0.1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			port := owner(t, tc.bind).LocalAddr().(*net.UDPAddr).Port
			bound, _, err := net.SplitHostPort(tc.bind)
			if err != nil {
				t.Fatal(err)
			}
			addr := net.JoinHostPort(tc.ask, fmt.Sprint(port))
			// A server that does not look answers from the system's choice of addresses.
			plain := addr
			if strings.HasPrefix(tc.ask, "127.") {
				plain = fmt.Sprintf("127.0.0.1:%d", port)
			}
			if got := ask(t, plain, "before"); got != "owner" {
				t.Fatalf("before: answered %q by nobody we know", got)
			}
			conns, err := Listen(net.JoinHostPort(bound, fmt.Sprint(port)), Options{Sockets: 3, Before: 1, ReceiveBuffer: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			if err := conns[1].Steer(1, 1+len(name)%3); err != nil {
				t.Fatal(err)
			}
			closed := echo(t, conns)
			defer closed()
			for i := range 200 {
				if text := fmt.Sprintf("question %d", i); ask(t, addr, text) != text {
					t.Fatalf("question %d was answered by the socket behind", i)
				}
			}
			closed()
			if got := ask(t, plain, "after"); got != "owner" {
				t.Errorf("after: answered %q", got)
			}
		})
	}
}

func TestManyAtOnce(t *testing.T) {
	addr := owner(t, "127.0.0.1:0").LocalAddr().String()
	conns, err := Listen(addr, Options{Sockets: 1, Before: 1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("udp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for i := range 10 {
		if _, err := fmt.Fprintf(c, "datagram %d", i); err != nil {
			t.Fatal(err)
		}
	}
	if used, limit, lost, err := conns[0].Queue(); err != nil || used == 0 || used > limit || lost > 0 {
		t.Errorf("the queue takes %d bytes of %d and lost %d (%v), want some, and no loss", used, limit, lost, err)
	}
	ms := Buffers(16)
	var got []string
	for len(got) < 10 {
		n, err := conns[0].Read(ms)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range ms[:n] {
			got = append(got, string(m.Data))
			if m.Peer().String() != c.LocalAddr().String() {
				t.Errorf("peer is %s, want %s", m.Peer(), c.LocalAddr())
			}
		}
	}
	for i, text := range got {
		if want := fmt.Sprintf("datagram %d", i); text != want {
			t.Errorf("got %q, want %q", text, want)
		}
	}
	if err := conns[0].Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := conns[0].Read(ms); !errors.Is(err, net.ErrClosed) {
		t.Errorf("reading a closed socket: %v", err)
	}
}
