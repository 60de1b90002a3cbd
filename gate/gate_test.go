package gate_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate"
	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/internal/pki"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// cluster is the control plane all tests of this package share.
func cluster(t *testing.T) *lab.Lab { return lab.Start(t, lab.Options{Nodes: 3, Pods: 6}) }

func openLane(t *testing.T, l *lab.Lab, limits string) *gatetest.Lane {
	t.Helper()
	return gatetest.Open(t, l, gatetest.Options{More: limits})
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func whoAmI(t *testing.T, client *kubernetes.Clientset) authenticationv1.UserInfo {
	t.Helper()
	review, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	check(t, err)
	return review.Status.UserInfo
}

func TestIdentityArrivesUnchanged(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	for name, id := range map[string]lab.Identity{
		"an engineer's certificate": lab.Admin,
		"a node's certificate":      lab.Node(lab.NodeName(0)),
	} {
		t.Run(name, func(t *testing.T) {
			direct, through := whoAmI(t, gatetest.Clientset(t, n.Direct(id))), whoAmI(t, n.Client(id))
			if diff := cmp.Diff(direct, through); diff != "" {
				t.Errorf("identity direct and through the gate (-direct +gate):\n%s", diff)
			}
		})
	}
	t.Run("a service account's token", func(t *testing.T) {
		direct, through := n.Direct(lab.Admin), n.Config(lab.Admin)
		token := requestToken(t, gatetest.Clientset(t, direct), "default")
		for _, c := range []*rest.Config{direct, through} {
			c.CertData, c.KeyData, c.CertFile, c.KeyFile = nil, nil, "", ""
			c.BearerToken = token
		}
		want, got := whoAmI(t, gatetest.Clientset(t, direct)), whoAmI(t, gatetest.Clientset(t, through))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("identity direct and through the gate (-direct +gate):\n%s", diff)
		}
		if want := "system:serviceaccount:default:default"; got.Username != want {
			t.Errorf("the user is %q, want %q", got.Username, want)
		}
	})
	t.Run("impersonation is authorized against the caller", func(t *testing.T) {
		c := n.Config(lab.Admin)
		c.Impersonate = rest.ImpersonationConfig{UserName: "jane"}
		if got := whoAmI(t, gatetest.Clientset(t, c)).Username; got != "jane" {
			t.Errorf("the user is %q, want jane", got)
		}
		c = n.Config(lab.Node(lab.NodeName(0)))
		c.Impersonate = rest.ImpersonationConfig{UserName: "jane"}
		_, err := gatetest.Clientset(t, c).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) {
			t.Errorf("a node impersonating gets %v, want 403", err)
		}
	})
	t.Run("system:masters does not pass this lane", func(t *testing.T) {
		_, err := n.Client(lab.Masters).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "break-glass") {
			t.Errorf("got %v, want 403 that names the break-glass lane", err)
		}
	})
	t.Run("a certificate of another authority is nobody", func(t *testing.T) {
		_, err := n.Client(lab.BreakGlass).CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		if !apierrors.IsUnauthorized(err) {
			t.Errorf("got %v, want 401", err)
		}
	})
}

func requestToken(t *testing.T, client *kubernetes.Clientset, account string) string {
	t.Helper()
	request, err := client.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	check(t, err)
	return request.Status.Token
}

