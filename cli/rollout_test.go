package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/plan"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// rolloutRig is two labs, as a fleet in a file.
type rolloutRig struct {
	t       *testing.T
	dir     string
	labs    map[string]*lab.Lab
	clients map[string]*kubernetes.Clientset
	sizes   map[string]int
}

func newRolloutRig(t *testing.T, small, large int) *rolloutRig {
	r := &rolloutRig{t: t, dir: t.TempDir(), labs: map[string]*lab.Lab{}, clients: map[string]*kubernetes.Clientset{}, sizes: map[string]int{"small": small, "large": large}}
	fleet := "apiVersion: seakeep.dev/v1alpha1\nkind: Fleet\nname: labs\nclusters:\n"
	for name, nodes := range r.sizes {
		l := lab.Start(t, lab.Options{Nodes: nodes, Dir: filepath.Join(r.dir, "lab-"+name)})
		r.labs[name], r.clients[name] = l, rollouttest.Client(t, l)
		file := filepath.Join(r.dir, name+".kubeconfig")
		if err := l.WriteKubeconfig(file, lab.Masters, "", ""); err != nil {
			t.Fatal(err)
		}
		fleet += fmt.Sprintf("- {name: %s, labels: {size: %s}, kubeconfig: %s}\n", name, name, file)
	}
	r.write("fleet.yaml", fleet)
	return r
}

func (r *rolloutRig) write(name, text string) string {
	r.t.Helper()
	file := filepath.Join(r.dir, name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	return file
}

// rollout writes a Rollout of an image.
func (r *rolloutRig) rollout(name, image, more string) string {
	return r.write(name+".yaml", fmt.Sprintf(`apiVersion: seakeep.dev/v1alpha1
kind: Rollout
name: %[1]s
change:
  daemonSet:
    namespace: telemetry
    name: %[1]s
    patch: {spec: {containers: [{name: agent, image: "%[2]s"}]}}
stages:
- {name: first, labelSelector: {matchLabels: {size: small}}}
- {name: second, labelSelector: {matchLabels: {size: large}}}
interval: 1s
bake: {minDuration: 1s, detectionWindow: 1s, factor: 1}
analysis:
  consecutiveLooks: 1
  dns: {mode: Disabled}
  slow: {mode: Disabled}
  workload: {readyWithin: 20s}
  controlPlane: {mode: Disabled} # what a machine that tests share is slow at is not the change's
  probes: {mode: Disabled}
scaleGate: {mode: Disabled}
progressDeadline: 10s
%[3]s`, name, image, more))
}

// args are a command line of the rig.
func (r *rolloutRig) args(args ...string) []string {
	args = append([]string{"rollout"}, args...)
	if args[1] == "run" {
		args = append(args, "--fleet", filepath.Join(r.dir, "fleet.yaml"), "--every", "200ms", "--lease", "4s", "--timeout", "2s")
	}
	return append(args, "--state-dir", filepath.Join(r.dir, "state"))
}

func (r *rolloutRig) run(want int, args ...string) string {
	r.t.Helper()
	var stdout, stderr bytes.Buffer
	code := Run(r.t.Context(), &Env{Args: r.args(args...), Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }})
	if code != want {
		r.t.Fatalf("rollout %v ended with %d, want %d\n%s\n%s", args, code, want, stdout.String(), stderr.String())
	}
	return stdout.String() + stderr.String()
}

func (r *rolloutRig) status(name string) engine.View {
	r.t.Helper()
	var v engine.View
	if err := json.Unmarshal([]byte(r.run(ExitOK, "status", name, "-o", "json")), &v); err != nil {
		r.t.Fatal(err)
	}
	return v
}

func (r *rolloutRig) want(name string, small, large map[string]int) {
	r.t.Helper()
	for cluster, want := range map[string]map[string]int{"small": small, "large": large} {
		var got map[string]int
		defer func() {
			if r.t.Failed() {
				r.t.Logf("%s runs %v, want %v", cluster, got, want)
			}
		}()
		testkit.Within(r.t, "what runs on "+cluster, 30*time.Second, func() bool {
			got = rollouttest.Images(r.t, r.clients[cluster], "telemetry", name)
			return cmp.Equal(want, got)
		})
	}
}

const agent1, agent2, agent3 = "registry.test/agent:1", "registry.test/agent:2", "registry.test/agent:3"

