package main

import (
	"context"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/bench/agents"
	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/result"
)

func TestParse(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args    []string
		seconds string
		turn    time.Duration
		fixed   []int
		wantErr bool
	}{
		"as it is":               {turn: 10 * time.Second, fixed: []int{10, 30, 90}},
		"quick":                  {seconds: "3", turn: 3 * time.Second, fixed: []int{10, 30, 90}},
		"a flag wins":            {args: []string{"-turn", "4s", "-fixed", "7"}, seconds: "3", turn: 4 * time.Second, fixed: []int{7}},
		"a setting twice":        {args: []string{"-fixed", "7,7"}, wantErr: true},
		"a setting of nothing":   {args: []string{"-maxconn", "0"}, wantErr: true},
		"no setting":             {args: []string{"-inflight", ""}, wantErr: true},
		"too few pods":           {args: []string{"-pods", "10"}, wantErr: true},
		"a broken expression":    {args: []string{"-against", "("}, wantErr: true},
		"no program":             {args: []string{"-seakeep", "absent"}, wantErr: true},
		"a flag that is not one": {args: []string{"-loud"}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-seakeep", self}, tc.args...)
			o, err := parse(args, func(string) string { return tc.seconds }, io.Discard)
			if (err != nil) != tc.wantErr || err == nil && (o.Turn != tc.turn || !slices.Equal(o.fixed, tc.fixed)) {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

// read is a turn's reading with an engineer's latencies in milliseconds.
func read(perSecond int64, idle, peak int64, milliseconds ...int) *reading {
	a := &admin{latency: load.NewHistogram()}
	for _, ms := range milliseconds {
		a.note(time.Duration(ms)*time.Millisecond, nil)
	}
	return &reading{Outcome: agents.Outcome{Delivered: perSecond, Seconds: 1}, admin: a, idle: idle << 20, peak: peak << 20}
}

// verdicts are what the cases say, by metric; those without a target are left out.
func verdicts(cases []result.Case) map[string]bool {
	got := map[string]bool{}
	for _, c := range cases {
		if c.Met != nil {
			got[c.Metric] = *c.Met
		}
	}
	return got
}

func TestTargets(t *testing.T) {
	s := storm{name: "storm", kind: agents.Patch, clients: 2}
	idle := newNumbers()
	idle.add(gateName, storm{}, read(0, 500, 500, 10))
	for name, tc := range map[string]struct {
		gate, direct, fixed *reading
		missed              int
		want                map[string]bool
	}{
		"all well": {
			gate: read(80, 500, 1400, 149), direct: read(10, 500, 6000, 5000), fixed: read(100, 500, 1400, 100),
			want: map[string]bool{adminP99: true, adminP99 + ", held to direct": true, leasesMissed: true, goodput: true, memory + ", held to direct": true, memoryTimes: true},
		},
		"all missed": {
			gate: read(79, 500, 1600, 400), direct: read(10, 500, 6000, 5000), fixed: read(100, 500, 1400, 100), missed: 1,
			want: map[string]bool{adminP99: false, adminP99 + ", held to direct": false, leasesMissed: false, goodput: false, memory + ", held to direct": false, memoryTimes: false},
		},
		// A storm that does not hurt the API server by itself holds nobody to a fraction of it.
		"direct is well": {
			gate: read(100, 500, 600, 20), direct: read(100, 500, 600, 20), fixed: read(100, 500, 600, 20),
			want: map[string]bool{adminP99: true, leasesMissed: true, goodput: true, memoryTimes: true},
		},
		"nobody beside": {gate: read(100, 500, 600, 20), want: map[string]bool{adminP99: true, leasesMissed: true, memoryTimes: true}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNumbers()
			tc.gate.missed = tc.missed
			n.add(gateName, s, tc.gate)
			for contender, got := range map[string]*reading{directName: tc.direct, fixedName: tc.fixed} {
				if got != nil {
					n.add(contender, s, got)
				}
			}
			cases := n.cases(s, idle)
			if diff := cmp.Diff(tc.want, verdicts(cases)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for _, c := range cases {
				if c.Met != nil && !*c.Met && c.Profile != profileName(s) {
					t.Errorf("%s is missed and nothing explains it", c.Metric)
				}
			}
		})
	}
}

func TestSettings(t *testing.T) {
	of := func(contender string) (tried []*way, n *numbers) {
		n = newNumbers()
		for setting, got := range map[int]*reading{4: read(70, 1, 1, 50), 16: read(90, 1, 1, 100), 64: read(100, 1, 1, 900)} {
			w := &way{name: tuned(contender, setting), contender: contender, setting: setting}
			tried = append(tried, w)
			n.add(w.name, storm{clients: 1}, got)
		}
		slices.SortFunc(tried, func(a, b *way) int { return a.setting - b.setting })
		n.add(gateName, storm{clients: 1}, read(80, 1, 1, 10))
		return tried, n
	}
	for contender, want := range map[string]int{haproxyName: 16, inflightName: 16, fixedName: 64} {
		tried, n := of(contender)
		best := n.choose(tried)
		if best.setting != want {
			t.Errorf("%s: chose %d, want %d", contender, best.setting, want)
		}
		n.settle(best, tried)
		if got := n.runs[goodput]; len(got) != 2 || len(got[contender]) != 1 || len(got[gateName]) != 1 {
			t.Errorf("%s: the columns are %v", contender, got)
		}
		if len(n.notes) != 1 || !strings.Contains(n.notes[0], "4: 70/s, p99 50 ms") {
			t.Errorf("%s: what was tried is not noted: %q", contender, n.notes)
		}
	}
}

func TestRenewalsThatAreDue(t *testing.T) {
	start := time.Unix(1700000000, 0)
	at := func(s float64) time.Time { return start.Add(time.Duration(s * float64(time.Second))) }
	n := &nodes{first: []time.Time{at(0), at(2.5), at(5), at(7.5)}}
	for name, tc := range map[string]struct {
		from, to float64
		want     int
	}{
		"a whole period":            {12, 22, 4},
		"its end is not in it":      {0, 2.5, 1},
		"two periods":               {0, 20, 8},
		"a part":                    {13, 16, 1},
		"before the first was due":  {-3, 1, 1},
		"a moment when none is due": {0.5, 2, 0},
	} {
		if got := n.due(at(tc.from), at(tc.to)); got != tc.want {
			t.Errorf("%s: got %d, want %d", name, got, tc.want)
		}
	}
	n.renewals = []renewal{{at(12), time.Second, true}, {at(15), 9 * time.Second, true}, {at(17), 10 * time.Second, false}, {at(22), time.Hour, true}}
	if made, missed, worst := n.settled(at(12), at(22)); made != 2 || missed != 1 || worst != 9*time.Second {
		t.Errorf("made %d, missed %d, worst %s", made, missed, worst)
	}
}

// answers is a round trip that answers from a list of codes; 0 never answers.
type answers struct{ codes []int }

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	code := a.codes[0]
	a.codes = a.codes[1:]
	if code == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return &http.Response{
		StatusCode: code, Header: http.Header{"Retry-After": {"1"}}, Request: r,
		Body: io.NopCloser(strings.NewReader(`{"metadata":{"name":"node-0000","resourceVersion":"2"}}`)),
	}, nil
}

func TestANodeRenewsUntilTheNextIsDue(t *testing.T) {
	for name, tc := range map[string]struct {
		codes []int
		made  bool
		took  time.Duration
	}{
		"at once":                       {[]int{200}, true, 0},
		"refused, and again when told":  {[]int{429, 429, 200}, true, 2 * time.Second},
		"a conflict is read and solved": {[]int{409, 200, 200}, true, 0},
		"no answer":                     {[]int{0}, false, renewEvery},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &nodes{}
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), renewEvery)
				defer cancel()
				lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "node-0000"}}
				if made := n.once(ctx, &answers{tc.codes}, lease); made != tc.made {
					t.Errorf("made is %t", made)
				}
				if took := time.Since(began); took != tc.took {
					t.Errorf("took %s, want %s", took, tc.took)
				}
			})
		})
	}
}

func TestCostErrors(t *testing.T) {
	const text = `# HELP seakeep_gate_admit_cost_error_ratio x
seakeep_gate_admit_cost_error_ratio{of="seconds"} 0.25
seakeep_gate_admit_cost_error_ratio{of="bytes"} 0.01
seakeep_gate_admit_cost_error_ratio{of="nothing"} NaN
seakeep_gate_admit_seats{level="system"} 7
`
	got, err := costErrors([]byte(text))
	if diff := cmp.Diff(map[string]float64{"seconds": 0.25, "bytes": 0.01}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got)\n%s", err, diff)
	}
	if _, err := costErrors([]byte(costError + `{of="seconds"} much` + "\n")); err == nil {
		t.Error("a number that is none was read")
	}
}
