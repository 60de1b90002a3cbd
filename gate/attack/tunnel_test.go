package attack

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

func upgrade(target, mark, protocol string) string {
	return line("POST", target, mark) + "Connection: Upgrade\r\nUpgrade: " + protocol + "\r\nContent-Length: 0\r\n\r\n"
}

// TestNoTunnelAfterARefusedUpgrade is CVE-2018-1002105: after an upgrade that failed, the connection behind the API
// server's proxy stayed open to the client, with the proxy's rights. Here mallory asks for a shell, is refused, and goes
// on writing on the same connection as if it led to the API server.
func TestNoTunnelAfterARefusedUpgrade(t *testing.T) {
	l := cluster(t)
	n := gatetest.Open(t, l, gatetest.Options{})
	api := recordOf(t, n)
	namespace, pod := runningPod(t, n)
	for name, target := range map[string]string{
		"a shell in a pod":             "/api/v1/namespaces/" + namespace + "/pods/" + pod + "/exec?command=sh&stdin=true",
		"a pod that is not there":      "/api/v1/namespaces/default/pods/none/attach",
		"a node's proxy":               "/api/v1/nodes/" + lab.NodeName(0) + "/proxy/pods",
		"an aggregated API's resource": "/apis/metrics.k8s.io/v1beta1/pods",
		"what streams nothing":         "/api/v1/namespaces/default/pods",
	} {
		t.Run(name, func(t *testing.T) {
			mark := marker()
			second := line("GET", secrets+"/second", mark) + "X-Remote-User: " + lab.AdminUser + "\r\nX-Remote-Group: system:masters\r\n\r\n"
			heard := speak(t, connect(t, n, "http/1.1", &mallory), upgrade(target, mark, "SPDY/3.1")+second)
			if got := fmt.Sprint(codes(heard)); got != "[403 403]" {
				t.Errorf("the gate answered %s, want two refusals: each a request of its own", got)
			}
			for _, a := range api.arrivals(t, mark) {
				if a.User.Username != mallory.String() {
					t.Errorf("a request arrived as %+v", a)
				}
			}
		})
	}
}

// TestNothingPassesBeforeARealSwitch has an API server that answers an upgrade with anything but 101 and then listens:
// not one byte of what the client goes on to send may reach it, on that connection or another.
func TestNothingPassesBeforeARealSwitch(t *testing.T) {
	l := cluster(t)
	for name, answer := range map[string]string{
		"403":                               "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
		"200 without an end":                "HTTP/1.1 200 OK\r\n\r\n",
		"200":                               "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
		"503 with upgrade headers":          "HTTP/1.1 503 Gone\r\nContent-Length: 0\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n",
		"101 to another protocol":           "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"101 without a protocol":            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"a redirect (CVE-2020-8559)":        "HTTP/1.1 302 Found\r\nLocation: https://EVIL/\r\nContent-Length: 0\r\n\r\n",
		"a redirect with upgrade headers":   "HTTP/1.1 307 Temporary\r\nLocation: https://EVIL/\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\r\n",
		"an early hint and then a redirect": "HTTP/1.1 103 Early Hints\r\nLocation: https://EVIL/\r\n\r\nHTTP/1.1 302 Found\r\nLocation: https://EVIL/\r\nContent-Length: 0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			evil, contacted := decoy(t)
			var got atomic.Pointer[string]
			url := puppet(t, l, "http/1.1", func(conn *tls.Conn) {
				request, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				if request.Header.Get("Upgrade") == "" {
					return // the second request, refused or not, is one of its own and not what is looked for
				}
				_, _ = io.WriteString(conn, strings.ReplaceAll(answer, "EVIL", evil))
				rest, _ := io.ReadAll(conn)
				text := string(rest)
				got.Store(&text)
			})
			n := gatetest.Open(t, l, gatetest.Options{Upstream: url, More: "upstreamTimeout: 2s\n"})
			admin := lab.Admin
			conn := connect(t, n, "http/1.1", &admin)
			_, err := io.WriteString(conn, upgrade("/api/v1/namespaces/a/pods/b/exec", marker(), "SPDY/3.1"))
			check(t, err)
			check(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
			response, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil && strings.Contains(answer, " 30") && response.StatusCode != 103 {
				if location := response.Header.Get("Location"); response.StatusCode/100 != 3 || location != "https://"+evil+"/" {
					t.Errorf("the redirect reached the client as %d to %q", response.StatusCode, location)
				}
			}
			if err == nil && response.StatusCode == http.StatusSwitchingProtocols {
				t.Error("the client was told that protocols were switched")
			}
			_, _ = io.WriteString(conn, "GET /smuggled HTTP/1.1\r\nHost: api\r\nX-Remote-User: root\r\n\r\n")
			listen(t, conn)
			check(t, conn.Close())
			testkit.Within(t, "the API server's connection ends", 10*time.Second, func() bool { return got.Load() != nil })
			if text := *got.Load(); text != "" {
				t.Errorf("the API server got %q behind the upgrade", text)
			}
			if contacted.Load() {
				t.Error("the gate followed the redirect")
			}
		})
	}
}

// TestRedirectsAreTheClients is CVE-2022-3172: an API server, or an aggregated one behind it, answers with a redirect.
// It reaches the client as it came, and the gate goes nowhere with the identity it vouches for.
func TestRedirectsAreTheClients(t *testing.T) {
	l := cluster(t)
	evil, contacted := decoy(t)
	url := handler(t, l, func(w http.ResponseWriter, r *http.Request) {
		var code int
		_, _ = fmt.Sscanf(r.URL.Path, "/apis/aggregated/%d", &code)
		w.Header().Set("Location", "https://"+evil+"/token?x=%2F")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, "look elsewhere")
	})
	n := gatetest.Open(t, l, gatetest.Options{Upstream: url})
	for _, http2 := range []bool{false, true} {
		client := n.HTTP(http2, n.Certificate(lab.Admin))
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch} {
			for _, code := range []int{300, 301, 302, 303, 305, 307, 308} {
				request, err := http.NewRequestWithContext(t.Context(), method, fmt.Sprintf("%s/apis/aggregated/%d", n.URL, code), strings.NewReader("{}"))
				check(t, err)
				response, err := client.Do(request)
				check(t, err)
				body, err := io.ReadAll(response.Body)
				check(t, err)
				check(t, response.Body.Close())
				if response.StatusCode != code || response.Header.Get("Location") != "https://"+evil+"/token?x=%2F" || string(body) != "look elsewhere" {
					t.Errorf("%s %d reached the client as %d, %q, %q", method, code, response.StatusCode, response.Header.Get("Location"), body)
				}
			}
		}
		client.CloseIdleConnections()
	}
	if contacted.Load() {
		t.Error("the gate followed a redirect")
	}
}

// decoy is where nobody may connect.
func decoy(t *testing.T) (address string, contacted *atomic.Bool) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	contacted = &atomic.Bool{}
	serveConnections(t, listener, func(net.Conn) { contacted.Store(true) })
	return listener.Addr().String(), contacted
}
