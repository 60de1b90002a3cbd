package transparency_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// dialRaw opens a TLS connection on which the test says every byte itself.
func dialRaw(t *testing.T, n *gatetest.Lane, host string) *tls.Conn {
	t.Helper()
	roots, err := pki.LoadPool(n.Lab.CAFile())
	check(t, err)
	conn, err := tls.Dial("tcp", host, &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: roots, Certificates: []tls.Certificate{n.Certificate(lab.Admin)}, NextProtos: []string{"http/1.1"},
	})
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(30*time.Second)))
	return conn
}

// TestExpectContinue: a client that asks before it sends a body is answered by the API server. When that will not have the
// request, the body is not sent at all.
func TestExpectContinue(t *testing.T) {
	l := controlPlane(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	prepare(t, l)
	const body = `{"metadata":{"name":"expected"}}`
	for name, test := range map[string]struct {
		header string
		want   []string
	}{
		"allowed":   {"", []string{"100", "201"}},
		"forbidden": {"Impersonate-User: jane\r\n", []string{"403"}},
	} {
		t.Run(name, func(t *testing.T) {
			said := map[string][]string{}
			for side, host := range map[string]string{"direct": l.APIServerURL(0), "gate": n.URL} {
				conn := dialRaw(t, n, strings.TrimPrefix(host, "https://"))
				fmt.Fprintf(conn, "POST /api/v1/namespaces/%s/configmaps?dryRun=All HTTP/1.1\r\nHost: lane\r\nContent-Type: application/json\r\n"+
					"Expect: 100-continue\r\nContent-Length: %d\r\n%s\r\n", readNamespace, len(body), test.header)
				reader := bufio.NewReader(conn)
				for {
					response, err := http.ReadResponse(reader, nil)
					check(t, err)
					said[side] = append(said[side], fmt.Sprint(response.StatusCode))
					if response.StatusCode != http.StatusContinue {
						break
					}
					_, err = io.WriteString(conn, body)
					check(t, err)
				}
			}
			if diff := cmp.Diff(said["direct"], said["gate"]); diff != "" {
				t.Errorf("-direct +gate:\n%s", diff)
			}
			if diff := cmp.Diff(test.want, said["gate"]); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

// TestUploadsAreNotHeld: the gate holds no more of an upload than it may have to send again, however much there is; and
// what the API server says before it has read it all arrives while the client is still sending.
func TestUploadsAreNotHeld(t *testing.T) {
	l := controlPlane(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	w := prepare(t, l)
	for name, v := range variants(t, n, w) {
		t.Run(name, func(t *testing.T) {
			_, gate := v.sides(n, w.vars, w.vars)
			upload := &endless{held: func() float64 { return metric(t, n, "seakeep_gate_upstream_kept_body_bytes") }}
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+gate.host+"/api/v1/namespaces/"+readNamespace+"/configmaps", upload)
			check(t, err)
			for name, values := range gate.header {
				request.Header[name] = values
			}
			request.Header.Set("Content-Type", "application/json")
			response, err := gate.client.Do(request)
			check(t, err)
			defer response.Body.Close()
			if response.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("got %s, want the API server's 413", response.Status)
			}
			upload.mu.Lock()
			defer upload.mu.Unlock()
			// The API server reads 3 MiB; the rest is in buffers on the way.
			if upload.sent > 64<<20 || upload.most > 1<<20 || upload.most == 0 {
				t.Errorf("%d bytes were sent, of which the gate held up to %v", upload.sent, upload.most)
			}
			within(t, "the gate holds nothing", func() bool { return upload.held() == 0 })
		})
	}
}

// endless is an upload without an end.
type endless struct {
	held func() float64

	mu   sync.Mutex
	sent int
	most float64
}

// Read implements io.Reader.
func (e *endless) Read(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range p {
		p[i] = ' '
	}
	e.sent += len(p)
	e.most = max(e.most, e.held())
	return len(p), nil
}

// TestIPv6 listens on [::1] and has an API server there. The lab's listens on 127.0.0.1 only, so its [::1] is a relay of
// bytes that knows nothing of what it carries.
func TestIPv6(t *testing.T) {
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Fatalf("this machine has no IPv6 loopback address, so nothing can be shown of IPv6: %v", err)
	}
	l := controlPlane(t)
	var relays sync.WaitGroup
	open := relay(&relays, listener, strings.TrimPrefix(l.APIServerURL(0), "https://"))
	t.Cleanup(func() { _ = listener.Close(); open.cut(); relays.Wait() })
	n := gatetest.Open(t, l, gatetest.Options{Address: "[::1]:0", Upstream: "https://" + listener.Addr().String()})
	w := prepare(t, l)
	for name, v := range variants(t, n, w) {
		t.Run(name, func(t *testing.T) {
			direct, gate := v.sides(n, w.vars, w.vars)
			for _, target := range []string{"/api/v1/namespaces/$ns/configmaps/item-0", "/api/v1/namespaces/$ns/configmaps?watch=1&resourceVersion=0&timeoutSeconds=1"} {
				step := newStep(0, http.MethodGet, target)
				step.statuses = []int{http.StatusOK}
				reads(t, direct, gate, step)
			}
		})
	}
}

// relayed are a relay's connections.
type relayed struct {
	mu   sync.Mutex
	over bool
	open []net.Conn
}

func (r *relayed) add(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = append(r.open, conns...)
	return !r.over
}

func (r *relayed) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	for _, c := range r.open {
		_ = c.Close()
	}
}

func relay(owner *sync.WaitGroup, listener net.Listener, to string) *relayed {
	r := &relayed{}
	owner.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			if !r.add(in, out) {
				r.cut()
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				owner.Go(func() {
					_, _ = io.Copy(struct{ io.Writer }{way[0]}, struct{ io.Reader }{way[1]}) // not spliced: its pipes would look like leaks
					_ = way[0].Close()
				})
			}
		}
	})
	return r
}

// TestNothingUnencrypted: without TLS nobody is spoken to, in HTTP/1.1 as in HTTP/2 with prior knowledge.
func TestNothingUnencrypted(t *testing.T) {
	l := controlPlane(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	for name, opening := range map[string]string{
		"HTTP/2 with prior knowledge": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"HTTP/1.1 to HTTP/2":          "GET /version HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := n.Dial(t.Context(), "tcp", strings.TrimPrefix(n.URL, "https://"))
			check(t, err)
			check(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
			_, err = io.WriteString(conn, opening)
			check(t, err)
			answer, _ := io.ReadAll(conn) // a reset is an end too
			// net/http says in the clear that it was spoken to in the clear, or nothing at all.
			if len(answer) > 0 && !strings.HasPrefix(string(answer), "HTTP/1.0 400 ") {
				t.Errorf("got %q", answer)
			}
		})
	}
	t.Run("an upgrade to HTTP/2 inside of TLS", func(t *testing.T) {
		conn := dialRaw(t, n, strings.TrimPrefix(n.URL, "https://"))
		fmt.Fprint(conn, "GET /version HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		check(t, err)
		if response.StatusCode != http.StatusForbidden {
			t.Errorf("got %s, want 403", response.Status)
		}
	})
}
