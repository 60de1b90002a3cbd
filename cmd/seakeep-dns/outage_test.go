package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/lab"
)

// A whole outage, with real processes: DNS restarted in order, the API server killed, DNS killed while it is away, its newest
// snapshot torn, all of them torn, the API server back, and then every endpoint called not ready
// (kubernetes/kubernetes#77864).
func TestOutage(t *testing.T) {
	const n = 60
	binary := build(t)
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	client := clientOf(t, l)
	for i := range n - 1 {
		headless(t, client, i)
	}
	s := serve(t, l, binary, "outage", "")
	eventually(t, "the snapshot", func() bool {
		state, err := s.get(t.Context())
		return err == nil && !state.SnapshotSaved.IsZero()
	})
	headless(t, client, n-1)
	eventually(t, "all names", func() bool { return s.answered(t, n) })

	// Stopped in order, it writes what changed: there are two generations. Started again, it lists nothing.
	check(t, s.Restart(t.Context()))
	eventually(t, "live data", s.is(t, "live"))
	for kind, lists := range listed(t, l) {
		if lists != 1 {
			t.Errorf("over a restart the API server was asked for %d lists of %s, want the first start's alone", lists, kind)
		}
	}

	api := killAPIServer(t, l)
	if !s.answered(t, n) {
		t.Error("names are lost with the API server")
	}
	s.kill(t)
	started := time.Now()
	check(t, s.Start(t.Context()))
	t.Logf("restored and answering %s after it was started", time.Since(started).Round(time.Millisecond))
	m, e := s.ask(t, serviceName(0)+".default")
	if len(m.Answer) != 2 || e == nil || e.InfoCode != dns.ExtendedErrorCodeStaleAnswer || !s.answered(t, n) {
		t.Errorf("killed and started again without an API server it answers %v and says %v", m, e)
	}

	s.kill(t)
	tear(t, s.snapshot())
	check(t, s.Start(t.Context()))
	if !s.answered(t, n-1) || !s.logged(t, "Snapshot refused") || !s.logged(t, "torn: ") {
		t.Error("with the newest snapshot torn, want the one before it, and the reason in the log")
	}

	s.kill(t)
	for _, generation := range []string{"", ".1"} {
		tear(t, s.snapshot()+generation)
	}
	check(t, s.Start(t.Context()))
	m, e = s.ask(t, serviceName(0)+".default")
	if m.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != dns.ExtendedErrorCodeNotReady || !s.is(t, "empty")() {
		t.Errorf("without data it answers %v and says %v", m, e)
	}
	check(t, api.Start(t.Context()))
	eventually(t, "live data", s.is(t, "live"))
	if !s.answered(t, n) {
		t.Error("with the API server back names are missing")
	}

	everythingNotReady(t, s, client, binary, n)
}

// everythingNotReady holds that endpoints which are all called not ready at once stay, until they are back or somebody says that
// it is true.
func everythingNotReady(t *testing.T, s *server, client kubernetes.Interface, binary string, n int) {
	t.Helper()
	update := func(i int, ready bool) {
		_, err := client.DiscoveryV1().EndpointSlices("default").Update(t.Context(), sliceOf(i, ready), metav1.UpdateOptions{})
		check(t, err)
	}
	for i := range n {
		update(i, false)
	}
	eventually(t, "the guard", s.is(t, "guarded"))
	if !s.answered(t, n) {
		t.Error("endpoints that were all called not ready at once are gone")
	}
	if out := s.command(t, binary, "guard", "show"); strings.Count(out, "service-") < n {
		t.Errorf("guard show says\n%s", out)
	}
	for i := range n - 1 {
		update(i, true)
	}
	s.command(t, binary, "guard", "release", "--name", serviceName(n-1))
	eventually(t, "the end of the guard", s.is(t, "live"))
	if m, _ := s.ask(t, serviceName(n-1)+".default"); m.Rcode != dns.RcodeNameError || !s.answered(t, n-1) {
		t.Errorf("with the one released and the others back: %v", m)
	}
}

// tear leaves half of a file.
func tear(t *testing.T, file string) {
	t.Helper()
	info, err := os.Stat(file)
	check(t, err)
	check(t, os.Truncate(file, info.Size()/2))
}

