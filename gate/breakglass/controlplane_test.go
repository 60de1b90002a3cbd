package breakglass

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/emergency/credentials"
	"github.com/seakeep/seakeep/lab"
)

// TestOnARealControlPlane takes the way an engineer takes in an outage: a credential made offline, kubectl, the lane, a
// real API server that knows the lane's front-proxy certificate.
func TestOnARealControlPlane(t *testing.T) {
	leavesNothing(t)
	// A folder of its own has the lab taken down with the test, before leaked goroutines are looked for.
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 1})
	r := &rig{t: t, dir: t.TempDir(), registry: prometheus.NewRegistry(), stderr: &buffer{}}
	pki := l.PKI()
	r.config = &v1alpha1.BreakGlassConfiguration{
		Listen: v1alpha1.BreakGlassListen{
			Address: "127.0.0.1:0", CertFile: pki.ServingCert, KeyFile: pki.ServingKey, ClientCAFile: pki.BreakGlassCA,
		},
		// The first API server of the list is dead, as one usually is.
		Upstreams: []v1alpha1.GateUpstream{
			{Name: "dead", URL: "https://" + refusingAddress(t), CAFile: pki.ClusterCA},
			{Name: "alive", URL: l.APIServerURL(0), CAFile: pki.ClusterCA},
		},
		Identity:      v1alpha1.BreakGlassIdentity{ProxyCertFile: pki.FrontProxyCert, ProxyKeyFile: pki.FrontProxyKey},
		StandardGates: []string{r.path("no-gate.sock")},
		AuditFile:     r.path("audit.log"),
	}
	r.config.SetDefaults()
	r.start()
	kubeconfig := issueFor(t, l, r)
	kubectl := func(t *testing.T, stdin string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		return run(ctx, t, l, stdin, append([]string{"--kubeconfig", kubeconfig}, args...)...)
	}

	t.Run("who", func(t *testing.T) {
		out := kubectl(t, "", "auth", "whoami")
		for _, want := range []string{"alice", "system:masters", "system:authenticated", "break-glass-serial"} {
			if !strings.Contains(out, want) {
				t.Errorf("whoami does not show %s:\n%s", want, out)
			}
		}
	})
	t.Run("impersonating", func(t *testing.T) {
		if out := kubectl(t, "", "auth", "whoami", "--as", "bob"); !strings.Contains(out, "bob") || strings.Contains(out, "alice") {
			t.Errorf("whoami --as bob:\n%s", out)
		}
	})
	t.Run("check", func(t *testing.T) {
		report, err := credentials.Check(t.Context(), credentials.CheckOptions{Kubeconfig: kubeconfig, Timeout: 20 * time.Second, Now: time.Now})
		if err != nil {
			t.Fatal(err)
		}
		if len(report.Steps) != 13 || !report.Passed() {
			t.Errorf("the check has findings: %+v", report.Steps)
		}
	})
	t.Run("apply, watch, logs, delete", func(t *testing.T) {
		watched := watchPods(t, l, kubeconfig)
		if out := kubectl(t, podManifest, "apply", "-f", "-"); !strings.Contains(out, "created") {
			t.Fatalf("apply: %s", out)
		}
		watched("glass")
		kubectl(t, "", "wait", "--for=condition=Ready", "pod/glass", "--timeout=50s")
		if out := kubectl(t, "", "get", "pod", "glass", "-o", "name"); out != "pod/glass\n" {
			t.Errorf("get: %q", out)
		}
		if out := kubectl(t, "", "logs", "glass"); !strings.Contains(out, "simulated") {
			t.Errorf("logs: %q", out)
		}
		if out := kubectl(t, "", "delete", "pod", "glass", "--wait=false"); !strings.Contains(out, "deleted") {
			t.Errorf("delete: %q", out)
		}
	})
	t.Run("masters of the cluster's own CA", func(t *testing.T) {
		certFile, keyFile, err := pki.ClientCert(lab.Masters)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), "--kubeconfig", os.DevNull, "--server", r.url(""),
			"--certificate-authority", pki.ClusterCA, "--client-certificate", certFile, "--client-key", keyFile, "get", "ns", "--request-timeout=10s")
		if out, err := cmd.CombinedOutput(); err == nil {
			t.Errorf("came through: %s", out)
		}
	})
	t.Run("a dead API server", func(t *testing.T) { deadAPIServer(t, l, kubeconfig) })

	var deleted bool
	for _, e := range r.records() {
		deleted = deleted || e.Event == eventResponse && e.Verb == "delete" && e.Name == "glass" && e.User == "alice" && e.Code == http.StatusOK
	}
	if !deleted {
		t.Error("the deletion is not on record")
	}
}