// TestNobodyIsBelieved sends what a hostile client sends, by hand, because client libraries would not.
func TestNobodyIsBelieved(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	roots, err := pki.LoadPool(l.CAFile())
	check(t, err)
	for name, headers := range map[string]http.Header{
		"front-proxy headers":        {"X-Remote-User": {"admin@example.com"}, "X-Remote-Group": {"system:masters"}},
		"in lower case":              {"x-remote-user": {"admin@example.com"}, "x-remote-group": {"system:masters"}},
		"with underscores":           {"X_Remote_User": {"admin@example.com"}, "X_Remote_Group": {"system:masters"}},
		"a token that is none":       {"Authorization": {"Bearer not-a-token"}, "X-Remote-User": {"admin@example.com"}},
		"impersonation by anonymous": {"Impersonate-User": {"admin@example.com"}},
	} {
		t.Run(name, func(t *testing.T) {
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
			defer client.CloseIdleConnections()
			request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/api/v1/namespaces/kube-system/secrets", nil)
			check(t, err)
			for key, values := range headers {
				request.Header[key] = values
			}
			response, err := client.Do(request)
			check(t, err)
			defer response.Body.Close()
			if response.StatusCode != http.StatusForbidden && response.StatusCode != http.StatusUnauthorized {
				body, _ := io.ReadAll(io.LimitReader(response.Body, 200))
				t.Errorf("got %d: %s", response.StatusCode, body)
			}
		})
	}
}

func TestKubectl(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	check(t, l.WriteKubeconfig(kubeconfig, lab.Admin, n.URL, l.CAFile()))
	kubectl := func(stdin string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), append([]string{"--kubeconfig", kubeconfig}, args...)...)
		cmd.Stdin = strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	want := func(out, part string) {
		t.Helper()
		if !strings.Contains(out, part) {
			t.Errorf("%q is not in\n%s", part, out)
		}
	}
	want(kubectl("", "get", "nodes"), "Ready")
	const manifest = `{apiVersion: v1, kind: ConfigMap, metadata: {name: through-the-gate, namespace: default}, data: {a: "%s"}}`
	want(kubectl(fmt.Sprintf(manifest, "1"), "apply", "--server-side", "-f", "-"), "serverside-applied")
	want(kubectl(fmt.Sprintf(manifest, "2"), "apply", "--server-side", "-f", "-"), "serverside-applied")
	want(kubectl("", "get", "configmap", "through-the-gate", "-o", "jsonpath={.data.a}"), "2")
	want(kubectl("", "wait", "--for=jsonpath={.data.a}=2", "configmap/through-the-gate", "--timeout=20s"), "condition met") // a watch
	pods := strings.Fields(kubectl("", "get", "pods", "-A", "--field-selector=status.phase=Running", "-o", "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name}{\"\\n\"}{end}"))
	if len(pods) < 6 {
		t.Fatalf("%d running pods, want at least 6", len(pods))
	}
	namespace, pod, _ := strings.Cut(pods[0], "/")
	if logs := kubectl("", "logs", "-n", namespace, pod); logs == "" {
		t.Error("kubectl logs printed nothing")
	}
	want(kubectl("", "delete", "configmap", "through-the-gate"), "deleted")
}

func TestWatchThroughTheGate(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	client := n.Client(lab.Admin)
	w, err := client.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{LabelSelector: "watched=yes"})
	check(t, err)
	defer w.Stop()
	made, err := client.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "watched-", Labels: map[string]string{"watched": "yes"}},
	}, metav1.CreateOptions{})
	check(t, err)
	select {
	case event := <-w.ResultChan():
		if got := event.Object.(*corev1.ConfigMap).Name; got != made.Name {
			t.Errorf("the event is of %s, want %s", got, made.Name)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no event")
	}
	check(t, client.CoreV1().ConfigMaps("default").Delete(t.Context(), made.Name, metav1.DeleteOptions{}))

	// Stopping the gate ends the watch as the API server would, and in time.
	n.Stop()
	for range w.ResultChan() { //nolint:revive // drained to its end, which is the assertion
	}
}

func TestLimits(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, `limits:
- {name: no-secrets, match: {resources: [secrets]}, action: Deny}
- {name: slow-agent, match: {userAgents: ["telemetry/*"]}, action: Throttle, throttle: {requestsPerSecond: 0.001, burst: 2, per: UserAgent}}
`)
	admin := n.Client(lab.Admin)
	_, err := admin.CoreV1().Secrets("default").List(t.Context(), metav1.ListOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no-secrets") {
		t.Errorf("got %v, want 403 that names the rule", err)
	}
	c := n.Config(lab.Admin)
	c.UserAgent = "telemetry/v1"
	client := gatetest.Clientset(t, c)
	for i := range 3 {
		result := client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces").MaxRetries(0).Do(t.Context())
		err := result.Error()
		if i < 2 && err != nil {
			t.Errorf("request %d within the burst: %v", i, err)
		}
		if seconds, retry := apierrors.SuggestsClientDelay(err); i == 2 && (!apierrors.IsTooManyRequests(err) || !retry || seconds < 1 || !strings.Contains(err.Error(), "slow-agent")) {
			t.Errorf("request beyond the burst: %v, want 429 with Retry-After that names the rule", err)
		}
	}
}

