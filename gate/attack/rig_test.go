package attack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// mallory has a certificate of the cluster's authority and no rights.
var mallory = lab.User("mallory")

// cluster is the control plane all tests of this package share.
func cluster(t testing.TB) *lab.Lab { return lab.Start(t, lab.Options{Nodes: 1, Pods: 2}) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// connect shakes hands with the gate, speaking the protocol only. No identity: no certificate.
func connect(t testing.TB, n *gatetest.Lane, protocol string, as *lab.Identity) *tls.Conn {
	t.Helper()
	conn, err := n.Dial(t.Context(), "tcp", strings.TrimPrefix(n.URL, "https://"))
	check(t, err)
	return secure(t, n, conn, protocol, as)
}

func secure(t testing.TB, n *gatetest.Lane, conn net.Conn, protocol string, as *lab.Identity) *tls.Conn {
	t.Helper()
	roots, err := pki.LoadPool(n.Lab.CAFile())
	check(t, err)
	config := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "127.0.0.1", NextProtos: []string{protocol}}
	if as != nil {
		config.Certificates = []tls.Certificate{n.Certificate(*as)}
	}
	secured := tls.Client(conn, config)
	check(t, secured.HandshakeContext(t.Context()))
	t.Cleanup(func() { _ = secured.Close() })
	return secured
}

// speak writes raw bytes and returns every response until the gate closes, or says nothing for a while.
func speak(t testing.TB, conn net.Conn, raw string) []*http.Response {
	t.Helper()
	if _, err := io.WriteString(conn, raw); err != nil {
		return nil // the gate closed on what it had read so far
	}
	return listen(t, conn)
}

// listen reads responses: one that may take its time, and what else comes right after it.
func listen(t testing.TB, conn net.Conn) []*http.Response {
	t.Helper()
	var heard []*http.Response
	patience := 5 * time.Second
	reader := bufio.NewReader(conn)
	for {
		check(t, conn.SetReadDeadline(time.Now().Add(patience)))
		response, err := http.ReadResponse(reader, nil)
		if err != nil {
			return heard
		}
		if response.StatusCode == http.StatusContinue {
			continue
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			return append(heard, response)
		}
		response.Body = io.NopCloser(bytes.NewReader(body))
		heard = append(heard, response)
		patience = 150 * time.Millisecond
	}
}

func codes(responses []*http.Response) []int {
	var all []int
	for _, r := range responses {
		all = append(all, r.StatusCode)
	}
	return all
}

// marker is a name no other request carries.
func marker() string { return "m" + strings.ReplaceAll(uuid.NewString(), "-", "") }

// arrival is a request as the API server recorded it.
type arrival struct {
	Stage      string
	Verb       string
	RequestURI string
	User       identity
	// ImpersonatedUser is who the request ran as, when the user asked to act as another.
	ImpersonatedUser *identity
	ObjectRef        struct{ Resource, Namespace, Name string }
}

type identity struct {
	Username, UID string
	Groups        []string
	Extra         map[string][]string
}

// record is the API server's audit log.
type record struct {
	file   string
	client *kubernetes.Clientset // past the gate
}

func recordOf(t testing.TB, n *gatetest.Lane) *record {
	t.Helper()
	return &record{file: n.Lab.AuditLog(0), client: gatetest.Clientset(t, n.Direct(lab.Admin))}
}

// arrivals are what the API server recorded with the marker in it. A request of our own after it says when to look.
func (r *record) arrivals(t testing.TB, mark string) []arrival {
	t.Helper()
	last := marker()
	if _, err := r.client.CoreV1().ConfigMaps("default").Get(t.Context(), last, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("asking for what is not there: %v", err)
	}
	var found []arrival
	testkit.Within(t, "the API server's audit log has our last request", 20*time.Second, func() bool {
		log, err := os.ReadFile(r.file)
		check(t, err)
		if !bytes.Contains(log, []byte(last)) {
			return false
		}
		for line := range bytes.Lines(log) {
			if !bytes.Contains(line, []byte(mark)) {
				continue
			}
			var a arrival
			check(t, json.Unmarshal(line, &a))
			if a.Stage == "ResponseComplete" { // of a stream its beginning is recorded too
				found = append(found, a)
			}
		}
		return true
	})
	return found
}

