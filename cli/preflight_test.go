package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/emergency/preflight"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/signals"
)

func TestPreflightOnALab(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	dir := t.TempDir()
	kubeconfig := func(name string, id lab.Identity) string {
		file := filepath.Join(dir, name)
		if err := l.WriteKubeconfig(file, id, "", ""); err != nil {
			t.Fatal(err)
		}
		return file
	}
	admin, nobody := kubeconfig("admin", lab.Masters), kubeconfig("nobody", lab.User("nobody"))
	breakGlassCA := filepath.Join(l.Dir(), "pki", "break-glass-ca.crt")
	tests := map[string]struct {
		args []string
		code int
		want []string
	}{
		"everything": {[]string{"--kubeconfig", admin}, ExitOK, []string{"CONTROL PLANE", "v1.36.3", "PARTS", "gate-impersonation", "NOT IN THIS VERSION"}},
		"two parts": {[]string{"gate-front-proxy", "break-glass", "--kubeconfig", admin, "--self-managed", "--break-glass-ca", breakGlassCA}, ExitOK,
			[]string{"works       gate-front-proxy", "works       break-glass", "also work without the lane"}},
		"a user without rights":  {[]string{"--kubeconfig", nobody}, ExitFindings, []string{"unknown     gate-front-proxy", "this user may not read", "impossible  bypass"}},
		"a part he cannot have":  {[]string{"gate-impersonation", "--kubeconfig", nobody}, ExitFindings, []string{"impossible  gate-impersonation"}},
		"a context by its name":  {[]string{"version", "--kubeconfig", admin, "--context", "lab"}, ExitOK, []string{"works       version"}},
		"an etcd that is not up": {[]string{"etcd", "--kubeconfig", admin, "--etcd", "https://127.0.0.1:1"}, ExitOK, []string{"unknown     etcd", "does not answer"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := runVerb(t, append([]string{"preflight"}, tc.args...)...)
			if code != tc.code {
				t.Errorf("exit %d, want %d\n%s", code, tc.code, stderr)
			}
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("the output lacks %q:\n%s", want, out)
				}
			}
		})
	}
	t.Run("JSON", func(t *testing.T) {
		_, out, _ := runVerb(t, "preflight", "--kubeconfig", admin, "-o", "json")
		var report preflightReport
		if err := json.Unmarshal([]byte(out), &report); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if version, ok := report.Facts.Version.Get(); !ok || version != "v1.36.3" || len(report.Parts) != len(preflight.Parts()) {
			t.Errorf("version %q and %d parts", version, len(report.Parts))
		}
	})
}

func TestPreflightRefuses(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
	defer page.Close()
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	dir := t.TempDir()
	kubeconfig := func(name, server string) string {
		file := filepath.Join(dir, name)
		text := "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: a}}]\nclusters: [{name: a, cluster: {server: \"" + server + "\"}}]\n"
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	down := kubeconfig("down", closed.URL)
	tests := map[string]struct {
		args []string
		code int
		want string
	}{
		"the server is down":     {[]string{"--kubeconfig", down}, ExitFailure, "break-glass check"},
		"it is something else":   {[]string{"--kubeconfig", kubeconfig("page", page.URL)}, ExitFailure, "<html>"},
		"no kubeconfig":          {[]string{"--kubeconfig", filepath.Join(dir, "none")}, ExitUsage, "none"},
		"no default kubeconfig":  {nil, ExitUsage, "kubeconfig"},
		"no such context":        {[]string{"--kubeconfig", down, "--context", "b"}, ExitUsage, "b"},
		"no such part":           {[]string{"flight", "--kubeconfig", down}, ExitUsage, "gate-front-proxy"},
		"output":                 {[]string{"-o", "yaml"}, ExitUsage, "table or json"},
		"timeout":                {[]string{"--timeout", "1ms"}, ExitUsage, "1s to 5m"},
		"etcd's files alone":     {[]string{"--kubeconfig", down, "--etcd-ca", "x"}, ExitUsage, "need --etcd"},
		"etcd, not a URL":        {[]string{"--kubeconfig", down, "--etcd", "10.0.0.1"}, ExitUsage, "https://host:port"},
		"etcd's CA not there":    {[]string{"--kubeconfig", down, "--etcd", "https://a:1", "--etcd-ca", filepath.Join(dir, "none")}, ExitUsage, "--etcd-ca"},
		"etcd's pair not there":  {[]string{"--kubeconfig", down, "--etcd", "https://a:1", "--etcd-cert", filepath.Join(dir, "none")}, ExitUsage, "--etcd-cert"},
		"break-glass CA is none": {[]string{"--kubeconfig", down, "--break-glass-ca", down}, ExitUsage, "--break-glass-ca"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := runVerb(t, append([]string{"preflight"}, tc.args...)...)
			if code != tc.code || !strings.Contains(stderr, tc.want) || out != "" {
				t.Errorf("exit %d, want %d and %q\n%s%s", code, tc.code, tc.want, out, stderr)
			}
		})
	}
}

