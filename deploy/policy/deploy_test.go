// Package policy holds what a cluster is given for a gate's own policies; its test tries it on a real API server.
package policy

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// cluster has a webhook with a pod behind its Service, and a workload with a budget.
const cluster = `
apiVersion: v1
kind: Namespace
metadata: {name: hooks}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: policy, namespace: hooks, annotations: {seakeep.dev/api-budget: seats=3}}
---
apiVersion: v1
kind: Service
metadata: {name: policy, namespace: hooks}
spec: {selector: {app: policy}, ports: [{port: 443}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: policy, namespace: hooks}
spec:
  selector: {matchLabels: {app: policy}}
  template:
    metadata: {labels: {app: policy}}
    spec: {serviceAccountName: policy, containers: [{name: policy, image: registry.example.com/policy:1}]}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: policy}
webhooks:
- name: policy.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  failurePolicy: Ignore
  timeoutSeconds: 1
  clientConfig: {service: {namespace: hooks, name: policy}}
  rules: [{apiGroups: [nobody.example.com], apiVersions: [v1], resources: [nothing], operations: [CREATE]}]
`

// With the rights of rbac.yaml and no others a gate finds out what its policies need to know, and it may no more.
func TestRightsSuffice(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 2})
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	check(t, l.WriteKubeconfig(kubeconfig, lab.Masters, l.APIServerURL(0), l.CAFile()))
	check(t, os.WriteFile(filepath.Join(dir, "cluster.yaml"), []byte(cluster), 0o600))
	kubectl := func(args ...string) string {
		args = append([]string{"--kubeconfig", kubeconfig, "--cache-dir", dir}, args...)
		out, _ := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), args...).CombinedOutput()
		return strings.TrimSpace(string(out))
	}
	kubectl("delete", "clusterrolebinding", "seakeep-lab:seakeep:policy") // what every lab grants
	for _, file := range []string{"rbac.yaml", filepath.Join(dir, "cluster.yaml")} {
		if out := kubectl("apply", "-f", file, "--server-side", "--validate=strict"); strings.Contains(out, "rror") {
			t.Fatal(out)
		}
	}
	testkit.Within(t, "a pod of the webhook runs", 30*time.Second, func() bool {
		return kubectl("get", "pods", "-n", "hooks", "-o", "jsonpath={.items[*].status.phase}") == "Running"
	})
	n := gatetest.Open(t, l, gatetest.Options{More: "overload: {mode: Enforce}\nbudgets: {mode: Shadow, refresh: 30s}\n"})
	const user = "system:serviceaccount:hooks:policy"
	for path, want := range map[string]string{"/v1/overload": user, "/v1/budgets": `"nodes":2`} {
		last := ""
		testkit.Within(t, path+" says "+want, 20*time.Second, func() bool {
			last = ask(t, n.Socket(), path)
			return strings.Contains(strings.ReplaceAll(last, " ", ""), want) && strings.Contains(last, user)
		})
	}
	for what, want := range map[string]string{
		"list secrets": "no", "get pods": "no", "watch pods": "no", "list configmaps": "no", "patch serviceaccounts": "no", "get services": "no",
		"create serviceaccounts/token": "no", "delete validatingwebhookconfigurations.admissionregistration.k8s.io": "no", "list services": "yes",
	} {
		lines := strings.Fields(kubectl(append([]string{"auth", "can-i", "--as", "seakeep:policy", "-A"}, strings.Fields(what)...)...))
		if len(lines) == 0 || lines[len(lines)-1] != want {
			t.Errorf("may it %s: %v, want %s", what, lines, want)
		}
	}
}

func ask(t *testing.T, socket, path string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	response, err := client.Get("http://gate" + path)
	check(t, err)
	defer response.Body.Close()
	text := new(strings.Builder)
	check(t, response.Write(text))
	return text.String()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
