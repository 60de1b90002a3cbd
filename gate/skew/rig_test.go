package skew

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// The nodes of the lab. Three are kept free of other pods by a taint, so that what a scene sees on them is its own.
var (
	nodeDirect  = lab.NodeName(0) // what the scenes of the direct way cordon, drain and describe
	nodeGate    = lab.NodeName(1) // the same for the gate's way; names of equal length keep tables equally wide
	nodeStreams = lab.NodeName(2) // its kubelet is this test; see kubelet
	// All scheduled pods are on lab.NodeName(3), so that tables name the same node on both ways.
	nodes = 4
)

// patience bounds one invocation: far above what any takes, so that only one that hangs meets it.
const patience = 90 * time.Second

// way is one of the two ways to the API server, and all that kubectl needs to go it.
type way struct {
	name       string
	prefix     string // begins the names of its namespaces; of equal length, as the nodes' names
	url        string
	node       string
	dir        string // kubectl's home and working folder
	kubeconfig string
}

// rig is a lab, a gate in front of it, and both ways.
type rig struct {
	lab     *lab.Lab
	lane    *gatetest.Lane
	kubelet *kubelet
	admin   *kubernetes.Clientset // direct, for making what a scene needs
	ways    [2]*way
	kubectl string
}

// open opens a gate and both ways.
func open(t *testing.T) *rig {
	t.Helper()
	l := lab.Start(t, lab.Options{Nodes: nodes})
	r := &rig{lab: l, lane: gatetest.Open(t, l, gatetest.Options{More: sharing()}), kubectl: filepath.Join(l.BinDir(), "kubectl")}
	if _, err := os.Stat(r.kubectl); err != nil {
		t.Fatalf("%v; run 'make control-plane'", err)
	}
	// After the gate, so that it is down before the gate's test for what is left behind.
	r.kubelet = startKubelet(t, l)
	r.admin = gatetest.Clientset(t, r.lane.Direct(lab.Admin))
	for _, node := range []string{nodeDirect, nodeGate, nodeStreams} {
		r.patchNode(t, node, `{"spec":{"taints":[{"key":"skew","value":"own","effect":"NoSchedule"}]}}`)
	}
	r.patchNode(t, nodeStreams, fmt.Sprintf(`{"status":{"daemonEndpoints":{"kubeletEndpoint":{"Port":%d}}}}`, r.kubelet.port), "status")
	for i, w := range []*way{
		{name: "direct", prefix: "way-a-", url: l.APIServerURL(0), node: nodeDirect},
		{name: "gate", prefix: "way-b-", url: r.lane.URL, node: nodeGate},
	} {
		w.dir = t.TempDir()
		w.kubeconfig = filepath.Join(w.dir, "kubeconfig")
		check(t, l.WriteKubeconfig(w.kubeconfig, lab.Admin, w.url, l.CAFile()))
		// One without any identity, for invocations that bring their own or none.
		bare := clientcmdapi.NewConfig()
		bare.Clusters["lab"] = &clientcmdapi.Cluster{Server: w.url, CertificateAuthority: l.CAFile()}
		bare.AuthInfos["nobody"] = clientcmdapi.NewAuthInfo()
		bare.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: "nobody"}
		bare.CurrentContext = "lab"
		check(t, clientcmd.WriteToFile(*bare, filepath.Join(w.dir, "bare.kubeconfig")))
		r.ways[i] = w
	}
	return r
}

// sharing is what makes the gate share whatever may be shared, when the environment asks for it: what kubectl does through
// a gate that forwards everything it must do through one that does not.
func sharing() string {
	if os.Getenv("SEAKEEP_TEST_SHARE_ALL") == "" {
		return ""
	}
	return "relay: {rules: [{resources: [\"*\"]}]}\n"
}

