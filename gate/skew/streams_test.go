package skew

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/utils/exec"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// megabytes is what large cases send: more than every buffer and flow-control window on the way together.
const megabytes = 8 << 20

// executors are client-go's. kubectl would fall back from the one to the other without a word; these do not.
var executors = map[string]func(c *rest.Config, u *url.URL) (remotecommand.Executor, error){
	"WebSocket": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewWebSocketExecutor(c, http.MethodGet, u.String())
	},
	"SPDY": func(c *rest.Config, u *url.URL) (remotecommand.Executor, error) {
		return remotecommand.NewSPDYExecutor(c, http.MethodPost, u)
	},
}

// TestStreams runs programs in a container by both protocols, both ways.
func TestStreams(t *testing.T) {
	r := open(t)
	streamPod(t, r)
	for protocol, executor := range executors {
		for wayName, config := range map[string]*rest.Config{"direct": r.lane.Direct(lab.Admin), "gate": r.lane.Config(lab.Admin)} {
			// run executes a command; a nil stream is not asked for.
			run := func(ctx context.Context, t *testing.T, o remotecommand.StreamOptions, command ...string) error {
				t.Helper()
				req := gatetest.Clientset(t, config).CoreV1().RESTClient().Post().Resource("pods").Namespace("streams").Name("web").SubResource("exec").
					VersionedParams(&corev1.PodExecOptions{
						Container: "web", Command: command, TTY: o.Tty, Stdin: o.Stdin != nil, Stdout: o.Stdout != nil, Stderr: o.Stderr != nil,
					}, scheme.ParameterCodec)
				e, err := executor(config, req.URL())
				check(t, err)
				return e.StreamWithContext(ctx, o)
			}
			t.Run(protocol+" "+wayName, func(t *testing.T) {
				t.Parallel()
				programsRun(t, r, run)
			})
		}
	}
}

type runner func(ctx context.Context, t *testing.T, o remotecommand.StreamOptions, command ...string) error

func programsRun(t *testing.T, r *rig, run runner) {
	wantSum, err := sum(pattern(megabytes))
	check(t, err)
	t.Run("megabytes out", func(t *testing.T) {
		t.Parallel()
		in, out := io.Pipe()
		got := make(chan string, 1)
		go func() {
			text, _ := sum(in) // an error shows in the sum
			got <- text
		}()
		err := run(t.Context(), t, remotecommand.StreamOptions{Stdout: out}, "produce", fmt.Sprint(megabytes))
		out.Close()
		if text := <-got; err != nil || text != wantSum {
			t.Errorf("got %s (%v), want %s", text, err, wantSum)
		}
	})
	t.Run("megabytes in", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		err := run(t.Context(), t, remotecommand.StreamOptions{Stdin: pattern(megabytes), Stdout: &out}, "sum")
		if got := strings.TrimSpace(out.String()); err != nil || got != wantSum {
			t.Errorf("got %s (%v), want %s", got, err, wantSum)
		}
	})
	t.Run("megabytes both ways at once", func(t *testing.T) {
		t.Parallel()
		in, out := io.Pipe()
		got := make(chan string, 1)
		go func() {
			text, _ := sum(in) // an error shows in the sum
			got <- text
		}()
		err := run(t.Context(), t, remotecommand.StreamOptions{Stdin: pattern(megabytes), Stdout: out}, "cat")
		out.Close()
		if text := <-got; err != nil || text != wantSum {
			t.Errorf("got %s (%v), want %s", text, err, wantSum)
		}
	})
	t.Run("exit codes", func(t *testing.T) {
		t.Parallel()
		for code, want := range map[string]int{"0": 0, "1": 1, "42": 42, "255": 255} {
			var out bytes.Buffer
			err := run(t.Context(), t, remotecommand.StreamOptions{Stdout: &out}, "exit", code)
			var exit utilexec.ExitError
			if got := 0; err != nil {
				if errors.As(err, &exit) {
					got = exit.ExitStatus()
				}
				if got != want {
					t.Errorf("exit code %d (%v), want %d", got, err, want)
				}
			} else if want != 0 {
				t.Errorf("no error, want exit code %d", want)
			}
		}
	})
	t.Run("two outputs and an exit code", func(t *testing.T) {
		t.Parallel()
		var out, errOut bytes.Buffer
		err := run(t.Context(), t, remotecommand.StreamOptions{Stdout: &out, Stderr: &errOut}, "warn", "3")
		var exit utilexec.ExitError
		if !errors.As(err, &exit) || exit.ExitStatus() != 3 || out.String() != "to the output\n" || errOut.String() != "to the error output\n" {
			t.Errorf("output %q, error output %q, %v; want one line each and exit code 3", out.String(), errOut.String(), err)
		}
	})
	t.Run("a terminal's size", func(t *testing.T) {
		t.Parallel()
		var out bytes.Buffer
		err := run(t.Context(), t, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: &out, Tty: true, TerminalSizeQueue: &oneSize{}}, "size")
		if want := "132 columns, 43 rows\r\n"; err != nil || out.String() != want {
			t.Errorf("got %q (%v), want %q", out.String(), err, want)
		}
	})
	// A line is sent when the one before has come back, so what is held back anywhere stops the conversation; and with the
	// pauses it lasts as long as several times any timeout meant for requests would have to be to be useful.
	t.Run("a conversation that lasts", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		inRead, inWrite := io.Pipe()
		outRead, outWrite := io.Pipe()
		ended := make(chan error, 1)
		go func() {
			err := run(ctx, t, remotecommand.StreamOptions{Stdin: inRead, Stdout: outWrite}, "cat")
			outWrite.CloseWithError(io.EOF)
			inRead.CloseWithError(errors.New("the program ended"))
			ended <- err
		}()
		if err := converse(inWrite, outRead, rounds); err != nil {
			t.Error(err)
		}
		inWrite.Close()
		if _, err := io.Copy(io.Discard, outRead); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	t.Run("a client that goes", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		inRead, inWrite := io.Pipe()
		out := &output{changed: make(chan struct{}, 1)}
		ended := make(chan error, 1)
		go func() {
			ended <- run(ctx, t, remotecommand.StreamOptions{Stdin: inRead, Stdout: out}, "hold", t.Name())
		}()
		await(t, "the program's start", func() bool { return strings.Contains(out.String(), "holding") })
		cancel()
		<-ended
		inWrite.Close()
		select {
		case <-r.kubelet.goneOf(t.Name()):
		case <-time.After(patience):
			t.Error("the container did not learn that its client has gone")
		}
	})
}

