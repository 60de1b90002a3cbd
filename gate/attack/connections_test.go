package attack

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// holder is set in the environment of the process that holds thousands of connections: a process has descriptors for one
// end of them only.
const holder = "SEAKEEP_ATTACK_HOLD"

func TestMain(m *testing.M) {
	if address := os.Getenv(holder); address != "" {
		hold(address)
		return
	}
	os.Exit(m.Run())
}

// from opens a plain connection with an address of the loopback network as its source.
func from(ctx context.Context, source, address string) (net.Conn, error) {
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 10 * time.Second}
	return dialer.DialContext(ctx, "tcp", address)
}

// isClosed reports whether the gate has closed the connection by now, or does so right away.
func isClosed(t testing.TB, conn net.Conn) bool {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	_, err := conn.Read(make([]byte, 1))
	var timeout net.Error
	return err != nil && (!errors.As(err, &timeout) || !timeout.Timeout())
}

// TestPlaces fills the gate's places from few sources. A source that has its share gets no more; when all places are
// taken, one that has said nothing gives way to a client that has fewer, and a watch never does.
func TestPlaces(t *testing.T) {
	l := cluster(t)
	file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{})
	edit(t, file, "listen: {", "listen: {connections: {max: 20, maxPerSource: 12}, ")
	n := gatetest.Serve(t, l, file)
	address := strings.TrimPrefix(n.URL, "https://")
	watcher, err := n.Client(lab.Admin).CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{})
	check(t, err)
	defer watcher.Stop()

	var open []net.Conn
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	fill := func(source string, count int) (closed int) {
		var mine []net.Conn
		for range count {
			conn, err := from(t.Context(), source, address)
			check(t, err)
			mine = append(mine, conn)
		}
		open = append(open, mine...)
		for _, conn := range mine {
			if isClosed(t, conn) {
				closed++
			}
		}
		return closed
	}
	if closed := fill("127.0.0.2", 15); closed != 3 {
		t.Errorf("one source: %d of 15 connections were closed, want those beyond its share, 3", closed)
	}
	if closed := fill("127.0.0.3", 9); closed != 0 {
		t.Errorf("another source: %d of 9 connections were closed, want none: the first gives way", closed)
	}
	// All 20 places are taken, by two who say nothing and one watch.
	for i := range 5 {
		as := lab.Admin
		conn, err := from(t.Context(), fmt.Sprintf("127.0.1.%d", i+1), address)
		check(t, err)
		open = append(open, conn)
		secured := secure(t, n, conn, "http/1.1", &as)
		if heard := speak(t, secured, line("GET", "/version", marker())+"\r\n"); len(heard) != 1 || heard[0].StatusCode != http.StatusOK {
			t.Errorf("client %d of a source with none got %v", i, codes(heard))
		}
	}
	if got := gauge(t, n, "seakeep_gate_connections"); got != 20 {
		t.Errorf("%v connections are counted, want all 20 places", got)
	}
	select {
	case _, ok := <-watcher.ResultChan():
		if !ok {
			t.Error("the watch was closed for a newcomer")
		}
	default:
	}
	// The sources are level now. A newcomer of the one with the most is refused, and nobody gives way to it.
	if closed := fill("127.0.0.2", 9); closed == 0 {
		t.Error("the source with the most got more when all places were taken")
	}
	for _, reason := range []string{"source", "full", "gave_up"} {
		if closed(t, n, reason) == 0 {
			t.Errorf("no connection is counted as closed for %s", reason)
		}
	}
	// A changed configuration is in force for the next connection.
	edit(t, file, "max: 20, maxPerSource: 12", "max: 40, maxPerSource: 30")
	testkit.Within(t, "the new bound is in force", 15*time.Second, func() bool { return gauge(t, n, "seakeep_gate_connections_max") == 40 })
	if closed := fill("127.0.2.1", 5); closed != 0 {
		t.Errorf("%d of 5 connections were closed though there are places again", closed)
	}
}

