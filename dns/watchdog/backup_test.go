//go:build dnsbackup

package watchdog

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/dns/export"
	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

// These tests run real programs: seakeep-dns as a process, Debian's unbound, nftables in a network namespace of the
// test's own. They need root and the packages unbound and nftables, and run by make test-dns-backup only.

const nodeLocal = "169.254.20.10"

// world is what both servers answer for: exported by dns/export, loaded by unbound; and served by seakeep-dns through
// CoreDNS's plugin file, because here it is the process that fails, and not the data.
type world struct {
	dir, binary string
	corefile    string
	process     *exec.Cmd
}

// enterNamespace moves the thread, and with it the test, to an empty network. The thread is not given back: it ends with
// the test's goroutine.
func enterNamespace(t *testing.T) {
	t.Helper()
	if err := run(t.Context(), 10*time.Second, "", []string{"sh", "-c",
		"ip link set lo up && ip address replace " + nodeLocal + "/32 dev lo"}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "ip", "-o", "link").Output(); err != nil || strings.Count(string(out), "\n") > 3 {
		t.Fatalf("this is no empty network namespace (run make test-dns-backup): %v\n%s", err, out)
	}
}

func (w *world) start(t *testing.T, corefile string) {
	t.Helper()
	file := filepath.Join(w.dir, "Corefile")
	if err := os.WriteFile(file, []byte(corefile), 0o600); err != nil {
		t.Fatal(err)
	}
	w.process = exec.Command(w.binary, "-conf", file)
	if err := w.process.Start(); err != nil {
		t.Fatal(err)
	}
}

