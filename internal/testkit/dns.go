package testkit

import (
	"net"
	"testing"

	"github.com/miekg/dns"
)

// ServeDNS serves DNS on one port of loopback until the test ends, over UDP and TCP, and returns its address.
func ServeDNS(t testing.TB, udp, tcp dns.Handler) (address string) {
	t.Helper()
	var packets net.PacketConn
	var listener net.Listener
	for range 20 { // a port that is free for UDP may be taken for TCP
		var err error
		if packets, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if listener, err = net.Listen("tcp", packets.LocalAddr().String()); err == nil {
			break
		}
		_ = packets.Close()
	}
	if listener == nil {
		t.Fatal("no port is free for UDP and TCP")
	}
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: udp}, {Listener: listener, Handler: tcp}} {
		started, done := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			_ = s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			_ = s.Shutdown()
			<-done
		})
	}
	return packets.LocalAddr().String()
}
