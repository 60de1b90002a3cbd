package lab

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

// Two labs of a machine are not handed the same port before a server listens on it, and what is released can be handed out again.
func TestPortsAreHandedOutOnce(t *testing.T) {
	var p, other ports
	t.Cleanup(p.release)
	t.Cleanup(other.release)
	seen := map[int]bool{}
	for i := range 200 {
		of := &p
		if i%2 == 1 {
			of = &other
		}
		port, err := of.next()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < firstPort || port >= lastPort {
			t.Fatalf("port %d was handed out twice or is out of range", port)
		}
		seen[port] = true
		for _, twice := range []*ports{&p, &other} {
			if err := twice.claim(port); err == nil || !strings.Contains(err.Error(), "is taken") {
				t.Fatalf("port %d was handed out, and claiming it: %v, want an error", port, err)
			}
		}
	}
	p.release()
	again := 0
	for port := range seen {
		if other.claim(port) == nil {
			again++
		}
	}
	if again < 90 || again > 100 { // others may have come to listen there, as in any range
		t.Errorf("after one of two has released 100 ports each %d can be claimed", again)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, text, _ := net.SplitHostPort(listener.Addr().String())
	taken, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.claim(taken); err == nil || !strings.Contains(err.Error(), "is taken") {
		t.Errorf("claiming a port in use: %v, want an error", err)
	}
}
