package watchdog

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/dns/watchdog/decision"
	"github.com/seakeep/seakeep/internal/testkit"
)

// behaviour of a stand-in.
type behaviour int

const (
	well    behaviour = iota
	garbage           // holds the port and sends what is no DNS message
	servfail
	empty
	wrong // another address than wanted
	mute
)

// standIn stands for a DNS server: it is miekg/dns in this process, neither seakeep-dns nor unbound. Those are tested as
// processes by make test-dns-backup (backup_test.go), because unbound is a package of the system.
type standIn struct {
	addr      string
	confirmed string
	mu        sync.Mutex
	b         behaviour
}

func (s *standIn) become(b behaviour) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = b
}

// ServeDNS implements dns.Handler.
func (s *standIn) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.mu.Lock()
	b := s.b
	s.mu.Unlock()
	m := new(dns.Msg).SetReply(r)
	name, ip := r.Question[0].Name, "10.96.0.1"
	switch b {
	case mute:
		return
	case garbage:
		_, _ = w.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		return
	case servfail:
		m.Rcode = dns.RcodeServerFailure
	case wrong:
		ip = "10.96.0.99"
	}
	if b == well || b == wrong {
		line := name + " 5 IN A " + ip
		if r.Question[0].Qtype == dns.TypeTXT {
			line = name + ` 5 IN TXT "1.1.0"`
			if strings.HasPrefix(name, "_seakeep.") {
				line = name + ` 5 IN TXT "state=live" "confirmed=` + s.confirmed + `"`
			}
		}
		rr, err := dns.NewRR(line)
		if err != nil {
			panic("BUG: " + err.Error())
		}
		m.Answer = []dns.RR{rr}
	}
	_ = w.WriteMsg(m)
}

func startStandIn(t *testing.T) *standIn {
	t.Helper()
	s := &standIn{confirmed: time.Now().UTC().Format(time.RFC3339)}
	s.addr = testkit.ServeDNS(t, s, s)
	return s
}

// recorder is a Switch that remembers where clients are, and fails when told to.
type recorder struct {
	mu       sync.Mutex
	engaged  bool
	released int
	refuse   bool
}

func (r *recorder) Engage(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse {
		return errors.New("no rights")
	}
	r.engaged = true
	return nil
}

func (r *recorder) Release(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.engaged = false
	r.released++
	return nil
}

func (r *recorder) at() (engaged bool, released int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engaged, r.released
}

func configOf(primary, backup string) *v1alpha1.DNSWatchdog {
	c := &v1alpha1.DNSWatchdog{
		Primary: v1alpha1.DNSWatchdogPrimary{Address: primary}, Backup: v1alpha1.DNSWatchdogBackup{Address: backup},
		Names:    []v1alpha1.DNSWatchdogName{{Name: "kubernetes.default.svc.cluster.local", Want: []string{"10.96.0.1"}}},
		Interval: &metav1.Duration{Duration: 100 * time.Millisecond}, Timeout: &metav1.Duration{Duration: 100 * time.Millisecond},
		MinimumHold: &metav1.Duration{}, RecoverAfter: 2,
		Switch: v1alpha1.DNSWatchdogSwitch{Command: &v1alpha1.DNSWatchdogCommand{Engage: []string{"true"}, Release: []string{"true"}}},
	}
	c.SetDefaults()
	return c
}

