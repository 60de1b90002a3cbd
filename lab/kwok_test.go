package lab

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// kubectl prepares a call of kubectl on the lab's API server, in the first namespace of the population.
func kubectl(ctx context.Context, t *testing.T, l *Lab, args ...string) *exec.Cmd {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, Admin, "", ""); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(l.BinDir(), "kubectl"), append([]string{"--kubeconfig=" + kubeconfig, "--namespace=app-0"}, args...)...)
	cmd.Env = []string{"HOME=" + t.TempDir()}
	return cmd
}

// anyPod returns a running pod of the first namespace.
func anyPod(t *testing.T, l *Lab) string {
	t.Helper()
	pods, err := clientOf(t, l, Admin).CoreV1().Pods("app-0").List(t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		t.Fatal(err)
	}
	return pods.Items[0].Name
}

// lines starts a command that does not end by itself; next waits for a line of its output that contains the text.
func lines(t *testing.T, ctx context.Context, make func(ctx context.Context) *exec.Cmd) (next func(text string) string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	cmd := make(ctx)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // it was killed; its exit says nothing
	})
	scanner := bufio.NewScanner(out)
	return func(text string) string {
		t.Helper()
		for scanner.Scan() {
			if strings.Contains(scanner.Text(), text) {
				return scanner.Text()
			}
		}
		_ = cmd.Wait()
		t.Fatalf("%s ended without saying %q: %s", cmd, text, stderr.String())
		return ""
	}
}

func TestFollowedLogs(t *testing.T) {
	l := small(t)
	pod := anyPod(t, l)
	next := lines(t, t.Context(), func(ctx context.Context) *exec.Cmd { return kubectl(ctx, t, l, "logs", "--follow", pod) })
	next("simulated")
	for i := range 3 {
		line := fmt.Sprintf("followed line %d", i)
		if err := l.AppendContainerLog(line); err != nil {
			t.Fatal(err)
		}
		next(line)
	}
	out, err := kubectl(t.Context(), t, l, "logs", "--previous", pod).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "ended for no reason") {
		t.Errorf("the previous container's log is %q (%v)", out, err)
	}
}

func TestAttach(t *testing.T) {
	l := small(t)
	pod := anyPod(t, l)
	next := lines(t, t.Context(), func(ctx context.Context) *exec.Cmd { return kubectl(ctx, t, l, "attach", pod) })
	// It shows what is said from now on, and when "now" is cannot be seen from outside: so it is said until it is heard.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				ended <- nil
				return
			case <-time.After(100 * time.Millisecond):
				if err := l.AppendContainerLog("heard by who is attached"); err != nil {
					ended <- err
					return
				}
			}
		}
	}()
	next("heard by who is attached")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPortForward(t *testing.T) {
	l := small(t)
	pod := anyPod(t, l)
	next := lines(t, t.Context(), func(ctx context.Context) *exec.Cmd {
		return kubectl(ctx, t, l, "port-forward", "--address=127.0.0.1", "pod/"+pod, ":8080")
	})
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(next("Forwarding from"))
	for _, size := range []int{1, 1 << 20} {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		sent := bytes.Repeat([]byte("seakeep "), max(1, size/8))
		go func() {
			_, _ = conn.Write(sent) // a short write shows in what comes back
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("sent %d bytes, %d came back (%v)", len(sent), len(got), err)
		}
		_ = conn.Close()
	}
}

func TestExecIsRefusedUnlessAskedFor(t *testing.T) {
	l := small(t)
	out, err := kubectl(t.Context(), t, l, "exec", anyPod(t, l), "--", "true").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no exec found") {
		t.Errorf("a command ran, or the reason is not named: %s (%v)", out, err)
	}
}

func TestExec(t *testing.T) {
	l := Start(t, Options{Nodes: 1, Pods: 1, Exec: true})
	pod := anyPod(t, l)
	// The programs pause before they end: what arrives together with a SPDY connection's end can be lost by SPDY's library.
	for name, tc := range map[string]struct {
		stdin string
		args  []string
		want  string
		code  int
	}{
		"output":               {args: []string{pod, "--", "sh", "-c", "echo hello; sleep 0.2"}, want: "hello\n"},
		"the fixed folder":     {args: []string{pod, "--", "sh", "-c", "pwd; sleep 0.2"}, want: l.containerFile("work") + "\n"},
		"the fixed settings":   {args: []string{pod, "--", "sh", "-c", "echo $HOME $LANG; sleep 0.2"}, want: l.containerFile("work") + " C\n"},
		"input":                {stdin: "four", args: []string{"-i", pod, "--", "sh", "-c", "head -c 4; sleep 0.2"}, want: "four"},
		"an unknown program":   {args: []string{pod, "--", "no-such-program"}, code: 1},
		"a program that fails": {args: []string{pod, "--", "false"}, code: 1},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := kubectl(t.Context(), t, l, append([]string{"exec"}, tc.args...)...)
			if tc.stdin != "" {
				cmd.Stdin = strings.NewReader(tc.stdin)
			}
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			var exit *exec.ExitError
			if err != nil && !errors.As(err, &exit) {
				t.Fatal(err)
			}
			if string(out) != tc.want || cmd.ProcessState.ExitCode() != tc.code {
				t.Errorf("output %q and exit code %d, want %q and %d; it says %s", out, cmd.ProcessState.ExitCode(), tc.want, tc.code, stderr.String())
			}
		})
	}
}