func (w *world) end() {
	if w.process != nil {
		_ = w.process.Process.Signal(syscall.SIGCONT)
		_ = w.process.Process.Kill()
		_ = w.process.Wait()
		w.process = nil
	}
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "seakeep-backup-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // unbound runs as another user
		t.Fatal(err)
	}
	w := &world{dir: dir, binary: os.Getenv("SEAKEEP_DNS")}
	if w.binary == "" {
		t.Fatal("SEAKEEP_DNS must name the program (run make test-dns-backup)")
	}
	zone := filepath.Join(dir, "cluster.local.zone")
	data := &fixed{store: store.New(time.Now)}
	data.store.Put(&store.Namespace{Name: "default"})
	data.store.Put(&store.Service{Namespace: "default", Name: "kubernetes", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.1")},
		Ports: []store.Port{{Name: "https", Protocol: "TCP", Number: 443}}})
	data.store.Put(&store.Service{Namespace: "default", Name: "outside", Type: store.ExternalName, ExternalName: "www.outside.example"})
	for i := range 200 {
		data.store.Put(&store.Service{Namespace: "default", Name: fmt.Sprintf("web-%d", i), ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 1, byte(i + 1)})}})
	}
	e, err := export.New(export.Options{Zone: "cluster.local", ZoneFile: zone, Data: data, Clock: time.Now, Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.Run(ctx)
	w.corefile = fmt.Sprintf(".:53 {\n bind %s\n file %s cluster.local\n}\n", nodeLocal, zone)
	return w
}

type fixed struct{ store *store.Store }

func (f *fixed) Store() *store.Store { return f.store }
func (f *fixed) Status() keeper.Status {
	return keeper.Status{State: keeper.Live, Source: "a test", Class: keeper.API, Confirmed: time.Now()}
}

func (w *world) config() *v1alpha1.DNSWatchdog {
	c := &v1alpha1.DNSWatchdog{
		Primary: v1alpha1.DNSWatchdogPrimary{Address: nodeLocal + ":53"},
		Backup: v1alpha1.DNSWatchdogBackup{
			Address:   nodeLocal + ":5300",
			ZoneFiles: []v1alpha1.DNSWatchdogZone{{Zone: "cluster.local", File: filepath.Join(w.dir, "cluster.local.zone")}},
			Unbound:   &v1alpha1.DNSWatchdogUnbound{Directory: filepath.Join(w.dir, "unbound"), User: "unbound"},
		},
		MinimumHold: &metav1.Duration{Duration: 3 * time.Second}, RecoverAfter: 3,
		Switch: v1alpha1.DNSWatchdogSwitch{NFTables: &v1alpha1.DNSWatchdogNFTables{}},
	}
	c.SetDefaults()
	return c
}

// client asks as glibc's resolver does: over one socket, again after a timeout.
type client struct {
	mu          sync.Mutex
	good, bad   int
	longest     time.Duration // without an answer
	last        time.Time
	wrong       []string
	stop, ended chan struct{}
}

const (
	attempts       = 2
	attemptTimeout = time.Second // glibc's is 5 s; a shorter one shows the outage more exactly
)

func startClient() *client {
	c := &client{last: time.Now(), stop: make(chan struct{}), ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		for i := 0; ; i++ {
			select {
			case <-c.stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
			c.ask(i % 200)
		}
	}()
	return c
}

func (c *client) ask(i int) {
	socket, err := net.Dial("udp", nodeLocal+":53")
	if err != nil {
		return
	}
	conn := &dns.Conn{Conn: socket}
	defer conn.Close()
	want := fmt.Sprintf("10.96.1.%d", i+1)
	for range attempts {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("web-%d.default.svc.cluster.local.", i), dns.TypeA)
		_ = conn.SetDeadline(time.Now().Add(attemptTimeout))
		if conn.WriteMsg(m) != nil {
			continue
		}
		answer, err := conn.ReadMsg()
		if err != nil {
			continue
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(answer.Answer) == 1 && answer.Answer[0].(*dns.A).A.String() == want {
			c.good++
			c.longest = max(c.longest, time.Since(c.last))
			c.last = time.Now()
			return
		}
		if answer.Rcode == dns.RcodeSuccess || answer.Rcode == dns.RcodeNameError {
			c.wrong = append(c.wrong, dns.RcodeToString[answer.Rcode])
		}
		c.bad++
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bad++
}

func (c *client) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.good, c.bad, c.longest, c.last, c.wrong = 0, 0, 0, time.Now(), nil
}

// TestFailures breaks seakeep-dns in every way and measures how long a client has no right answer, both ways.
func TestFailures(t *testing.T) {
	runtime.LockOSThread()
	enterNamespace(t)
	w := newWorld(t)
	w.start(t, w.corefile)
	t.Cleanup(w.end)
	dog, stop := watch(t, w.config(), nil)
	eventually(t, "both servers", func() bool { s := dog.state.Load(); return s.Primary.Good && s.Backup.Good })
	c := startClient()
	defer func() { close(c.stop); <-c.ended }()

	empty := filepath.Join(w.dir, "empty.zone")
	if err := os.WriteFile(empty, []byte("$ORIGIN cluster.local.\n@ 5 SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ 5 NS ns.dns\nns.dns 5 A 127.0.0.1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bind := ".:53 {\n bind " + nodeLocal + "\n"
	for _, failure := range []struct {
		name string
		make func()
	}{
		{"kill -9", func() { w.end() }},
		{"SIGSTOP", func() { _ = w.process.Process.Signal(syscall.SIGSTOP) }},
		{"wrong Corefile: other plugin", func() {
			w.end()
			w.start(t, bind+"whoami\n}\n")
		}},
		{"wrong Corefile: does not start", func() { w.end(); w.start(t, bind+"seakepe cluster.local\n}\n") }},
		{"an empty zone", func() { w.end(); w.start(t, bind+"file "+empty+" cluster.local\n}\n") }},
	} {
		eventually(t, "the primary", func() bool { s := dog.state.Load(); return s.Serving == targetPrimary && s.Primary.Good })
		c.reset()
		failure.make()
		eventually(t, "the backup", func() bool { return dog.state.Load().Serving == targetBackup })
		eventually(t, "answers from the backup", func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.good > 50 && time.Since(c.last) < time.Second })
		c.mu.Lock()
		away := c.longest
		wrong := len(c.wrong)
		bad := c.bad
		c.mu.Unlock()
		c.reset()
		w.end()
		w.start(t, w.corefile)
		eventually(t, "the primary again", func() bool { return dog.state.Load().Serving == targetPrimary })
		c.mu.Lock()
		t.Logf("%-32s no right answer for %.1f s (%d questions failed, %d of them answered wrongly); on the way back %.1f s, %d failed",
			failure.name, away.Seconds(), bad, wrong, c.longest.Seconds(), c.bad)
		if c.good == 0 {
			t.Errorf("%s: no answer on the way back", failure.name)
		}
		c.mu.Unlock()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if rules := ruleset(t); strings.Contains(rules, "seakeep") {
		t.Errorf("the watchdog has ended and left\n%s", rules)
	}
}

// A watchdog that was killed leaves its table; the next one removes it.
func TestStaleTable(t *testing.T) {
	runtime.LockOSThread()
	enterNamespace(t)
	w := newWorld(t)
	w.start(t, w.corefile)
	t.Cleanup(w.end)
	old := switchOf(w.config())
	if err := old.Engage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(ruleset(t), "table inet seakeep_dns") {
		t.Fatal("there is no table")
	}
	dog, _ := watch(t, w.config(), nil)
	eventually(t, "the primary", func() bool { return dog.state.Load().Primary.Good && !strings.Contains(ruleset(t), "seakeep") })
}

// What unbound serves from the exported zone, a new zone file and the outside included.
func TestUnbound(t *testing.T) {
	runtime.LockOSThread()
	enterNamespace(t)
	w := newWorld(t)
	w.start(t, w.corefile)
	t.Cleanup(w.end)
	dog, _ := watch(t, w.config(), nil)
	eventually(t, "unbound", func() bool { return dog.state.Load().Backup.Good })
	ask := func(name string, qtype uint16) *dns.Msg {
		t.Helper()
		m, _, err := new(dns.Client).ExchangeContext(t.Context(), new(dns.Msg).SetQuestion(name, qtype), nodeLocal+":5300")
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for _, q := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string
	}{
		{"kubernetes.default.svc.cluster.local.", dns.TypeA, dns.RcodeSuccess, "10.96.0.1"},
		{"_https._tcp.kubernetes.default.svc.cluster.local.", dns.TypeSRV, dns.RcodeSuccess, "443"},
		{"dns-version.cluster.local.", dns.TypeTXT, dns.RcodeSuccess, "1.1.0"},
		{"nothing.default.svc.cluster.local.", dns.TypeA, dns.RcodeNameError, ""},
		{"www.example.com.", dns.TypeA, dns.RcodeRefused, ""},
	} {
		m := ask(q.name, q.qtype)
		if text := fmt.Sprint(m.Answer); m.Rcode != q.rcode || !strings.Contains(text, q.want) {
			t.Errorf("%s: %s %s", q.name, dns.RcodeToString[m.Rcode], text)
		}
	}
	// A new file is served without a restart.
	zone := filepath.Join(w.dir, "cluster.local.zone")
	content, err := os.ReadFile(zone)
	if err != nil {
		t.Fatal(err)
	}
	next := slices.Concat(content, []byte("new.default.svc A 10.96.9.9\n"))
	if err := os.WriteFile(zone+".next", next, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(zone+".next", zone); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new name", func() bool { return len(ask("new.default.svc.cluster.local.", dns.TypeA).Answer) == 1 })
}

// With resolvers to forward to, names outside the cluster are answered, and aliases that lead there are followed.
func TestUnboundForwards(t *testing.T) {
	runtime.LockOSThread()
	enterNamespace(t)
	w, outside := newWorld(t), startStandIn(t) // which stands for the world's resolver
	w.start(t, w.corefile)
	t.Cleanup(w.end)
	c := w.config()
	c.Backup.Unbound.Forward = []string{outside.addr}
	dog, _ := watch(t, c, nil)
	eventually(t, "unbound", func() bool { return dog.state.Load().Backup.Good })
	for _, name := range []string{"www.outside.example.", "outside.default.svc.cluster.local.", "kubernetes.default.svc.cluster.local."} {
		m, _, err := new(dns.Client).ExchangeContext(t.Context(), new(dns.Msg).SetQuestion(name, dns.TypeA), nodeLocal+":5300")
		if err != nil || !strings.Contains(fmt.Sprint(m.Answer), "10.96.0.1") {
			t.Errorf("%s: %v (%v)", name, m, err)
		}
	}
}

func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
