package onlabs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/cli"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// playSeakeep makes this test program the seakeep command, for tests that kill it.
const playSeakeep = "SEAKEEP_TEST_PLAY"

func TestMain(m *testing.M) {
	if os.Getenv(playSeakeep) != "" {
		os.Exit(cli.Main())
	}
	os.Exit(m.Run())
}

// spawn starts seakeep as a process; ended is told how it ends, and then closed.
func (r *rolloutRig) spawn(args ...string) (child *exec.Cmd, ended <-chan error) {
	r.t.Helper()
	child = exec.Command(os.Args[0], args...)
	child.Env = append(os.Environ(), playSeakeep+"=1")
	child.Stderr = r.t.Output()
	if err := child.Start(); err != nil {
		r.t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() {
		defer close(end)
		end <- child.Wait()
	}()
	r.t.Cleanup(func() {
		_ = child.Process.Kill() // ended already, or the test has failed
		<-end
	})
	return child, end
}

// rolloutRig is two labs, as a fleet in a file.
type rolloutRig struct {
	t       *testing.T
	dir     string
	labs    map[string]*lab.Lab
	clients map[string]*kubernetes.Clientset
	sizes   map[string]int
}

func newRolloutRig(t *testing.T, small, large int) *rolloutRig {
	t.Parallel()
	r := &rolloutRig{t: t, dir: t.TempDir(), labs: map[string]*lab.Lab{}, clients: map[string]*kubernetes.Clientset{}, sizes: map[string]int{"small": small, "large": large}}
	fleet := "apiVersion: seakeep.dev/v1alpha1\nkind: Fleet\nname: labs\nclusters:\n"
	for name, nodes := range r.sizes {
		var etcd []string
		l := lab.Start(t, lab.Options{Nodes: nodes, Dir: filepath.Join(r.dir, "lab-"+name), EtcdServers: func(_ int, members []string) []string { etcd = members; return members }})
		r.labs[name], r.clients[name] = l, rollouttest.Client(t, l)
		file := filepath.Join(r.dir, name+".kubeconfig")
		if err := l.WriteKubeconfig(file, lab.Masters, "", ""); err != nil {
			t.Fatal(err)
		}
		fleet += fmt.Sprintf("- {name: %[1]s, labels: {size: %[1]s}, kubeconfig: %[2]s, etcd: {endpoints: [%[3]s], certFile: %[4]s/apiserver-etcd.crt, keyFile: %[4]s/apiserver-etcd.key, caFile: %[4]s/etcd-ca.crt}}\n",
			name, file, strings.Join(etcd, ", "), l.PKI().Dir)
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

// stuck writes a Rollout of pods that no node has room for.
func (r *rolloutRig) stuck(more string) string {
	r.t.Helper()
	data, err := os.ReadFile(r.rollout("stuck", agent2, more))
	if err != nil {
		r.t.Fatal(err)
	}
	return r.write("stuck.yaml", strings.Replace(string(data), `image: "`+agent2+`"`, `image: "`+agent2+`", resources: {requests: {cpu: "9000"}}`, 1))
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
	code := cli.Run(r.t.Context(), &cli.Env{Args: r.args(args...), Stdin: strings.NewReader(""), Stdout: &stdout, Stderr: &stderr, Getenv: func(string) string { return "" }})
	if code != want {
		r.t.Fatalf("rollout %v ended with %d, want %d\n%s\n%s", args, code, want, stdout.String(), stderr.String())
	}
	return stdout.String() + stderr.String()
}

func (r *rolloutRig) status(name string) engine.View {
	r.t.Helper()
	var v engine.View
	if err := json.Unmarshal([]byte(r.run(cli.ExitOK, "status", name, "-o", "json")), &v); err != nil {
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
