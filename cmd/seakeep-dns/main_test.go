package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/lab"
)

// buildDir is the folder of the program that the tests run; TestMain removes it.
var buildDir string

// built makes the program, once for all tests.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "seakeep-dns-test-")
	if err != nil {
		return "", err
	}
	buildDir = dir
	path := filepath.Join(dir, "seakeep-dns")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	return path, nil
})

func build(t *testing.T) string {
	t.Helper()
	path, err := built()
	check(t, err)
	return path
}

// As a process: killed and started again while the API server is down, it answers; and it is ready again by itself.
func TestRestartWithoutTheAPIServer(t *testing.T) {
	path := build(t)
	l := lab.Start(t, lab.Options{Dir: t.TempDir(), Nodes: 2, Pods: 4})
	d, err := l.StartDNS(t.Context(), lab.DNSOptions{TTL: 5 * time.Second, Plugin: lab.PluginSeakeep, Path: path})
	if err != nil {
		t.Fatal(err)
	}
	service := l.Deployments()[0]
	name := service.Name + "." + service.Namespace + ".svc." + lab.Domain + "."
	ask := func() *dns.Msg {
		t.Helper()
		m, _, err := new(dns.Client).ExchangeContext(t.Context(), new(dns.Msg).SetQuestion(name, dns.TypeA), d.ClusterAddrs[0])
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	before := ask()
	if len(before.Answer) != 1 {
		t.Fatalf("live: %v", before)
	}
	api, _ := l.Process(lab.KindAPIServer)
	if err := api.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Restart returns when /ready says so, with data from the disk.
	if err := d.Cluster[0].Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := ask()
	if len(after.Answer) != 1 || after.Answer[0].(*dns.A).A.String() != before.Answer[0].(*dns.A).A.String() {
		t.Errorf("restarted: %v, want %v", after.Answer, before.Answer)
	}
}

func TestSubCommandsAreNotCoreDNSs(t *testing.T) {
	path := build(t)
	out, err := exec.CommandContext(t.Context(), path, "guard", "show", "--socket", filepath.Join(t.TempDir(), "none")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "error: asking the server at") {
		t.Errorf("guard show ends with %v: %s", err, out)
	}
	out, err = exec.CommandContext(t.Context(), path, "-plugins").CombinedOutput()
	for _, plugin := range []string{"seakeep\n", "kubernetes\n", "autopath\n", "k8s_external\n"} {
		if err != nil || !strings.Contains(string(out), plugin) {
			t.Errorf("-plugins lacks %s (%v)", strings.TrimSpace(plugin), err)
		}
	}
	config := filepath.Join(t.TempDir(), "Corefile")
	if err := os.WriteFile(config, []byte(".:0 {\n seakeep cluster.local {\n  snapshots /x\n }\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err = exec.CommandContext(t.Context(), path, "-conf", config).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "unknown property 'snapshots'") {
		t.Errorf("a wrong option ends with %v: %s", err, out)
	}
}
