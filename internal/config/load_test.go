package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// good is a complete gate configuration; tests replace lines in it, so that the line numbers they expect can be counted.
const good = `# line 1
apiVersion: seakeep.dev/v1alpha1
kind: GateConfiguration
listen:
  address: 127.0.0.1:6443
  certFile: tls.crt
  keyFile: tls.key
upstreams:
- name: one
  url: https://10.0.0.1:6443
  caFile: ca.crt
- name: two
  url: https://10.0.0.2:6443
  caFile: ca.crt
identity:
  clientCAFile: ca.crt
  proxyCertFile: proxy.crt
  proxyKeyFile: proxy.key
admin:
  socket: gate.sock
stateDir: state
drainTimeout: 30s
`

func edit(old, new string) string {
	if !strings.Contains(good, old) {
		panic("no such text: " + old)
	}
	return strings.Replace(good, old, new, 1)
}

func TestLoadReportsEveryViolationWithItsLine(t *testing.T) {
	for name, test := range map[string]struct {
		text string
		want []string
	}{
		"good": {text: good},
		"unknown field": {
			text: edit("  keyFile: tls.key", "  keyfile: tls.key"),
			want: []string{"gate.yaml:7: listen.keyfile: unknown field; did you mean keyFile?"},
		},
		"duplicate field": {
			text: edit("stateDir: state\n", "stateDir: state\nstateDir: other\n"),
			want: []string{"gate.yaml:22: stateDir: duplicate field: already set in line 21"},
		},
		"every wrong type at once": {
			text: strings.NewReplacer("  certFile: tls.crt", "  certFile: 12", "upstreams:", "limits: 7\nupstreams:", "drainTimeout: 30s", "drainTimeout: soon\nledger:\n  maxClients: many").Replace(good),
			want: []string{
				`gate.yaml:6: listen.certFile: value "12": must be a string: quote it`,
				`gate.yaml:8: limits: value "7": must be a list`,
				`gate.yaml:23: drainTimeout: value "soon": must be a duration like 30s: time: invalid duration "soon"`,
				`gate.yaml:25: ledger.maxClients: value "many": must be a whole number`,
			},
		},
		"every broken rule at once": {
			text: strings.NewReplacer("name: two", "name: one", "https://10.0.0.2:6443", "http://10.0.0.2", "30s", "30h").Replace(good),
			want: []string{
				`gate.yaml:12: upstreams[1].name: value "one": must be unique`,
				`gate.yaml:13: upstreams[1].url: value "http://10.0.0.2": must be https://host:port without path or query`,
				`gate.yaml:22: drainTimeout: value "30h0m0s": must be between 0s and 10m`,
			},
		},
		"missing field has its parent's line": {
			text: edit("  caFile: ca.crt\n- name: two", "- name: two"),
			want: []string{"gate.yaml:9: upstreams[0].caFile: required: an API server is never spoken to unverified"},
		},
		"closed set": {
			text: edit("  clientCAFile", "  mode: Direct\n  clientCAFile"),
			want: []string{`gate.yaml:16: identity.mode: value "Direct": supported values: "FrontProxy", "Impersonation"`},
		},
		"mapping where a string is wanted": {
			text: edit("stateDir: state", "stateDir: {path: state}"),
			want: []string{"gate.yaml:21: stateDir: must be a single value, not a mapping"},
		},
		"fields differ in case": {
			text: edit("stateDir: state", "StateDir: state"),
			want: []string{"gate.yaml:21: StateDir: unknown field; did you mean stateDir?"},
		},
		"syntax": {
			text: edit("kind: GateConfiguration", "kind: [GateConfiguration"),
			want: []string{"gate.yaml:3: not valid YAML: did not find expected ',' or ']'"},
		},
		"syntax, as the scanner counts": {
			text: edit("stateDir: state", "stateDir: state: more"),
			want: []string{"gate.yaml:21: not valid YAML: mapping values are not allowed in this context"},
		},
		"alias of nothing": {
			text: edit("stateDir: state", "stateDir: *state"),
			want: []string{"gate.yaml:21: not valid YAML: unknown anchor 'state' referenced"},
		},
		"unknown kind": {
			text: edit("kind: GateConfiguration", "kind: Gate"),
			want: []string{`gate.yaml:3: kind: value "Gate": must be one of ` + strings.Join(v1alpha1.Kinds(), ", ")},
		},
		"other version": {
			text: edit("seakeep.dev/v1alpha1", "seakeep.dev/v2"),
			want: []string{`gate.yaml:2: apiVersion: value "seakeep.dev/v2": must be seakeep.dev/v1alpha1`},
		},
		"no kind": {
			text: "listen: {}\n",
			want: []string{"gate.yaml:1: apiVersion: required: every document says what it is, apiVersion: seakeep.dev/v1alpha1 and its kind"},
		},
		"empty":         {text: "# nothing\n---\n", want: []string{"gate.yaml: the file holds no document; it must start with apiVersion and kind"}},
		"not a mapping": {text: "- a\n", want: []string{"gate.yaml:1: a document must be a mapping that starts with apiVersion and kind"}},
		"merge keys are not fields": {
			text: edit("admin:\n", "admin:\n  <<: {socket: other}\n"),
			want: []string{"gate.yaml:20: admin.<<: unknown field"},
		},
		"too deep": {
			text: edit("stateDir: state", "stateDir: "+strings.Repeat("[", 100)+strings.Repeat("]", 100)),
			want: []string{"gate.yaml:2: the document must not be nested deeper than 64 levels"},
		},
		"alias bomb": {
			text: "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\n",
			want: []string{"gate.yaml:1: the document must not hold more than 100000 values, aliases followed"},
		},
		"too large": {
			text: "#" + strings.Repeat("x", maxFileBytes),
			want: []string{"gate.yaml: the file must not be larger than 1048576 bytes"},
		},
		"two documents, both wrong": {
			text: edit("stateDir: state\n", "") + "---\n" + edit("drainTimeout: 30s", "drain: 30s"),
			want: []string{
				"gate.yaml:2: stateDir: required: emergency rules must survive a restart",
				"gate.yaml:44: drain: unknown field",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if err := os.WriteFile("gate.yaml", []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			docs, err := Load("gate.yaml", nil)
			var got []string
			if err != nil {
				var violations Violations
				if !errors.As(err, &violations) {
					t.Fatalf("error is not Violations: %v", err)
				}
				got = strings.Split(err.Error(), "\n")
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("violations (-want +got):\n%s", diff)
			}
			if (err == nil) != (len(docs) > 0) {
				t.Errorf("got %d documents and error %v, want one or the other", len(docs), err)
			}
		})
	}
}

func TestLoadKind(t *testing.T) {
	object, doc, err := LoadKind[*v1alpha1.GateConfiguration]("-", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	if object.Ledger.MaxClients != 2048 {
		t.Errorf("maxClients is %d, want the default 2048", object.Ledger.MaxClients)
	}
	if doc.Source != "<stdin>" || doc.Kind != "GateConfiguration" {
		t.Errorf("document is %s from %s", doc.Kind, doc.Source)
	}
	if err := doc.Errorf(field.NewPath("upstreams").Index(1).Child("caFile"), "ca.crt", "must not be expired"); err.Error() !=
		`<stdin>:14: upstreams[1].caFile: value "ca.crt": must not be expired` {
		t.Errorf("later violation reads %q", err)
	}

	for name, test := range map[string]struct{ text, want string }{
		"two documents": {good + "---\n" + good, "<stdin>:25: the file must hold exactly one document, of kind BreakGlassConfiguration; this is the second"},
		"another kind":  {good, `<stdin>:3: kind: value "GateConfiguration": must be BreakGlassConfiguration`},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := LoadKind[*v1alpha1.BreakGlassConfiguration]("-", strings.NewReader(test.text))
			if err == nil || err.Error() != test.want {
				t.Errorf("error is %v, want %s", err, test.want)
			}
		})
	}
}

