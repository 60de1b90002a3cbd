package export

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/store"
)

// served is what a keeper would serve.
type served struct {
	store *store.Store
	mu    sync.Mutex
	state keeper.State
}

func (s *served) Store() *store.Store { return s.store }

func (s *served) Status() keeper.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return keeper.Status{State: s.state, Source: `https://10.0.0.1:6443"`, Class: keeper.API, Confirmed: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
}

func (s *served) become(state keeper.State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state = state
}

func cluster() *served {
	s := &served{store: store.New(time.Now), state: keeper.Live}
	ip := netip.MustParseAddr
	slice := func(name, service string, ports []store.Port, endpoints ...store.Endpoint) *store.EndpointSlice {
		return store.NewEndpointSlice(store.SliceMeta{Namespace: "prod", Name: name, Service: service, Ports: ports}, endpoints)
	}
	peer := []store.Port{{Name: "peer", Protocol: "TCP", Number: 2380}}
	for _, o := range []store.Object{
		&store.Namespace{Name: "prod"},
		&store.Namespace{Name: "kube-system"},
		&store.Service{Namespace: "kube-system", Name: "kube-dns", ClusterIPs: []netip.Addr{ip("10.96.0.10")}},
		&store.Service{Namespace: "prod", Name: "web", ClusterIPs: []netip.Addr{ip("10.96.0.1"), ip("fd00::1")}, Ports: []store.Port{{Name: "http", Protocol: "TCP", Number: 80}, {Protocol: "UDP", Number: 53}}},
		&store.Service{Namespace: "prod", Name: "db", Headless: true},
		&store.Service{Namespace: "prod", Name: "empty", Headless: true},
		&store.Service{Namespace: "prod", Name: "out", Type: store.ExternalName, ExternalName: "example.com"},
		&store.Service{Namespace: "prod", Name: "evil", Type: store.ExternalName, ExternalName: "a.\nweb.prod.svc A 192.0.2.66"},
		&store.Service{Namespace: "prod", Name: "bad\nname", ClusterIPs: []netip.Addr{ip("192.0.2.66")}},
		&store.Service{Namespace: "gone", Name: "web", ClusterIPs: []netip.Addr{ip("10.96.0.9")}},
		slice("db-1", "db", peer,
			store.Endpoint{Addr: ip("10.1.0.2"), Ready: true, Hostname: "db-0"},
			store.Endpoint{Addr: ip("10.1.0.3"), Ready: true, Hostname: "bad\nname"},
			store.Endpoint{Addr: ip("10.1.0.4"), Serving: true}),
		slice("db-2", "db", peer, store.Endpoint{Addr: ip("10.1.0.2"), Ready: true, Hostname: "db-0"}),
		slice("empty-1", "empty", nil, store.Endpoint{Addr: ip("10.1.0.9")}),
	} {
		s.store.Put(o)
	}
	return s
}