// rounds of a conversation, one each 100 ms.
const rounds = 60

// converse sends a line, waits for it to come back, and pauses.
func converse(w io.Writer, r io.Reader, rounds int) error {
	lines := bufio.NewScanner(r)
	for i := range rounds {
		want := fmt.Sprintf("round %d", i)
		if _, err := fmt.Fprintln(w, want); err != nil {
			return fmt.Errorf("in round %d: %w", i, err)
		}
		if !lines.Scan() || lines.Text() != want {
			return fmt.Errorf("got %q, want %q (%w)", lines.Text(), want, errors.Join(lines.Err(), io.ErrUnexpectedEOF))
		}
		<-time.After(100 * time.Millisecond)
	}
	return nil
}

// oneSize is a terminal that is never resized.
type oneSize struct{ told bool }

func (s *oneSize) Next() *remotecommand.TerminalSize {
	if s.told {
		return nil
	}
	s.told = true
	return &remotecommand.TerminalSize{Width: 132, Height: 43}
}

// TestPortForward sends megabytes over several connections of one forward, by both protocols, both ways.
func TestPortForward(t *testing.T) {
	r := open(t)
	streamPod(t, r)
	for wayName, config := range map[string]*rest.Config{"direct": r.lane.Direct(lab.Admin), "gate": r.lane.Config(lab.Admin)} {
		u := gatetest.Clientset(t, config).CoreV1().RESTClient().Post().Resource("pods").Namespace("streams").Name("web").SubResource("portforward").URL()
		t.Run("WebSocket "+wayName, func(t *testing.T) {
			t.Parallel()
			dialer, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, config)
			check(t, err)
			ready, stop := make(chan struct{}), make(chan struct{})
			f, err := portforward.NewForStreaming(dialer, []string{":80", ":81"}, stop, ready, io.Discard, io.Discard)
			check(t, err)
			forwards(t, f, ready, stop)
		})
		t.Run("SPDY "+wayName, func(t *testing.T) {
			t.Parallel()
			transport, upgrader, err := spdy.RoundTripperFor(config)
			check(t, err)
			dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
			ready, stop := make(chan struct{}), make(chan struct{})
			f, err := portforward.New(dialer, []string{":80", ":81"}, stop, ready, io.Discard, io.Discard)
			check(t, err)
			forwards(t, f, ready, stop)
		})
	}
}

// forwards uses a forward of ports 80 and 81.
func forwards(t *testing.T, f *portforward.PortForwarder, ready, stop chan struct{}) {
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the forward ended with %v", err)
	}
	ports, err := f.GetPorts()
	check(t, err)
	var data bytes.Buffer
	_, err = io.Copy(&data, pattern(megabytes/4))
	check(t, err)
	var group sync.WaitGroup
	for i := range 6 {
		port, sent, back := ports[0].Local, data.Bytes(), data.String()
		if i%2 == 1 {
			sent, back = bytes.Repeat([]byte("seakeep "), 1000), strings.Repeat("SEAKEEP ", 1000)
			port = ports[1].Local
		}
		want, err := sum(strings.NewReader(back))
		check(t, err)
		group.Go(func() {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if got, err := exchange(conn, sent); err != nil || got != want {
				t.Errorf("got %s (%v), want %s", got, err, want)
			}
		})
	}
	group.Go(func() {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		if err := converse(conn, conn, rounds); err != nil {
			t.Error(err)
		}
	})
	group.Wait()
	close(stop)
	if err := <-ended; err != nil {
		t.Errorf("the forward ended with %v", err)
	}
}

// streamPod makes the pod that streams go to, whose kubelet is this test's.
func streamPod(t *testing.T, r *rig) {
	t.Helper()
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "streams"}}
	_, err := r.admin.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	check(t, ignoreExists(err))
	await(t, "the ServiceAccount of streams", func() bool {
		_, err := r.admin.CoreV1().ServiceAccounts("streams").Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	_, err = r.admin.CoreV1().Pods("streams").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.PodSpec{NodeName: nodeStreams, Containers: []corev1.Container{{Name: "web", Image: "registry.example/web"}}},
	}, metav1.CreateOptions{})
	check(t, ignoreExists(err))
	await(t, "the pod", func() bool {
		pod, err := r.admin.CoreV1().Pods("streams").Get(t.Context(), "web", metav1.GetOptions{})
		return err == nil && pod.Status.Phase == corev1.PodRunning
	})
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
