package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/forecast/observe"
)

// sampleFile has what a component cost on none, one and three nodes, in seats a node.
func sampleFile(t *testing.T, each float64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "samples.jsonl")
	record, err := observe.OpenRecord(file, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)
	for _, n := range []int{0, 1, 3} {
		for i := range 4 {
			s := forecast.Sample{
				Cluster: "production", Nodes: 300, Exposed: n, Objects: 3000, From: at, To: at.Add(time.Minute),
				Cost:   map[forecast.Kind]float64{forecast.Seats: each * float64(n) * (1 + 0.01*float64(i)), forecast.Requests: 0.1 * float64(n)},
				Server: map[forecast.Kind]float64{forecast.CPU: 1 + 0.001*float64(i) + 0.3*each*float64(n)},
			}
			at = at.Add(time.Minute)
			if err := record.Keep(s); err != nil {
				t.Fatal(err)
			}
		}
	}
	return file
}

func TestForecastOfSamples(t *testing.T) {
	dear, cheap := sampleFile(t, 0.05), sampleFile(t, 0.001)
	code, stdout, stderr := command(t, "", "forecast", "--samples", dear, "--capacity", "seats=10-2,cpu=8-1", "--for", "huge=3000,30000")
	if code != ExitFindings || stderr != "" {
		t.Errorf("exit code %d, %s", code, stderr)
	}
	golden(t, "forecast.txt", []byte(stdout))

	code, stdout, _ = command(t, "", "forecast", "--samples", cheap, "--capacity", "seats=10-2")
	if code != ExitOK || !strings.Contains(stdout, "production: Pass") {
		t.Errorf("exit code %d: %s", code, stdout)
	}

	code, stdout, _ = command(t, "", "forecast", "--samples", dear, "--capacity", "seats=10", "-o", "json")
	var report forecastReport
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != ExitFindings {
		t.Fatalf("exit code %d, %v: %s", code, err, stdout)
	}
	if len(report.Samples) != 12 || len(report.Clusters) != 1 || report.Clusters[0].Judgement.Outcome != forecast.Fail {
		t.Errorf("%+v", report)
	}

	_, stdout, _ = command(t, "", "forecast", "--samples", dear, "--capacity", "seats=10", "-o", "html")
	for _, want := range []string{"<!doctype html>", `class="band"`, `class="seen"`, "production, 300 nodes", "what it may take: 6"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(stdout, "<script") || strings.Contains(stdout, "http://") || strings.Contains(stdout, "https://") {
		t.Error("the page needs more than itself")
	}

	// Without a capacity nothing is judged.
	code, stdout, _ = command(t, "", "forecast", "--samples", dear)
	if code != ExitFindings || !strings.Contains(stdout, "no kind of cost has both a prediction and a capacity") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
}

// An audit log alone gives a forecast; what was read is kept for the next.
func TestForecastOfAnAuditLog(t *testing.T) {
	var log strings.Builder
	line := func(second float64, user, node string) {
		at := time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC).Add(time.Duration(second * float64(time.Second)))
		fmt.Fprintf(&log, `{"kind":"Event","apiVersion":"audit.k8s.io/v1","stage":"ResponseComplete","verb":"list","user":{"username":%q,"extra":{"authentication.kubernetes.io/node-name":[%q]}},"responseStatus":{"code":200},"requestReceivedTimestamp":%q,"stageTimestamp":%q}`+"\n",
			user, node, at.Format(time.RFC3339Nano), at.Add(50*time.Millisecond).Format(time.RFC3339Nano))
	}
	for second := range 900 {
		line(float64(second), "system:kube-scheduler", "")
		for node, from := range []int{300, 600, 610} {
			if second >= from && second%10 == node {
				line(float64(second), "system:serviceaccount:telemetry:agent", fmt.Sprintf("node-%d", node))
			}
		}
	}
	dir := t.TempDir()
	file, kept := filepath.Join(dir, "audit.log"), filepath.Join(dir, "samples.jsonl")
	if err := os.WriteFile(file, []byte(log.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(dir, "no-kubeconfig")
	code, stdout, stderr := command(t, "", "forecast", "--kubeconfig", none, "--workload", "daemonset/telemetry/agent", "--audit", file, "--nodes", "300",
		"--cluster", "production", "--capacity", "seats=10", "--samples", kept)
	if code != ExitOK || !strings.Contains(stdout, "production: Pass. 1.5 of seats") {
		t.Errorf("exit code %d: %s %s", code, stdout, stderr)
	}
	if code, again, _ := command(t, "", "forecast", "--samples", kept, "--capacity", "seats=10"); code != ExitOK || again != stdout {
		t.Errorf("from what was kept, exit code %d: %s", code, again)
	}
	code, _, stderr = command(t, "", "forecast", "--kubeconfig", none, "--workload", "daemonset/telemetry/other", "--audit", file, "--nodes", "300")
	if code != ExitFailure || !strings.Contains(stderr, "no request of system:serviceaccount:telemetry:other") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestForecastRefuses(t *testing.T) {
	samples := sampleFile(t, 0.01)
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"nothing to measure":     {nil, "needs --workload"},
		"an output":              {[]string{"--samples", samples, "-o", "xml"}, "output must be"},
		"two ways":               {[]string{"--workload", "daemonset/a/b", "--audit", "x", "--gate", "y"}, "two ways"},
		"an audit of nobody":     {[]string{"--samples", samples, "--audit", "x"}, "needs --workload"},
		"a Deployment":           {[]string{"--workload", "deployment/a/b"}, "must be a DaemonSet"},
		"no namespace":           {[]string{"--workload", "b"}, "must be daemonset/NAMESPACE/NAME"},
		"a short window":         {[]string{"--samples", samples, "--window", "1ms"}, "--window"},
		"a hold below a window":  {[]string{"--samples", samples, "--hold", "1s"}, "--hold"},
		"a share over one":       {[]string{"--samples", samples, "--max-utilization", "2"}, "--max-utilization"},
		"a capacity":             {[]string{"--samples", samples, "--capacity", "seats"}, "--capacity"},
		"a capacity of nothing":  {[]string{"--samples", samples, "--capacity", "seats=0"}, "--capacity"},
		"an unknown kind":        {[]string{"--samples", samples, "--capacity", "luck=7"}, "--capacity"},
		"a cluster without size": {[]string{"--samples", samples, "--for", "x"}, "--for"},
		"objects that are none":  {[]string{"--samples", samples, "--for", "x=3,many"}, "--for"},
		"a dry run of a file":    {[]string{"--samples", samples, "--dry-run"}, "--dry-run"},
		"a file that is gone":    {[]string{"--samples", samples + ".gone"}, "no such file"},
		"no samples in it":       {[]string{"--samples", "forecast_test.go"}, "line 1"},
		"an argument":            {[]string{"now", "--samples", samples}, "now"},
	} {
		if code, stdout, stderr := command(t, "", append([]string{"forecast"}, tc.args...)...); code != ExitUsage || stdout != "" || !strings.Contains(stderr, tc.want) {
			t.Errorf("%s: exit code %d, %q, %q", name, code, stdout, stderr)
		}
	}
	for name, tc := range map[string]struct {
		args []string
		want string
		code int
	}{
		"no program": {nil, "needs --exec", ExitUsage},
		"one node":   {[]string{"--exec", "/bin/true", "--nodes", "1"}, "--nodes", ExitUsage},
		"no lab":     {[]string{"--exec", "/bin/true", "--dir", t.TempDir()}, "no lab", ExitFailure},
	} {
		if code, _, stderr := command(t, "", append([]string{"forecast", "rehearse"}, tc.args...)...); code != tc.code || !strings.Contains(stderr, tc.want) {
			t.Errorf("rehearse, %s: exit code %d, %q", name, code, stderr)
		}
	}
}

func TestForecastLint(t *testing.T) {
	manifest := filepath.Join("..", "forecast", "lint", "testdata", "incident.yaml")
	code, stdout, stderr := command(t, "", "forecast", "lint", "-f", manifest)
	if code != ExitFindings || stderr != "" {
		t.Errorf("exit code %d: %s", code, stderr)
	}
	golden(t, "forecast-lint.txt", []byte(stdout))
	good, err := os.ReadFile(filepath.Join("..", "forecast", "lint", "testdata", "good.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	code, stdout, _ = command(t, string(good), "forecast", "lint", "-f", "-", "-o", "json")
	var report lintReport
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != ExitOK || report.Objects != 4 || len(report.Risks) != 0 {
		t.Errorf("exit code %d, %v: %s", code, err, stdout)
	}
	// Rights are in one file as often as in another.
	code, stdout, _ = command(t, string(good), "forecast", "lint", "-f", "-", "-f", manifest)
	if code != ExitFindings || !strings.Contains(stdout, "7 risks in 8 objects") {
		t.Errorf("exit code %d: %s", code, stdout)
	}
	for _, args := range [][]string{nil, {"-f", "gone.yaml"}, {"-f", "forecast_test.go"}, {"-f", manifest, "-o", "xml"}} {
		if code, _, stderr := command(t, "", append([]string{"forecast", "lint"}, args...)...); code != ExitUsage || !strings.Contains(stderr, "error: ") {
			t.Errorf("%q: exit code %d: %s", args, code, stderr)
		}
	}
}
