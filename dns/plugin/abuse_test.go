package plugin

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// What strangers send must neither stop the server nor keep it from answering others. The parser has fuzz tests of its
// own; here it is the whole way, sockets included.
func TestMalformedPacketsDoNoHarm(t *testing.T) {
	r := newRig(t, false)
	s := r.serve(t, "seakeep", usual)
	panics := testutil.ToFloat64(vars.Panic)
	c, err := net.Dial("udp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	random := rand.New(rand.NewPCG(1, 2))
	good, err := new(dns.Msg).SetQuestion(aClusterIP, dns.TypeA).SetEdns0(1232, true).Pack()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		packet := append([]byte(nil), good...)
		switch i % 4 {
		case 0: // a query with some bytes changed
			for range 1 + random.IntN(4) {
				packet[random.IntN(len(packet))] = byte(random.Uint32())
			}
		case 1: // cut off
			packet = packet[:random.IntN(len(packet)+1)]
		case 2: // noise
			packet = make([]byte, random.IntN(600))
			for j := range packet {
				packet[j] = byte(random.Uint32())
			}
		case 3: // compression that points at itself
			packet = append(packet[:12], 0xc0, 0x0c, 0, 1, 0, 1)
		}
		if _, err := c.Write(packet); err != nil && i%500 == 0 {
			t.Log(err)
		}
		if i%100 == 0 {
			if m := s.ask(t, aClusterIP, dns.TypeA); len(m.Answer) != 1 {
				t.Fatalf("after %d packets: %v", i, m)
			}
		}
	}
	if after := testutil.ToFloat64(vars.Panic); after > panics {
		t.Errorf("packets made CoreDNS panic %g times", after-panics)
	}
}

// One client that sends all it can does not keep others from being answered, with an ordinary resolver's retries.
func TestOneClientDoesNotStarveOthers(t *testing.T) {
	r := newRig(t, false)
	s := r.serve(t, "seakeep", usual)
	packed, err := new(dns.Msg).SetQuestion(aHeadless, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var abusers sync.WaitGroup
	for range 2 {
		abusers.Go(func() {
			d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 66)}}
			c, err := d.DialContext(ctx, "udp", s.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for ctx.Err() == nil {
				_, _ = c.Write(packed)
			}
		})
	}
	defer abusers.Wait()
	defer stop()
	client := &dns.Client{Timeout: 2 * time.Second, Dialer: &net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 0, 7)}}}
	lost := 0
	const asked = 300
	for range asked {
		answered := false
		for try := 0; try < 3 && !answered; try++ {
			m, _, err := client.ExchangeContext(ctx, new(dns.Msg).SetQuestion(aClusterIP, dns.TypeA), s.addr)
			answered = err == nil && len(m.Answer) == 1
		}
		if !answered {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d questions went unanswered after three tries", lost, asked)
	}
}
