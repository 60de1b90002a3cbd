package upstream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/internal/pki"
)

// framed is an API server that speaks HTTP/2 frame by frame, because none does on demand what is tested here: to send
// away exactly one request at exactly one point. A real one that does it at random is met in gate/transparency.
type framed struct {
	t        *testing.T
	listener net.Listener
	// script is what each connection does, in the order in which they are opened; the last one goes for all that follow.
	script []behaviour

	mu          sync.Mutex
	connections int
	taken       []string // the bodies of requests that were carried out
}

// behaviour is when a connection ends a request, and how.
type behaviour struct {
	after  int // bytes of the body; -1: at its end
	ending string
}

const (
	answers       = "answers"
	sendsAway     = "sends away"               // GOAWAY that names no request as taken
	refuses       = "refuses the stream"       // RST_STREAM, REFUSED_STREAM
	hangsUp       = "hangs up"                 // no word
	takesAndDrops = "takes it, then hangs up"  // GOAWAY that names the request as taken
	fails         = "resets after taking note" // RST_STREAM, INTERNAL_ERROR
)

func newFramed(t *testing.T, r *rig, script ...behaviour) *framed {
	t.Helper()
	ca, err := pki.LoadCA(r.path("ca.crt"), r.path("ca.key"))
	check(t, err)
	serving, err := ca.Issue(pki.Spec{CommonName: "upstream", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true, Lifetime: time.Hour})
	check(t, err)
	f := &framed{t: t, script: script}
	f.listener, err = tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{serving.TLS()}, NextProtos: []string{"h2"}})
	check(t, err)
	var connections sync.WaitGroup
	connections.Go(func() {
		for {
			conn, err := f.listener.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			b := f.script[min(f.connections, len(f.script)-1)]
			f.connections++
			f.mu.Unlock()
			connections.Go(func() { f.serve(conn, b) })
			t.Cleanup(func() { _ = conn.Close() })
		}
	})
	t.Cleanup(connections.Wait)
	t.Cleanup(func() { _ = f.listener.Close() })
	return f
}

func (f *framed) url() string { return "https://" + f.listener.Addr().String() }

// serve carries out one connection's requests one after the other.
func (f *framed) serve(conn net.Conn, b behaviour) {
	defer conn.Close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(conn, preface); err != nil {
		return
	}
	framer := http2.NewFramer(conn, conn)
	if window := uint32(8 << 20); b.after < 0 || b.after > 64<<10 { // else the client may not run ahead of what is to happen
		_ = framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	} else {
		_ = framer.WriteSettings()
	}
	_ = framer.WriteWindowUpdate(0, 8<<20)
	var body bytes.Buffer
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		stream, ends := frame.Header().StreamID, false
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
			continue
		case *http2.HeadersFrame:
			body.Reset()
			ends = frame.StreamEnded()
		case *http2.DataFrame:
			body.Write(frame.Data())
			ends = frame.StreamEnded()
		default:
			continue
		}
		if !ends && (b.after < 0 || body.Len() < b.after) {
			continue
		}
		switch b.ending {
		case answers:
			if !ends {
				continue
			}
			f.mu.Lock()
			f.taken = append(f.taken, body.String())
			f.mu.Unlock()
			var headers bytes.Buffer
			_ = hpack.NewEncoder(&headers).WriteField(hpack.HeaderField{Name: ":status", Value: "201"})
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: headers.Bytes(), EndStream: true, EndHeaders: true})
		case sendsAway:
			_ = framer.WriteGoAway(0, http2.ErrCodeNo, nil)
		case refuses:
			_ = framer.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			b = behaviour{after: -1, ending: answers}
		case takesAndDrops:
			_ = framer.WriteGoAway(stream, http2.ErrCodeNo, nil)
			return
		case fails:
			_ = framer.WriteRSTStream(stream, http2.ErrCodeInternal)
		case hangsUp:
			return
		}
	}
}

