package many

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// With playGate set to a configuration file this test program is a gate.
const playGate = "SEAKEEP_TEST_GATE"

func TestMain(m *testing.M) {
	if file := os.Getenv(playGate); file != "" {
		if err := gatetest.Play(file, os.Stdout, os.Stderr, slog.LevelInfo); err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// process is a gate that can die.
type process struct {
	t        *testing.T
	name     string
	dir      string
	address  string // host:port
	operator *emergency.Gate
	child    *exec.Cmd
	said     bytes.Buffer
	ended    chan struct{}
}

// newProcess configures a gate; more is YAML appended to its configuration.
func newProcess(t *testing.T, l *lab.Lab, name, more string) *process {
	t.Helper()
	port, err := l.NextPort()
	check(t, err)
	p := &process{t: t, name: name, dir: t.TempDir(), address: net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
	gatetest.Write(t, l, p.dir, gatetest.Options{Address: p.address, More: more})
	p.operator = emergency.OnSocket(filepath.Join(p.dir, "admin.sock"))
	t.Cleanup(func() {
		p.operator.Close()
		p.kill(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("%s said:\n%s", name, p.said.String())
		}
	})
	return p
}

func (p *process) start() {
	p.t.Helper()
	p.child = exec.Command(os.Args[0])
	p.child.Env = append(os.Environ(), playGate+"="+filepath.Join(p.dir, "gate.yaml"))
	p.child.Stderr = &p.said
	check(p.t, p.child.Start())
	p.ended = make(chan struct{})
	child, ended := p.child, p.ended
	go func() { defer close(ended); _ = child.Wait() }()
}

// kill sends the signal and waits for the end.
func (p *process) kill(how syscall.Signal) {
	if p.child == nil {
		return
	}
	_ = p.child.Process.Signal(how)
	<-p.ended
	p.child = nil
}

func (p *process) rules() []v1alpha1.EmergencyRule {
	ctx, cancel := context.WithTimeout(p.t.Context(), 5*time.Second)
	defer cancel()
	status, err := p.operator.Status(ctx)
	if err != nil {
		return nil
	}
	return status.Rules
}

func (p *process) up() bool {
	conn, err := net.DialTimeout("tcp", p.address, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

func (p *process) has(id string) bool {
	return slices.ContainsFunc(p.rules(), func(r v1alpha1.EmergencyRule) bool { return r.ID == id })
}

// together configures gates that know each other.
func together(t *testing.T, l *lab.Lab, n int, keys ...string) []*process {
	t.Helper()
	var join []string
	for range n {
		port, err := l.NextPort()
		check(t, err)
		join = append(join, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	var gates []*process
	for i := range n {
		key := filepath.Join(t.TempDir(), "peers.key")
		text := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 32))
		if i < len(keys) {
			text = keys[i]
		}
		check(t, os.WriteFile(key, []byte(text+"\n"), 0o600))
		gates = append(gates, newProcess(t, l, fmt.Sprintf("gate-%d", i), fmt.Sprintf(
			"peers: {bind: %q, join: [\"%s\"], keyFile: %q, name: gate-%d}\ndefaultLimits: Disabled\n", join[i], strings.Join(join, `", "`), key, i)))
	}
	return gates
}

func startAll(t *testing.T, gates []*process) {
	t.Helper()
	var starting sync.WaitGroup
	for _, g := range gates {
		starting.Go(g.start)
	}
	starting.Wait()
	for _, g := range gates {
		testkit.Within(t, g.name+" is up", 60*time.Second, g.up)
	}
}