const podManifest = `apiVersion: v1
kind: Pod
metadata: {name: glass, namespace: default}
spec:
  containers: [{name: c, image: none}]
`

// issueFor makes alice's credential for the lane and for the API server itself, as `break-glass issue` does.
func issueFor(t *testing.T, l *lab.Lab, r *rig) string {
	t.Helper()
	pki := l.PKI()
	ca := must(credentials.LoadAuthority(pki.BreakGlassCA, pki.BreakGlassKey, time.Now()))(t)
	credential := must(ca.Issue(credentials.Request{
		Name: "alice", Groups: []string{credentials.Masters}, Lifetime: credentials.DefaultLifetime, Now: time.Now(),
	}))(t)
	cluster := must(os.ReadFile(pki.ClusterCA))(t)
	data := must(credentials.Kubeconfig(credential, []credentials.Server{
		{URL: r.url(""), CA: cluster}, {URL: l.APIServerURL(0), CA: cluster},
	}, ""))(t)
	path := r.path("alice.kubeconfig")
	if err := credentials.WriteKubeconfig(path, data, false); err != nil {
		t.Fatal(err)
	}
	return path
}

func run(ctx context.Context, t *testing.T, l *lab.Lab, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, filepath.Join(l.BinDir(), "kubectl"), args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir()) // no cache of another cluster
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// watchPods starts a watch through the lane; the function returned waits until it has shown the name.
func watchPods(t *testing.T, l *lab.Lab, kubeconfig string) func(name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	shown := &notifier{changed: make(chan struct{}, 1)}
	cmd := exec.CommandContext(ctx, filepath.Join(l.BinDir(), "kubectl"), "--kubeconfig", kubeconfig, "get", "pods", "--watch", "-o", "name")
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	cmd.Stdout = shown
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait() // it is killed in the end; its exit says nothing
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return func(name string) {
		t.Helper()
		for !shown.has(name) {
			select {
			case <-shown.changed:
			case <-ended:
				t.Fatalf("the watch ended without showing %s", name)
			}
		}
	}
}

// notifier is a buffer that tells when it grew.
type notifier struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func (n *notifier) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.b.Write(p)
	select {
	case n.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (n *notifier) has(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return bytes.Contains(n.b.Bytes(), []byte(text))
}

// deadAPIServer asks through a second lane whose API servers are all dead: the answer is quick and says so.
func deadAPIServer(t *testing.T, l *lab.Lab, kubeconfig string) {
	r := &rig{t: t, dir: t.TempDir(), registry: prometheus.NewRegistry(), stderr: &buffer{}}
	pki := l.PKI()
	r.config = &v1alpha1.BreakGlassConfiguration{
		Listen: v1alpha1.BreakGlassListen{
			Address: "127.0.0.1:0", CertFile: pki.ServingCert, KeyFile: pki.ServingKey, ClientCAFile: pki.BreakGlassCA,
		},
		Upstreams: []v1alpha1.GateUpstream{{Name: "dead", URL: "https://" + refusingAddress(t), CAFile: pki.ClusterCA}},
		Identity:  v1alpha1.BreakGlassIdentity{ProxyCertFile: pki.FrontProxyCert, ProxyKeyFile: pki.FrontProxyKey},
		AuditFile: r.path("audit.log"),
	}
	r.config.SetDefaults()
	r.start()
	cmd := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), "--kubeconfig", kubeconfig, "--server", r.url(""), "get", "--raw", "/api/v1/namespaces")
	start := time.Now()
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no API server can be reached") {
		t.Errorf("kubectl says: %s", out)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	report, err := credentials.Check(t.Context(), credentials.CheckOptions{Kubeconfig: kubeconfig, Timeout: 20 * time.Second, ExpiresWithin: 24 * time.Hour, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	if report.Passed() {
		t.Error("a credential that expires within a day passed a check that wants a day")
	}
}
