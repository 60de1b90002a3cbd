// Package dns holds what a cluster is given to run seakeep-dns; its tests try every file on a real API server.
package dns

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/dns/relay/credentials"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/lab"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Every manifest is created in a real API server, strictly: an unknown field is an error. What it made of each is
// compared with the file by a second, server-side run, which must find nothing to change.
func TestManifestsAreAccepted(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.Masters, l.APIServerURL(0), l.CAFile()); err != nil {
		t.Fatal(err)
	}
	kubectl := func(args ...string) (string, error) {
		args = append([]string{"--kubeconfig", kubeconfig, "--cache-dir", t.TempDir()}, args...)
		out, err := exec.CommandContext(t.Context(), filepath.Join(l.BinDir(), "kubectl"), args...).CombinedOutput()
		return string(out), err
	}
	folder := filepath.Join(t.TempDir(), "dns")
	check(t, os.CopyFS(folder, os.DirFS(".")))
	if out, err := kubectl("apply", "-k", folder); err == nil || !strings.Contains(out, "certificates/relay.crt") {
		t.Errorf("without the relays' certificates: %v: %s", err, out)
	}
	check(t, credentials.Write(filepath.Join(folder, "certificates"), time.Hour))
	if out, err := kubectl("apply", "-k", folder, "--server-side", "--validate=strict"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := kubectl("diff", "-k", folder, "--server-side"); err != nil {
		t.Errorf("what is there differs from what was written: %v: %s", err, out)
	}
	// Rights are no more than needed, and enough.
	for what, want := range map[string]string{
		"list services": "yes", "watch endpointslices.discovery.k8s.io": "yes", "list namespaces": "yes", "get namespaces/kube-system": "yes",
		"list secrets": "no", "list pods": "no", "get namespaces/default": "no", "patch services": "no",
	} {
		args := append([]string{"auth", "can-i", "--as", "system:serviceaccount:kube-system:seakeep-dns", "-A"}, strings.Fields(what)...)
		out, _ := kubectl(args...)
		if lines := strings.Fields(out); len(lines) == 0 || lines[len(lines)-1] != want {
			t.Errorf("may it %s: %s, want %s", what, out, want)
		}
	}
}

// The watchdog's configuration is accepted, and it and the Corefile of the unit speak of the same addresses and files.
func TestWatchdogFitsItsUnit(t *testing.T) {
	c, _, err := config.LoadKind[*v1alpha1.DNSWatchdog]("systemd/dns-watchdog.yaml", nil)
	if err != nil {
		t.Fatal(err)
	}
	corefile, err := os.ReadFile("corefiles/systemd")
	if err != nil {
		t.Fatal(err)
	}
	host, _, _ := strings.Cut(c.Primary.Address, ":")
	for _, want := range []string{"bind " + host + "\n", "state " + c.Primary.StateAddress + "\n", "zone " + c.Backup.ZoneFiles[0].File + "\n"} {
		if !strings.Contains(string(corefile), want) {
			t.Errorf("the Corefile lacks %q", want)
		}
	}
}
