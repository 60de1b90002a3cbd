package cli

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
)

func TestRolloutRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	write("fleet.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Fleet\nname: f\nclusters: [{name: c, kubeconfig: /nowhere}]\n")
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no file":           {[]string{"run"}, "run needs -f FILE"},
		"an empty selector": {[]string{"run", "-f", write("a.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Rollout\nname: a\nchange: {daemonSet: {namespace: n, name: d, patch: {spec: {}}}}\nstages: [{name: s, labelSelector: {}}]\n")}, "stages[0].labelSelector: required"},
		"maxSurge":          {[]string{"run", "-f", write("b.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Rollout\nname: a\nchange: {daemonSet: {namespace: n, name: d, patch: {spec: {}}}}\nnodes: {maxSurge: 1}\nstages: [{name: s, labelSelector: {matchLabels: {a: b}}}]\n")}, "nodes.maxSurge"},
		"no kubeconfig":     {[]string{"run", "-f", write("c.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Rollout\nname: a\nchange: {daemonSet: {namespace: n, name: d, patch: {spec: {}}}}\nstages: [{name: s, labelSelector: {matchLabels: {a: b}}}]\n")}, "clusters[0]: reading kubeconfig /nowhere"},
		"no run":            {[]string{"status"}, "there is no run"},
		"output":            {[]string{"status", "-o", "xml"}, "output must be table or json"},
		"no action":         {nil, "rollout needs an action"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"rollout"}, test.args...)
			if len(test.args) > 0 && test.args[0] == "run" {
				args = append(args, "--fleet", filepath.Join(dir, "fleet.yaml"))
			}
			if len(test.args) > 0 {
				args = append(args, "--state-dir", filepath.Join(dir, "state"))
			}
			code, _, stderr := command(t, "", args...)
			if code != ExitUsage || !strings.Contains(stderr, test.want) {
				t.Errorf("ended with %d:\n%s\nwant %q", code, stderr, test.want)
			}
		})
	}
}

func TestRolloutControllerRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no fleet":     {nil, "controller needs --fleet"},
		"no namespace": {[]string{"--fleet", "f"}, "controller needs --namespace"},
		"everybody":    {[]string{"--fleet", "f", "-n", "s", "--metrics", "0.0.0.0:1"}, "beyond loopback"},
		"no port":      {[]string{"--fleet", "f", "-n", "s", "--health", "127.0.0.1"}, "must be host:port or 0"},
		"every":        {[]string{"--fleet", "f", "-n", "s", "--status-every", "1h"}, "--status-every must be"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := command(t, "", append([]string{"rollout", "controller"}, test.args...)...)
			if code != ExitUsage || !strings.Contains(stderr, test.want) {
				t.Errorf("ended with %d:\n%s\nwant %q", code, stderr, test.want)
			}
		})
	}
}

// What runs where is answered on loopback, or with mutual TLS.
func TestRolloutListens(t *testing.T) {
	for name, test := range map[string]struct {
		l    rolloutListen
		want string
	}{
		"nobody":              {rolloutListen{}, ""},
		"loopback":            {rolloutListen{address: "127.0.0.1:0"}, ""},
		"everybody":           {rolloutListen{address: "0.0.0.0:1"}, "needs --tls-cert"},
		"a name":              {rolloutListen{address: "example.com:1"}, "needs --tls-cert"},
		"no port":             {rolloutListen{address: "127.0.0.1"}, "must be host:port"},
		"half of a pair":      {rolloutListen{address: "127.0.0.1:1", certFile: "x"}, "needs --tls-cert"},
		"a key for nothing":   {rolloutListen{keyFile: "x"}, "go with --listen"},
		"everybody, with TLS": {rolloutListen{address: "0.0.0.0:1", certFile: "a", keyFile: "b", clientCA: "c"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := test.l.check()
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	l := rolloutListen{address: "127.0.0.1:0"}
	address, wait, err := l.serve(ctx, func() engine.View { return engine.View{ID: "run-1", Phase: journal.Running} }, time.Minute, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Get("http://" + address + "/v1/verdict")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var a struct{ Run, Verdict string }
	if err := json.NewDecoder(response.Body).Decode(&a); err != nil || a.Run != "run-1" || a.Verdict != "Unknown" {
		t.Errorf("answered %+v, %v", a, err)
	}
	cancel()
	wait()
	if _, err := http.Get("http://" + address + "/v1/run"); err == nil {
		t.Error("it answers after its end")
	}
}

// Every example of the documentation is valid as it stands.
func TestExamplesAreValid(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("..", "docs", "examples", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		if _, err := config.Load(file, nil); err != nil {
			t.Error(err)
		}
	}
}
