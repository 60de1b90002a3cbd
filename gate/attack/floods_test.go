package attack

import (
	"bytes"
	"encoding/binary"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// flood writes until the gate hangs up, or often. What the gate answers is thrown away, unless the client is deaf and
// leaves it where it is.
func (f *frames) flood(t testing.TB, most int, deaf bool, write func() error) (sent int, hungUp bool) {
	t.Helper()
	var goaway atomic.Bool
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for !deaf {
			frame, err := f.ReadFrame()
			if err != nil {
				return
			}
			switch frame := frame.(type) {
			case *http2.GoAwayFrame:
				goaway.Store(true)
			case *http2.PingFrame:
				if frame.IsAck() && frame.Data == lastPing {
					return
				}
			}
		}
	}()
	check(t, f.conn.SetWriteDeadline(time.Now().Add(time.Minute)))
	var err error
	for sent = 0; sent < most && err == nil && !goaway.Load(); sent++ {
		err = write()
	}
	if err == nil && !goaway.Load() && !deaf { // what was just sent may still be on its way
		_ = f.WritePing(false, lastPing)
		check(t, f.conn.SetReadDeadline(time.Now().Add(2*time.Second)))
	} else {
		_ = f.conn.SetReadDeadline(time.Now())
	}
	<-heard
	return sent, err != nil || goaway.Load()
}

// lastPing is answered when what was sent before it has arrived.
var lastPing = [8]byte{'l', 'a', 's', 't'}

// TestFloods sends frames that cost the sender next to nothing. What matters is said by the bystander, whose every
// request is answered, and by the rig, which looks for what is left behind; and where a flood would have the gate hold
// something for each frame, the gate must hang up.
func TestFloods(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	others := watchBystander(t, n)
	others.mustBeServed(t, "nothing")
	block := make([]byte, 16<<10)
	for i := range block {
		block[i] = 'x'
	}
	for name, test := range map[string]struct {
		deaf       bool
		wantHungUp bool
		// begin returns what sends one more frame.
		begin func(f *frames) func() error
	}{
		"rapid reset (CVE-2023-44487)": {begin: func(f *frames) func() error {
			return func() error {
				stream, err := f.request(true, get("/api/v1/namespaces/default")...)
				if err != nil {
					return err
				}
				return f.WriteRSTStream(stream, http2.ErrCodeCancel)
			}
		}},
		"rapid reset of LISTs": {begin: func(f *frames) func() error {
			return func() error {
				stream, err := f.request(true, get("/api/v1/pods")...)
				if err != nil {
					return err
				}
				return f.WriteRSTStream(stream, http2.ErrCodeCancel)
			}
		}},
		"resets provoked by illegal frames (CVE-2025-8671)": {begin: func(f *frames) func() error {
			return func() error {
				stream, err := f.request(true, get("/api/v1/namespaces/default")...)
				if err != nil {
					return err
				}
				return f.WriteRawFrame(http2.FrameWindowUpdate, 0, stream, []byte{0, 0, 0, 0}) // an increment of 0
			}
		}},
		"more streams than allowed": {begin: func(f *frames) func() error {
			return func() error {
				_, err := f.request(false, append([]string{":method", "POST"}, get("/api/v1/namespaces/default/configmaps")[2:]...)...)
				return err
			}
		}},
		"CONTINUATION without an end (CVE-2023-45288)": {wantHungUp: true, begin: func(f *frames) func() error {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.next(), BlockFragment: f.header(get("/version")...), EndStream: true})
			fragment := f.header("x-padding", string(block))
			return func() error { return f.WriteContinuation(1, false, fragment) }
		}},
		"empty CONTINUATION": {begin: func(f *frames) func() error {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: f.next(), BlockFragment: f.header(get("/version")...), EndStream: true})
			return func() error { return f.WriteContinuation(1, false, nil) }
		}},
		"settings, answers unread": {deaf: true, begin: func(f *frames) func() error {
			return func() error { return f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) }
		}},
		"pings, answers unread": {deaf: true, wantHungUp: true, begin: func(f *frames) func() error {
			return func() error { return f.WritePing(false, [8]byte{}) }
		}},
		"empty data (CVE-2019-9518)": {begin: func(f *frames) func() error {
			stream, _ := f.request(false, append([]string{":method", "POST"}, get("/api/v1/namespaces/default/configmaps")[2:]...)...)
			return func() error { return f.WriteData(stream, false, nil) }
		}},
		"priorities (CVE-2019-9513)": {begin: func(f *frames) func() error {
			return func() error { return f.WritePriority(f.next(), http2.PriorityParam{StreamDep: 1, Weight: 9}) }
		}},
		"header table resized": {begin: func(f *frames) func() error {
			return func() error { return f.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 30}) }
		}},
		"unknown frames": {begin: func(f *frames) func() error {
			return func() error { return f.WriteRawFrame(0xfa, 0xff, 0, block[:64]) }
		}},
		"window updates beyond the window": {begin: func(f *frames) func() error {
			return func() error {
				return f.WriteRawFrame(http2.FrameWindowUpdate, 0, 0, binary.BigEndian.AppendUint32(nil, 1<<31-1))
			}
		}, wantHungUp: true},
	} {
		t.Run(name, func(t *testing.T) {
			f := openFrames(t, n, &mallory)
			most := 30_000
			if test.deaf && test.wantHungUp {
				most = 2_000_000 // the kernels' buffers hold the first answers
			}
			sent, hungUp := f.flood(t, most, test.deaf, test.begin(f))
			t.Logf("%d sent, the gate hung up: %v", sent, hungUp)
			if test.wantHungUp && !hungUp {
				t.Errorf("the gate took %d frames", sent)
			}
			others.mustBeServed(t, name)
			_ = f.conn.Close()
		})
	}
	others.stop()
	testkit.Within(t, "the gate's connections are gone but the clients' of this test", 20*time.Second, func() bool {
		return gauge(t, n, "seakeep_gate_connections") <= 1
	})
}