// Two clusters' snapshots are swapped, and no API server answers. Neither serves the other's names: one has been told which
// cluster is its own, the other knows the authority of its API server. One falls back to a static file. When the API servers
// are back, each has its own names.
func TestSnapshotsOfTwoClustersSwapped(t *testing.T) {
	binary := build(t)
	file := filepath.Join(t.TempDir(), "objects.yaml")
	check(t, os.WriteFile(file, []byte(`apiVersion: v1
kind: Service
metadata: {name: from-file, namespace: default}
spec: {clusterIP: 10.96.0.77, clusterIPs: [10.96.0.77], ports: [{port: 80, protocol: TCP}]}
`), 0o600))
	var labs [2]*lab.Lab
	var servers [2]*server
	var apis [2]*lab.Process
	for i := range labs {
		labs[i] = lab.Start(t, lab.Options{Dir: t.TempDir()})
		client := clientOf(t, labs[i])
		headless(t, client, i)
		options := "source api\n source file " + file
		if i == 1 {
			ns, err := client.CoreV1().Namespaces().Get(t.Context(), metav1.NamespaceSystem, metav1.GetOptions{})
			check(t, err)
			options = "cluster " + string(ns.UID)
		}
		servers[i] = serve(t, labs[i], binary, "swapped", options)
		eventually(t, "live data", servers[i].is(t, "live"))
		check(t, servers[i].Stop(t.Context())) // which writes the snapshot
		apis[i] = killAPIServer(t, labs[i])
	}
	one, two := filepath.Dir(servers[0].snapshot()), filepath.Dir(servers[1].snapshot())
	check(t, os.Rename(one, one+".swap"))
	check(t, os.Rename(two, one))
	check(t, os.Rename(one+".swap", two))

	for i, s := range servers {
		check(t, s.Start(t.Context()))
		for name := range 2 {
			if m, _ := s.ask(t, serviceName(name)+".default"); len(m.Answer) > 0 {
				t.Errorf("server %d answers from the other cluster's data: %v", i, m.Answer)
			}
		}
	}
	if !servers[0].logged(t, "the snapshot is of another cluster: its API server was verified with another certificate authority") {
		t.Error("the log does not say why the snapshot is refused")
	}
	if !servers[1].logged(t, "the snapshot is of another cluster: its kube-system has UID") {
		t.Error("the log does not say why the snapshot is refused")
	}
	eventually(t, "the static file", func() bool {
		m, _ := servers[0].ask(t, "from-file.default")
		return len(m.Answer) == 1
	})
	if m, e := servers[1].ask(t, serviceName(1)+".default"); m.Rcode != dns.RcodeServerFailure || e == nil || e.InfoCode != dns.ExtendedErrorCodeNotReady {
		t.Errorf("without data it answers %v and says %v", m, e)
	}

	for i, s := range servers {
		check(t, apis[i].Start(t.Context()))
		eventually(t, "live data", s.is(t, "live"))
		if m, _ := s.ask(t, serviceName(i)+".default"); len(m.Answer) != 2 {
			t.Errorf("server %d answers %v", i, m)
		}
		if m, _ := s.ask(t, serviceName(1-i)+".default"); m.Rcode != dns.RcodeNameError {
			t.Errorf("server %d answers for a name of the other cluster: %v", i, m)
		}
	}
}

// A disk is full from the first write on: names are answered, the state says what is wrong, and with room again the snapshot is
// written without anybody asking.
func TestFullDisk(t *testing.T) {
	l := lab.Start(t, lab.Options{Dir: t.TempDir()})
	headless(t, clientOf(t, l), 0)
	s := &server{dir: t.TempDir()}
	s.configure(t, l, "")
	executable, err := os.Executable()
	check(t, err)
	var log bytes.Buffer
	child := exec.CommandContext(t.Context(), "/bin/sh", "-c", `ulimit -S -f 0; exec "$0" "$@"`, executable, "-conf", s.corefile())
	child.Env = append(os.Environ(), playEnv+"=1")
	child.Stdout, child.Stderr = &log, &log
	check(t, child.Start())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = child.Wait() }()
	t.Cleanup(func() { _ = child.Process.Kill(); <-ended })
	eventually(t, "the server", func() bool { return s.reachable(t.Context()) == nil })
	eventually(t, "the state to say what is wrong", func() bool {
		state, err := s.get(t.Context())
		return err == nil && state.State == "live" && strings.Contains(state.SnapshotError, "file too large")
	})
	for range 50 {
		if m, e := s.ask(t, serviceName(0)+".default"); len(m.Answer) != 2 || e != nil {
			t.Fatalf("on a full disk it answers %v and says %v", m, e)
		}
	}
	check(t, unix.Prlimit(child.Process.Pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil))
	eventually(t, "the snapshot", func() bool {
		state, err := s.get(t.Context())
		return err == nil && state.SnapshotError == "" && !state.SnapshotSaved.IsZero()
	})
	if info, err := os.Stat(s.snapshot()); err != nil || info.Size() == 0 || info.Mode().Perm() != 0o600 {
		t.Errorf("the snapshot is %v (%v)", fmt.Sprint(info), err)
	}
}
