package emergency_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency"
	"github.com/seakeep/seakeep/gate/admin"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/limit"
	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/pki"
)

// serve runs an admin endpoint until the test ends.
func serve(t *testing.T, config v1alpha1.GateAdmin, dir string) (*admin.Server, *limit.Engine) {
	t.Helper()
	engine := limit.New(limit.Options{})
	s, err := admin.New(admin.Options{Config: config, StateDir: dir, Engine: engine})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serving: %v", err)
		}
	})
	return s, engine
}

func list(user string) *flow.Request {
	return &flow.Request{Caller: flow.Caller{User: user, Certainty: flow.TokenVerified}, UserAgent: "telemetry/1", Lane: flow.Standard,
		Verb: "list", Resource: "pods", Scope: v1alpha1.ScopeCluster}
}

var blockA = emergency.Block(v1alpha1.LimitMatch{Users: []string{"a"}}, "INC-1", time.Hour)

// A rule is in force when it is acknowledged, on the open requests too, and that is well within 100 ms and 1 s.
func TestOverTheSocket(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "s")
	_, engine := serve(t, v1alpha1.GateAdmin{Socket: socket}, dir)
	gate := emergency.OnSocket(socket)
	defer gate.Close()

	open, cancel := context.WithCancelCause(t.Context())
	watch := list("a")
	watch.Verb, watch.LongRunning = "watch", true
	pass, rejection := engine.Admit(watch, cancel)
	if rejection != nil {
		t.Fatal(rejection.Status())
	}
	defer pass.Done()

	result, err := gate.Set(t.Context(), blockA, false)
	if err != nil {
		t.Fatal(err)
	}
	if result.EndedRequests != 1 || !result.Durable || open.Err() == nil {
		t.Errorf("%+v: want the open watch ended", result)
	}
	if _, rejection := engine.Admit(list("a"), nil); rejection == nil {
		t.Error("the rule is acknowledged and not in force")
	}
	status, err := gate.Status(t.Context())
	if err != nil || len(status.Rejected) != 1 || status.Rejected[0].UserAgent != "telemetry/1" {
		t.Errorf("%+v, %v", status, err)
	}
	if _, err := gate.Lift(t.Context(), result.Rule.ID, "over"); err != nil {
		t.Error(err)
	}
	if _, err := gate.Lift(t.Context(), result.Rule.ID, "over"); !emergency.IsNotInForce(err) {
		t.Errorf("lifting again: %v", err)
	}
	_, err = gate.Set(t.Context(), emergency.Lockdown(nil, nil, "r", time.Minute), false)
	if !emergency.IsRefused(err) || !strings.Contains(err.Error(), "lock out") {
		t.Errorf("a lockdown of everyone: %v", err)
	}
	if _, err := emergency.OnSocket(filepath.Join(dir, "none")).Status(t.Context()); err == nil || emergency.IsRefused(err) {
		t.Errorf("no gate: %v", err)
	}
}

func TestEach(t *testing.T) {
	var gates []*emergency.Gate
	for range 2 {
		dir := t.TempDir()
		serve(t, v1alpha1.GateAdmin{Socket: filepath.Join(dir, "s")}, dir)
		gates = append(gates, emergency.OnSocket(filepath.Join(dir, "s")))
	}
	gates = append(gates, emergency.OnSocket("/nonexistent"))
	outcomes := emergency.Each(t.Context(), gates, func(ctx context.Context, g *emergency.Gate) (*v1alpha1.EmergencyRuleResult, error) {
		defer g.Close()
		return g.Set(ctx, blockA, false)
	})
	for i, o := range outcomes {
		if o.Gate != gates[i].Name || (o.Err != nil) != (i == 2) || (o.Result == nil) != (i == 2) {
			t.Errorf("outcome %d: %+v", i, o)
		}
	}
}

// A gate that is killed with a rule in force has it in force when it is back, before it says that it is.
func TestKilledGateKeepsItsRules(t *testing.T) {
	if dir := os.Getenv("EMERGENCY_TEST_DIR"); dir != "" {
		gateProcess(dir)
		return
	}
	dir := t.TempDir()
	gate := emergency.OnSocket(filepath.Join(dir, "s"))
	child := run(t, dir)
	result, err := gate.Set(t.Context(), blockA, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil { // kill -9
		t.Fatal(err)
	}
	_ = child.Wait() // killed, as it should be
	gate.Close()
	child = run(t, dir)
	status, err := gate.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Rules) != 1 || status.Rules[0].ID != result.Rule.ID || status.Rules[0].Expires.After(result.Rule.Expires.Time) || len(status.Warnings) > 0 {
		t.Errorf("after kill -9: %+v", status)
	}
	if len(status.Rejected) != 1 {
		t.Errorf("after kill -9 the rule does not act: %+v", status)
	}
	gate.Close()
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait()
	if s, err := auditlog.Verify(filepath.Join(dir, "admin-audit.jsonl")); err != nil || s.Lines != 2 {
		t.Errorf("the audit chain: %+v, %v", s, err)
	}
}