// TestZeroWindow has a client that never lets the gate send: each answer waits, here and at the API server, until the
// gate has had enough. So long the streams of one connection are bounded, and nobody else is.
func TestZeroWindow(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{More: "upstreamTimeout: 2s\n"})
	others := watchBystander(t, n)
	admin := lab.Admin
	for name, path := range map[string]string{
		"a small answer":                "/api/v1/namespaces/default",
		"a list":                        "/api/v1/pods",
		"a watch with initial events":   "/api/v1/pods?watch=true",
		"a watch, answered as it comes": "/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true",
	} {
		t.Run(name, func(t *testing.T) {
			f := openFrames(t, n, &admin, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			var last uint32
			for range 10 {
				stream, err := f.request(true, get(path)...)
				check(t, err)
				last = stream
			}
			others.mustBeServed(t, name)
			if o := f.await(t, last); o.status != "" && o.reset == 0 && !o.closed {
				t.Errorf("the stream ended with %+v, want a reset: nothing was read", o)
			}
			_ = f.conn.Close()
		})
	}
}

// TestOversizeHeaders sends more than the API server takes, in one header and in very many.
func TestOversizeHeaders(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	others := watchBystander(t, n)
	for name, header := range map[string]string{
		"one of 3 MiB":                  "A: " + strings.Repeat("a", 3<<20) + "\r\n",
		"200,000 of few bytes":          strings.Repeat("A: b\r\n", 200_000),
		"one name of 3 MiB":             strings.Repeat("a", 3<<20) + ": b\r\n",
		"a token of 3 MiB":              "Authorization: Bearer " + strings.Repeat("a", 3<<20) + "\r\n",
		"a Connection of 100,000 names": "Connection: " + strings.Repeat("a,", 600_000) + "b\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn := connect(t, n, "http/1.1", &mallory)
			heard := speak(t, conn, line("GET", "/version", marker())+header+"\r\n")
			if len(heard) > 0 && heard[0].StatusCode != 431 && heard[0].StatusCode != 400 {
				t.Errorf("the gate answered %v", codes(heard))
			}
			others.mustBeServed(t, name)
		})
	}
	for name, fields := range map[string][]string{
		"HTTP/2, one of 3 MiB":         {"a", strings.Repeat("a", 3<<20)},
		"HTTP/2, 200,000 of few bytes": slices.Repeat([]string{"a", "b"}, 200_000),
	} {
		t.Run(name, func(t *testing.T) {
			f := openFrames(t, n, &mallory)
			block := f.header(get("/version", fields...)...)
			first, rest := block[:min(len(block), 16<<10)], block[min(len(block), 16<<10):]
			stream := f.next()
			err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: first, EndStream: true, EndHeaders: len(rest) == 0})
			for fragment := range slices.Chunk(rest, 16<<10) {
				if err == nil {
					err = f.WriteContinuation(stream, len(fragment) < 16<<10, fragment)
				}
			}
			if err == nil {
				if o := f.await(t, stream); o.status != "" && o.status != "431" {
					t.Errorf("the gate answered %+v", o)
				}
			}
			others.mustBeServed(t, name)
			_ = f.conn.Close()
		})
	}
}

