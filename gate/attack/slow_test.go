package attack

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// TestSlowHeaders opens connections that begin a handshake, a request or a connection's preface, and never go on. Each is
// closed in the end, and meanwhile others are served.
func TestSlowHeaders(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	others := watchBystander(t, n)
	address := strings.TrimPrefix(n.URL, "https://")
	var waiting []net.Conn
	for range 50 {
		silent, err := n.Dial(t.Context(), "tcp", address)
		check(t, err)
		half, err := n.Dial(t.Context(), "tcp", address)
		check(t, err)
		_, err = half.Write([]byte{0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3}) // a ClientHello's beginning
		check(t, err)
		header := connect(t, n, "http/1.1", nil)
		_, err = io.WriteString(header, "GET /version HTTP/1.1\r\nHost: g\r\nX-A: ")
		check(t, err)
		preface := connect(t, n, "h2", nil)
		_, err = io.WriteString(preface, "PRI * HTTP/2.0\r\n")
		check(t, err)
		waiting = append(waiting, silent, half, header, preface)
	}
	others.mustBeServed(t, "200 connections that say half a sentence")
	for _, conn := range waiting {
		closedByPeer(t, conn, 45*time.Second)
	}
	others.mustBeServed(t, "their end")
}

// TestSlowBodies sends the beginning of a body. The gate says who was late, in the API's form, and does not blame the API
// server; the API server gets no object out of it.
func TestSlowBodies(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{More: "upstreamTimeout: 2s\n"})
	others := watchBystander(t, n)
	admin := lab.Admin
	const target = "/api/v1/namespaces/default/configmaps"
	beginning := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"`
	t.Run("HTTP/1.1", func(t *testing.T) {
		for name, header := range map[string]string{
			"announced": "Content-Length: 5000\r\n\r\n" + beginning,
			"chunked":   "Transfer-Encoding: chunked\r\n\r\n10\r\n" + beginning[:16] + "\r\n",
			"asked for": "Content-Length: 5000\r\nExpect: 100-continue\r\n\r\n",
		} {
			t.Run(name, func(t *testing.T) {
				heard := speak(t, connect(t, n, "http/1.1", &admin), line("POST", target, marker())+"Content-Type: application/json\r\n"+header)
				if len(heard) != 1 || heard[0].StatusCode != http.StatusRequestTimeout {
					t.Fatalf("the gate answered %v, want 408", codes(heard))
				}
				if status := statusOf(t, heard[0]); !strings.Contains(status.Message, "body did not arrive within 2s") {
					t.Errorf("the client is told %q", status.Message)
				}
			})
		}
	})
	t.Run("HTTP/2", func(t *testing.T) {
		f := openFrames(t, n, &admin)
		var last uint32
		for range 50 {
			stream, err := f.request(false, append([]string{":method", "POST"}, get(target, "content-type", "application/json")[2:]...)...)
			check(t, err)
			check(t, f.WriteData(stream, false, []byte(beginning)))
			last = stream
		}
		others.mustBeServed(t, "50 bodies that do not come")
		if o := f.await(t, last); o.status != "408" {
			t.Errorf("the gate answered %+v, want 408", o)
		}
		_ = f.conn.Close()
	})
}

// TestSlowReaders asks for a big LIST many times and reads nothing, as a client whose network went away does. The gate
// gives up on each in the end.
func TestSlowReaders(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{More: "upstreamTimeout: 3s\ndefaultLimits: Disabled\n"})
	api := recordOf(t, n)
	var names []string
	for range 12 {
		made, err := api.client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "big-", Labels: map[string]string{"big": "yes"}},
			Data:       map[string]string{"a": strings.Repeat("0123456789abcdef", 60_000)},
		}, metav1.CreateOptions{})
		check(t, err)
		names = append(names, made.Name)
	}
	others := watchBystander(t, n)
	admin := lab.Admin
	var readers []*tls.Conn
	for range 20 {
		conn := connect(t, n, "http/1.1", &admin)
		_, err := io.WriteString(conn, line("GET", "/api/v1/configmaps", marker())+"\r\n")
		check(t, err)
		readers = append(readers, conn)
	}
	others.mustBeServed(t, "20 LISTs of 11 MB that nobody reads")
	testkit.Within(t, "the gate has given the slow readers up", 60*time.Second, func() bool { return gauge(t, n, "seakeep_gate_connections") <= 1 })
	for _, conn := range readers {
		check(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			continue // cut off before the header was read: also an end
		}
		if _, err := io.ReadAll(response.Body); err == nil {
			t.Error("a LIST that was cut off looks whole")
		}
	}
	for _, name := range names {
		check(t, api.client.CoreV1().ConfigMaps("default").Delete(t.Context(), name, metav1.DeleteOptions{}))
	}
}

