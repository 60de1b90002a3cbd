package result

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMedian(t *testing.T) {
	for name, tc := range map[string]struct {
		values []float64
		want   float64
	}{
		"none":                      {nil, 0},
		"one":                       {[]float64{3}, 3},
		"odd, not in order":         {[]float64{9, 1, 5}, 5},
		"even":                      {[]float64{4, 1, 2, 3}, 2.5},
		"one run far off":           {[]float64{1, 1.1, 900}, 1.1},
		"the argument is not moved": {[]float64{2, 1, 3}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]float64(nil), tc.values...)
			if got := Median(tc.values); got != tc.want {
				t.Errorf("got %g, want %g", got, tc.want)
			}
			if diff := cmp.Diff(before, tc.values); diff != "" {
				t.Errorf("the values were changed: %s", diff)
			}
		})
	}
}

func runs() Runs {
	r := Runs{}
	for i, v := range []float64{10, 12, 11} {
		r.Add("ours", v)
		r.Add("theirs", []float64{9, 13, 10}[i])
	}
	return r
}

func TestCase(t *testing.T) {
	got := runs().Case("GET", "p50", "ms", "ours")
	want := Case{
		Case: "GET", Metric: "p50", Unit: "ms", Value: 11, Runs: 3,
		Baselines: map[string]float64{"theirs": 10},
		Spread:    map[string]Range{"ours": {10, 12}, "theirs": {9, 13}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestTargets(t *testing.T) {
	for name, tc := range map[string]struct {
		judge  func(*Case, Runs)
		met    bool
		judged *float64
	}{
		"at most, met":    {func(c *Case, _ Runs) { c.AtMost(11) }, true, nil},
		"at most, missed": {func(c *Case, _ Runs) { c.AtMost(10.9) }, false, nil},
		// The pairs differ by 1, -1 and 1; the medians by 1 too, but their runs were minutes apart.
		"paired, met":           {func(c *Case, r Runs) { c.AtMostAbove(r, "ours", "theirs", 1) }, true, new(1.0)},
		"paired, missed":        {func(c *Case, r Runs) { c.AtMostAbove(r, "ours", "theirs", 0.5) }, false, new(1.0)},
		"times, met":            {func(c *Case, r Runs) { c.AtMostTimes(r, "ours", "theirs", 1.2) }, true, new(1.1)},
		"times, missed":         {func(c *Case, r Runs) { c.AtMostTimes(r, "ours", "theirs", 1) }, false, new(1.1)},
		"more times, met":       {func(c *Case, r Runs) { c.AtLeastTimes(r, "ours", "theirs", 1) }, true, new(1.1)},
		"more times, missed":    {func(c *Case, r Runs) { c.AtLeastTimes(r, "ours", "theirs", 4) }, false, new(1.1)},
		"noise, ranges overlap": {func(c *Case, r Runs) { c.WithinNoise(r, "ours", "theirs", 2) }, true, new(1.1)},
	} {
		t.Run(name, func(t *testing.T) {
			r := runs()
			c := r.Case("GET", "p50", "ms", "ours")
			tc.judge(&c, r)
			if c.Met == nil || *c.Met != tc.met || c.Target == "" {
				t.Errorf("got %v of %q, want %t", c.Met, c.Target, tc.met)
			}
			if diff := cmp.Diff(tc.judged, c.Judged); diff != "" {
				t.Errorf("judged (-want +got)\n%s", diff)
			}
		})
	}
	t.Run("noise, far below", func(t *testing.T) {
		r := Runs{"ours": {50, 51}, "theirs": {100, 101}}
		c := r.Case("GET", "throughput", "1/s", "ours")
		c.WithinNoise(r, "ours", "theirs", 0.95)
		if *c.Met {
			t.Error("half of it was taken for noise")
		}
	})
}

func report() *Report {
	met, missed := runs().Case("GET", "p50", "ms", "ours"), runs().Case("GET", "CPU", "µs", "ours")
	met.AtMost(20)
	missed.AtMost(5)
	missed.Profile = "CPU profile"
	return &Report{
		Part: "part", Subject: "ours", Machine: "2 × a CPU", Version: "v1", Setup: []string{"One server."},
		Cases:    []Case{met, missed},
		Profiles: []Profile{{Name: "CPU profile", File: "part.pprof", Top: []string{"50% syscall", "50% else"}}},
	}
}

func TestValidate(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Report)
		want   string
	}{
		"as it should be":               {func(*Report) {}, ""},
		"no machine":                    {func(r *Report) { r.Machine = "" }, "machine"},
		"no case":                       {func(r *Report) { r.Cases = nil }, "cases"},
		"no unit":                       {func(r *Report) { r.Cases[0].Unit = "" }, "unit"},
		"no spread":                     {func(r *Report) { r.Cases[0].Spread = nil }, "spread"},
		"a target without a verdict":    {func(r *Report) { r.Cases[0].Met = nil }, "belong together"},
		"missed without a reason":       {func(r *Report) { r.Cases[1].Profile = "" }, "profile"},
		"missed, reason does not exist": {func(r *Report) { r.Profiles = nil }, "profile"},
	} {
		t.Run(name, func(t *testing.T) {
			r := report()
			tc.change(r)
			err := r.Validate()
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// A run of its own stands beside that of the whole part, in the folder and on the page.
func TestReportsOfOnePart(t *testing.T) {
	dir := t.TempDir()
	whole, own := report(), report()
	own.As = "objects"
	for _, r := range []*Report{own, whole} {
		if _, err := r.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	got, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*Report{whole, own}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	page := Page(got)
	first, second := strings.Index(page, "\n## part\n"), strings.Index(page, "\n## part-objects\n")
	if first < 0 || second < first {
		t.Errorf("the page has the sections at %d and %d", first, second)
	}
}

func TestReportIsReadAsItWasWritten(t *testing.T) {
	dir := t.TempDir()
	file, err := report().Write(dir)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]*Report{report()}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	// The shape that others read.
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var shape struct {
		Part, Machine string
		Cases         []map[string]any
	}
	if err := json.Unmarshal(data, &shape); err != nil {
		t.Fatal(err)
	}
	for _, field := range []string{"case", "metric", "unit", "value", "baselines", "target", "met"} {
		if _, ok := shape.Cases[1][field]; !ok {
			t.Errorf("a case has no %q", field)
		}
	}
	if _, err := Read(strings.NewReader(`{"part":"x","sepeed":3}`)); err == nil {
		t.Error("a field nobody knows was read")
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.01234: "0.0123", 1: "1", 1.5: "1.5", 12.345: "12.3", 99999: "99999", -0.5: "-0.5", 1234.5: "1234"} {
		if got := Number(v); got != want {
			t.Errorf("%g: got %s, want %s", v, got, want)
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := report().Table(&b); err != nil {
		t.Fatal(err)
	}
	const want = `CASE  METRIC  UNIT  OURS        THEIRS     TARGET   MET
GET   p50     ms    11 (10–12)  10 (9–13)  ≤ 20 ms  yes
GET   CPU     µs    11 (10–12)  10 (9–13)  ≤ 5 µs   NO
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestPage(t *testing.T) {
	page := Page([]*Report{report()})
	for _, want := range []string{
		"## part\n", "on 2 × a CPU, version v1", "- One server.\n",
		"| GET | p50, ms | 11 (10–12) | 10 (9–13) | ≤ 20 ms | yes |\n",
		"| GET | CPU, µs | 11 (10–12) | 10 (9–13) | ≤ 5 µs | **no** |\n",
		"Missed: GET CPU. Where it goes (CPU profile):\n\n```\n50% syscall\n50% else\n```\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%s", want, page)
		}
	}
}
