package report

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/signals"
)

var update = flag.Bool("update", false, "write the golden files")

// result is a run small enough to check by hand.
func result(layers string) *drill.Result {
	zero := time.Date(2024, 12, 11, 15, 12, 0, 0, time.UTC)
	at := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	mitigation := at(3.5)
	d := &v1alpha1.Drill{
		Name: "story", Title: "A story",
		Phases:   []v1alpha1.DrillPhase{{Name: "baseline", At: &metav1.Duration{Duration: at(-2)}}, {Name: "storm", At: &metav1.Duration{}}},
		Headline: []string{"storm"},
		Hypothesis: []v1alpha1.DrillHypothesis{
			{Name: "works", Probe: "admin", Metric: "successRatio", Op: ">=", Value: 0.9},
			{Name: "no data", Probe: "breakglass", Metric: "p99Seconds", Op: "<=", Value: 0.25, During: []string{"storm"}},
		},
	}
	reading := func(cpu, lists, inFlight float64, s float64) drill.SignalPoint {
		return drill.SignalPoint{At: at(s), Server: "kube-apiserver", Reading: signals.APIServer{
			Read: zero.Add(at(s)), CPUSeconds: cpu, Lists: lists, Requests: 2 * lists, TooMany: lists / 10, InFlightReadOnly: inFlight,
		}}
	}
	use := func(s, cpu float64, rss int64, restarts int) drill.UsagePoint {
		return drill.UsagePoint{At: at(s), Component: "kube-apiserver", Usage: drill.Usage{CPUSeconds: cpu, RSSBytes: rss, MaxRSSBytes: 3 << 30, Restarts: restarts, Running: true}}
	}
	return &drill.Result{
		Drill: d, Layers: layers, Zero: zero, Begin: at(-2), End: at(4),
		Phases: []drill.Phase{{Name: "baseline", Start: at(-2), End: 0}, {Name: "storm", Start: 0, End: at(4)}},
		Steps: []drill.Step{
			{Name: "apply", Title: "Applied <now>", Kind: "apply", Status: drill.StepDone, Attempts: 1},
			{Name: "delete", Title: "Deleted", Kind: "delete", Status: drill.StepDone, Start: at(0.2), End: at(3.7), Attempts: 4},
		},
		Samples: []drill.Sample{
			{Probe: "admin", Series: "get", Due: at(-1), Latency: at(0.01), Outcome: drill.OK},
			{Probe: "admin", Series: "get", Due: at(0.5), Latency: at(5), Outcome: drill.Timeout},
			{Probe: "admin", Series: "list", Due: at(0.7), Latency: at(0.02), Outcome: drill.OK},
			{Probe: "admin", Series: "get", Due: at(2.5), Latency: at(1.5), Outcome: drill.Slow},
			{Probe: "admin", Series: "patch", Due: at(3.5), Latency: at(0.1), Outcome: drill.Rejected},
			{Probe: "leases", Series: "renewal", Due: at(1), Latency: at(41), Outcome: drill.Missed},
			{Probe: "leases", Series: "renewal", Due: at(1), Latency: at(10), Outcome: drill.OK},
			{Probe: "leases", Series: "renewal", Due: at(2), Latency: at(20), Outcome: drill.Undetermined},
			{Probe: "dns", Series: "cached", Due: at(1), Latency: at(0.001), Outcome: drill.OK},
			{Probe: "dns", Series: "unique", Due: at(1), Latency: at(2), Outcome: drill.Unavailable},
		},
		Usage:      []drill.UsagePoint{use(-2, 10, 1<<30, 0), use(-1, 11, 2<<30, 0), use(0, 13, 3<<30, 1), use(0.1, 13.3, 3<<30, 1)},
		Signals:    []drill.SignalPoint{reading(10, 100, 5, -2), reading(12, 140, 300, 0), {At: at(2), Server: "kube-apiserver", Error: "timeout"}},
		Mitigation: &mitigation,
		Agents:     map[string]uint64{"200": 12, "429": 30},
	}
}

func sample() *Report {
	r := &Report{
		SchemaVersion: SchemaVersion, Scenario: "story", Title: "A story of <b>two</b> runs", Generated: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Parameters: Parameters{Nodes: 3, Pods: 9, Factor: 30, Seed: 1}, Machine: Machine{CPUs: 2, OS: "linux", Arch: "amd64"}, Bounds: "none",
		Runs: []Run{NewRun(result("none")), NewRun(result("gate"))},
	}
	r.Conclude()
	return r
}

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got); 'go test ./drill/report -update' writes it anew:\n%s", file, diff)
	}
}

func TestJSON(t *testing.T) {
	got, err := json.MarshalIndent(sample(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "report.json", append(got, '\n'))
}

func TestText(t *testing.T) {
	var b bytes.Buffer
	if err := sample().Text(&b); err != nil {
		t.Fatal(err)
	}
	golden(t, "report.txt", b.Bytes())
}

func TestFiguresByHand(t *testing.T) {
	run := NewRun(result("none"))
	if run.Verdict != drill.Fail {
		t.Errorf("one claim failed and one has no data: want Fail, got %s", run.Verdict)
	}
	if got := *run.Admin.SuccessRatio; got != 0.25 {
		t.Errorf("one of four requests of the storm was good: want 0.25, got %v", got)
	}
	if run.BreakGlass.SuccessRatio != nil || run.DNS.AfterRestart != nil {
		t.Error("what was not measured must be null")
	}
	if *run.Leases.Missed != 1 || run.Leases.Undetermined != 1 {
		t.Errorf("leases: want 1 missed, 1 undetermined, got %+v", run.Leases)
	}
	if a := run.APIServer; a.CPUSeconds != 3.3 || a.MaxRSSBytes != 3<<30 || *a.ListRequests != 40 || a.Restarts != 1 || a.ScrapesWithoutReply != 1 {
		t.Errorf("API server: want 3.3 s, 3 GiB, 40 LISTs, 1 restart, 1 scrape without reply, got %+v", a)
	}
}

// TestPageStandsAlone holds that the page needs no network, and that what comes from a scenario cannot become markup.
func TestPageStandsAlone(t *testing.T) {
	for name, write := range map[string]func(*bytes.Buffer) error{
		"report.html":      func(b *bytes.Buffer) error { return sample().HTML(b) },
		"before-after.svg": func(b *bytes.Buffer) error { return sample().Picture(b) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				t.Fatal(err)
			}
			text := strings.ReplaceAll(b.String(), `xmlns="http://www.w3.org/2000/svg"`, "")
			if found := regexp.MustCompile(`(?i)(src|href)\s*=\s*["']?https?://|url\(|@import|<script`).FindString(text); found != "" {
				t.Errorf("the file reaches out: %q", found)
			}
			if strings.Contains(text, "<now>") || strings.Contains(text, "<b>two</b>") {
				t.Error("a title of the scenario became markup")
			}
			if strings.Contains(text, "NaN") || strings.Contains(text, "ZgotmplZ") {
				t.Error("the file holds NaN or something the template refused")
			}
		})
	}
}

func TestPageOfNothing(t *testing.T) {
	r := &Report{}
	r.Conclude()
	if r.Verdict != drill.Unknown {
		t.Errorf("no run proves nothing: want Unknown, got %s", r.Verdict)
	}
	var b bytes.Buffer
	if err := r.HTML(&b); err != nil {
		t.Error(err)
	}
}