// TestSilentUpstream has an API server that accepts and says nothing, at each stage: the client gets an answer in the
// API's form that names the server, others are served as far as they do not need it, and nothing is kept.
func TestSilentUpstream(t *testing.T) {
	l := cluster(t)
	hold := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	ask := func(t *testing.T, n *gatetest.Lane) (*http.Response, []byte, error) {
		t.Helper()
		client := n.HTTP(true, n.Certificate(lab.Admin))
		defer client.CloseIdleConnections()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/api/v1/namespaces/default", nil)
		check(t, err)
		response, err := client.Do(request)
		check(t, err)
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		response.Body = io.NopCloser(bytes.NewReader(body))
		return response, body, err
	}
	mustName := func(t *testing.T, response *http.Response, code int, text string) {
		t.Helper()
		status := statusOf(t, response)
		if response.StatusCode != code || int(status.Code) != code || !strings.Contains(status.Message, "API server") || !strings.Contains(status.Message, "lab") || !strings.Contains(status.Message, text) {
			t.Errorf("the client is told %d: %+v", response.StatusCode, status)
		}
	}
	t.Run("it accepts and shakes no hands", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		serveConnections(t, listener, hold)
		n := gatetest.Open(t, l, gatetest.Options{Upstream: "https://" + listener.Addr().String()})
		response, _, err := ask(t, n)
		check(t, err)
		mustName(t, response, http.StatusServiceUnavailable, "was not sent")
	})
	t.Run("it accepts and shakes no hands while another one works", func(t *testing.T) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		check(t, err)
		serveConnections(t, listener, hold)
		file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{Upstream: "https://" + listener.Addr().String()})
		edit(t, file, "}]\nidentity:", "}, {name: working, url: \""+l.APIServerURL(0)+"\", caFile: "+l.CAFile()+"}]\nidentity:")
		n := gatetest.Serve(t, l, file)
		for range 4 { // the silent one is asked first
			response, _, err := ask(t, n)
			check(t, err)
			if response.StatusCode != http.StatusOK {
				t.Errorf("the client got %d", response.StatusCode)
			}
		}
	})
	t.Run("it shakes hands and is silent", func(t *testing.T) {
		n := gatetest.Open(t, l, gatetest.Options{Upstream: puppet(t, l, "http/1.1", func(conn *tls.Conn) { hold(conn) }), More: "upstreamTimeout: 1s\n"})
		response, _, err := ask(t, n)
		check(t, err)
		mustName(t, response, http.StatusGatewayTimeout, "within 1s")
	})
	t.Run("it shakes hands for HTTP/2 and is silent", func(t *testing.T) {
		n := gatetest.Open(t, l, gatetest.Options{Upstream: puppet(t, l, "h2", func(conn *tls.Conn) { hold(conn) }), More: "upstreamTimeout: 1s\n"})
		response, _, err := ask(t, n)
		check(t, err)
		mustName(t, response, http.StatusGatewayTimeout, "within 1s")
	})
	t.Run("it is silent to some requests or stops in the middle", func(t *testing.T) {
		released := make(chan struct{})
		url := handler(t, l, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Query().Get("watch") != "" || strings.HasSuffix(r.URL.Path, "/silent"):
				select {
				case <-released:
				case <-r.Context().Done():
				}
			case strings.HasSuffix(r.URL.Path, "/half"):
				_, _ = io.WriteString(w, `{"kind":"Namespace",`)
				_ = http.NewResponseController(w).Flush()
				select {
				case <-released:
				case <-r.Context().Done():
				}
			default:
				w.Header().Set("Content-Type", "application/json")
				_, _ = io.WriteString(w, `{"kind":"Namespace","apiVersion":"v1"}`)
			}
		})
		t.Cleanup(func() { close(released) })
		n := gatetest.Open(t, l, gatetest.Options{Upstream: url, More: "upstreamTimeout: 1s\ndefaultLimits: Disabled\n"})
		others := watchBystander(t, n)
		admin := lab.Admin
		for path, want := range map[string]string{"/silent": "504", "/pods?watch=true&resourceVersion=1": "504", "/half": "200"} {
			f := openFrames(t, n, &admin)
			var streams []uint32
			for range 20 {
				stream, err := f.request(true, get("/api/v1/namespaces/default"+path)...)
				check(t, err)
				streams = append(streams, stream)
			}
			others.mustBeServed(t, path)
			o := f.await(t, streams[len(streams)-1])
			if o.status != want || want == "200" && o.reset == 0 {
				t.Errorf("%s: the gate answered %+v, want %s, and a reset behind half an answer", path, o, want)
			}
			_ = f.conn.Close()
		}
	})
}
