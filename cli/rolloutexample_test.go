package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// The example of the documentation, on two small labs and told faster: staging is well with the agent, and on the largest cluster
// three nodes say what all would cost. The change is taken back, and nothing of it is left.
func TestRolloutExampleOnLabs(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("..", "docs", "examples", "telemetry.yaml"))
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
	for name, options := range map[string]lab.Options{"staging": {Nodes: 5, Pods: 40}, "production": {Nodes: 20, Pods: 600}} {
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
	replace("agent-period: 10s", "agent-period: 1s")
	replace("interval: 5s", "interval: 1s")
	replace("minDuration: 1m ", "minDuration: 3s ")
	replace("detectionWindow: 10s", "detectionWindow: 2s")
	replace("waitTime: 1m}", "waitTime: 3s}")
	replace("bake:\n", "onUnknown: Wait\nscaleGate: {metrics: [Seats], capacity: {Seats: 0.5}, window: 24s}\nbake:\n  factor: 1\n")
	file := r.write("telemetry.yaml", text)
	var out strings.Builder
	code := Run(t.Context(), &Env{
		Args:  []string{"rollout", "run", "-f", file, "--state-dir", filepath.Join(r.dir, "state"), "--every", "500ms"},
		Stdin: strings.NewReader(""), Stdout: &out, Stderr: t.Output(), Getenv: func(string) string { return "" },
	})
	t.Logf("\n%s", out.String())
	if code != ExitFindings || !strings.Contains(out.String(), "ROLLEDBACK") || !strings.Contains(out.String(), "scaleGate") {
		t.Fatalf("ended with %d", code)
	}
	if !strings.Contains(out.String(), "with 3 of 20 nodes exposed") {
		t.Error("it was not stopped at three nodes of the largest cluster")
	}
	for name, l := range r.labs {
		client := rollouttest.Client(t, l)
		testkit.Within(t, "nothing of it runs on "+name, 30*time.Second, func() bool {
			sets, err := client.AppsV1().DaemonSets("telemetry").List(t.Context(), metav1.ListOptions{})
			if err != nil || len(sets.Items) > 0 {
				return false
			}
			pods, err := client.CoreV1().Pods("telemetry").List(t.Context(), metav1.ListOptions{})
			return err == nil && len(pods.Items) == 0
		})
		schemas, err := client.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{LabelSelector: "seakeep.dev/forecast"})
		if err != nil || len(schemas.Items) > 0 {
			t.Errorf("%s: flow schemas are left: %d, %v", name, len(schemas.Items), err)
		}
	}
}