func closed(t testing.TB, n *gatetest.Lane, reason string) float64 {
	t.Helper()
	families, err := n.Registry.Gather()
	check(t, err)
	for _, family := range families {
		if family.GetName() != "seakeep_gate_connections_closed_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			if m.GetLabel()[0].GetValue() == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

// hold opens connections until it is told to stop: standard input closes. It prints how many of each kind are open.
func hold(spec string) {
	address, rest, _ := strings.Cut(spec, " ")
	source, number, _ := strings.Cut(rest, " ")
	count, err := strconv.Atoi(number)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var mu sync.Mutex
	open, failed := []net.Conn{}, 0
	work := make(chan string)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for protocol := range work {
				conn, err := from(context.Background(), source, address)
				if err == nil {
					secured := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocol}}) // only the number is looked at
					if err = secured.Handshake(); err == nil {
						err = settle(secured, protocol)
					}
				}
				mu.Lock()
				if err == nil {
					open = append(open, conn)
				} else {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	for i := range count {
		work <- []string{"h2", "http/1.1"}[i%2]
	}
	close(work)
	workers.Wait()
	fmt.Println("open", len(open), "failed", failed)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// settle makes a connection one that has said something and is idle. Over HTTP/1.1 that takes a request, one that the gate
// refuses by itself.
func settle(conn net.Conn, protocol string) error {
	if protocol == "h2" {
		_, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		return err
	}
	if _, err := io.WriteString(conn, "GET /version HTTP/1.1\r\nHost: gate\r\nConnection: keep-alive, X-Remote-User\r\n\r\n"); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, response.Body)
	return err
}

// TestTenThousandIdleConnections holds 10,000 connections, half of them HTTP/2, from one address. They are all the source
// may have; others are served, one more is refused, and when they go nothing of them is left.
func TestTenThousandIdleConnections(t *testing.T) {
	var limit syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit))
	limit.Cur = limit.Max
	held := many
	if may := int(min(limit.Max, 1<<20)-500) / 4 * 3; may < held {
		// On a machine that allows fewer descriptors the bound is tested with what it allows.
		t.Logf("the hard limit of descriptors is %d: %d connections instead of %d (ulimit -Hn)", limit.Max, may, many)
		if held = may; held < 500 {
			t.Fatalf("%d connections are no crowd: raise the hard limit of descriptors", held)
		}
	}
	check(t, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit))
	l := cluster(t)
	file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{})
	edit(t, file, "listen: {", fmt.Sprintf("listen: {connections: {max: %d, maxPerSource: %d}, ", held+500, held))
	n := gatetest.Serve(t, l, file)
	address := strings.TrimPrefix(n.URL, "https://")
	others := watchBystander(t, n)
	others.mustBeServed(t, "nothing")
	before := memory()

	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s 127.0.0.2 %d", holder, address, held))
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	check(t, err)
	stdout, err := child.StdoutPipe()
	check(t, err)
	check(t, child.Start())
	said, err := bufio.NewReader(stdout).ReadString('\n')
	check(t, err)
	if want := fmt.Sprintf("open %d failed 0\n", held); said != want {
		t.Errorf("the holder says %q, want %q", said, want)
	}
	others.mustBeServed(t, "10,000 idle connections")
	if got := gauge(t, n, "seakeep_gate_connections"); got < float64(held) {
		t.Errorf("%v connections are counted, want at least %d", got, held)
	}
	t.Logf("an idle connection costs %.1f KiB, its TLS state and goroutines included", float64(memory()-before)/float64(held)/1024)
	conn, err := from(t.Context(), "127.0.0.2", address)
	check(t, err)
	if !isClosed(t, conn) {
		t.Error("the source got more than its share")
	}
	check(t, conn.Close())
	others.mustBeServed(t, "a refusal")

	check(t, stdin.Close())
	check(t, child.Wait())
	testkit.Within(t, "the places are free again", 60*time.Second, func() bool { return gauge(t, n, "seakeep_gate_connections") <= 2 })
	others.mustBeServed(t, "the end of them")
}

// memory is what the process has in use: heap and stacks.
func memory() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
