package survive_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/internal/testkit"
	"github.com/seakeep/seakeep/lab"
)

// The same through the gate as it is: CoreDNS with the kubernetes plugin of every cluster starts behind a gate that itself
// was started with every API server gone, answers for services, and goes on with the API server when that is back.
func TestCoreDNSStartsDuringAnOutage(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "seakeep-dns")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../../cmd/seakeep-dns").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	s := launch(t, lab.Options{Nodes: 1})
	account := s.account("coredns")
	const relay = "\nrelay: {survive: {after: 1s, resources: [services, endpointslices.discovery.k8s.io, nodes, namespaces]}}\n"
	grantNamespaces(t, s)
	file := gatetest.Write(t, s.Lab, t.TempDir(), gatetest.Options{More: relay})
	gate := gatetest.Serve(t, s.Lab, file)

	first := startCoreDNS(t, binary, account.BearerToken, gate.URL, s.CAFile())
	bow, err := s.admin.CoreV1().Services("default").Get(t.Context(), "bow", metav1.GetOptions{})
	check(t, err)
	testkit.Within(t, "CoreDNS answers", 30*time.Second, func() bool { return first.address("bow.default.svc.cluster.local.") == bow.Spec.ClusterIP })
	survey := func(g *gatetest.Lane) (objects int, gone bool) {
		families, err := g.Registry.Gather()
		check(t, err)
		for _, family := range families {
			for _, m := range family.GetMetric() {
				switch family.GetName() {
				case "seakeep_gate_relay_survive_objects":
					if m.GetGauge().GetValue() > 0 {
						objects++
					}
				case "seakeep_gate_relay_survive_gone":
					gone = m.GetGauge().GetValue() == 1
				case "seakeep_gate_relay_survive_grants":
					if m.GetGauge().GetValue() < 6 { // list and watch of three
						objects -= 10
					}
				}
			}
		}
		return objects, gone
	}
	testkit.Within(t, "the gate keeps every resource and the grants", 30*time.Second, func() bool { n, _ := survey(gate); return n >= 3 })
	first.stop()
	gate.Stop()
	s.sink()
	noSecrets(t, filepath.Join(filepath.Dir(file), "state", "relay"))

	gate = gatetest.Serve(t, s.Lab, file)
	// What the test itself opens from here on is gone before it is looked what the gate left.
	t.Cleanup(func() { check(t, s.Down(context.Background())) })
	s.admin = gatetest.Clientset(t, gate.Direct(lab.Masters))
	testkit.Within(t, "the outage is noticed", 20*time.Second, func() bool { _, gone := survey(gate); return gone })
	second := startCoreDNS(t, binary, account.BearerToken, gate.URL, s.CAFile())
	began := time.Now()
	testkit.Within(t, "CoreDNS answers though every API server is gone", 30*time.Second, func() bool { return second.address("bow.default.svc.cluster.local.") == bow.Spec.ClusterIP })
	t.Logf("it answered %s after its start", time.Since(began).Round(time.Millisecond))
	if code := second.code("nobody.default.svc.cluster.local."); code != dns.RcodeNameError {
		t.Errorf("what was not there: %s", dns.RcodeToString[code])
	}

	since := s.auditLength()
	s.raise()
	s.service("default", "rudder", map[string]string{"part": "rudder"})
	rudder, err := s.admin.CoreV1().Services("default").Get(t.Context(), "rudder", metav1.GetOptions{})
	check(t, err)
	testkit.Within(t, "CoreDNS knows what is new", 60*time.Second, func() bool { return second.address("rudder.default.svc.cluster.local.") == rudder.Spec.ClusterIP })
	got := s.asked(since, "system:serviceaccount:default:coredns", "services")
	t.Logf("of services it asked the API server after its return: %v", got)
	if got["list"] != 0 {
		t.Errorf("%d LISTs, want none", got["list"])
	}
	second.stop()
}

// grantNamespaces lets the relay read namespaces, as an operator would who adds a resource.
func grantNamespaces(t *testing.T, s *ship) {
	t.Helper()
	patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/rules/-", "value": map[string]any{
		"apiGroups": []string{""}, "resources": []string{"namespaces"}, "verbs": []string{"list", "watch"}}}})
	check(t, err)
	_, err = s.admin.RbacV1().ClusterRoles().Patch(t.Context(), "seakeep:relay:reads", "application/json-patch+json", patch, metav1.PatchOptions{})
	check(t, err)
}

type coreDNS struct {
	t       *testing.T
	address func(name string) string
	code    func(name string) int
	stop    func()
}

// startCoreDNS starts CoreDNS with the stock plugin, whose API server is the gate.
func startCoreDNS(t *testing.T, binary, token, server, caFile string) *coreDNS {
	t.Helper()
	dir := t.TempDir()
	kubeconfig := filepath.Join(dir, "kubeconfig")
	check(t, clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"c": {Server: server, CertificateAuthority: caFile}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"u": {Token: token}},
		Contexts:       map[string]*clientcmdapi.Context{"x": {Cluster: "c", AuthInfo: "u"}},
		CurrentContext: "x",
	}, kubeconfig))
	port := freePort(t)
	corefile := filepath.Join(dir, "Corefile")
	check(t, os.WriteFile(corefile, fmt.Appendf(nil, ".:%d {\n  bind 127.0.0.1\n  kubernetes cluster.local {\n    kubeconfig %s x\n  }\n}\n", port, kubeconfig), 0o600))
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, binary, "-conf", corefile)
	cmd.Stdout, cmd.Stderr = &out, &out
	check(t, cmd.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = cmd.Wait() }()
	c := &coreDNS{t: t}
	stopped := false
	c.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		<-ended
		if t.Failed() {
			t.Logf("CoreDNS said:\n%s", out.String())
		}
	}
	t.Cleanup(c.stop)
	ask := func(name string) *dns.Msg {
		client := &dns.Client{Timeout: time.Second}
		answer, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return new(dns.Msg)
		}
		return answer
	}
	c.address = func(name string) string {
		for _, record := range ask(name).Answer {
			if a, ok := record.(*dns.A); ok {
				return strings.TrimSpace(a.A.String())
			}
		}
		return ""
	}
	c.code = func(name string) int { return ask(name).Rcode }
	return c
}