func TestRequestsThatWereSentAway(t *testing.T) {
	small, large := strings.Repeat("a small object. ", 64), strings.Repeat("an upload. ", 300_000)
	for name, test := range map[string]struct {
		body   string
		script []behaviour
		budget int64 // what other bodies left of the memory; 0: all of it

		wantCode        int
		wantTaken       int
		wantConnections int
		wantReplays     float64
		wantRefused     string
	}{
		"sent away after the whole body": {
			body: small, script: []behaviour{{-1, sendsAway}, {-1, answers}},
			wantCode: 201, wantTaken: 1, wantConnections: 2, wantReplays: 1,
		},
		"sent away before the body": {
			body: small, script: []behaviour{{0, sendsAway}, {-1, answers}},
			wantCode: 201, wantTaken: 1, wantConnections: 2, wantReplays: 1,
		},
		"sent away five times": {
			body: small, script: []behaviour{{-1, sendsAway}, {0, sendsAway}, {-1, sendsAway}, {500, sendsAway}, {-1, sendsAway}, {-1, answers}},
			wantCode: 201, wantTaken: 1, wantConnections: 6, wantReplays: 5,
		},
		"one stream refused": {
			body: small, script: []behaviour{{-1, refuses}},
			wantCode: 201, wantTaken: 1, wantConnections: 1, wantReplays: 1,
		},
		"always sent away": {
			body: small, script: []behaviour{{-1, sendsAway}},
			wantCode: 429, wantConnections: maxReplays + 1, wantReplays: maxReplays, wantRefused: refusedAttempts,
		},
		"a large body, sent away while it is small": {
			body: large, script: []behaviour{{10_000, sendsAway}, {-1, answers}},
			wantCode: 201, wantTaken: 1, wantConnections: 2, wantReplays: 1,
		},
		"a large body, sent away when it is no longer kept": {
			body: large, script: []behaviour{{2 << 20, sendsAway}, {-1, answers}},
			wantCode: 429, wantConnections: 1, wantRefused: refusedSize,
		},
		"no memory to keep it": {
			body: small, script: []behaviour{{-1, sendsAway}, {-1, answers}}, budget: 100,
			wantCode: 429, wantConnections: 1, wantRefused: refusedMemory,
		},
		"the connection breaks without a word: never sent again": {
			body: small, script: []behaviour{{-1, hangsUp}, {-1, answers}},
			wantCode: 502, wantConnections: 1,
		},
		"the server took it and went: never sent again": {
			body: small, script: []behaviour{{-1, takesAndDrops}, {-1, answers}},
			wantCode: 502, wantConnections: 1,
		},
		"the server failed at it: never sent again": {
			body: small, script: []behaviour{{-1, fails}, {-1, answers}},
			wantCode: 502, wantConnections: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			rig := newRig(t, nil)
			api := newFramed(t, rig, test.script...)
			bodies := NewBodies(nil)
			if test.budget != 0 {
				bodies.free.Store(test.budget)
			}
			before := bodies.free.Load()
			client, url, _ := rig.frontWith(bodies, flow.TokenVerified, time.Minute, rig.server("a", api.url()))
			request, err := http.NewRequest(http.MethodPost, url+"/api/v1/namespaces/default/configmaps", io.NopCloser(strings.NewReader(test.body)))
			check(t, err)
			request.ContentLength = int64(len(test.body))
			request.Header.Set("Idempotency-Key", "makes net/http bold")
			response, err := client.Do(request)
			check(t, err)
			defer response.Body.Close()
			answer, err := io.ReadAll(response.Body)
			check(t, err)
			if response.StatusCode != test.wantCode {
				t.Errorf("got %d, want %d: %s", response.StatusCode, test.wantCode, answer)
			}
			if response.StatusCode == http.StatusTooManyRequests {
				if status := statusOf(t, string(answer)); status.Reason != metav1.StatusReasonTooManyRequests || response.Header.Get("Retry-After") == "" {
					t.Errorf("a client would not come again after %+v, %v", status, response.Header)
				}
			}
			api.mu.Lock()
			defer api.mu.Unlock()
			if len(api.taken) != test.wantTaken || api.connections != test.wantConnections {
				t.Errorf("taken %d times over %d connections, want %d over %d", len(api.taken), api.connections, test.wantTaken, test.wantConnections)
			}
			for _, body := range api.taken {
				if body != test.body {
					t.Errorf("the API server got %d bytes that are not the %d sent", len(body), len(test.body))
				}
			}
			if got := testutil.ToFloat64(bodies.metrics.replays); got != test.wantReplays {
				t.Errorf("%v replays counted, want %v", got, test.wantReplays)
			}
			for _, reason := range []string{refusedSize, refusedMemory, refusedAttempts} {
				want := 0.0
				if reason == test.wantRefused {
					want = 1
				}
				if got := testutil.ToFloat64(bodies.metrics.refused.WithLabelValues(reason)); got != want {
					t.Errorf("refused for %s: %v, want %v", reason, got, want)
				}
			}
			if after := bodies.free.Load(); after != before {
				t.Errorf("%d bytes of the budget were not given back", before-after)
			}
		})
	}
}