func (r *rig) patchNode(t *testing.T, name, patch string, subresources ...string) {
	t.Helper()
	_, err := r.admin.CoreV1().Nodes().Patch(t.Context(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	check(t, err)
}

// namespace makes a namespace of the way for a scene and returns its name. The default ServiceAccount, which pods need
// and a controller makes, is there when it returns.
func (r *rig) namespace(t *testing.T, w *way, scene string) string {
	t.Helper()
	name := w.prefix + scene
	_, err := r.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	check(t, err)
	await(t, "the ServiceAccount of "+name, func() bool {
		_, err := r.admin.CoreV1().ServiceAccounts(name).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	await(t, "the root certificates of "+name, func() bool {
		_, err := r.admin.CoreV1().ConfigMaps(name).Get(t.Context(), "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil
	})
	return name
}

// await polls until the condition holds.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !condition() {
		select {
		case <-ctx.Done():
			t.Fatalf("waiting for %s: %v", what, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// result is what an invocation did, as far as a user or a script can see.
type result struct {
	Code   int // exit code; -1 after a signal
	Stdout string
	Stderr string
	Answer string // what the step's own action was answered
}

// invocation is one run of kubectl.
type invocation struct {
	args  []string
	stdin string
	env   []string
	// until and act are for what does not end by itself: when the output contains until, and its line's end, act is called
	// with the output so far, and then kubectl is interrupted, as by Ctrl-C, unless it ends by itself then.
	until string
	act   func(ctx context.Context, output string) (answer string, err error)
	ends  bool
}

// run runs kubectl in the namespace, the way's way.
func (r *rig) run(ctx context.Context, w *way, namespace string, v invocation) (result, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, errors.New("kubectl hangs"))
	defer cancel()
	cmd := exec.CommandContext(ctx, r.kubectl, append([]string{"--kubeconfig=" + w.kubeconfig, "--namespace=" + namespace}, v.args...)...)
	cmd.Dir = w.dir
	// Nothing of the user's own settings; PATH for diff and sed, which kubectl calls.
	cmd.Env = append([]string{"HOME=" + w.dir, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + w.dir}, v.env...)
	if v.until == "" {
		cmd.Stdin = strings.NewReader(v.stdin)
	} else if v.stdin != "" {
		// Left open, as a terminal's is: an end of input would end what is to last.
		in, err := cmd.StdinPipe()
		if err != nil {
			return result{}, err
		}
		if _, err := io.WriteString(in, v.stdin); err != nil {
			return result{}, err
		}
	}
	stdout, stderr := &output{changed: make(chan struct{}, 1)}, &output{changed: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		return result{}, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	var answer string
	var failed error
	if v.until != "" {
		if failed = waitFor(ended, v.until, stdout, stderr); failed == nil {
			if v.act != nil {
				answer, failed = v.act(ctx, stdout.String()+stderr.String())
			}
			if !v.ends {
				_ = cmd.Process.Signal(syscall.SIGINT)
			}
		}
	}
	err := <-ended
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		failed = errors.Join(failed, err)
	}
	if ctx.Err() != nil {
		failed = errors.Join(failed, context.Cause(ctx))
	}
	out := result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String(), Answer: answer}
	if failed != nil {
		return out, fmt.Errorf("kubectl %s, %s: %w\n%s%s", strings.Join(v.args, " "), w.name, failed, out.Stdout, out.Stderr)
	}
	return out, nil
}

// waitFor waits until one of the outputs contains the text.
func waitFor(ended chan error, text string, outputs ...*output) error {
	said := func(o *output) bool {
		_, after, found := strings.Cut(o.String(), text)
		return found && strings.Contains(after, "\n")
	}
	for {
		if slices.ContainsFunc(outputs, said) {
			return nil
		}
		select {
		case <-outputs[0].changed:
		case <-outputs[1].changed:
		case err := <-ended:
			ended <- err
			if slices.ContainsFunc(outputs, said) {
				return nil
			}
			return fmt.Errorf("it ended (%v) without saying %q", err, text)
		}
	}
}

// output is what a process wrote, readable while it writes.
type output struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