// TestBadTokensChurnNobody is kubernetes/kubernetes#121120: the API server closes the HTTP/2 connection on which it
// answered 401. A flood of bad tokens must not close the connections that carry certificates and good tokens.
func TestBadTokensChurnNobody(t *testing.T) {
	l := cluster(t)
	foreign := upstreamConnections(t, l, nil)
	n := gatetest.Open(t, l, gatetest.Options{})
	certificate := n.Client(lab.Admin)
	config := n.Config(lab.Admin)
	config.CertData, config.KeyData = nil, nil
	request, err := certificate.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(t, err)
	config.BearerToken = request.Status.Token
	token := gatetest.Clientset(t, config)
	ask := func() {
		t.Helper()
		_, err := certificate.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		check(t, err)
		_, err = token.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		check(t, err)
	}
	ask()
	before := upstreamConnections(t, n.Lab, foreign)
	if len(before) < 2 {
		t.Fatalf("the gate has %d connections to the API server, want those of certificates and of tokens", len(before))
	}
	parts := strings.Split(request.Status.Token, ".")
	for name, authorization := range map[string]string{
		"no token at all":           "Bearer nonsense",
		"a good one's head":         "Bearer " + parts[0] + "." + parts[1] + ".AAAA",
		"another's claims":          "Bearer " + parts[0] + "." + strings.Repeat("e30", 3) + "." + parts[2],
		"a token with two spaces":   "Bearer  " + request.Status.Token,
		"no credential, just a 401": "",
	} {
		t.Run(name, func(t *testing.T) {
			f := openFrames(t, n, nil)
			for range 100 {
				stream, err := f.request(true, get(secrets+"/none", "authorization", authorization)...)
				check(t, err)
				if o := f.await(t, stream); o.status != "401" && o.status != "403" {
					t.Fatalf("the gate answered %+v", o)
				}
			}
			ask()
			now := upstreamConnections(t, n.Lab, foreign)
			for _, connection := range before {
				if !slices.Contains(now, connection) {
					t.Errorf("the connection %s to the API server was closed: there were %v, there are %v", connection, before, now)
				}
			}
			_ = f.conn.Close()
		})
	}
}

// TestResetsChurnNobody: the gate passes a client's cancellation on, so that the API server stops working on it, and
// certificates share connections upstream. One client that resets its requests as fast as it can must not make the API
// server, which counts resets too, close the connection of everyone.
func TestResetsChurnNobody(t *testing.T) {
	l := cluster(t)
	foreign := upstreamConnections(t, l, nil)
	n := gatetest.Open(t, l, gatetest.Options{})
	others := watchBystander(t, n)
	others.mustBeServed(t, "nothing")
	before := upstreamConnections(t, n.Lab, foreign)
	if len(before) == 0 {
		t.Fatal("the gate has no connection to the API server")
	}
	for name, path := range map[string]string{"small": "/api/v1/namespaces/default", "large": "/openapi/v2", "lists": "/api/v1/events"} {
		t.Run(name, func(t *testing.T) {
			admin := lab.Admin
			total := 0
			for range 5 {
				f := openFrames(t, n, &admin)
				sent, _ := f.flood(t, 1000, false, func() error {
					stream, err := f.request(true, get(path)...)
					if err != nil {
						return err
					}
					return f.WriteRSTStream(stream, http2.ErrCodeCancel)
				})
				total += sent
				_ = f.conn.Close()
			}
			others.mustBeServed(t, "resets")
			now := upstreamConnections(t, n.Lab, foreign)
			t.Logf("%d requests reset; connections to the API server: %d before, %d now", total, len(before), len(now))
			for _, connection := range before {
				if !slices.Contains(now, connection) {
					t.Errorf("the connection %s to the API server was closed: there were %v, there are %v", connection, before, now)
				}
			}
		})
	}
}

// upstreamConnections are this process's established connections to the API server, by their local port and inode. Before a gate is
// opened they are foreign to it: of earlier tests' clients and gates, and idle, so that they end when their time has come.
func upstreamConnections(t testing.TB, l *lab.Lab, foreign []string) []string {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(l.APIServerURL(0), "https://"))
	check(t, err)
	number, err := strconv.Atoi(port)
	check(t, err)
	remote := "0100007F:" + strings.ToUpper(strconv.FormatInt(int64(number)+1<<16, 16)[1:])
	mine := map[string]bool{}
	entries, err := os.ReadDir("/proc/self/fd")
	check(t, err)
	for _, e := range entries {
		if what, err := os.Readlink(filepath.Join("/proc/self/fd", e.Name())); err == nil {
			mine[strings.TrimSuffix(strings.TrimPrefix(what, "socket:["), "]")] = true
		}
	}
	table, err := os.ReadFile("/proc/self/net/tcp")
	check(t, err)
	var found []string
	for line := range bytes.Lines(table) {
		// sl local_address rem_address st … inode (proc(5)); 01 is established.
		columns := strings.Fields(string(line))
		if len(columns) > 9 && columns[2] == remote && columns[3] == "01" && mine[columns[9]] {
			if connection := columns[1] + "/" + columns[9]; !slices.Contains(foreign, connection) {
				found = append(found, connection)
			}
		}
	}
	return found
}

// gauge is the sum of a metric's series.
func gauge(t testing.TB, n *gatetest.Lane, name string) float64 {
	t.Helper()
	families, err := n.Registry.Gather()
	check(t, err)
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return sum
}
