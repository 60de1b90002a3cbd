package plugin

import (
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/dns/store"
)

func stanza(lines ...string) *caddy.Controller {
	return caddy.NewTestController("dns", "seakeep cluster.local in-addr.arpa {\n"+strings.Join(lines, "\n")+"\n}\n")
}

// A wrong option is CoreDNS's own error, with the option's name and its line.
func TestWrongOptionsAreNamed(t *testing.T) {
	tests := map[string]struct {
		lines []string
		want  string
	}{
		"nobody's":                     {[]string{"pods insecure", "snapshots /var/lib"}, "Testfile:3 - Error during parsing: unknown property 'snapshots'"},
		"upstream's pods":              {[]string{"pods maybe"}, "wrong value for pods: maybe"},
		"upstream's ttl":               {[]string{"ttl 4000"}, "ttl must be in range [0, 3600]: 4000"},
		"snapshot without a folder":    {[]string{"ttl 5", "snapshot"}, "Testfile:3 - Error during parsing: Wrong argument count"},
		"snapshot with too much":       {[]string{"snapshot a b c"}, "Wrong argument count"},
		"state without an address":     {[]string{"state"}, "Wrong argument count"},
		"guard with a word":            {[]string{"guard perhaps"}, `guard takes "off" or a block, got "perhaps"`},
		"guard with a wrong property":  {[]string{"guard {", "holding 5m", "}"}, "Testfile:3 - Error during parsing: guard: unknown property 'holding'"},
		"guard with a wrong ratio":     {[]string{"guard {", "lost 1.5", "}"}, "lostRatio must be > 0 and ≤ 1, got 1.5"},
		"staleness of no class":        {[]string{"staleness service 30s"}, `no class is named "service"`},
		"staleness with a wrong TTL":   {[]string{"staleness headless 1.5s"}, "the TTL must be 1s–1h in whole seconds"},
		"staleness with a wrong age":   {[]string{"staleness headless 5s soon"}, "the longest age must be a duration"},
		"export with a word":           {[]string{"export /tmp/zone"}, "Wrong argument count"},
		"export of nothing":            {[]string{"export {", "interval 10s", "}"}, "export: at least one file to export to must be named"},
		"export with a wrong property": {[]string{"ttl 5", "export {", "file x", "}"}, "Testfile:4 - Error during parsing: export: unknown property 'file'"},
		"export without a file":        {[]string{"export {", "zone", "}"}, "Wrong argument count"},
		"export with a wrong zone":     {[]string{"export {", "reverse 96.10 x", "}"}, `export: a reverse zone must end in .in-addr.arpa or .ip6.arpa, got "96.10"`},
		"export with a wrong address":  {[]string{"export {", "zone x", "nameserver ns1", "}"}, "export: nameserver: "},
		"export with a wrong interval": {[]string{"export {", "zone x", "interval 0s", "}"}, "export: interval must be ≥ 1s"},
		"export with a wrong TTL":      {[]string{"export {", "zone x", "ttl 1500ms", "}"}, "export: ttl must be 1s–1h in whole seconds"},
		"fastpath with a word":         {[]string{"fastpath on"}, `fastpath takes "off" or a block, got "on"`},
		"fastpath with no sockets":     {[]string{"fastpath {", "sockets 0", "}"}, "fastpath: sockets must be 1–64"},
		"fastpath with little memory":  {[]string{"fastpath {", "memory 10Ki", "}"}, "fastpath: memory must be a quantity ≥ 1Mi"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := parse(stanza(tc.lines...))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want it to say %q", err, tc.want)
			}
		})
	}
	twice := caddy.NewTestController("dns", "seakeep cluster.local {\nttl 5\n}\nseakeep other.local\n")
	if _, _, err := parse(twice); err == nil || !strings.Contains(err.Error(), "once") {
		t.Errorf("two stanzas are %v", err)
	}
}