func TestWritePreflight(t *testing.T) {
	until := time.Date(2030, 1, 2, 0, 0, 0, 0, time.UTC)
	ca := func(name string) preflight.Certificate { return preflight.Certificate{Subject: name, NotAfter: until} }
	facts := map[string]*preflight.Facts{
		"kubeadm": {
			Server: "https://api.example.com:6443", Taken: until.AddDate(-1, 0, 0), Version: preflight.Known("v1.36.3"), User: preflight.Known("admin\x1b[2J"),
			Provider: preflight.Known(preflight.Provider{Name: "self-managed", Evidence: "the API servers run as pods in kube-system"}),
			Flags:    preflight.Known(preflight.Flags{APIServers: 3, Values: map[string][]string{"audit-log-path": {"/var/log/audit.log"}}}),
			Authentication: preflight.Known(preflight.Authentication{
				ClientCAs: []preflight.Certificate{ca("kubernetes")}, RequestHeaderCAs: []preflight.Certificate{ca("front-proxy-ca")}, AllowedNames: []string{"front-proxy-client"},
				UsernameHeaders: []string{"X-Remote-User"}, GroupHeaders: []string{"X-Remote-Group"}, UIDHeaders: []string{"X-Remote-Uid"}, ExtraPrefixes: []string{"X-Remote-Extra-"},
			}),
			Serving: preflight.Known(ca("kube-apiserver")), Issuer: preflight.Known("https://kubernetes.default.svc"), Keys: preflight.Known(1), Anonymous: preflight.Known(true),
			PriorityAndFairness: preflight.Known(preflight.PriorityAndFairness{On: true, Versions: []string{"v1"}}),
			About:               preflight.Known(signals.About{Version: "v1.36.3", Features: map[string]bool{"WatchList": true, "ConsistentListFromCache": true}}),
			Nodes:               preflight.Known(preflight.Nodes{Count: 103, ControlPlane: 3, Kubelets: []string{"v1.36.3"}}),
			APIServers:          preflight.Known([]string{"a", "b", "c"}), Endpoints: preflight.Known([]string{"10.0.0.1:6443", "10.0.0.2:6443", "10.0.0.3:6443"}), Balanced: preflight.Known(true),
			Clients:               []preflight.ClientAddress{{Who: "kube-proxy", Server: preflight.Known("https://api.example.com:6443")}},
			MayGrantImpersonation: preflight.Known(true),
			Etcd:                  preflight.Known([]preflight.EtcdMember{{Endpoint: "https://10.0.0.1:2379", Healthy: true, HasLeader: true, Version: "3.6.8", DBBytes: 1 << 30, QuotaBytes: 8 << 30, Members: 1}}),
		},
		"managed": {
			Server: "https://abc.gr7.eu-west-1.eks.amazonaws.com", Version: preflight.Known("v1.35.2-eks-1234567"),
			Provider: preflight.Known(preflight.Provider{Name: "Amazon EKS", Managed: true, Evidence: "its version is v1.35.2-eks-1234567"}),
		},
	}
	for name, f := range facts {
		results, err := preflight.Judge(f)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := writePreflight(&out, f, results); err != nil {
			t.Fatal(err)
		}
		golden(t, "preflight-"+name+".txt", out.Bytes())
	}
}

// Flags and parts complete, so that nobody has to remember them in an emergency.
func TestCompletion(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"a part":       {[]string{"preflight", "gate-"}, "gate-impersonation"},
		"a flag":       {[]string{"preflight", "--break"}, "--break-glass-ca"},
		"an output":    {[]string{"gate", "bypass", "-o", ""}, "json"},
		"a firewall":   {[]string{"emergency", "lockdown", "--firewall", ""}, "iptables"},
		"a verb":       {[]string{"gate", "by"}, "bypass"},
		"another verb": {[]string{"pre"}, "preflight"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, stderr := runVerb(t, append([]string{"__complete"}, tc.args...)...)
			if code != ExitOK || !strings.Contains(out, tc.want) {
				t.Errorf("exit %d, want %q among\n%s%s", code, tc.want, out, stderr)
			}
		})
	}
}
