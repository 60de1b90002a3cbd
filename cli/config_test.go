package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/pki"
)

// command runs a command line in process.
func command(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = Run(t.Context(), &Env{Args: args, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &errs, Getenv: func(string) string { return "" }})
	return code, out.String(), errs.String()
}

const checkedGate = `apiVersion: seakeep.dev/v1alpha1
kind: GateConfiguration
listen: {address: "127.0.0.1:6443", certFile: tls.crt, keyFile: tls.key}
upstreams:
- {name: one, url: "https://10.0.0.1:6443", caFile: ca.crt}
identity:
  clientCAFile: ca.crt
  proxyCertFile: tls.crt
  proxyKeyFile: tls.key
admin: {socket: gate.sock}
stateDir: state
`

func TestConfigCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	ca, err := pki.NewCA("ca", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Spec{CommonName: "gate", Lifetime: time.Hour, Client: true, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := pair.Write("tls.crt", "tls.key"); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"ca.crt": string(ca.CertPEM()), "gate.yaml": checkedGate,
		"bad.yaml":   strings.Replace(checkedGate, "stateDir: state", "stateDirectory: state", 1),
		"wrong.yaml": strings.Replace(checkedGate, "clientCAFile: ca.crt", "clientCAFile: tls.key", 1),
		"limit.yaml": checkedGate + "limits:\n- name: seakeep-reviews\n  action: Throttle\n",
	} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		args           []string
		stdin          string
		code           int
		stdout, stderr string
	}{
		"good":           {args: []string{"gate.yaml"}, stdout: "gate.yaml:1: GateConfiguration ok\n"},
		"standard input": {args: []string{"-"}, stdin: checkedGate, stdout: "<stdin>:1: GateConfiguration ok\n"},
		"unknown field":  {args: []string{"bad.yaml"}, code: ExitUsage, stderr: "error: bad.yaml:11: stateDirectory: unknown field\n"},
		"two files, one bad": {
			args: []string{"gate.yaml", "bad.yaml"}, code: ExitUsage,
			stdout: "gate.yaml:1: GateConfiguration ok\n", stderr: "error: bad.yaml:11: stateDirectory: unknown field\n",
		},
		"a file named inside": {
			args: []string{"wrong.yaml"}, code: ExitUsage,
			stderr: `error: wrong.yaml:7: identity.clientCAFile: value "tls.key": must hold at least one PEM certificate` + "\n",
		},
		"a file named inside, not opened": {args: []string{"--skip-files", "wrong.yaml"}, stdout: "wrong.yaml:1: GateConfiguration ok\n"},
		"a wrong rule":                    {args: []string{"limit.yaml"}, code: ExitUsage, stderr: "error: limit.yaml:13: limits[0]"},
		"no such file":                    {args: []string{"absent.yaml"}, code: ExitUsage, stderr: "error: reading configuration: open absent.yaml: no such file or directory\n"},
		"no file":                         {code: ExitUsage, stderr: "error: requires at least 1 arg"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(t, test.stdin, append([]string{"config", "check"}, test.args...)...)
			if code != test.code || stdout != test.stdout || !strings.HasPrefix(stderr, test.stderr) || test.stderr == "" && stderr != "" {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if test.stderr != "" && !strings.Contains(stderr, "\nhint: ") {
				t.Errorf("no hint: %q", stderr)
			}
		})
	}
}

func TestConfigDefaultsAndSchema(t *testing.T) {
	for _, kind := range v1alpha1.Kinds() {
		code, stdout, _ := command(t, "", "config", "defaults", kind)
		if code != ExitOK || !strings.Contains(stdout, "\nkind: "+kind+"\n") {
			t.Errorf("defaults %s: code %d, %q", kind, code, stdout)
		}
		code, stdout, _ = command(t, "", "config", "schema", kind)
		if code != ExitOK || !json.Valid([]byte(stdout)) {
			t.Errorf("schema %s: code %d", kind, code)
		}
	}
	code, stdout, _ := command(t, "", "config", "defaults")
	if code != ExitOK || !strings.Contains(stdout, "\nkind: GateConfiguration\n") || !strings.Contains(stdout, "\n#   - name: seakeep-own-lease\n") {
		t.Errorf("defaults: code %d, and the shipped rules are not in %q", code, stdout)
	}
	for _, verb := range []string{"defaults", "schema"} {
		code, _, stderr := command(t, "", "config", verb, "Gate")
		if code != ExitUsage || !strings.HasPrefix(stderr, "error: kind must be one of ") {
			t.Errorf("%s of an unknown kind: code %d, %q", verb, code, stderr)
		}
	}
}

// The file that defaults print is accepted once what is required is filled in: a newcomer's first minute.
func TestConfigDefaultsCanBeFilledIn(t *testing.T) {
	_, text, _ := command(t, "", "config", "defaults", "GateConfiguration")
	for field, value := range map[string]string{
		"address": "127.0.0.1:6443", "url": "https://10.0.0.1:6443", "name": "one", "caFile": "ca", "certFile": "c", "keyFile": "k",
		"clientCAFile": "ca", "proxyCertFile": "c", "proxyKeyFile": "k", "socket": "gate.sock", "stateDir": "state",
	} {
		var lines []string
		for line := range strings.Lines(text) {
			if !strings.HasPrefix(line, "#") {
				line = strings.Replace(line, " "+field+`: "" # required`, " "+field+": "+value, 1)
				if rest, ok := strings.CutPrefix(line, field+`: "" # required`); ok {
					line = field + ": " + value + rest
				}
			}
			lines = append(lines, line)
		}
		text = strings.Join(lines, "")
	}
	file := filepath.Join(t.TempDir(), "gate.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := command(t, "", "config", "check", "--skip-files", file); code != ExitOK {
		t.Errorf("code %d: %s", code, stderr)
	}
}
