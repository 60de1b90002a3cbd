package watch

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// pipes is an upstream whose watches the benchmark writes.
type pipes struct {
	mu   sync.Mutex
	open []stream
}

func (p *pipes) RoundTrip(r *http.Request) (*http.Response, error) {
	response, s := answered(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, s)
	return response, nil
}

func serve(b *testing.B) (*Hub, *pipes, string) {
	b.Helper()
	up := &pipes{}
	h := New(Options{Upstream: up, Budget: &locked{purse: purse{most: 1 << 30}}, Log: slog.New(slog.DiscardHandler)})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Now())
		if err == nil {
			err = h.Follow(w, r, f, 10, Subscriber{})
		}
		if err != nil && r.Context().Err() == nil {
			b.Error(err)
		}
	}))
	b.Cleanup(func() {
		h.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return h, up, server.Listener.Addr().String()
}

// connect opens n watches, each on a connection of its own, and reads their headers.
func connect(b *testing.B, address string, n int) []net.Conn {
	b.Helper()
	var all []net.Conn
	for range n {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET /api/v1/pods?watch=1&resourceVersion=10 HTTP/1.1\r\nHost: gate\r\n\r\n"); err != nil {
			b.Fatal(err)
		}
		var header [1024]byte
		if _, err := conn.Read(header[:]); err != nil {
			b.Fatal(err)
		}
		all = append(all, conn)
	}
	return all
}

// What a subscriber takes of memory while nothing happens, its connection's server side included, its kernel side and
// TLS not.
func BenchmarkSubscriberMemory(b *testing.B) {
	const n = 2000
	_, _, address := serve(b)
	connect(b, address, 1)
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before := used()
	connect(b, address, n)
	for b.Loop() {
		runtime.Gosched()
	}
	b.ReportMetric(float64(used()-before)/n, "B/subscriber")
}

// How long an event takes from the upstream's bytes to each of 200 subscribers, 50 times a second, and what that costs.
func BenchmarkDelivery(b *testing.B) {
	_, up, address := serve(b)
	all := connect(b, address, 200)
	padding := strings.Repeat("x", 4000)
	var mu sync.Mutex
	var delays []time.Duration
	var running sync.WaitGroup
	began := time.Now()
	for _, conn := range all {
		running.Go(func() {
			lines := bufio.NewReaderSize(conn, 8<<10)
			var mine []time.Duration
			for {
				line, err := lines.ReadSlice('\n')
				if err != nil && err != bufio.ErrBufferFull {
					break
				}
				if _, after, ok := strings.Cut(string(line), `"sent":"`); ok {
					var sent int64
					if _, err := fmt.Sscan(strings.SplitN(after, `"`, 2)[0], &sent); err == nil {
						mine = append(mine, time.Since(began)-time.Duration(sent))
					}
				}
			}
			mu.Lock()
			delays = append(delays, mine...)
			mu.Unlock()
		})
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	version := 10
	for b.Loop() {
		<-tick.C
		version++
		_, _ = fmt.Fprintf(up.open[0], `{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"%d"},"sent":"%d","x":%q}}`+"\n", version, time.Since(began), padding)
	}
	<-time.After(200 * time.Millisecond)
	for _, conn := range all {
		_ = conn.Close()
	}
	running.Wait()
	slices.Sort(delays)
	if len(delays) < 200*(version-11) {
		b.Errorf("%d deliveries, want %d", len(delays), 200*(version-10))
	}
	b.ReportMetric(float64(delays[len(delays)/2].Microseconds())/1000, "ms-p50")
	b.ReportMetric(float64(delays[len(delays)*99/100].Microseconds())/1000, "ms-p99")
}
