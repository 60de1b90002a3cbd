package replay

import (
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"
)

// answering is a server that answers every connection with its name.
func answering(t *testing.T, name string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, name)
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

func ask(t *testing.T, address string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "" // reset: nobody is behind the balancer
	}
	return string(answer)
}

func TestBalancer(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	b, err := newBalancer(dead.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	if got := ask(t, b.address()); got != "" {
		t.Errorf("nobody is there: want a closed connection, got %q", got)
	}
	b.add(answering(t, "first"))
	b.add(answering(t, "second"))
	seen := map[string]int{}
	for range 12 {
		seen[ask(t, b.address())]++
	}
	if seen["first"] == 0 || seen["second"] == 0 || seen[""] > 0 {
		t.Errorf("want both servers in turn and the dead one passed over, got %v", seen)
	}
}

func TestBalancerCloseEndsOpenConnections(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	b, err := newBalancer(silent.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", b.address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if upstream, err := silent.Accept(); err == nil {
		defer upstream.Close()
	}
	b.close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("want the connection ended")
	}
}
