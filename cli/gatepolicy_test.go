package cli

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/budget"
	"github.com/seakeep/seakeep/gate/clamp"
	"github.com/seakeep/seakeep/gate/ledger"
)

// serveAdmin answers GET on a socket, as a gate's admin endpoint does.
func serveAdmin(t *testing.T, answers map[string]any) (socket string) {
	t.Helper()
	leavesNothing(t)
	socket = filepath.Join(t.TempDir(), "gate.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for path, answer := range answers {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(answer) })
	}
	server := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return socket
}

var incident = time.Date(2024, 12, 11, 15, 16, 0, 0, time.UTC)

func clampStatus() *clamp.Status {
	return &clamp.Status{
		Taken: incident, Mode: "Enforce", HeadroomPercent: 50, Seats: 7.5, Capacity: 8, CapacitySource: "processors", Nodes: 300, NodesSource: "nodes",
		Suspects: []clamp.Suspect{
			{User: "system:serviceaccount:telemetry:telemetry", Named: incident.Add(-time.Minute), Sources: 14, Nodes: 300, Seats: 5.2, Forecast: 5.2, Headroom: 3.9, Concurrency: 1, Rule: "throttle-1a2b3c4d", Until: new(incident.Add(9 * time.Minute))},
			{User: "trial", Named: incident.Add(-time.Hour), Sources: 40, Nodes: 300, Seats: 1, SeatsPerSource: .025, Forecast: 7.5, Headroom: 3.9, Concurrency: 1, Rule: "throttle-5e6f7a8b", Until: new(incident.Add(time.Minute))},
			{User: "system:serviceaccount:kube-system:kube-proxy\x1b[31m", Named: incident.Add(-2 * time.Hour), Sources: 100, Nodes: 300, Seats: 1, SeatsPerSource: .02, Forecast: 5, Headroom: 3.9, Spared: clamp.SparedSystem, Concurrency: 1},
		},
	}
}

func shadowStatus() *v1alpha1.ShadowStatus {
	return &v1alpha1.ShadowStatus{Since: metav1.NewTime(incident.Add(-time.Hour)), Time: metav1.NewTime(incident), Rejected: []v1alpha1.ShadowedClient{
		{Rule: "lists", Reason: "concurrency", User: "system:serviceaccount:telemetry:telemetry", UserAgent: "telemetry-agent/1.0", Count: 5012, First: metav1.NewTime(incident.Add(-time.Minute)), Last: metav1.NewTime(incident)},
		{Rule: "api-budget", Reason: "budget", User: "u", UserAgent: "", Count: 3, First: metav1.NewTime(incident), Last: metav1.NewTime(incident)},
	}}
}

func budgetsStatus() *budget.Status {
	return &budget.Status{
		Taken: incident, Mode: "Enforce", Default: "seats=1", Read: incident.Add(-90 * time.Second), Error: "reading /x: it answered 500\nreading /y: it answered 500", Nodes: 300,
		Accounts: []budget.AccountStatus{
			{Account: budget.Account{User: "system:serviceaccount:a:agent", Seats: 4, Declared: 6, By: []budget.Declaration{{Kind: "DaemonSet", Name: "agent"}, {Kind: "Deployment", Name: "hub"}}}, Balance: new(-1.25), Held: new(2)},
			{Account: budget.Account{User: "system:serviceaccount:b:quiet", Seats: 1}},
		},
		Invalid: []budget.Declaration{{Account: "c/sa", Kind: "Deployment", Name: "wrong", Budget: "two seats", Error: "must be …"}},
	}
}

