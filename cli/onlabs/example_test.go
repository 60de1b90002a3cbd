package onlabs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/cli"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// The example of the documentation, on two small labs and told faster: a first install that brings its own namespace and rights
// comes to every node of both clusters, and to those that will come.
func TestRolloutExampleOnLabs(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", "telemetry.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	r := &rolloutRig{t: t, dir: t.TempDir(), labs: map[string]*lab.Lab{}}
	text := string(data)
	replace := func(old, new string) {
		t.Helper()
		if !strings.Contains(text, old) {
			t.Fatalf("the example has no %q any more", old)
		}
		text = strings.Replace(text, old, new, 1)
	}
	for name, options := range map[string]lab.Options{"staging": {Nodes: 5, Pods: 40}, "production": {Nodes: 20, Pods: 200}} {
		options.Dir = filepath.Join(r.dir, "lab-"+name)
		l := lab.Start(t, options)
		if err := l.StartAgents(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.labs[name] = l
		file := filepath.Join(r.dir, name+".kubeconfig")
		if err := l.WriteKubeconfig(file, lab.Masters, "", ""); err != nil {
			t.Fatal(err)
		}
		replace("kubeconfig: "+name+".kubeconfig", "kubeconfig: "+file)
	}
	replace("agent-period: 10s", "agent-period: 5s")
	replace("interval: 5s", "interval: 1s")
	replace("minDuration: 1m ", "minDuration: 3s ")
	replace("detectionWindow: 10s", "detectionWindow: 2s")
	replace("waitTime: 1m}", "waitTime: 3s}")
	// What a machine that tests share is slow at is not the change's.
	replace("analysis:\n", "analysis:\n  controlPlane: {mode: Disabled}\n  probes: {mode: Disabled}\n")
	// What a few cheap agents cost on a machine that tests share is noise: the scale gate has tests of its own.
	replace("scaleGate:\n", "scaleGate:\n  mode: Disabled\n")
	replace("bake:\n", "onUnknown: Wait\nbake:\n  factor: 1\n")
	file := r.write("telemetry.yaml", text)
	var out strings.Builder
	code := cli.Run(t.Context(), &cli.Env{
		Args:  []string{"rollout", "run", "-f", file, "--state-dir", filepath.Join(r.dir, "state"), "--every", "500ms", "--exit-on-pause"},
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: t.Output(), Getenv: func(string) string { return "" },
	})
	t.Logf("\n%s", out.String())
	if code != cli.ExitOK {
		t.Fatalf("ended with %d", code)
	}
	if !strings.Contains(out.String(), "High cluster-wide-read of DaemonSet telemetry/telemetry") {
		t.Error("what the manifests allow is not said")
	}
	for name, l := range r.labs {
		client := rollouttest.Client(t, l)
		set, err := client.AppsV1().DaemonSets("telemetry").Get(t.Context(), "telemetry", metav1.GetOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(set.Spec.Template.Spec.NodeSelector) > 0 {
			t.Errorf("%s: new nodes would not have it: %v", name, set.Spec.Template.Spec.NodeSelector)
		}
		nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
		if err != nil || set.Status.NumberReady != int32(len(nodes.Items)) {
			t.Errorf("%s: %d of %d nodes have it: %v", name, set.Status.NumberReady, len(nodes.Items), err)
		}
	}
}
