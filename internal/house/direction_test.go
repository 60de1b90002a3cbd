package house

import (
	"slices"
	"strings"
	"testing"
)

// parts are the rooms that do one job each and do not know each other. lab and drill are parts too: a drill sees the
// lab as one kind of target, through an interface of its own.
var parts = []string{
	"apf", "console", "dns", "drill", "emergency", "etcdcare", "forecast", "gate", "inspect", "lab", "monitor", "rollout",
}

// shared is what a part may know besides itself.
var shared = []string{"api", "fleet", "internal", "signals"}

// part returns the part a room belongs to, "" for rooms outside the parts.
func part(room string) string {
	for _, p := range parts {
		if within(room, p) {
			return p
		}
	}
	return ""
}

// direction says whether a room may import another one of ours, and if not, why.
func direction(from, to string) (why string, ok bool) {
	switch {
	case testRoom(to):
		return "a test rig is compiled into tests only", testRoom(from)
	case within(to, "internal/testkit"):
		return "it is compiled into tests only", testRoom(from)
	case testRoom(from) && within(to, "lab"):
		return "", true
	case within(from, "cmd"):
		if within(from, "cmd/seakeep-dns") {
			if withinAny(to, append([]string{"dns", "cli"}, shared...)...) {
				return "", true
			}
			return "seakeep-dns runs on every node: it carries the dns part and nothing else", false
		}
		return "a main is wiring only; it calls cli", within(to, "cli")
	case within(to, "bench"):
		return "a benchmark measures; nothing may need it", within(from, "bench")
	case within(from, "bench"):
		return "a benchmark joins parts as cli does, and runs the program itself as a process", !withinAny(to, "cmd", "cli")
	case within(from, "cli"):
		return "cli joins the parts; nothing above it may be imported", !within(to, "cmd")
	case within(from, "api"):
		return "any tool must be able to read Seakeep's files without pulling in Seakeep", within(to, "api")
	case part(from) != "":
		if within(to, part(from)) || withinAny(to, shared...) {
			return "", true
		}
		return "parts do not know each other: declare the small interface you need, and let cli join them", false
	case withinAny(from, "fleet", "signals"):
		return "what the parts share may not depend on a part", withinAny(to, from, "api", "internal")
	case within(from, "internal"):
		return "what the parts share may not depend on a part", withinAny(to, "api", "internal")
	}
	return "the room is not in the plan of the house: add it to the parts here, and to docs/design/0001-house.md", false
}

// testRoom is true for a part's test rigs, named as net/http/httptest is. They may use the lab, as tests do.
func testRoom(room string) bool { return part(room) != "" && strings.HasSuffix(room, "test") }

func TestDirection(t *testing.T) {
	for _, p := range packages(t) {
		for _, path := range p.Imports {
			to, ours := strings.CutPrefix(path, module)
			if !ours {
				continue
			}
			if why, ok := direction(p.room(), to); !ok {
				t.Errorf("%s imports %s: %s", p.room(), to, why)
			}
		}
	}
}

// Tests may use the lab, and what stands beside a part, because real parts are tested against real parts. But the
// shared rooms and the pure ones stay below in their tests too, or they could not be tested on their own.
func TestDirectionOfTests(t *testing.T) {
	for _, p := range packages(t) {
		if !withinAny(p.room(), "api", "fleet", "signals", "internal") {
			continue
		}
		for _, path := range p.tests() {
			to, ours := strings.CutPrefix(path, module)
			if !ours || to == p.room() || within(to, "lab") || within(to, "internal/testkit") {
				continue
			}
			if why, ok := direction(p.room(), to); !ok {
				t.Errorf("the tests of %s import %s: %s", p.room(), to, why)
			}
		}
	}
}

// The rule itself is tested, because a rule that allows everything passes every test.
func TestDirectionRefuses(t *testing.T) {
	tests := map[string]struct {
		from, to string
		want     bool
	}{
		"cmd to cli":                  {"cmd/seakeep", "cli", true},
		"cmd to a part":               {"cmd/seakeep", "gate/limit", false},
		"dns main to dns":             {"cmd/seakeep-dns", "dns/plugin", true},
		"dns main to gate":            {"cmd/seakeep-dns", "gate", false},
		"cli to a part":               {"cli", "gate", true},
		"a benchmark to a part":       {"bench/gate", "lab", true},
		"a benchmark to its own":      {"bench/gate", "bench/result", true},
		"a benchmark to cli":          {"bench/gate", "cli", false},
		"cli to a benchmark":          {"cli", "bench/result", false},
		"a part to a benchmark":       {"gate", "bench/load", false},
		"cli's own rooms":             {"cli", "cli/replay", true},
		"a part to itself":            {"gate", "gate/limit", true},
		"a part to another":           {"gate/limit", "lab", false},
		"drill to lab":                {"drill", "lab", false},
		"a part to internal":          {"drill/probe/leases", "internal/telemetry", true},
		"a part to cli":               {"gate", "cli", false},
		"a test rig to the lab":       {"gate/gatetest", "lab", true},
		"a part to a test rig":        {"gate", "gate/gatetest", false},
		"a part to the testkit":       {"gate/relay", "internal/testkit", false},
		"internal to a part":          {"internal/config", "gate", false},
		"api to internal":             {"api/v1alpha1", "internal/config", false},
		"a room nobody planned":       {"helpers", "api/v1alpha1", false},
		"a name that starts the same": {"gateway", "gate/limit", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, ok := direction(tc.from, tc.to); ok != tc.want {
				t.Errorf("%s may import %s: %t, want %t", tc.from, tc.to, ok, tc.want)
			}
		})
	}
}

