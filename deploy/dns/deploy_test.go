// Package dns holds what a cluster is given to run seakeep-dns; its tests try every file on a real API server.
package dns

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/internal/config"
	"github.com/seakeep/seakeep/lab"
)

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
	if out, err := kubectl("apply", "-k", ".", "--server-side", "--validate=strict"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := kubectl("diff", "-k", ".", "--server-side"); err != nil {
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

// Every Corefile starts our program, with ports, addresses and folders replaced, and answers.
func TestCorefilesStart(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "seakeep-dns")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "../../cmd/seakeep-dns").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	kubeconfig := filepath.Join(t.TempDir(), "kubeconfig")
	if err := l.WriteKubeconfig(kubeconfig, lab.Masters, l.APIServerURL(0), l.CAFile()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("corefiles/*")
	if err != nil || len(files) != 3 {
		t.Fatalf("%v (%v)", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			port := func() int {
				n, err := l.NextPort()
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			dir, at := t.TempDir(), port()
			if err := os.MkdirAll(filepath.Join(dir, "lib", "export"), 0o755); err != nil {
				t.Fatal(err)
			}
			corefile := regexp.MustCompile(`(?m)^\s*kubeconfig .*\n`).ReplaceAllString(string(text), "")
			corefile = regexp.MustCompile(`(?m)^    bind .*\n`).ReplaceAllString(corefile, "")
			for _, replace := range [][2]string{
				{".:53 {", fmt.Sprintf(".:%d {\n    bind 127.0.0.1", at)},
				{"pods insecure", "pods insecure\n        kubeconfig " + kubeconfig + " lab"},
				{"/var/lib/seakeep-dns", filepath.Join(dir, "lib")},
				{"/run/seakeep-dns/", dir + "/"}, {"/run/seakeep/", dir + "/"},
				{"forward . /etc/resolv.conf", fmt.Sprintf("forward . 127.0.0.1:%d", port())},
			} {
				corefile = strings.ReplaceAll(corefile, replace[0], replace[1])
			}
			corefile = regexp.MustCompile(`(?m)(health|ready|state|prometheus)( 127\.0\.0\.1)?( ?:\d+|)( \{)?$`).ReplaceAllStringFunc(corefile, func(line string) string {
				name, brace := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ':' })[0], ""
				if strings.HasSuffix(line, "{") {
					brace = " {"
				}
				return fmt.Sprintf("%s 127.0.0.1:%d%s", name, port(), brace)
			})
			path := filepath.Join(dir, "Corefile")
			if err := os.WriteFile(path, []byte(corefile), 0o600); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			c := exec.CommandContext(t.Context(), binary, "-conf", path)
			c.Stdout, c.Stderr = &log, &log
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() { defer close(ended); _ = c.Wait() }()
			defer func() { _ = c.Process.Kill(); <-ended }()
			deadline, tick := time.After(60*time.Second), time.NewTicker(50*time.Millisecond)
			defer tick.Stop()
			for {
				m, _, err := new(dns.Client).ExchangeContext(t.Context(),
					new(dns.Msg).SetQuestion("kubernetes.default.svc.cluster.local.", dns.TypeA), fmt.Sprintf("127.0.0.1:%d", at))
				if err == nil && len(m.Answer) == 1 {
					return
				}
				select {
				case <-tick.C:
				case <-ended:
					t.Fatalf("it ended:\n%s\nwith\n%s", log.String(), corefile)
				case <-deadline:
					_ = c.Process.Kill()
					<-ended
					t.Fatalf("waited 60 s for an answer:\n%s\nwith\n%s", log.String(), corefile)
				}
			}
		})
	}
}