func watch(t *testing.T, c *v1alpha1.DNSWatchdog, s Switch) (w *Watchdog, stop func() error) {
	t.Helper()
	if errs := c.Validate(); len(errs) > 0 {
		t.Fatal(errs.ToAggregate())
	}
	registry := prometheus.NewRegistry()
	w = New(Options{Config: c, Switch: s, Registerer: registry, Gatherer: registry, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { _ = stop() })
	return w, stop
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	testkit.Within(t, what, 60*time.Second, ok)
}

// Whatever a server does wrong, clients are sent to the backup, and back when it is well.
func TestSwitchesAndComesBack(t *testing.T) {
	for name, b := range map[string]behaviour{"mute": mute, "garbage": garbage, "SERVFAIL": servfail, "empty": empty, "wrong": wrong} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			primary, backup, s := startStandIn(t), startStandIn(t), &recorder{}
			w, stop := watch(t, configOf(primary.addr, backup.addr), s)
			eventually(t, "a first round", func() bool { return w.state.Load().Primary.Good && w.state.Load().Backup.Good })
			if engaged, released := s.at(); engaged || released != 1 {
				t.Fatalf("at first: engaged %t, released %d times", engaged, released)
			}
			primary.become(b)
			eventually(t, "the backup", func() bool { engaged, _ := s.at(); return engaged })
			var state State
			eventually(t, "the state", func() bool {
				answer := httptest.NewRecorder()
				w.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), "GET", "/state", nil))
				if err := json.Unmarshal(answer.Body.Bytes(), &state); err != nil {
					t.Fatal(err)
				}
				return state.Serving == targetBackup
			})
			if state.Primary.Good || state.Primary.Why == "" || state.Primary.Silent != (b == mute) || state.Backup.Confirmed.IsZero() {
				t.Errorf("state is %+v", state)
			}
			primary.become(well)
			eventually(t, "the primary again", func() bool { engaged, _ := s.at(); return !engaged })
			if n := testutil.ToFloat64(w.m.switches.WithLabelValues(string(decision.PrimaryRecovered))); n != 1 {
				t.Errorf("%g switches back are counted", n)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// At its end the watchdog sends clients back: nobody else would.
func TestEndReleases(t *testing.T) {
	primary, backup, s := startStandIn(t), startStandIn(t), &recorder{}
	primary.become(mute)
	_, stop := watch(t, configOf(primary.addr, backup.addr), s)
	eventually(t, "the backup", func() bool { engaged, _ := s.at(); return engaged })
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if engaged, _ := s.at(); engaged {
		t.Error("the watchdog has ended, and clients are at the backup")
	}
}

// A switch that fails is tried again, and the state says where clients really are.
func TestSwitchThatFailsIsTriedAgain(t *testing.T) {
	primary, backup, s := startStandIn(t), startStandIn(t), &recorder{refuse: true}
	primary.become(servfail)
	w, _ := watch(t, configOf(primary.addr, backup.addr), s)
	eventually(t, "two attempts", func() bool { return testutil.ToFloat64(w.m.failed.WithLabelValues(targetBackup)) >= 2 })
	if w.state.Load().Serving != targetPrimary {
		t.Error("it says that clients are at the backup")
	}
	s.mu.Lock()
	s.refuse = false
	s.mu.Unlock()
	eventually(t, "the backup", func() bool { return w.state.Load().Serving == targetBackup })
}

// Commands run with a time limit, and their output is in the error.
func TestCommand(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "engaged")
	s := &command{engage: []string{"touch", mark}, release: []string{"rm", "-f", mark}, timeout: 10 * time.Second}
	if err := s.Engage(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := s.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	s = &command{engage: []string{"sh", "-c", "echo not allowed; exit 3"}, release: []string{"sh", "-c", "sleep 600"}, timeout: 100 * time.Millisecond}
	if err := s.Engage(t.Context()); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("a command that fails: %v", err)
	}
	if err := s.Release(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than 100ms") {
		t.Errorf("a command that hangs: %v", err)
	}
}

