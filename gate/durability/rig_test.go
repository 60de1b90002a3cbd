package durability

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/statefile"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// With playGate set to a configuration file this test program is a gate; with playUser too, one of that user.
const (
	playGate = "SEAKEEP_TEST_GATE"
	playUser = "SEAKEEP_TEST_UID"
)

func TestMain(m *testing.M) {
	if file := os.Getenv(playGate); file != "" {
		if err := play(file); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// play is `seakeep gate --verbose --config file`.
func play(file string) error {
	// Beyond the limit of a file's size the kernel sends this signal before the write fails; a full disk sends none.
	signal.Ignore(syscall.SIGXFSZ)
	if uid, err := strconv.Atoi(os.Getenv(playUser)); err == nil {
		if err := errors.Join(syscall.Setgroups(nil), syscall.Setgid(uid), syscall.Setuid(uid)); err != nil {
			return err
		}
	}
	return gatetest.Play(file, os.Stdout, os.Stderr, slog.LevelDebug)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rig is a gate that can die, before the lab's control plane.
type rig struct {
	t        *testing.T
	lab      *lab.Lab
	dir      string // configuration, socket, what the gate says
	state    string // the state directory
	address  string // the gate's
	metrics  string // where it serves its metrics in a test that says so
	url      string
	env      []string
	operator *emergency.Gate

	child *exec.Cmd
	ended chan struct{}
}

// newRig configures a gate on an address of its own; more is YAML appended to the configuration.
func newRig(t *testing.T, more string) *rig {
	t.Helper()
	l := lab.Start(t, lab.Options{Nodes: 1, Pods: 1})
	r := &rig{t: t, lab: l, dir: t.TempDir(), address: nextAddress(t, l), metrics: nextAddress(t, l)}
	r.url = "https://" + r.address
	before := gatetest.Snapshot() // the lab keeps its connections and what marks its ports
	r.state = filepath.Join(r.dir, "state")
	gatetest.Write(t, l, r.dir, gatetest.Options{Address: r.address, More: more})
	r.operator = emergency.OnSocket(filepath.Join(r.dir, "admin.sock"))
	t.Cleanup(func() {
		r.operator.Close()
		r.kill()
		if t.Failed() {
			t.Logf("the gate said:\n%s", lastLines(r.said(), 40))
		}
		before.Verify(t)
	})
	return r
}

func nextAddress(t *testing.T, l *lab.Lab) string {
	t.Helper()
	port, err := l.NextPort()
	check(t, err)
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// start starts the gate and does not wait for it.
func (r *rig) start() {
	r.t.Helper()
	out, err := os.OpenFile(filepath.Join(r.dir, "said"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o666)
	check(r.t, err)
	r.child = exec.Command(os.Args[0], "-test.run=^$")
	r.child.Env = append(append(os.Environ(), playGate+"="+filepath.Join(r.dir, "gate.yaml")), r.env...)
	said := struct{ io.Writer }{out} // through a pipe: what a test does to the gate's disk does not silence it
	r.child.Stdout, r.child.Stderr = said, said
	r.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	check(r.t, r.child.Start())
	child, ended := r.child, make(chan struct{})
	r.ended = ended
	go func() {
		defer close(ended)
		_ = child.Wait() // it is killed; how it ends is the test's to say
		_ = out.Close()
	}()
}

// kill is kill -9.
func (r *rig) kill() {
	if r.child == nil {
		return
	}
	_ = r.child.Process.Kill() // it may have ended
	<-r.ended
	r.child = nil
}

// terminate is SIGTERM.
func (r *rig) terminate() {
	r.t.Helper()
	check(r.t, r.child.Process.Signal(syscall.SIGTERM))
	select {
	case <-r.ended:
	case <-time.After(30 * time.Second):
		r.t.Error("the gate does not stop")
	}
	r.kill()
}

// said is everything the gate wrote to standard output and standard error.
func (r *rig) said() string {
	data, err := os.ReadFile(filepath.Join(r.dir, "said"))
	if err != nil {
		return err.Error()
	}
	return string(data)
}

// client is a user's, with its certificate; it opens a connection for each request, because gates die.
func (r *rig) client(user string) *http.Client {
	r.t.Helper()
	tlsConfig, err := rest.TLSConfigFor(r.lab.RESTConfig(lab.User(user)))
	check(r.t, err)
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}}
}

// ask makes a request that everybody with an identity may make. An error means that no gate answered.
func (r *rig) ask(ctx context.Context, client *http.Client) (code int, body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+"/version", nil)
	if err != nil {
		return 0, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return response.StatusCode, string(data), err
}

// first asks until there is an answer: the first one a new gate gives.
func (r *rig) first(client *http.Client) (code int, body string) {
	r.t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		code, body, err := r.ask(r.t.Context(), client)
		if err == nil {
			return code, body
		}
		select {
		case <-tick.C:
		case <-r.ended:
			r.t.Fatal("the gate ended by itself")
		case <-deadline:
			r.t.Fatalf("no gate answers: %v", err)
		}
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	testkit.Within(t, what, 30*time.Second, done)
}

// audited is an event of the gate's audit chain.
type audited struct {
	Event string `json:"event"`
	Rule  *struct {
		ID string `json:"id"`
	} `json:"rule"`
	At *time.Time `json:"at"`
}

// chain verifies the audit chain and returns its events.
func (r *rig) chain() []audited {
	r.t.Helper()
	path := filepath.Join(r.state, "admin-audit.jsonl")
	summary, err := auditlog.Verify(path)
	if err != nil {
		r.t.Fatalf("the audit chain is broken: %v", err)
	}
	data, err := os.ReadFile(path)
	check(r.t, err)
	var events []audited
	for line := range bytes.Lines(data[:len(data)-summary.Torn]) {
		var l struct {
			Event audited `json:"event"`
		}
		check(r.t, json.Unmarshal(line, &l))
		events = append(events, l.Event)
	}
	return events
}

// saved reads the state file; no generation of it may be torn.
func (r *rig) saved() []v1alpha1.EmergencyRule {
	r.t.Helper()
	var state struct {
		Rules []v1alpha1.EmergencyRule `json:"rules"`
	}
	meta, err := statefile.New(r.state, "emergency-rules", 1).Load(&state)
	if errors.Is(err, statefile.ErrNone) {
		return nil
	}
	if err != nil || len(meta.Refused) > 0 {
		r.t.Errorf("the state is torn: %v, %v", err, meta.Refused)
	}
	return state.Rules
}

// locked is a value that several goroutines use.
type locked[T any] struct {
	mu sync.Mutex
	v  T
}

func (l *locked[T]) with(f func(*T)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f(&l.v)
}
