package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admin"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/gate/limit"
)

// leavesNothing sees to it that no goroutine and no descriptor is left of what the test makes from now on.
func leavesNothing(t *testing.T) {
	t.Helper()
	before := gatetest.Snapshot()
	t.Cleanup(func() { before.Verify(t) })
}

// emergencyGate serves an admin endpoint and returns its socket and what it acts on.
func emergencyGate(t *testing.T) (string, *limit.Engine) {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	engine := limit.New(limit.Options{})
	server, err := admin.New(admin.Options{Config: v1alpha1.GateAdmin{Socket: socket}, StateDir: dir, Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket, engine
}

func runEmergency(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), &Env{Args: append([]string{"emergency"}, args...), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }})
	return code, out.String(), errs.String()
}

func TestEmergencyVerbs(t *testing.T) {
	leavesNothing(t)
	one, engine := emergencyGate(t)
	two, _ := emergencyGate(t)

	code, out, stderr := runEmergency(t, "block", "--service-account", "monitoring/telemetry", "--verb", "list", "--for", "1h",
		"--reason", "INC-42", "--socket", one, "--socket", two)
	if code != ExitOK || strings.Count(out, "block-") != 2 {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
	agent := &flow.Request{Caller: flow.Caller{User: "system:serviceaccount:monitoring:telemetry", Certainty: flow.TokenVerified},
		UserAgent: "telemetry\x1b[2J", Lane: flow.Standard, Verb: "list", Resource: "pods", Scope: v1alpha1.ScopeCluster}
	if _, rejection := engine.Admit(agent, nil); rejection == nil {
		t.Error("the agent is not blocked")
	}

	code, out, stderr = runEmergency(t, "status", "--socket", one)
	if code != ExitOK {
		t.Fatalf("exit %d\n%s%s", code, out, stderr)
	}
	rejected, rules, health := strings.Index(out, "REJECTED"), strings.Index(out, "EMERGENCY RULES"), strings.Index(out, "HEALTH")
	if rejected != 0 || rules < rejected || health < rules {
		t.Errorf("the status does not say first whom the gate rejects:\n%s", out)
	}
	for _, want := range []string{"blocked", "system:serviceaccount:monitoring:telemetry", "INC-42", "verb=list", ": ok", "telemetry?[2J"} {
		if !strings.Contains(out, want) {
			t.Errorf("the status lacks %q:\n%s", want, out)
		}
	}

	code, out, stderr = runEmergency(t, "status", "--socket", one, "--socket", filepath.Join(t.TempDir(), "dead"), "-o", "json")
	var outcomes []emergencyOutcome[v1alpha1.EmergencyStatus]
	if err := json.Unmarshal([]byte(out), &outcomes); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if code != ExitFailure || len(outcomes) != 2 || len(outcomes[0].Result.Rules) != 1 || outcomes[1].Error == "" || !strings.Contains(stderr, "hint:") {
		t.Errorf("exit %d, %+v\n%s", code, outcomes, stderr)
	}

	id := outcomes[0].Result.Rules[0].ID
	if code, out, stderr = runEmergency(t, "lift", id, "--reason", "over", "--socket", one, "--socket", two); code != ExitOK {
		t.Errorf("lifting where one of two has it: exit %d\n%s%s", code, out, stderr)
	}
	if code, _, stderr = runEmergency(t, "lift", id, "--reason", "over", "--socket", one); code != ExitFailure || !strings.Contains(stderr, "no gate has") {
		t.Errorf("lifting again: exit %d\n%s", code, stderr)
	}
	if code, out, stderr = runEmergency(t, "lift", "--all", "--reason", "over", "--socket", one, "--socket", two); code != ExitOK || strings.Count(out, "block-") != 1 {
		t.Errorf("lifting all: exit %d\n%s%s", code, out, stderr)
	}
	if _, rejection := engine.Admit(agent, nil); rejection != nil {
		t.Error("the agent is still blocked")
	}
}

func TestEmergencyActions(t *testing.T) {
	leavesNothing(t)
	socket, _ := emergencyGate(t)
	common := []string{"--for", "10m", "--reason", "INC-42", "--socket", socket}
	tests := map[string]struct {
		args []string
		code int
		want string // on either stream
	}{
		"throttle":       {[]string{"throttle", "--user-agent", "telemetry/*", "--requests-per-second", "0.5", "--per", "Rule"}, ExitOK, "throttle-"},
		"throttle bytes": {[]string{"throttle", "--user", "a", "--bytes-per-second", "4Mi", "--concurrency", "1"}, ExitOK, "throttle-"},
		"lockdown":       {[]string{"lockdown", "--except-group", "sre"}, ExitOK, "lockdown-"},
		"passthrough":    {[]string{"passthrough"}, ExitOK, "passthrough-"},
		"dry run":        {[]string{"block", "--user", "a", "--dry-run"}, ExitOK, "(dry run)"},

		"throttle of nothing":       {[]string{"throttle", "--requests-per-second", "1"}, ExitUsage, "match"},
		"throttle without bounds":   {[]string{"throttle", "--user", "a"}, ExitUsage, "requestsPerSecond"},
		"throttle, not a quantity":  {[]string{"throttle", "--user", "a", "--bytes-per-second", "lots"}, ExitUsage, "lots"},
		"block of everyone":         {[]string{"block", "--user", "*"}, ExitUsage, "lock out"},
		"lockdown without anyone":   {[]string{"lockdown"}, ExitUsage, "lock out"},
		"service account, no slash": {[]string{"block", "--service-account", "telemetry"}, ExitUsage, "namespace/name"},
		"bad CIDR":                  {[]string{"block", "--source", "10.0.0.1"}, ExitUsage, "10.0.0.1/32"},
		"bad output":                {[]string{"block", "--user", "a", "-o", "yaml"}, ExitUsage, "yaml"},
		"address, no certificate":   {[]string{"block", "--user", "a", "--addr", "127.0.0.1:1"}, ExitUsage, "--cert"},
		"too long":                  {[]string{"passthrough", "--for", "25h"}, ExitUsage, "24h"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			args := append(append([]string{tc.args[0]}, common...), tc.args[1:]...)
			code, out, stderr := runEmergency(t, args...)
			if code != tc.code || !strings.Contains(out+stderr, tc.want) {
				t.Errorf("exit %d, want %d and %q\n%s%s", code, tc.code, tc.want, out, stderr)
			}
		})
	}
	for name, args := range map[string][]string{
		"no action": {}, "unknown action": {"explode"}, "no reason": {"block", "--user", "a", "--for", "1m"}, "no end": {"block", "--user", "a", "--reason", "r"},
		"lift nothing": {"lift", "--reason", "r"}, "lift without reason": {"lift", "x"}, "lift both": {"lift", "x", "--all", "--reason", "r"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, out, stderr := runEmergency(t, args...); code != ExitUsage || !strings.Contains(stderr, "error:") {
				t.Errorf("exit %d, want %d\n%s%s", code, ExitUsage, out, stderr)
			}
		})
	}
}