// The backup is told of every new zone file, and again when that failed.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	zone, told := filepath.Join(dir, "zone"), filepath.Join(dir, "told")
	primary, backup := startStandIn(t), startStandIn(t)
	c := configOf(primary.addr, backup.addr)
	c.Backup.ZoneFiles = []v1alpha1.DNSWatchdogZone{{Zone: "cluster.local", File: zone}}
	c.Backup.Reload = []string{"sh", "-c", `test -e "$0" && echo x >> "$1"`, zone + ".may", told}
	w, _ := watch(t, c, &recorder{})
	times := func() int { content, _ := os.ReadFile(told); return strings.Count(string(content), "x") }
	replace := func() {
		t.Helper()
		if err := errors.Join(os.WriteFile(zone+".new", nil, 0o600), os.Rename(zone+".new", zone)); err != nil {
			t.Fatal(err)
		}
	}
	replace()
	eventually(t, "a reload that fails", func() bool { return testutil.ToFloat64(w.m.reloads.WithLabelValues(resultFailed)) > 0 })
	if err := os.WriteFile(zone+".may", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a reload", func() bool { return times() == 1 })
	replace()
	eventually(t, "another", func() bool { return times() == 2 })
}

func TestRules(t *testing.T) {
	s := switchOf(&v1alpha1.DNSWatchdog{
		Primary: v1alpha1.DNSWatchdogPrimary{Address: "[fd00::53]:53"}, Backup: v1alpha1.DNSWatchdogBackup{Address: "[fd00::53]:5353"},
		Switch: v1alpha1.DNSWatchdogSwitch{NFTables: &v1alpha1.DNSWatchdogNFTables{Path: "nft", Table: "t"}},
	}).(*nftables)
	for _, want := range []string{
		"ip6 daddr fd00::53 tcp dport 53 meta mark != 0x2e01 notrack tcp dport set 5353\n", "ip6 saddr fd00::53 udp sport 5353 notrack udp sport set 53\n",
	} {
		if !strings.Contains(s.rules(), want) {
			t.Errorf("the rules lack %q:\n%s", want, s.rules())
		}
	}
}

func TestUsage(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good.yaml")
	if err := os.WriteFile(good, []byte(`apiVersion: seakeep.dev/v1alpha1
kind: DNSWatchdog
primary: {address: "169.254.20.10:53"}
backup: {address: "169.254.20.10:5300"}
switch: {nftables: {}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		args []string
		in   string
		code int
		want string
	}{
		"help":             {[]string{"--help"}, "", exitOK, "seakeep-dns watchdog --config"},
		"checked":          {[]string{"--check", "--config", good}, "", exitOK, ""},
		"no file":          {nil, "", exitUsage, "error: --config must name a file"},
		"too much":         {[]string{"now"}, "", exitUsage, `error: "now" is not expected`},
		"an unknown field": {[]string{"--config", "-"}, "apiVersion: seakeep.dev/v1alpha1\nkind: DNSWatchdog\nprimry: {}\n", exitUsage, "unknown field"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			code := Main(t.Context(), append([]string{"watchdog"}, tc.args...), strings.NewReader(tc.in), &out, &out)
			if code != tc.code || !strings.Contains(out.String(), tc.want) {
				t.Errorf("exit code %d, %q", code, out.String())
			}
		})
	}
}

// An answer comes from whoever holds the port: judging it must not panic, and an address wanted and absent is never good.
func FuzzJudge(f *testing.F) {
	good, err := (&dns.Msg{MsgHdr: dns.MsgHdr{Id: 1, Response: true}, Question: []dns.Question{{Name: "a.", Qtype: dns.TypeA, Qclass: 1}},
		Answer: []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: "a.", Rrtype: dns.TypeA, Class: 1}, A: net.IPv4(192, 0, 2, 1)}}}).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	q := question{name: "a.", qtype: dns.TypeA, want: []netip.Addr{netip.MustParseAddr("192.0.2.1")}}
	f.Fuzz(func(t *testing.T, packet []byte) {
		m := new(dns.Msg)
		if m.Unpack(packet) != nil {
			return
		}
		confirmedIn(m)
		if q.judge(m) != nil {
			return
		}
		for _, rr := range m.Answer {
			if a, ok := rr.(*dns.A); ok && a.A.Equal(net.IPv4(192, 0, 2, 1)) {
				return
			}
		}
		t.Errorf("good is %v", m)
	})
}