func TestRolloutOnLabs(t *testing.T) {
	r := newRolloutRig(t, 4, 6)
	for _, name := range []string{"good", "stuck"} {
		for cluster, client := range r.clients {
			rollouttest.DaemonSet(t, client, "telemetry", name, r.sizes[cluster])
		}
	}
	good := r.rollout("good", agent2, "")
	var p plan.Plan
	if err := json.Unmarshal([]byte(r.run(ExitOK, "run", "-f", good, "--dry-run", "-o", "json")), &p); err != nil || p.Largest != "large" || len(p.Stages) != 3 {
		t.Errorf("planned %+v, %v", p, err)
	}
	out := r.run(ExitOK, "run", "-f", good)
	if !strings.Contains(out, "COMPLETED") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("good", map[string]int{agent2: 4}, map[string]int{agent2: 6})
	if v := r.status("good"); v.Phase != journal.Completed || len(v.Stages[2].Legs[0].Exposed) != 6 || v.Stages[2].Legs[0].Look.Verdict != "Pass" {
		t.Errorf("the status is %+v", v)
	}
	if out := r.run(ExitOK, "watch", "good"); !strings.Contains(out, "[##########]") {
		t.Errorf("watch draws:\n%s", out)
	}
	// What is there already is refused before anything is written.
	if out := r.run(ExitUsage, "run", "-f", good); !strings.Contains(out, "has this template already") {
		t.Errorf("printed:\n%s", out)
	}
	r.run(ExitUsage, "pause", "good")

	// A pod that no node has room for never becomes ready: the second node is not touched.
	stuck := r.rollout("stuck", agent2, "onFailure: {rungs: [{name: freeze}, {name: apf}, {name: revert}]}\n")
	data, err := os.ReadFile(stuck)
	if err != nil {
		t.Fatal(err)
	}
	r.write("stuck.yaml", strings.Replace(string(data), `image: "`+agent2+`"`, `image: "`+agent2+`", resources: {requests: {cpu: "9000"}}`, 1))
	out = r.run(ExitFindings, "run", "-f", stuck)
	if !strings.Contains(out, "ROLLEDBACK") || !strings.Contains(out, "with 1 of 4 nodes exposed") {
		t.Errorf("printed:\n%s", out)
	}
	r.want("stuck", map[string]int{agent1: 4}, map[string]int{agent1: 6})
	if out := r.run(ExitOK, "history"); strings.Count(out, "\n") != 3 || !strings.Contains(out, "RolledBack") {
		t.Errorf("the history is:\n%s", out)
	}
	// A completed run can be taken back.
	id := r.status("good").ID
	if out := r.run(ExitOK, "rollback", "good", "--reason", "a test"); !strings.Contains(out, "--continue "+id) && carriedLately(r.status("good")) == false {
		t.Errorf("printed:\n%s", out)
	}
	r.run(ExitFindings, "run", "--continue", id)
	r.want("good", map[string]int{agent1: 4}, map[string]int{agent1: 6})
}

func carriedLately(v engine.View) bool { return carried(&v, time.Now()) }

func TestRolloutRefuses(t *testing.T) {
	r := &rolloutRig{t: t, dir: t.TempDir()}
	r.write("fleet.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Fleet\nname: f\nclusters: [{name: c, kubeconfig: /nowhere}]\n")
	for name, test := range map[string]struct {
		args []string
		want string
	}{
		"no file":           {[]string{"run"}, "run needs -f FILE"},
		"an empty selector": {[]string{"run", "-f", r.write("a.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Rollout\nname: a\nchange: {daemonSet: {namespace: n, name: d, patch: {spec: {}}}}\nstages: [{name: s, labelSelector: {}}]\n")}, "stages[0].labelSelector: required"},
		"maxSurge":          {[]string{"run", "-f", r.write("b.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Rollout\nname: a\nchange: {daemonSet: {namespace: n, name: d, patch: {spec: {}}}}\nnodes: {maxSurge: 1}\nstages: [{name: s, labelSelector: {matchLabels: {a: b}}}]\n")}, "nodes.maxSurge"},
		"no kubeconfig":     {[]string{"run", "-f", r.write("c.yaml", "apiVersion: seakeep.dev/v1alpha1\nkind: Rollout\nname: a\nchange: {daemonSet: {namespace: n, name: d, patch: {spec: {}}}}\nstages: [{name: s, labelSelector: {matchLabels: {a: b}}}]\n")}, "clusters[0]: reading kubeconfig /nowhere"},
		"no run":            {[]string{"status"}, "there is no run"},
		"output":            {[]string{"status", "-o", "xml"}, "output must be table or json"},
		"no action":         {nil, "rollout needs an action"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			args := append([]string{"rollout"}, test.args...)
			if len(test.args) > 0 && test.args[0] == "run" {
				args = append(args, "--fleet", filepath.Join(r.dir, "fleet.yaml"))
			}
			if len(test.args) > 0 {
				args = append(args, "--state-dir", filepath.Join(r.dir, "state"))
			}
			code := Run(t.Context(), &Env{Args: args, Stdin: strings.NewReader(""), Stdout: &bytes.Buffer{}, Stderr: &stderr, Getenv: func(string) string { return "" }})
			if code != ExitUsage || !strings.Contains(stderr.String(), test.want) {
				t.Errorf("ended with %d:\n%s\nwant %q", code, stderr.String(), test.want)
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
