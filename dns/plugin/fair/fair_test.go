package fair

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// server is a queue with a capacity, and a limiter in front of the work.
type server struct {
	limiter  *Limiter
	now      time.Time
	capacity int // units of work per millisecond; an answer costs 10, a drop 1
	queue    []netip.Addr
	answered map[netip.Addr]int
}

func (s *server) millisecond(arrivals []netip.Addr) {
	const batch = 64
	s.now = s.now.Add(time.Millisecond)
	for _, a := range arrivals {
		if len(s.queue) < longest { // a socket's buffer
			s.queue = append(s.queue, a)
		}
	}
	for budget := s.capacity; budget > 0 && len(s.queue) > 0; {
		n := min(len(s.queue), batch)
		s.limiter.Batch(len(s.queue) > longest/2, s.now)
		for _, a := range s.queue[:n] {
			if budget--; s.limiter.Allow(a) {
				budget -= 9
				s.answered[a]++
			}
		}
		s.queue = s.queue[n:]
	}
}

// longest is the size of a socket's buffer.
const longest = 1000

func client(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// run gives the server the abuser's requests and the others', per millisecond, for some seconds, and returns the
// parts of each that were answered in the last second.
func run(t *testing.T, abuser, others, clients int) (abused, served float64) {
	t.Helper()
	s := &server{limiter: New(Options{}), now: time.Unix(1e9, 0), capacity: 1000, answered: map[netip.Addr]int{}}
	bad := netip.MustParseAddr("10.9.9.9")
	asked := 0
	for ms := range 5000 {
		if ms == 4000 {
			clear(s.answered)
			asked = 0
		}
		var arrivals []netip.Addr
		for i := range max(abuser, others) {
			if i < abuser {
				arrivals = append(arrivals, bad)
			}
			if i < others {
				arrivals = append(arrivals, client((ms*others+i)%clients))
				asked++
			}
		}
		s.millisecond(arrivals)
	}
	total := 0
	for a, n := range s.answered {
		if a != bad {
			total += n
		}
	}
	return float64(s.answered[bad]) / float64(max(abuser, 1)*1000), float64(total) / float64(asked)
}

func TestOneAbuserHurtsNobodyElse(t *testing.T) {
	// The capacity is 100 answers per millisecond.
	tests := map[string]struct {
		abuser, others, clients int
		wantOthers              float64 // at least
	}{
		"nobody is limited below the capacity": {0, 90, 50, 1},
		"one client alone may take it all":     {90, 5, 50, 1},
		"twice the capacity":                   {200, 20, 100, 0.999},
		"five times the capacity":              {500, 20, 100, 0.999},
		"few other clients, busy ones":         {200, 40, 4, 0.98},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			abused, served := run(t, tc.abuser, tc.others, tc.clients)
			if served < tc.wantOthers {
				t.Errorf("%.4f of the others' requests were answered, want %.4f", served, tc.wantOthers)
			}
			if tc.abuser > 0 && tc.abuser+tc.others <= 100 && abused < 1 {
				t.Errorf("%.2f of a heavy client's were answered though there was room", abused)
			}
			if tc.abuser > 100 && abused*float64(tc.abuser) < 8 {
				t.Errorf("the abuser got %.1f answers per millisecond, want what the others left", abused*float64(tc.abuser))
			}
		})
	}
}

func TestLimitEndsWithThePressure(t *testing.T) {
	l, now := New(Options{}), time.Unix(1e9, 0)
	for range 100 {
		now = now.Add(10 * time.Millisecond)
		l.Batch(true, now)
		for range 500 {
			l.Allow(client(1))
		}
	}
	refused := 0
	for range 1000 {
		now = now.Add(10 * time.Millisecond)
		l.Batch(false, now)
	}
	for i := range 5000 {
		if !l.Allow(client(i % 3)) {
			refused++
		}
	}
	if refused > 0 {
		t.Errorf("%d requests were refused after the pressure had ended", refused)
	}
}

func BenchmarkAllow(b *testing.B) {
	l := New(Options{})
	var clients []netip.Addr
	for i := range 100 {
		clients = append(clients, netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i)))
	}
	for i := 0; b.Loop(); i++ {
		l.Allow(clients[i%100])
	}
}
