package skew

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/lab"
)

// kubelet is the streaming side of one node's kubelet, by the library that container runtimes serve it with. KWOK has one
// too, but it never ends a command's standard input, makes exit code 1 of every other, and asks nobody who they are.
// What runs in this kubelet's containers is in programs_test.go: nothing of this machine.
type kubelet struct {
	port int

	mu    sync.Mutex
	files map[string]*files // by namespace/pod
	// gone are closed when the program that waits for its client's end, under that name, has seen it.
	gone map[string]chan struct{}
}

// startKubelet serves until the test ends.
func startKubelet(t *testing.T, l *lab.Lab) *kubelet {
	t.Helper()
	dir := l.PKI().Dir
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "kubelet.crt"), filepath.Join(dir, "kubelet.key"))
	check(t, err)
	clients, err := pki.LoadPool(l.CAFile())
	check(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	k := &kubelet{port: listener.Addr().(*net.TCPAddr).Port, files: map[string]*files{}, gone: map[string]chan struct{}{}}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{namespace}/{pod}/{container}", k.serveExec)
	mux.HandleFunc("/attach/{namespace}/{pod}/{container}", k.serveAttach)
	mux.HandleFunc("/portForward/{namespace}/{pod}", k.servePortForward)
	mux.HandleFunc("/containerLogs/{namespace}/{pod}/{container}", serveLogs)
	tracked := &trackedListener{Listener: listener, open: map[net.Conn]struct{}{}}
	down := make(chan struct{})
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) { mux.ServeHTTP(lingering{w, down}, req) }),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(slog.NewTextHandler(t.Output(), nil), slog.LevelDebug),
		// Whoever may exec may do everything: only the API server, as by a kubelet's --client-ca-file. Without HTTP/2, which
		// has no upgrades.
		TLSConfig:    &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(tracked, "", "") }()
	t.Cleanup(func() {
		close(down)
		_ = server.Close()
		tracked.cut() // upgraded connections are no longer the server's
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the kubelet ended with %v", err)
		}
	})
	return k
}

// trackedListener knows its connections, so that those that were upgraded can be cut.
type trackedListener struct {
	net.Listener
	mu   sync.Mutex
	open map[net.Conn]struct{}
}

func (l *trackedListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.mu.Lock()
		l.open[conn] = struct{}{}
		l.mu.Unlock()
	}
	return conn, err
}

func (l *trackedListener) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.open {
		_ = conn.Close()
	}
}

// lingering hands out connections that wait, when closed, for the other side to close first, for half a second or until the
// kubelet is down. SPDY's library loses what arrives together with the connection's end (the reader that sees the end closes
// the streams that others still fill), so that a program's last words were now and then missing, direct and through the gate.
type lingering struct {
	http.ResponseWriter
	down chan struct{}
}

// Hijack is http.Hijacker's.
func (l lingering) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(l.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	c := &lingeringConn{Conn: conn, received: buffered.Reader, ended: make(chan struct{}), down: l.down}
	return c, bufio.NewReadWriter(bufio.NewReader(c), buffered.Writer), nil
}

// Unwrap is for http.ResponseController.
func (l lingering) Unwrap() http.ResponseWriter { return l.ResponseWriter }

type lingeringConn struct {
	net.Conn
	received *bufio.Reader // reads the connection, and may hold some of it already
	end      sync.Once
	ended    chan struct{} // closed when a read has failed
	down     chan struct{}
}

func (c *lingeringConn) Read(p []byte) (int, error) {
	n, err := c.received.Read(p)
	if err != nil {
		c.end.Do(func() { close(c.ended) })
	}
	return n, err
}

func (c *lingeringConn) Close() error {
	select {
	case <-c.ended:
	case <-c.down:
	case <-time.After(500 * time.Millisecond):
	}
	return c.Conn.Close()
}

// idle is how long a stream may be silent; a kubelet's default is 4 h.
const idle = time.Hour

func (k *kubelet) serveExec(w http.ResponseWriter, req *http.Request) {
	options, err := remotecommand.NewOptions(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeExec(w, req, k, podOf(req), "", req.PathValue("container"), req.URL.Query()["command"], options,
		idle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) serveAttach(w http.ResponseWriter, req *http.Request) {
	options, err := remotecommand.NewOptions(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	remotecommand.ServeAttach(w, req, k, podOf(req), "", req.PathValue("container"), options,
		idle, remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (k *kubelet) servePortForward(w http.ResponseWriter, req *http.Request) {
	options, err := portforward.NewV4Options(req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	portforward.ServePortForward(w, req, k, podOf(req), "", options, idle, remotecommand.DefaultStreamCreationTimeout, portforward.SupportedProtocols)
}

func podOf(req *http.Request) string { return req.PathValue("namespace") + "/" + req.PathValue("pod") }

// ExecInContainer runs a program.
func (k *kubelet) ExecInContainer(ctx context.Context, pod, _, _ string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return k.exec(ctx, pod, cmd, streams{in: in, out: out, err: errOut, tty: tty, resize: resize})
}

// goneOf is closed when the client of `hold NAME` has gone.
func (k *kubelet) goneOf(name string) chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.gone[name] == nil {
		k.gone[name] = make(chan struct{})
	}
	return k.gone[name]
}

// AttachContainer attaches to a program that sends back what it is sent.
func (k *kubelet) AttachContainer(ctx context.Context, pod, _, _ string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	if _, err := fmt.Fprintln(out, "attached"); err != nil {
		return err
	}
	if in == nil {
		return nil
	}
	return k.exec(ctx, pod, []string{"cat"}, streams{in: in, out: out, err: errOut, tty: tty, resize: resize})
}

// PortForward sends back what it is sent, in upper case on port 81 to tell ports apart; port 7 refuses.
func (k *kubelet) PortForward(_ context.Context, pod, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	var transform func([]byte) []byte
	switch port {
	case 80:
		transform = func(p []byte) []byte { return p }
	case 81:
		transform = func(p []byte) []byte { return []byte(strings.ToUpper(string(p))) }
	default:
		return fmt.Errorf("nothing listens on port %d of %s", port, pod)
	}
	buffer := make([]byte, 32<<10)
	for {
		n, err := stream.Read(buffer)
		if _, failed := stream.Write(transform(buffer[:n])); failed != nil {
			return failed
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// followedLines is how many lines a followed log gets, one each 100 ms, before its container ends.
const followedLines = 15

// serveLogs serves a container's log.
func serveLogs(w http.ResponseWriter, req *http.Request) {
	lines, pause := 3, time.Duration(0)
	if req.URL.Query().Get("follow") == "true" {
		lines, pause = followedLines, 100*time.Millisecond
	}
	controller := http.NewResponseController(w)
	for i := range lines {
		if _, err := fmt.Fprintf(w, "line %d of %s\n", i, req.PathValue("container")); err != nil {
			return
		}
		if controller.Flush() != nil {
			return
		}
		select {
		case <-req.Context().Done():
			return
		case <-time.After(pause):
		}
	}
}