func open(t *testing.T, o Options) *Exporter {
	t.Helper()
	o.Zone, o.Clock, o.Registerer, o.Log = "Cluster.Local.", time.Now, prometheus.NewRegistry(), slog.New(slog.NewTextHandler(t.Output(), nil))
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// parse reads a zone file as other servers do, and returns its records without what changes with time.
func parse(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var records []string
	parser := dns.NewZoneParser(f, "", file)
	for rr, more := parser.Next(); more; rr, more = parser.Next() {
		if rr.Header().Rrtype == dns.TypeSOA || strings.HasPrefix(rr.Header().Name, "_seakeep.") {
			continue
		}
		records = append(records, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	if err := parser.Err(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(records)
	return records
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	zone, hosts, reverse4, reverse6 := filepath.Join(dir, "zone"), filepath.Join(dir, "hosts"), filepath.Join(dir, "4"), filepath.Join(dir, "6")
	data := cluster()
	e := open(t, Options{
		ZoneFile: zone, HostsFile: hosts, Data: data,
		ReverseFiles: map[string]string{"96.10.in-addr.arpa": reverse4, "0.0.d.f.ip6.arpa": reverse6},
	})
	e.write(time.Now())
	want := []string{
		"_http._tcp.web.prod.svc.cluster.local. 5 IN SRV 0 50 80 web.prod.svc.cluster.local.",
		"_peer._tcp.db.prod.svc.cluster.local. 5 IN SRV 0 50 2380 10-1-0-3.db.prod.svc.cluster.local.",
		"_peer._tcp.db.prod.svc.cluster.local. 5 IN SRV 0 50 2380 db-0.db.prod.svc.cluster.local.",
		"10-1-0-3.db.prod.svc.cluster.local. 5 IN A 10.1.0.3",
		"cluster.local. 5 IN NS ns.dns.cluster.local.",
		"db-0.db.prod.svc.cluster.local. 5 IN A 10.1.0.2",
		"db.prod.svc.cluster.local. 5 IN A 10.1.0.2",
		"db.prod.svc.cluster.local. 5 IN A 10.1.0.3",
		"db.prod.svc.cluster.local. 5 IN SRV 0 50 2380 10-1-0-3.db.prod.svc.cluster.local.",
		"db.prod.svc.cluster.local. 5 IN SRV 0 50 2380 db-0.db.prod.svc.cluster.local.",
		`dns-version.cluster.local. 5 IN TXT "1.1.0"`,
		"kube-dns.kube-system.svc.cluster.local. 5 IN A 10.96.0.10",
		"ns.dns.cluster.local. 5 IN A 10.96.0.10",
		"out.prod.svc.cluster.local. 5 IN CNAME example.com.",
		"web.prod.svc.cluster.local. 5 IN A 10.96.0.1",
		"web.prod.svc.cluster.local. 5 IN AAAA fd00::1",
		"web.prod.svc.cluster.local. 5 IN SRV 0 25 53 web.prod.svc.cluster.local.",
		"web.prod.svc.cluster.local. 5 IN SRV 0 25 80 web.prod.svc.cluster.local.",
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, parse(t, zone)); diff != "" {
		t.Errorf("the zone (-want +got):\n%s", diff)
	}
	want = []string{
		"1.0.96.10.in-addr.arpa. 5 IN PTR web.prod.svc.cluster.local.",
		"10.0.96.10.in-addr.arpa. 5 IN PTR kube-dns.kube-system.svc.cluster.local.",
		"96.10.in-addr.arpa. 5 IN NS ns.dns.cluster.local.",
	}
	if diff := cmp.Diff(want, parse(t, reverse4)); diff != "" {
		t.Errorf("the reverse zone (-want +got):\n%s", diff)
	}
	if got := parse(t, reverse6); len(got) != 2 || !strings.Contains(got[1], "PTR web.prod.svc.cluster.local.") {
		t.Errorf("the reverse zone of IPv6 is %q", got)
	}
	text := read(t, hosts)
	for _, line := range []string{
		"10.96.0.1 web.prod.svc.cluster.local web.prod.svc web.prod\n",
		"10.1.0.2 db-0.db.prod.svc.cluster.local db-0.db.prod.svc db-0.db.prod\n",
		"last confirmed 2026-01-02T03:04:05Z",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("%q is not in\n%s", line, text)
		}
	}
	for _, file := range []string{zone, hosts, reverse4, reverse6} {
		if text := read(t, file); strings.Contains(text, "192.0.2.66") || strings.Contains(text, `6443"`+`"`) {
			t.Errorf("a name broke out of its line in\n%s", text)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v; other users' programs must be able to read it", file, info.Mode(), err)
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zone := filepath.Join(t.TempDir(), "zone")
		broken := filepath.Join(t.TempDir(), "no-such-folder", "hosts")
		data := cluster()
		data.become(keeper.Empty)
		e := open(t, Options{ZoneFile: zone, HostsFile: broken, Data: data})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { e.Run(ctx); close(ended) }()
		<-time.After(30 * time.Second)
		if _, err := os.Stat(zone); err == nil {
			t.Fatal("a zone was written before there was data")
		}
		data.become(keeper.Restored)
		<-time.After(11 * time.Second)
		if !strings.Contains(read(t, zone), "web.prod.svc A 10.96.0.1") {
			t.Error("one file that cannot be written held the other up")
		}
		// While the context ends a last change is written.
		data.store.Put(&store.Service{Namespace: "prod", Name: "late", ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.0.77")}})
		cancel()
		<-ended
		if !strings.Contains(read(t, zone), "late.prod.svc A 10.96.0.77") {
			t.Error("the last change was not written")
		}
	})
}

func TestRenewsWhatItStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		zone := filepath.Join(t.TempDir(), "zone")
		e := open(t, Options{ZoneFile: zone, Data: cluster()})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { e.Run(ctx); close(ended) }()
		synctest.Wait()
		first := read(t, zone)
		<-time.After(time.Minute)
		if read(t, zone) != first {
			t.Error("the file was written again although nothing changed")
		}
		<-time.After(5 * time.Minute)
		if read(t, zone) == first {
			t.Error("the file still states the time of long ago")
		}
		cancel()
		<-ended
	})
}

func TestOptionsThatCannotBeUsed(t *testing.T) {
	for name, test := range map[string]struct {
		o    Options
		want string
	}{
		"no file":              {Options{Zone: "cluster.local"}, "at least one file"},
		"no zone":              {Options{ZoneFile: "z"}, "zone must be"},
		"a zone of two lines":  {Options{Zone: "a\nb", ZoneFile: "z"}, "zone must be"},
		"a reverse zone":       {Options{Zone: "a", ReverseFiles: map[string]string{"10.0.0.0/8": "z"}}, "reverse zone"},
		"records for a day":    {Options{Zone: "a", ZoneFile: "z", TTL: 24 * time.Hour}, "ttl"},
		"writing all the time": {Options{Zone: "a", ZoneFile: "z", Interval: time.Millisecond}, "interval"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := New(test.o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
		})
	}
}