func TestGatePolicies(t *testing.T) {
	socket := serveAdmin(t, map[string]any{
		"/v1/clamp": clampStatus(), "/v1/shadow": shadowStatus(), "/v1/budgets": budgetsStatus(),
		"/v1/rules": map[string]any{"rules": []v1alpha1.EmergencyRule{{ID: "throttle-5e6f7a8b", Mode: v1alpha1.Shadow}, {ID: "throttle-1a2b3c4d", Mode: v1alpha1.Enforce}}},
		"/v1/top":   &ledger.Snapshot{Taken: incident},
	})
	for name, args := range map[string][]string{
		"clamp.txt": {"clamp"}, "clamp-limited.txt": {"clamp", "-n", "1"}, "shadow.txt": {"shadow"}, "budgets.txt": {"budgets"}, "top-growing.txt": {"top"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(t, "", append([]string{"gate", args[0], "--socket", socket}, args[1:]...)...)
			if code != ExitOK || stderr != "" {
				t.Fatalf("code %d, stderr %q", code, stderr)
			}
			if strings.Contains(stdout, "\x1b") {
				t.Error("a client's control characters reach the terminal")
			}
			golden(t, name, []byte(stdout))
		})
	}
	for _, verb := range []string{"clamp", "shadow", "budgets"} {
		t.Run(verb+" as json", func(t *testing.T) {
			code, stdout, stderr := command(t, "", "gate", verb, "--socket", socket, "-o", "json")
			if code != ExitOK || !json.Valid([]byte(stdout)) {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
		for name, args := range map[string][]string{"output": {"-o", "xml"}, "limit": {"-n", "-1"}, "argument": {"x"}} {
			if code, stdout, stderr := command(t, "", append([]string{"gate", verb}, args...)...); code != ExitUsage || stdout != "" || !strings.HasPrefix(stderr, "error: ") {
				t.Errorf("%s %s: code %d, %q", verb, name, code, stderr)
			}
		}
		if code, _, stderr := command(t, "", "gate", verb, "--socket", "/nowhere/gate.sock"); code != ExitFailure || !strings.Contains(stderr, "hint: is the gate running") {
			t.Errorf("%s without a gate: %d, %q", verb, code, stderr)
		}
	}
}

func TestGatePoliciesOfAQuietGate(t *testing.T) {
	socket := serveAdmin(t, map[string]any{
		"/v1/clamp": &clamp.Status{Mode: "Shadow"}, "/v1/shadow": &v1alpha1.ShadowStatus{}, "/v1/budgets": &budget.Status{}, "/v1/rules": map[string]any{},
	})
	for verb, want := range map[string]string{"clamp": "Nobody's cost grows", "shadow": "0 requests would have been turned away", "budgets": "no field 'budgets'"} {
		code, stdout, stderr := command(t, "", "gate", verb, "--socket", socket)
		if code != ExitOK || !strings.Contains(stdout+stderr, want) {
			t.Errorf("%s: code %d, %q %q", verb, code, stdout, stderr)
		}
	}
}

func TestGateReplayAudit(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "gate.yaml")
	text := `apiVersion: seakeep.dev/v1alpha1
kind: GateConfiguration
listen: {address: "127.0.0.1:1", certFile: /c, keyFile: /k}
upstreams: [{name: a, url: "https://127.0.0.1:2", caFile: /ca}]
identity: {clientCAFile: /ca, proxyCertFile: /p, proxyKeyFile: /pk}
admin: {socket: /s}
stateDir: /state
limits:
- {name: one-a-second, match: {verbs: [list]}, action: Throttle, throttle: {requestsPerSecond: 1}}
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	for i := range 10 {
		at := incident.Add(time.Duration(i) * 100 * time.Millisecond).Format(time.RFC3339Nano)
		log.WriteString(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","stage":"ResponseComplete","requestURI":"/api/v1/pods","verb":"list","user":{"username":"jane"},"userAgent":"kubectl/v1",` +
			`"sourceIPs":["10.0.0.1"],"requestReceivedTimestamp":"` + at + `","stageTimestamp":"` + at + "\"}\n")
	}
	code, stdout, stderr := command(t, log.String(), "gate", "replay-audit", "-", "--config", config)
	if code != ExitOK || stderr != "" {
		t.Fatalf("code %d, stderr %q", code, stderr)
	}
	golden(t, "replay-audit.txt", []byte(stdout))
	code, stdout, _ = command(t, log.String()+"{\n", "gate", "replay-audit", "-", "--config", config, "-o", "json")
	if code != ExitOK || !json.Valid([]byte(stdout)) || !strings.Contains(stdout, `"rejected": 9`) {
		t.Errorf("code %d, %s", code, stdout)
	}
	for name, test := range map[string]struct {
		stdin string
		args  []string
		code  int
		want  string
	}{
		"no config":   {"", []string{"-"}, ExitUsage, "--config is required"},
		"no log":      {"", []string{"--config", config}, ExitUsage, "error: "},
		"no such log": {"", []string{"/nowhere", "--config", config}, ExitUsage, "no such file"},
		"bad config":  {"", []string{"-", "--config", "/nowhere"}, ExitUsage, "config check"},
		"nothing":     {"", []string{"-", "--config", config}, ExitFailure, "holds no request"},
		"output":      {"", []string{"-", "--config", config, "-o", "xml"}, ExitUsage, "table or json"},
		"no log line": {"hello\n", []string{"-", "--config", config}, ExitFailure, "malformed"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(t, test.stdin, append([]string{"gate", "replay-audit"}, test.args...)...)
			if code != test.code || stdout != "" || !strings.Contains(stderr, test.want) {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}