func TestLoadFollowsAliases(t *testing.T) {
	text := strings.NewReplacer("  caFile: ca.crt\n- name: two", "  caFile: &ca ca.crt\n- name: two", "  caFile: ca.crt\nidentity", "  caFile: *ca\nidentity").Replace(good)
	object, doc, err := LoadKind[*v1alpha1.GateConfiguration]("-", strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if object.Upstreams[1].CAFile != "ca.crt" || doc.Locate("upstreams[1].caFile") != 14 {
		t.Errorf("alias gave %q at line %d", object.Upstreams[1].CAFile, doc.Locate("upstreams[1].caFile"))
	}
}

func TestLoadOfMissingFileIsNoViolation(t *testing.T) {
	_, err := Load(filepath.Join(t.TempDir(), "absent.yaml"), nil)
	var violations Violations
	if err == nil || errors.As(err, &violations) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error is %v, want one that says the file is not there", err)
	}
}

func TestLocate(t *testing.T) {
	docs, err := Load("-", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"":                    2,
		"listen.keyFile":      7,
		"upstreams[1]":        12,
		"upstreams[1].url":    13,
		"upstreams[7].url":    8, // not there: its parent
		"admin.remote.caFile": 19,
		"ledger.maxClients":   2,
	} {
		if got := docs[0].Locate(path); got != want {
			t.Errorf("Locate(%q) = %d, want %d", path, got, want)
		}
	}
}

// Whatever the bytes, Load neither panics nor accepts what Validate refuses, and every violation names the file.
func FuzzLoad(f *testing.F) {
	f.Add(good)
	f.Add(good + "---\n" + good)
	f.Add("apiVersion: seakeep.dev/v1alpha1\nkind: Drill\n")
	f.Add("apiVersion: seakeep.dev/v1alpha1\nkind: BreakGlassConfiguration\nmemoryLimit: 1e9\n")
	f.Add("a: &a [*a]\n")
	f.Add("? {a: b}\n: c\n")
	f.Add("apiVersion: seakeep.dev/v1alpha1\nkind: GateConfiguration\nlimits:\n- {name: a, throttle: {requestsPerSecond: .nan, bytesPerSecond: 1Ki}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		docs, err := Load("-", strings.NewReader(text))
		if err != nil {
			var violations Violations
			if !errors.As(err, &violations) {
				t.Fatalf("not a violation: %v", err)
			}
			for _, v := range violations {
				if v.File != "<stdin>" || v.Rule == "" {
					t.Errorf("incomplete violation %+v", v)
				}
			}
			return
		}
		for _, doc := range docs {
			if errs := doc.Object.Validate(); len(errs) > 0 {
				t.Errorf("accepted what Validate refuses: %v", errs)
			}
		}
	})
}