// TestReload changes the file under a running gate: a good one is in force within seconds, a bad one is refused.
func TestReload(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	client := n.Client(lab.Admin)
	listed := func() error {
		_, err := client.CoreV1().ConfigMaps("default").List(t.Context(), metav1.ListOptions{})
		return err
	}
	check(t, listed())
	good, err := os.ReadFile(n.File)
	check(t, err)
	n.Replace(string(good) + "limits: [{name: closed, match: {resources: [configmaps]}, action: Deny}]\n")
	eventually(t, "the new rule denies", func() bool { return apierrors.IsForbidden(listed()) })
	n.Replace(string(good) + "limits: [{name: broken, match: {sourceCIDRs: [nowhere]}, action: Deny}]\n")
	n.Replace(strings.Replace(string(good), "stateDir", "statedir", 1))
	if err := listed(); !apierrors.IsForbidden(err) {
		t.Errorf("a bad file took the running rule away: %v", err)
	}
	n.Replace(string(good))
	eventually(t, "the rule is gone", func() bool { return listed() == nil })
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	testkit.Within(t, what, 15*time.Second, done)
}

func TestConfigurationsThatCannotBeUsed(t *testing.T) {
	l := cluster(t)
	n := openLane(t, l, "")
	n.Stop()
	good, err := os.ReadFile(n.File)
	check(t, err)
	for name, test := range map[string]struct{ old, new, want string }{
		"a key others can read": {"proxyKeyFile: " + l.PKI().FrontProxyKey, "proxyKeyFile: " + readableByAll(t, l.PKI().FrontProxyKey), "chmod 600"},
		"no such certificate":   {"clientCAFile: " + l.CAFile(), "clientCAFile: /nowhere/ca.crt", "identity.clientCAFile"},
		"a port that is taken":  {"127.0.0.1:0", strings.TrimPrefix(l.APIServerURL(0), "https://"), "listen.address"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "gate.yaml")
			check(t, os.WriteFile(file, bytes.Replace(good, []byte(test.old), []byte(test.new), 1), 0o600))
			registry := prometheus.NewRegistry()
			before := gatetest.Snapshot()
			defer before.Verify(t)
			_, err := gate.New(gate.Options{
				Load: func() (*v1alpha1.GateConfiguration, *config.Document, error) {
					return config.LoadKind[*v1alpha1.GateConfiguration](file, nil)
				},
				ConfigFile: file, Gatherer: registry, Registerer: registry, Log: slog.New(slog.DiscardHandler),
			})
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "gate.yaml:") {
				t.Errorf("got %v, want an error with the file, its line and %q", err, test.want)
			}
		})
	}
}

func readableByAll(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	check(t, err)
	loose := filepath.Join(t.TempDir(), "loose.key")
	check(t, os.WriteFile(loose, data, 0o644))
	check(t, os.Chmod(loose, 0o644))
	return loose
}

func TestNothingIsLeftBehind(t *testing.T) {
	l := cluster(t)
	before := gatetest.Snapshot()
	n := openLane(t, l, "")
	c := n.Config(lab.Admin)
	httpClient, err := rest.HTTPClientFor(c)
	check(t, err)
	client, err := kubernetes.NewForConfigAndClient(c, httpClient)
	check(t, err)
	for range 20 {
		_, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
		check(t, err)
	}
	n.Stop()
	httpClient.CloseIdleConnections()
	before.Verify(t)
}