// run starts this test's binary as a gate and waits until it serves.
func run(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestKilledGateKeepsItsRules$")
	child.Env = append(os.Environ(), "EMERGENCY_TEST_DIR="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() }) // dead already when the test passed
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "serving\n" {
		t.Fatalf("the gate process says %q, %v", line, err)
	}
	return child
}

func gateProcess(dir string) {
	engine := limit.New(limit.Options{})
	s, err := admin.New(admin.Options{Config: v1alpha1.GateAdmin{Socket: filepath.Join(dir, "s")}, StateDir: dir, Engine: engine})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = engine.Admit(list("a"), nil) // what the rule is for, as the first request
	fmt.Println("serving")
	err = s.Run(context.Background())
	fmt.Println(err)
	os.Exit(1)
}

func TestRemote(t *testing.T) {
	dir := t.TempDir()
	authority := func(name string) *pki.CA {
		ca, err := pki.NewCA(name, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name+".crt"), ca.CertPEM(), 0o600); err != nil {
			t.Fatal(err)
		}
		return ca
	}
	issue := func(ca *pki.CA, file string, spec pki.Spec) {
		spec.Lifetime = time.Hour
		pair, err := ca.Issue(spec)
		if err == nil {
			err = pair.Write(filepath.Join(dir, file+".crt"), filepath.Join(dir, file+".key"))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, other := authority("ca"), authority("other")
	issue(ca, "server", pki.Spec{CommonName: "gate", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
	issue(ca, "alice", pki.Spec{CommonName: "alice", Organizations: []string{"sre"}, Client: true})
	issue(ca, "bob", pki.Spec{CommonName: "bob", Client: true})
	issue(other, "mallory", pki.Spec{CommonName: "alice", Client: true})
	at := func(name string) string { return filepath.Join(dir, name) }
	s, _ := serve(t, v1alpha1.GateAdmin{Socket: at("s"), Remote: &v1alpha1.GateAdminRemote{
		Address: "127.0.0.1:0", CertFile: at("server.crt"), KeyFile: at("server.key"), ClientCAFile: at("ca.crt"), AllowedNames: []string{"alice"},
	}}, dir)
	as := func(name string) *emergency.Gate {
		gate, err := emergency.OnAddress(s.Address().String(), emergency.Credentials{CertFile: at(name + ".crt"), KeyFile: at(name + ".key"), CAFile: at("ca.crt")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(gate.Close)
		return gate
	}
	result, err := as("alice").Set(t.Context(), blockA, false)
	if err != nil || !strings.HasPrefix(result.Rule.By, "alice from 127.0.0.1:") {
		t.Errorf("alice: %+v, %v", result, err)
	}
	var refused *emergency.RefusedError
	if _, err := as("bob").Status(t.Context()); !errors.As(err, &refused) || refused.Code != 403 {
		t.Errorf("bob, who is not allowed: %v", err)
	}
	if _, err := as("mallory").Status(t.Context()); err == nil {
		t.Error("a certificate of another authority is believed")
	}
	if _, err := as("alice").Set(t.Context(), emergency.Lockdown([]string{"bob"}, nil, "r", time.Minute), false); !emergency.IsRefused(err) || !strings.Contains(err.Error(), "alice") {
		t.Errorf("a lockdown of its own author: %v", err)
	}
	if _, err := as("alice").Set(t.Context(), emergency.Lockdown(nil, []string{"sre"}, "r", time.Minute), false); err != nil {
		t.Error(err)
	}
	// A renewed certificate is used without a restart, and a spoilt one leaves the last good one in use.
	issue(ca, "server", pki.Spec{CommonName: "gate", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Server: true})
	if _, err := as("alice").Status(t.Context()); err != nil {
		t.Errorf("after renewing: %v", err)
	}
	if err := os.WriteFile(at("server.crt"), []byte("spoilt"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := as("alice").Status(t.Context()); err != nil {
		t.Errorf("after spoiling the file: %v", err)
	}
}
