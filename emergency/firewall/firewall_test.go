package firewall_test

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/emergency/firewall"
)

var update = flag.Bool("update", false, "write the golden files")

func source(t testing.TB, text, who string) firewall.Source {
	t.Helper()
	s, err := firewall.ParseSource(text, who)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func plan(t testing.TB, kind firewall.Kind) *firewall.Plan {
	return &firewall.Plan{Kind: kind, Ports: []uint16{6443}, For: 15 * time.Minute, Sources: []firewall.Source{
		source(t, "10.0.0.11", "gate"), source(t, "fd00::11", "gate"), source(t, "10.0.0.0/29", "API servers and etcd"),
		source(t, "10.0.0.3", "API servers and etcd"), source(t, "192.0.2.7", "break-glass"), source(t, "fd00:1::/64", "break-glass"),
	}}
}

func TestRules(t *testing.T) {
	for _, kind := range firewall.Kinds() {
		nobody := &firewall.Plan{Kind: kind, Ports: []uint16{6443, 443}, For: 1500 * time.Millisecond}
		for name, p := range map[string]*firewall.Plan{string(kind): plan(t, kind), string(kind) + "-nobody": nobody} {
			t.Run(name, func(t *testing.T) {
				if err := p.Validate(); err != nil {
					t.Fatal(err)
				}
				got := p.Rules()
				file := filepath.Join("testdata", name+".txt")
				if *update {
					if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				want, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(string(want), got); diff != "" {
					t.Errorf("rules (-want +got); 'go test ./emergency/firewall -update' writes them anew:\n%s", diff)
				}
			})
		}
	}
}

// Comments and commands, nothing else: what is printed is pasted into a root shell.
func TestEveryLineIsACommentOrACommand(t *testing.T) {
	allowed := regexp.MustCompile(`^(#.*|nft .*|ip6?tables -w .*|UNTIL=\$\(date .*|BEFORE= .*|(\[ -n "\$BEFORE" \] && )?(aws eks|gcloud container|az aks) .*|)$`)
	for _, kind := range firewall.Kinds() {
		rules := plan(t, kind).Rules()
		script := regexp.MustCompile(`(?s)<<'SEAKEEP'\n.*?\nSEAKEEP\n`).ReplaceAllString(rules, "\n")
		for line := range strings.Lines(script) {
			if line = strings.TrimSuffix(line, "\n"); !allowed.MatchString(line) {
				t.Errorf("%s: %q", kind, line)
			}
		}
		for _, want := range []string{"10.0.0.0/29", "192.0.2.7", "fd00:1::/64", "15m"} {
			if !strings.Contains(rules, want) {
				t.Errorf("%s: the rules do not name %s", kind, want)
			}
		}
	}
}

// nftables refuses a set with overlapping intervals, and with it the whole script.
func TestScript(t *testing.T) {
	script := plan(t, firewall.NFTables).Script()
	set := regexp.MustCompile(`set (\w+) \{\n(?:[^}]*?elements = \{ ([^}]*) \}\n)?[^}]*\}`)
	got := map[string][]string{}
	for _, match := range set.FindAllStringSubmatch(script, -1) {
		got[match[1]] = strings.Split(match[2], ", ")
	}
	want := map[string][]string{"armed": {"6443 timeout 900s"}, "may4": {"10.0.0.0/29", "10.0.0.11", "192.0.2.7"}, "may6": {"fd00::11", "fd00:1::/64"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sets (-want +got):\n%s", diff)
	}
	if strings.Count(script, "{") != strings.Count(script, "}") {
		t.Errorf("braces do not match:\n%s", script)
	}
	// What drops must stand behind all that accepts, and only what is armed may come to it.
	judge := strings.Index(script, "chain judge")
	order := []int{judge, strings.Index(script, `iif "lo" accept`), strings.Index(script, "@may4 accept"), strings.Index(script, "@may6 accept"), strings.Index(script, "counter drop"), strings.Index(script, "tcp dport @armed jump judge")}
	if judge < 0 || !slices.IsSorted(order) || strings.Count(script, "drop") != 1 {
		t.Errorf("the order of the rules:\n%s", script)
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*firewall.Plan)
		want   string
	}{
		"kind":      {func(p *firewall.Plan) { p.Kind = "pf" }, "pf"},
		"no port":   {func(p *firewall.Plan) { p.Ports = nil }, "port"},
		"port 0":    {func(p *firewall.Plan) { p.Ports = []uint16{0} }, "port"},
		"no end":    {func(p *firewall.Plan) { p.For = 0 }, "end"},
		"too long":  {func(p *firewall.Plan) { p.For = 25 * time.Hour }, "24h"},
		"no prefix": {func(p *firewall.Plan) { p.Sources = []firewall.Source{{Who: "x"}} }, "no network"},
		"too many":  {func(p *firewall.Plan) { p.Sources = slices.Repeat(p.Sources, 500) }, "1000"},
	} {
		t.Run(name, func(t *testing.T) {
			p := plan(t, firewall.NFTables)
			tc.change(p)
			if err := p.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("want an error with %q, got %v", tc.want, err)
			}
		})
	}
}

func TestParseSource(t *testing.T) {
	for text, want := range map[string]string{
		"10.0.0.1": "10.0.0.1/32", "10.0.0.7/24": "10.0.0.0/24", "fd00::1": "fd00::1/128", "::ffff:10.0.0.1": "10.0.0.1/32",
		"0.0.0.0/0": "", "::/0": "", "host": "", "": "", "fe80::1%eth0": "", "10.0.0.1; reboot": "", "::ffff:10.0.0.0/104": "",
	} {
		got, err := firewall.ParseSource(text, "x")
		if (err == nil) != (want != "") || err == nil && got.Prefix.String() != want {
			t.Errorf("%q: want %q, got %v, %v", text, want, got.Prefix, err)
		}
	}
}

// What a user types ends up in a root shell: no text but a network's own may get there.
func FuzzParseSource(f *testing.F) {
	f.Add("10.0.0.0/8")
	f.Add("fe80::1%$(reboot)")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := firewall.ParseSource(text, "gate")
		if err != nil {
			return
		}
		p := &firewall.Plan{Kind: firewall.NFTables, Ports: []uint16{6443}, For: time.Minute, Sources: []firewall.Source{s}}
		if err := p.Validate(); err != nil {
			t.Errorf("%q is taken and then refused: %v", text, err)
		}
		if strings.ContainsAny(s.Prefix.String(), " $;`'\"\n()|&<>%") {
			t.Errorf("%q became %q", text, s.Prefix)
		}
	})
}
