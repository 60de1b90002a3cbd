package breakglass

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/internal/pki"
)

// An exec is a stream after a 101: bytes pass both ways at once, and it is on record before it begins and after it ends.
func TestExecStreamsBothWays(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if probing(q) {
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", q.Header.Get("Upgrade"))
		io.Copy(conn, rw)
	})
	r.start()
	_, pair := r.engineer(r.breakGlass, pki.Spec{})
	roots := x509.NewCertPool()
	roots.AddCert(r.cluster.Cert)
	conn := must(tls.Dial("tcp", r.lane.Address().String(), &tls.Config{
		RootCAs: roots, Certificates: []tls.Certificate{pair.TLS()}, NextProtos: []string{"http/1.1"},
	}))(t)
	fmt.Fprint(conn, "POST /api/v1/namespaces/n/pods/p/exec?command=sh HTTP/1.1\r\nHost: lane\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
	reader := bufio.NewReader(conn)
	response := must(http.ReadResponse(reader, nil))(t)
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("got %s", response.Status)
	}
	for i := range 3 {
		fmt.Fprintf(conn, "line %d\n", i)
		if got, want := must(reader.ReadString('\n'))(t), fmt.Sprintf("line %d\n", i); got != want {
			t.Errorf("got %q back, want %q", got, want)
		}
	}
	conn.Close()
	var events []string
	for _, e := range r.records() {
		if e.Subresource == "exec" {
			events = append(events, fmt.Sprintf("%s %d %s", e.Event, e.Code, e.Path))
		}
	}
	want := "request 0 /api/v1/namespaces/n/pods/p/exec?command=…, response 101 /api/v1/namespaces/n/pods/p/exec?command=…"
	if got := strings.Join(events, ", "); got != want {
		t.Errorf("on record:\n%s\nwant:\n%s", got, want)
	}
}

// A slow API server makes the lane squeeze the standard gate; the request itself is neither delayed nor given up.
func TestSlowAPIServerSqueezesTheStandardGate(t *testing.T) {
	r := newRig(t)
	socket := filepath.Join(r.dir, "gate.sock")
	l := must(net.Listen("unix", socket))(t)
	squeezed := make(chan string, 1)
	gate := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		body := must(io.ReadAll(q.Body))(t)
		select {
		case squeezed <- string(body):
		default:
		}
	})}
	go gate.Serve(l)
	defer gate.Close()
	r.config.StandardGates = []string{socket, r.path("dead.sock")}
	r.config.SqueezeAfter = &metav1.Duration{Duration: 10 * time.Millisecond}
	release := make(chan struct{})
	r.apiServer(func(_ http.ResponseWriter, q *http.Request) {
		if !probing(q) {
			<-release
		}
	})
	r.start()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	answered := make(chan int, 1)
	go func() {
		response, err := client.Get(r.url("/apis/apps/v1/daemonsets"))
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		response.Body.Close()
		answered <- response.StatusCode
	}()
	body := <-squeezed
	if !strings.Contains(body, `"for":"5s"`) || !strings.Contains(body, "alice") {
		t.Errorf("the gate was told %s", body)
	}
	close(release)
	if code := <-answered; code != http.StatusOK {
		t.Errorf("the request got %d", code)
	}
	var squeezes int
	for _, e := range r.records() {
		if e.Event == eventSqueeze && strings.Contains(e.Reason, "1 of 2") {
			squeezes++
		}
	}
	if squeezes != 1 {
		t.Errorf("%d squeezes on record, want 1", squeezes)
	}
}

// Bodies, headers and strangers have bounds.
func TestBounds(t *testing.T) {
	r := newRig(t)
	r.apiServer(func(w http.ResponseWriter, q *http.Request) {
		if n, err := io.Copy(io.Discard, q.Body); err != nil || n > maxBody {
			w.WriteHeader(http.StatusRequestEntityTooLarge)
		}
	})
	r.start()
	client, _ := r.engineer(r.breakGlass, pki.Spec{})
	response, err := client.Post(r.url("/api/v1/namespaces"), "application/json", io.LimitReader(zeros{}, maxBody+1))
	if err == nil {
		response.Body.Close()
		if response.StatusCode < 400 {
			t.Errorf("a body of more than %d bytes got %s", maxBody, response.Status)
		}
	}
	request := must(http.NewRequest(http.MethodGet, r.url("/version"), nil))(t)
	request.Header.Set("X-Long", strings.Repeat("x", 2*maxHeaderBytes))
	if response, err := client.Do(request); err == nil {
		response.Body.Close()
		if response.StatusCode < 400 {
			t.Errorf("a header of %d bytes got %s", 2*maxHeaderBytes, response.Status)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