// edit replaces a part of a file that must be in it.
func edit(t testing.TB, file, old, new string) {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	if !strings.Contains(string(text), old) {
		t.Fatalf("%q is not in %s", old, text)
	}
	check(t, os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o600))
}

// bystander is another client, who goes on working while somebody attacks. Each of its requests must succeed.
type bystander struct {
	stop   func()
	served atomic.Int64
	failed atomic.Pointer[error]
}

func watchBystander(t testing.TB, n *gatetest.Lane) *bystander {
	t.Helper()
	b := &bystander{}
	client := n.Client(lab.Admin)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			if _, err := client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{}); err != nil && ctx.Err() == nil {
				b.failed.CompareAndSwap(nil, &err)
				return
			}
			b.served.Add(1)
		}
	}()
	b.stop = func() { cancel(); <-ended }
	t.Cleanup(b.stop)
	return b
}

// served waits until the bystander got some answers more, all of them good.
func (b *bystander) mustBeServed(t testing.TB, during string) {
	t.Helper()
	goal := b.served.Load() + 5
	testkit.Within(t, "others are served during "+during, 60*time.Second, func() bool { return b.served.Load() >= goal || b.failed.Load() != nil })
	if err := b.failed.Load(); err != nil {
		t.Fatalf("during %s another client got: %v", during, *err)
	}
}

// closedByPeer waits until the gate has closed the connection, whatever it says before.
func closedByPeer(t testing.TB, conn net.Conn, within time.Duration) {
	t.Helper()
	check(t, conn.SetReadDeadline(time.Now().Add(within)))
	_, err := io.Copy(io.Discard, conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("the gate keeps the connection for more than %s", within)
	}
}

// puppet is an API server that misbehaves on demand, with a certificate of the lab's authority.
func puppet(t testing.TB, l *lab.Lab, protocol string, serve func(conn *tls.Conn)) (url string) {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(l.PKI().ServingCert, l.PKI().ServingKey)
	check(t, err)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, NextProtos: []string{protocol}, ClientAuth: tls.RequestClientCert,
	})
	check(t, err)
	serveConnections(t, listener, func(c net.Conn) {
		conn := c.(*tls.Conn)
		if conn.HandshakeContext(context.Background()) == nil {
			serve(conn)
		}
	})
	return "https://" + listener.Addr().String()
}

// serveConnections runs serve for each connection until the test ends, which cuts them.
func serveConnections(t testing.TB, listener net.Listener, serve func(net.Conn)) {
	t.Helper()
	var mu sync.Mutex
	open := map[net.Conn]struct{}{}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[conn] = struct{}{}
			mu.Unlock()
			serving.Go(func() {
				serve(conn)
				_ = conn.Close()
				mu.Lock()
				defer mu.Unlock()
				delete(open, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		mu.Unlock()
		serving.Wait()
	})
}

// handler serves HTTP as a puppet, for what a handler can do wrong.
func handler(t testing.TB, l *lab.Lab, serve http.HandlerFunc) (url string) {
	t.Helper()
	certificate, err := tls.LoadX509KeyPair(l.PKI().ServingCert, l.PKI().ServingKey)
	check(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	server := &http.Server{Handler: serve, TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert}}
	ended := make(chan error, 1)
	go func() { ended <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return "https://" + listener.Addr().String()
}

func statusOf(t testing.TB, response *http.Response) metav1.Status {
	t.Helper()
	var status metav1.Status
	body, err := io.ReadAll(response.Body)
	check(t, err)
	if err := json.Unmarshal(body, &status); err != nil {
		t.Fatalf("the answer %d is no Status: %v\n%s", response.StatusCode, err, body)
	}
	return status
}

// runningPod is a pod that runs, as namespace and name.
func runningPod(t testing.TB, n *gatetest.Lane) (namespace, name string) {
	t.Helper()
	client := gatetest.Clientset(t, n.Direct(lab.Admin))
	pods, err := client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{FieldSelector: "status.phase=" + string(corev1.PodRunning)})
	check(t, err)
	if len(pods.Items) == 0 {
		t.Fatal("no pod runs")
	}
	return pods.Items[0].Namespace, pods.Items[0].Name
}

// line is a request's first line and the headers every one needs.
func line(method, target, mark string) string {
	return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: gate\r\nUser-Agent: %s\r\n", method, target, mark)
}
