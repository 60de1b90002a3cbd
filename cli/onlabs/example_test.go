package onlabs

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/cli"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/rollout/rollouttest"
)

// example is the example of the documentation, on two small labs and told faster.
type example struct {
	*rolloutRig
	text string
}

func newExample(t *testing.T, staging, production lab.Options) *example {
	t.Parallel()
	data, err := os.ReadFile(filepath.Join("..", "..", "docs", "examples", "telemetry.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	e := &example{rolloutRig: &rolloutRig{t: t, dir: t.TempDir(), labs: map[string]*lab.Lab{}, clients: map[string]*kubernetes.Clientset{}}, text: string(data)}
	for name, options := range map[string]lab.Options{"staging": staging, "production": production} {
		options.Dir = filepath.Join(e.dir, "lab-"+name)
		l := lab.Start(t, options)
		if err := l.StartAgents(t.Context()); err != nil {
			t.Fatal(err)
		}
		e.labs[name], e.clients[name] = l, rollouttest.Client(t, l)
		file := filepath.Join(e.dir, name+".kubeconfig")
		if err := l.WriteKubeconfig(file, lab.Masters, "", ""); err != nil {
			t.Fatal(err)
		}
		e.replace("kubeconfig: "+name+".kubeconfig", "kubeconfig: "+file)
	}
	e.replace("interval: 5s", "interval: 1s")
	e.replace("minDuration: 1m ", "minDuration: 3s ")
	e.replace("detectionWindow: 10s", "detectionWindow: 2s")
	e.replace("waitTime: 1m}", "waitTime: 3s}")
	// What a machine that tests share is slow at is not the change's.
	e.replace("analysis:\n", "analysis:\n  controlPlane: {mode: Disabled}\n  probes: {mode: Disabled}\n")
	e.replace("bake:\n", "onUnknown: Wait\nbake:\n  factor: 1\n")
	return e
}

func (e *example) replace(old, new string) {
	e.t.Helper()
	if !strings.Contains(e.text, old) {
		e.t.Fatalf("the example has no %q any more", old)
	}
	e.text = strings.Replace(e.text, old, new, 1)
}

// carryOut runs the example, and returns what it printed and how it ended.
func (e *example) carryOut() (out string, code int) {
	e.t.Helper()
	var b strings.Builder
	within, cancel := context.WithTimeout(e.t.Context(), 8*time.Minute) // what waits for ever is seen in what it printed
	defer cancel()
	code = cli.Run(within, &cli.Env{
		Args:  []string{"rollout", "run", "-f", e.write("telemetry.yaml", e.text), "--state-dir", filepath.Join(e.dir, "state"), "--every", "500ms", "--exit-on-pause"},
		Stdin: strings.NewReader(""), Stdout: &b, Stderr: e.t.Output(), Getenv: func(string) string { return "" },
	})
	e.t.Logf("\n%s", b.String())
	return b.String(), code
}

// A first install that brings its own namespace and rights comes to every node of both clusters, and to those that will come.
func TestRolloutExampleOnLabs(t *testing.T) {
	e := newExample(t, lab.Options{Nodes: 5, Pods: 40}, lab.Options{Nodes: 20, Pods: 200})
	e.replace("agent-period: 10s", "agent-period: 5s")
	// What a few cheap agents cost on a machine that tests share is noise.
	e.replace("scaleGate:\n", "scaleGate:\n  mode: Disabled\n")
	out, code := e.carryOut()
	if code != cli.ExitOK {
		t.Fatalf("ended with %d", code)
	}
	if !strings.Contains(out, "High cluster-wide-read of DaemonSet telemetry/telemetry") {
		t.Error("what the manifests allow is not said")
	}
	for name, client := range e.clients {
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

// The incident's change: well on staging, and forecast from three nodes of the large cluster to take more than there is. It is stopped
// there, jailed, taken back on both clusters, and nothing that was written against it is left.
func TestRolloutStopsTheIncidentOnLabs(t *testing.T) {
	e := newExample(t, lab.Options{Nodes: 3, Pods: 10}, lab.Options{Nodes: 30, Pods: 1000})
	e.replace("agent-period: 10s", "agent-period: 200ms")
	// Declared, since two cores that tests share have another capacity each minute. However slow they are at this one, what production
	// would take is a hundred times what staging does.
	e.replace("  window: 1m", "  window: 12s\n  metrics: [Seats]\n  capacity: {Seats: 3}")
	e.replace("progressDeadline:", "onFailure: {rungs: [{name: freeze}, {name: apf}, {name: revert}, {name: emergency}], hitStable: Always}\nprogressDeadline:")
	out, code := e.carryOut()
	if code != cli.ExitFindings {
		t.Fatalf("ended with %d", code)
	}
	failed := regexp.MustCompile(`production  Failed: with ([0-9]+) of 30 nodes exposed .*: scaleGate: `).FindStringSubmatch(out)
	if len(failed) == 0 || failed[1] > "3" {
		t.Errorf("it was not stopped by three nodes: %q", failed)
	}
	for _, want := range []string{"production  Rung: apf", "production  RungBack: apf is taken back", "production  TakenBack", "staging  TakenBack", "ROLLEDBACK"} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing says %q", want)
		}
	}
	for name, client := range e.clients {
		if _, err := client.AppsV1().DaemonSets("telemetry").Get(t.Context(), "telemetry", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("%s: the DaemonSet is there still: %v", name, err)
		}
		schemas, err := client.FlowcontrolV1().FlowSchemas().List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, schema := range schemas.Items {
			if strings.Contains(schema.Name, "seakeep") {
				t.Errorf("%s: flow schema %s is left", name, schema.Name)
			}
		}
	}
}