// only says who may import a foreign package, directly.
type only struct {
	path  string   // the package or the tree below it
	rooms []string // who may
	why   string
}

var reserved = []only{
	{
		path:  "github.com/coredns/",
		rooms: []string{"dns/plugin", "cmd/seakeep-dns"},
		why:   "the data behind the answers must be testable, and replaceable, without CoreDNS",
	},
	{
		path:  "k8s.io/klog",
		rooms: []string{"internal/telemetry"},
		why:   "the Kubernetes libraries' logging is bridged to slog once; everything else takes a *slog.Logger",
	},
	{
		path:  "github.com/go-logr/",
		rooms: []string{"internal/telemetry"},
		why:   "the Kubernetes libraries' logging is bridged to slog once; everything else takes a *slog.Logger",
	},
	{
		path:  "k8s.io/kubernetes/",
		rooms: nil,
		why:   "Kubernetes itself is no library; the lab builds it in a nested module and runs it as a process",
	},
	{
		path:  "github.com/stretchr/testify",
		rooms: nil,
		why:   "the standard library and go-cmp are enough, and read the same everywhere",
	},
}

func TestReservedImports(t *testing.T) {
	for _, p := range packages(t) {
		for _, path := range slices.Concat(p.Imports, p.tests()) {
			for _, rule := range reserved {
				if strings.HasPrefix(path+"/", rule.path) && !withinAny(p.room(), rule.rooms...) {
					t.Errorf("%s imports %s: %s", p.room(), path, rule.why)
				}
			}
		}
	}
}

// standardLog lists who may import the package log, besides slog: HTTP servers take a *log.Logger for their own
// errors, which slog.NewLogLogger makes.
func TestStandardLogOnlyForServers(t *testing.T) {
	for _, p := range packages(t) {
		if !slices.Contains(p.Imports, "log") || within(p.room(), "internal/telemetry") {
			continue
		}
		eachFile(t, p, p.GoFiles, func(f *source) {
			f.calls("log", func(name, position string) {
				t.Errorf("%s calls log.%s: loggers are injected as *slog.Logger; http.Server's ErrorLog comes from slog.NewLogLogger", position, name)
			})
		})
	}
}

// pure are the rooms that take inputs and a clock and return decisions. They are tested with transcripts, and an
// outage cannot reach them; so they may not touch what has a state of its own.
var pure = []string{"apf/plan", "forecast/lint", "rollout/plan", "rollout/verdict", "rollout/bake", "dns/guard", "gate/admit/cost", "gate/admit/law", "gate/admit/ramp", "gate/admit/share", "gate/clamp", "gate/flow", "gate/peers/agree"}

// pureAlone are pure and have rooms below them that do the input and output: what forecast/observe measures is fitted in forecast.
var pureAlone = []string{"forecast"}

func isPure(room string) bool { return withinAny(room, pure...) || slices.Contains(pureAlone, room) }

// impure is what a pure room may not import, with the reason.
var impure = map[string]string{
	"os":            "a pure room reads no file and no environment",
	"os/exec":       "a pure room starts no process",
	"os/signal":     "a pure room ends nothing",
	"syscall":       "a pure room does not touch the operating system",
	"net":           "a pure room opens no connection",
	"math/rand":     "chance is an input: take a *rand.Rand",
	"log/slog":      "a pure room returns decisions with their reason; its shell logs them",
	"k8s.io/client": "a pure room does not speak to a cluster",
}

func TestPureRooms(t *testing.T) {
	for _, p := range packages(t) {
		if !isPure(p.room()) {
			continue
		}
		for _, path := range p.Imports {
			for forbidden, why := range impure {
				if path == forbidden || strings.HasPrefix(path, forbidden+"-") {
					t.Errorf("%s is pure and imports %s: %s", p.room(), path, why)
				}
			}
			if to, ours := strings.CutPrefix(path, module); ours && !within(to, "api") && !isPure(to) {
				t.Errorf("%s is pure and imports %s: a pure room knows the kinds of api and other pure rooms only", p.room(), to)
			}
		}
	}
}

// A part whose root is pure keeps its shells below it, and what decides does not reach down to them.
func TestIsPure(t *testing.T) {
	for room, want := range map[string]bool{
		"forecast": true, "forecast/lint": true, "forecast/observe": false, "forecast/shape": false, "forecasts": false, "rollout/plan": true, "rollout/engine": false,
	} {
		if got := isPure(room); got != want {
			t.Errorf("%s is pure: %t, want %t", room, got, want)
		}
	}
}

func TestAPIImportsApimachineryOnly(t *testing.T) {
	all := packages(t)
	for _, p := range all {
		if !within(p.room(), "api") {
			continue
		}
		for _, path := range p.Imports {
			first, _, _ := strings.Cut(path, "/")
			standard := !strings.Contains(first, ".")
			if !standard && !strings.HasPrefix(path, "k8s.io/apimachinery/") && !strings.HasPrefix(path, module+"api/") {
				t.Errorf("%s imports %s: any tool must be able to read Seakeep's files without pulling in Seakeep or its libraries", p.room(), path)
			}
		}
	}
}
