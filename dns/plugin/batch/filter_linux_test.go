package batch

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// from sends n datagrams from a loopback address.
func from(t *testing.T, source, to string, n int) {
	t.Helper()
	d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(source), 0))}
	c, err := d.DialContext(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range n {
		if _, err := c.Write([]byte("query")); err != nil {
			t.Fatal(err)
		}
	}
}

// received reads what waits and counts it by source. A datagram of an address that no filter names comes last.
func received(t *testing.T, c *Conn, to, last string) map[string]int {
	t.Helper()
	from(t, last, to, 1)
	if err := c.udp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	counts, ms := map[string]int{}, Buffers(64)
	for counts[last] == 0 {
		n, err := c.Read(ms)
		if err != nil {
			t.Fatal(err)
		}
		for i := range ms[:n] {
			counts[ms[i].Peer().Addr().Unmap().String()]++
		}
	}
	return counts
}

func TestFilterDropsAtTheKernel(t *testing.T) {
	const sent = 1000
	tests := map[string]struct {
		bind, to, bad, good, last string
	}{
		"IPv4":             {"127.0.0.1:0", "127.0.0.1", "127.0.2.1", "127.0.1.1", "127.0.0.1"},
		"IPv4 over IPv6":   {":0", "127.0.0.1", "127.0.2.1", "127.0.1.1", "127.0.0.1"},
		"IPv6, by its /64": {"[::]:0", "::1", "::1", "127.0.1.1", "127.0.0.1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			bad, port := netip.MustParseAddr(tc.bad), owner(t, tc.bind).LocalAddr().(*net.UDPAddr).Port
			host, _, err := net.SplitHostPort(tc.bind)
			if err != nil {
				t.Fatal(err)
			}
			conns, err := Listen(net.JoinHostPort(host, fmt.Sprint(port)), Options{Sockets: 1, Before: 1, ReceiveBuffer: 4 << 20})
			if err != nil {
				t.Fatal(err)
			}
			c := conns[0]
			defer c.Close()
			bound, to := net.JoinHostPort("127.0.0.1", fmt.Sprint(port)), net.JoinHostPort(tc.to, fmt.Sprint(port))
			count := func() map[string]int {
				from(t, tc.bad, to, sent)
				from(t, tc.good, bound, 100)
				return received(t, c, bound, tc.last)
			}
			// Enough others that the one is not the first.
			parts := []Part{}
			for i := range MaxParts - 1 {
				other := netip.AddrFrom4([4]byte{10, 0, 0, byte(i)})
				if i%2 == 1 {
					other = netip.AddrFrom16([16]byte{0xfd, byte(i)})
				}
				parts = append(parts, Part{Source: other})
			}
			for _, step := range []struct {
				pass        float64
				least, most int
			}{{0.25, 180, 320}, {0, 0, 0}, {1, sent, sent}} {
				if err := c.Filter(append(parts, Part{Source: bad, Pass: step.pass})); err != nil {
					t.Fatal(err)
				}
				got := count()
				if n := got[tc.bad]; n < step.least || n > step.most || got[tc.good] != 100 {
					t.Errorf("with %g to pass, %v came", step.pass, got)
				}
			}
			if err := c.Filter([]Part{{Source: bad}}); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time there is none
				if err := c.Filter(nil); err != nil {
					t.Fatal(err)
				}
			}
			if got := count(); got[tc.bad] != sent || got[tc.good] != 100 {
				t.Errorf("without a filter %v came", got)
			}
		})
	}
}

func TestFilterIsBounded(t *testing.T) {
	if _, err := filter(make([]Part, MaxParts+1)); err == nil {
		t.Error("a filter of too many sources was made")
	}
	var six []Part
	for i := range MaxParts {
		six = append(six, Part{Source: netip.AddrFrom16([16]byte{0xfd, byte(i)}), Pass: 0.5})
	}
	program, err := filter(six)
	if err != nil || len(program) > unix.BPF_MAXINSNS {
		t.Errorf("%d instructions, %v", len(program), err)
	}
}