// A GOAWAY while the client is still sending: what it sends from then on belongs to the next attempt.
func TestSentAwayInTheMiddleOfABody(t *testing.T) {
	rig := newRig(t, nil)
	api := newFramed(t, rig, behaviour{3, sendsAway}, behaviour{-1, answers})
	bodies := NewBodies(nil)
	client, url, _ := rig.frontWith(bodies, flow.CertificateVerified, time.Minute, rig.server("a", api.url()))
	body, feed := io.Pipe()
	answered := make(chan int, 1)
	go func() {
		response, err := client.Post(url+"/api/v1/namespaces/default/configmaps", "application/json", body)
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		defer response.Body.Close()
		answered <- response.StatusCode
	}()
	var want strings.Builder
	for i := range 200 {
		part := "part " + strconv.Itoa(i) + ", "
		want.WriteString(part)
		_, err := io.WriteString(feed, part)
		check(t, err)
	}
	check(t, feed.Close())
	if code := <-answered; code != http.StatusCreated {
		t.Errorf("got %d, want 201", code)
	}
	api.mu.Lock()
	defer api.mu.Unlock()
	if len(api.taken) != 1 || api.taken[0] != want.String() || api.connections != 2 {
		t.Errorf("the API server took %d requests over %d connections, %q", len(api.taken), api.connections, api.taken)
	}
}

// What one attempt is still reading when it is given up is not lost to the next.
func TestAttemptsShareOneBody(t *testing.T) {
	source, feed := io.Pipe()
	body := NewBodies(nil).keep(source, -1)
	defer body.release()
	first := body.open()
	got := make(chan string)
	read := func(r io.Reader) {
		p := make([]byte, 64)
		n, err := r.Read(p)
		if err != nil && !errors.Is(err, io.EOF) {
			t.Error(err)
		}
		got <- string(p[:n])
	}
	go read(first) // waits for the client
	second := body.open()
	go read(second)
	_, err := io.WriteString(feed, "hello")
	check(t, err)
	if a, b := <-got, <-got; a != "hello" || b != "hello" {
		t.Errorf("the attempts read %q and %q, want the same of both", a, b)
	}
	check(t, feed.Close())
	if rest, err := io.ReadAll(second); err != nil || len(rest) > 0 {
		t.Errorf("the rest is %q, %v", rest, err)
	}
	if all, err := io.ReadAll(body.open()); err != nil || string(all) != "hello" {
		t.Errorf("a later attempt reads %q, %v", all, err)
	}
}

// The memory is taken as bytes arrive, never more than the bound of one request, and all of it comes back.
func TestBodiesBudget(t *testing.T) {
	bodies := NewBodies(nil)
	body := bodies.keep(bytes.NewReader(make([]byte, 3<<20)), 3<<20)
	reader := body.open()
	if taken := keptBudget - bodies.free.Load(); taken != 0 {
		t.Errorf("%d bytes were taken before any arrived", taken)
	}
	p, most := make([]byte, 16<<10), int64(0)
	for {
		_, err := reader.Read(p)
		most = max(most, keptBudget-bodies.free.Load())
		if err != nil {
			break
		}
	}
	if most > maxKept {
		t.Errorf("one request took %d bytes, want at most %d", most, maxKept)
	}
	if ok, why := body.replayable(); ok || why != refusedSize {
		t.Errorf("replayable: %v, %q", ok, why)
	}
	body.release()
	if left := bodies.free.Load(); left != keptBudget {
		t.Errorf("%d bytes were not given back", keptBudget-left)
	}
}

func BenchmarkKeepingABody(b *testing.B) {
	bodies, object, p := NewBodies(nil), make([]byte, 2<<10), make([]byte, 16<<10)
	b.ReportAllocs()
	for b.Loop() {
		body := bodies.keep(bytes.NewReader(object), int64(len(object)))
		reader := body.open()
		for {
			if _, err := reader.Read(p); err != nil {
				break
			}
		}
		body.release()
	}
}
