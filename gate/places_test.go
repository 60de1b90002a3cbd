package gate

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// wire is a connection of an address; only that it was closed matters.
type wire struct {
	net.Conn
	address string
	closed  bool
}

func (w *wire) RemoteAddr() net.Addr { return address(w.address) }

func (w *wire) Close() error {
	w.closed = true
	return nil
}

type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

// TestPlacesKeepTheirBounds opens, uses and closes connections in any order: what is counted is what is open, no bound is
// passed, only what carries nothing gives way, and never to a source that has as many.
func TestPlacesKeepTheirBounds(t *testing.T) {
	const limit, share = 40, 15
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		p := newPlaces(nil, v1alpha1.GateConnections{Max: limit, MaxPerSource: share}, slog.New(slog.DiscardHandler), newMetrics(prometheus.NewRegistry()))
		busy := map[*place]bool{}
		var open []*place
		counts := func() map[string]int {
			by := map[string]int{}
			for _, c := range open {
				by[originOf(c.Conn)]++
			}
			return by
		}
		for step := range 3000 {
			switch at := random.IntN(10); {
			case at < 6:
				inner := &wire{address: fmt.Sprintf("10.0.0.%d:1", random.IntN(8))}
				before := counts()
				c := p.admit(inner)
				if c == nil {
					if n := before[originOf(inner)]; n < share && len(open) < limit {
						t.Fatalf("seed %d, step %d: refused with %d of its own and %d in all", seed, step, n, len(open))
					}
					break
				}
				kept := open[:0]
				for _, other := range open {
					if !other.Conn.(*wire).closed {
						kept = append(kept, other)
						continue
					}
					if busy[other] {
						t.Fatalf("seed %d, step %d: a connection with a request gave way", seed, step)
					}
					if before[originOf(other.Conn)] <= before[originOf(inner)]+1 {
						t.Fatalf("seed %d, step %d: a source with %d gave way to one with %d", seed, step, before[originOf(other.Conn)], before[originOf(inner)])
					}
				}
				open = append(kept, c)
			case at < 8 && len(open) > 0:
				c := open[random.IntN(len(open))]
				p.mu.Lock()
				busy[c] = !busy[c]
				c.rest(!busy[c])
				p.mu.Unlock()
			case len(open) > 0:
				i := random.IntN(len(open))
				_ = open[i].Close()
				_ = open[i].Close() // net/http and crypto/tls may both
				open = append(open[:i], open[i+1:]...)
			}
			most := 0
			for name, n := range counts() {
				most = max(most, n)
				if n > share || p.sources[name].count != n {
					t.Fatalf("seed %d, step %d: %s has %d open and %d counted", seed, step, name, n, p.sources[name].count)
				}
			}
			if p.open != len(open) || p.open > limit || p.most != most || len(p.sources) != len(counts()) {
				t.Fatalf("seed %d, step %d: %d counted, %d open; most %d, is %d; %d sources, are %d", seed, step, p.open, len(open), p.most, most, len(p.sources), len(counts()))
			}
		}
	}
}