func TestOptions(t *testing.T) {
	_, _, err := parse(stanza(
		"pods verified", "snapshot /var/lib/seakeep/dns /etc/seakeep/dns.key", "ttl 7", "endpoint_pod_names",
		"fastpath {", "sockets 3", "memory 64Mi", "}", "labels app in (a, b)", "guard {", "hold 5m", "lost 0.7", "}",
		"staleness headless 2s 1h", "staleness clusterip 60s", "fallthrough", "multicluster clusterset.local", "startup_timeout 1s",
	))
	if err == nil {
		t.Fatal("a multicluster zone that is none of the plugin's was accepted")
	}
	k, o, err := parse(stanza(
		"pods verified", "snapshot /var/lib/seakeep/dns /etc/seakeep/dns.key", "ttl 7", "endpoint_pod_names",
		"fastpath {", "sockets 3", "memory 64Mi", "}", "labels app in (a, b)", "guard {", "hold 5m", "lost 0.7", "}",
		"staleness headless 2s 1h", "staleness clusterip 60s", "fallthrough", "startup_timeout 1s",
	))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cluster.local.", "in-addr.arpa."}, k.Zones); diff != "" || !k.Fall.Through("x.") {
		t.Errorf("upstream's own options: %s", diff)
	}
	type view struct {
		TTL                 uint32
		Pods, Snapshot, Key string
		Names               bool
		Fast                []int64
		Selector            string
		Hold                time.Duration
		Lost                float64
		Headless, ClusterIP staleness
		Startup             time.Duration
		Kinds               []store.Kind
	}
	want := view{
		7, "verified", "/var/lib/seakeep/dns", "/etc/seakeep/dns.key", true, []int64{3, 64 << 20}, "app in (a,b)", 5 * time.Minute, 0.7,
		staleness{2, time.Hour}, staleness{60, 7 * 24 * time.Hour}, time.Second,
		[]store.Kind{store.Namespaces, store.Services, store.EndpointSlices, store.Pods},
	}
	got := view{
		o.ttl, o.podMode, o.snapshot, o.snapshotKey, o.endpointNames, []int64{int64(o.fast.sockets), o.fast.memory}, o.selector.String(),
		o.guard.MaxHold, o.guard.LostRatio, o.policy.stale[classHeadless], o.policy.stale[classClusterIP], o.startup, o.kinds(),
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(staleness{})); diff != "" {
		t.Error(diff)
	}
}

// Records are given up when the data is older than their class may be.
func TestPolicy(t *testing.T) {
	p := defaultPolicy(10)
	for _, c := range classes {
		s := p.stale[c]
		if s.ttl == 0 || s.ttl > 30 || c == classHeadless && s.ttl > 5 {
			t.Errorf("stale TTL of %s is %d", c, s.ttl)
		}
		if c == classNegative {
			continue
		}
		if s.longest < 24*time.Hour || p.expired(c, s.longest) || !p.expired(c, s.longest+time.Second) {
			t.Errorf("%s is given up after %s", c, s.longest)
		}
	}
}

// Whatever stands in a Corefile, the answer is options or an error.
func FuzzOptions(f *testing.F) {
	for _, lines := range [][]string{
		{"pods verified", "ttl 7", "endpoint_pod_names", "fastpath {", "sockets 3", "memory 64Mi", "}", "labels app in (a, b)"},
		{"guard {", "hold 5m", "lost 0.7", "}", "staleness headless 2s 1h", "cluster 0e4d9b52", "snapshot /a /b", "state 127.0.0.1:1"},
		{"source relay https://10.0.0.1:1 https://fd00::1:2 https://: {", "token /t", "tls_servername a", "node b", "}", "source peer http://127.0.0.1:1", "source file /x", "source api"},
		{"relay 127.0.0.1:1 {", "plain", "}", "export {", "zone a", "reverse 10.in-addr.arpa b", "nameserver 10.0.0.1", "interval 1s", "}"},
		{"guard off", "fastpath off", "zonal", "multicluster clusterset.local", "endpoint http://a http://b", "}", "{", "guard {"},
	} {
		f.Add(strings.Join(lines, "\n"))
	}
	f.Fuzz(func(t *testing.T, text string) {
		k, o, err := parse(stanza(text))
		if err == nil && (k == nil || o == nil || len(o.kinds()) < 2) {
			t.Errorf("neither options nor an error: %v, %v", k, o)
		}
	})
}
