package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/internal/auditlog"
	"github.com/seakeep/seakeep/internal/pki"
)

// breakGlass runs the verb in process.
func breakGlass(ctx context.Context, args ...string) (code int, stdout, stderr string) {
	var out, diag bytes.Buffer
	env := &Env{Args: append([]string{"break-glass"}, args...), Stdin: strings.NewReader(""), Stdout: &out, Stderr: &diag, Getenv: func(string) string { return "" }}
	code = Run(ctx, env)
	return code, out.String(), diag.String()
}

func initCA(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if code, _, stderr := breakGlass(t.Context(), "init", "--dir", dir); code != ExitOK || !strings.Contains(stderr, "--client-ca-file") {
		t.Fatalf("init: exit %d\n%s", code, stderr)
	}
	return dir
}

func TestBreakGlassIssue(t *testing.T) {
	leavesNothing(t)
	dir := initCA(t)
	caCert, caKey := filepath.Join(dir, "break-glass-ca.crt"), filepath.Join(dir, "break-glass-ca.key")
	base := []string{
		"issue", "--ca-cert", caCert, "--ca-key", caKey, "--name", "alice",
		"--server", "https://127.0.0.1:1,https://127.0.0.1:2", "--server-ca", caCert,
	}
	out := filepath.Join(dir, "alice.kubeconfig")
	tests := map[string]struct {
		args     []string
		wantCode int
		wantErr  string
	}{
		"nowhere to write":       {nil, ExitUsage, "--out is required"},
		"for a month":            {[]string{"--out", out, "--lifetime", "720h"}, ExitUsage, "--allow-long"},
		"as a component":         {[]string{"--out", out, "--name", "system:admin"}, ExitUsage, "system:"},
		"CAs and servers differ": {[]string{"--out", out, "--server", "https://127.0.0.1:3", "--server-ca", caCert}, ExitUsage, "3 servers and 2 CA files"},
		"a CSR without its key":  {[]string{"--out", out, "--csr", caCert}, ExitUsage, "--key"},
		"both on stdout":         {[]string{"--out", "-", "-o", "json"}, ExitUsage, "standard output"},
		"an unknown output":      {[]string{"--out", out, "-o", "xml"}, ExitUsage, "table or json"},
		"dry run":                {[]string{"--out", out, "--dry-run"}, ExitOK, "Would write"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := breakGlass(t.Context(), append(base, test.args...)...)
			if code != test.wantCode || !strings.Contains(stderr, test.wantErr) {
				t.Errorf("exit %d, want %d with %q:\n%s", code, test.wantCode, test.wantErr, stderr)
			}
			if _, err := os.Stat(out); err == nil {
				t.Error("a file was written")
			}
		})
	}
	code, stdout, stderr := breakGlass(t.Context(), append(base, "--out", out, "-o", "json")...)
	var made issued
	if err := json.Unmarshal([]byte(stdout), &made); code != ExitOK || err != nil || made.Serial == "" {
		t.Fatalf("exit %d, %v\n%s%s", code, err, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, "PRIVATE") || strings.Contains(stdout+stderr, "LS0tLS1") {
		t.Error("a key was printed")
	}
	if code, _, stderr := breakGlass(t.Context(), append(base, "--out", out)...); code != ExitFailure || !strings.Contains(stderr, "--replace") {
		t.Errorf("replacing: exit %d\n%s", code, stderr)
	}
	// Nobody listens there: findings, not an error.
	code, stdout, _ = breakGlass(t.Context(), "check", "--kubeconfig", out, "--timeout", "2s")
	if code != ExitFindings || !strings.Contains(stdout, "Unknown") || !strings.Contains(stdout, "direct") {
		t.Errorf("check: exit %d\n%s", code, stdout)
	}
}

func TestBreakGlassAuditVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	log, err := auditlog.Open(path, auditlog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range []string{"one", "two"} {
		if err := log.Append(event); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := breakGlass(t.Context(), "audit", "verify", path); code != ExitOK || !strings.Contains(stdout, "lines      2") {
		t.Errorf("whole: exit %d\n%s", code, stdout)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(data, []byte("one"), []byte("0ne"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := breakGlass(t.Context(), "audit", "verify", path, "-o", "json"); code != ExitFindings || !strings.Contains(stdout, `"whole": false`) {
		t.Errorf("changed: exit %d\n%s", code, stdout)
	}
	if code, _, _ := breakGlass(t.Context(), "audit", "verify", path+".gone"); code != ExitUsage {
		t.Errorf("gone: exit %d", code)
	}
}

// The lane starts from files alone, with every API server, gate and name service gone, and ends when told to.
func TestBreakGlassServeNeedsNobody(t *testing.T) {
	leavesNothing(t)
	dir := initCA(t)
	ca, err := pki.NewCA("cluster", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Spec{CommonName: "lane", IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, Lifetime: time.Hour, Server: true, Client: true})
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := pair.Write(at("lane.crt"), at("lane.key")); err != nil {
		t.Fatal(err)
	}
	config := strings.ReplaceAll(`apiVersion: seakeep.dev/v1alpha1
kind: BreakGlassConfiguration
listen: {address: "127.0.0.1:0", certFile: DIR/lane.crt, keyFile: DIR/lane.key, clientCAFile: DIR/break-glass-ca.crt}
upstreams: [{name: a, url: "https://no-name-service.invalid:6443", caFile: DIR/lane.crt}]
identity: {proxyCertFile: DIR/lane.crt, proxyKeyFile: DIR/lane.key}
standardGates: [DIR/no-gate.sock]
auditFile: DIR/audit
`, "DIR", dir)
	if err := os.WriteFile(at("lane.yaml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	reader, writer := io.Pipe()
	env := &Env{Args: []string{"break-glass", "serve", "--config", at("lane.yaml")}, Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: writer, Getenv: func(name string) string {
		if name == "GOMEMLIMIT" {
			return "off" // the limit would stay with the test program
		}
		return ""
	}}
	done := make(chan int, 1)
	go func() {
		done <- Run(ctx, env)
		writer.Close()
	}()
	var said strings.Builder
	buffer := make([]byte, 4096)
	for {
		n, err := reader.Read(buffer)
		said.Write(buffer[:n])
		if strings.Contains(said.String(), "Break-glass lane open") {
			cancel()
		}
		if err != nil {
			break
		}
	}
	cancel()
	if code := <-done; code != ExitOK {
		t.Errorf("exit %d\n%s", code, said.String())
	}
	if code, stdout, _ := breakGlass(t.Context(), "audit", "verify", at("audit")); code != ExitOK || !strings.Contains(stdout, "lines      2") {
		t.Errorf("audit: exit %d\n%s", code, stdout)
	}
	for name, args := range map[string][]string{"no file": {"serve"}, "not there": {"serve", "--config", at("gone")}} {
		if code, _, stderr := breakGlass(t.Context(), args...); code != ExitUsage {
			t.Errorf("%s: exit %d\n%s", name, code, stderr)
		}
	}
}
