package link

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// echo answers every line with itself.
func echo(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	return listener.Addr().String()
}

func dial(t *testing.T, l *Link) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", l.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// said is what comes back of a line within the time.
func said(c net.Conn, within time.Duration) (string, error) {
	_ = c.SetDeadline(time.Now().Add(within))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	return bufio.NewReader(c).ReadString('\n')
}

func TestLink(t *testing.T) {
	before := goleak.IgnoreCurrent()
	target := echo(t)
	l, err := To(target)
	if err != nil {
		t.Fatal(err)
	}
	old := dial(t, l)
	if line, err := said(old, 5*time.Second); err != nil || line != "hello\n" {
		t.Fatalf("a whole link: %q, %v", line, err)
	}
	l.Silence()
	for name, c := range map[string]net.Conn{"that was there": old, "that is new": dial(t, l)} {
		if line, err := said(c, 200*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a silent link, a connection %s: %q, %v, want nothing", name, line, err)
		}
	}
	l.Restore()
	if line, err := said(old, 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection from before the silence: %q, %v, want its end", line, err)
	}
	fresh := dial(t, l)
	if line, err := said(fresh, 5*time.Second); err != nil || line != "hello\n" {
		t.Errorf("a restored link: %q, %v", line, err)
	}
	l.Refuse()
	if _, err := said(fresh, 5*time.Second); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a refusing link: %v, want a reset", err)
	}
	l.Restore()
	_ = dial(t, l)
	l.Close()
	if _, err := net.Dial("tcp", l.Address()); err == nil {
		t.Error("a closed link takes connections")
	}
	for _, c := range []net.Conn{old, fresh} {
		_ = c.Close()
	}
	goleak.VerifyNone(t, before, goleak.IgnoreAnyFunction("github.com/seakeep/seakeep/lab/link.echo.func2"))
}
