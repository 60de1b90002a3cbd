package analysis

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// arrives is the minute at which the change comes to the cluster that gets it.
const arrives = 20

// life is a run in virtual time with a look a minute, whose process can be killed. Its change comes to the cluster "with", and
// not to "without".
type life struct {
	*Analyst
	t    *testing.T
	file string
	spec func(*v1alpha1.RolloutAnalysis)
	// measured is what each cluster shows at a minute; nil is nothing.
	measured func(cluster string, minute int) *Record
	began    time.Time
	minute   int
	// skew is by how much the clock is wrong.
	skew time.Duration
	// since is when the step began, on the clock as it was.
	since time.Time
}

func begin(t *testing.T, spec func(*v1alpha1.RolloutAnalysis), measured func(cluster string, minute int) *Record) *life {
	l := &life{t: t, file: filepath.Join(t.TempDir(), "state", "readings.jsonl"), spec: spec, measured: measured, began: time.Unix(1.7e9, 0)}
	l.restart()
	return l
}

func (l *life) now() time.Time { return l.began.Add(time.Duration(l.minute)*time.Minute + l.skew) }

// restart is a new process; the one before was killed.
func (l *life) restart() {
	l.t.Helper()
	if err := l.open(); err != nil {
		l.t.Fatal(err)
	}
}

func (l *life) open() (err error) {
	a := v1alpha1.RolloutAnalysis{Slow: v1alpha1.RolloutSlowAnalysis{Interval: &metav1.Duration{Duration: 10 * time.Minute}}}
	a.DNS.Mode, a.Probes.Mode, a.Workload.Mode = v1alpha1.Disabled, v1alpha1.Disabled, v1alpha1.Disabled
	if l.spec != nil {
		l.spec(&a)
	}
	a.SetDefaults(time.Minute)
	server := []Endpoint{{Name: "s", URL: "https://127.0.0.1:1"}}
	l.Analyst, err = New(Options{
		Analysis: a, Interval: time.Minute, Now: l.now, File: l.file,
		Clusters: []Cluster{{Name: "with", Config: &rest.Config{Host: "https://127.0.0.1:1"}, Servers: server}, {Name: "without", Config: &rest.Config{Host: "https://127.0.0.1:2"}, Servers: server}},
		Replay: func(cluster string) (Record, bool) {
			r := l.measured(cluster, l.minute)
			if r == nil {
				return Record{}, false
			}
			r.Cluster, r.At = cluster, l.now()
			if r.Asked == nil {
				r.Asked = map[string]verdict.Asked{}
			}
			r.Asked[verdict.CheckReady] = verdict.Asked{Check: verdict.CheckReady, Asked: 1, Answered: 1}
			if r.Workload != nil {
				r.Workload.At = r.At
			}
			return *r, true
		},
	})
	return err
}

// look looks at both clusters, and is a minute later then.
func (l *life) look() verdict.Look {
	l.t.Helper()
	if l.minute == arrives {
		l.since = l.now()
	}
	e := engine.Exposure{Cluster: "with"}
	if l.minute >= arrives {
		e.Step, e.Planned, e.Exposed, e.Since = 1, 1, []string{"n"}, l.since
	}
	if _, err := l.Look(l.t.Context(), engine.Exposure{Cluster: "without"}); err != nil {
		l.t.Fatal(err)
	}
	look, err := l.Look(l.t.Context(), e)
	if err != nil {
		l.t.Fatal(err)
	}
	l.minute++
	return look
}

// until looks until a minute, or until a look fails, which it returns with its minute.
func (l *life) until(minute int) (look verdict.Look, at int) {
	l.t.Helper()
	for l.minute < minute {
		if look = l.look(); look.Verdict == verdict.Fail {
			break
		}
	}
	return look, l.minute - 1
}

func calm(string, int) *Record { return &Record{Levels: quiet()} }

// slower is a change that makes writes slower within their bound, from a minute on: only with the time before can it be seen.
func slower(from int) func(string, int) *Record {
	return func(cluster string, minute int) *Record {
		r := calm(cluster, minute)
		if cluster == "with" && minute >= from {
			r.Levels[checkWriteLatency] = 0.6
		}
		return r
	}
}

func figureOf(look verdict.Look, name string) bool {
	return slices.ContainsFunc(look.Findings, func(f verdict.Finding) bool {
		return slices.ContainsFunc(f.Figures, func(one verdict.Figure) bool { return one.Name == name })
	})
}

func TestRestartKeepsTheTimeBeforeTheChange(t *testing.T) {
	for name, tc := range map[string]struct {
		skew time.Duration
		lose bool
		want verdict.Verdict
	}{
		"killed":                                   {0, false, verdict.Fail},
		"killed, and the clock was set forward":    {26 * time.Hour, false, verdict.Fail},
		"killed, and the clock was set back":       {-26 * time.Hour, false, verdict.Fail},
		"killed, and the clock was set back a bit": {-90 * time.Second, false, verdict.Fail},
		"killed, and the file was lost":            {0, true, verdict.Pass},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(t, nil, slower(arrives+5))
			if look, at := l.until(arrives + 3); look.Verdict != verdict.Pass {
				t.Fatalf("at minute %d: %s: %s", at, look.Verdict, look.Why())
			}
			if tc.lose {
				if err := os.Remove(l.file); err != nil {
					t.Fatal(err)
				}
			}
			l.skew = tc.skew
			for range 2 { // and once again, before it has measured anything
				l.restart()
			}
			if at := l.clusters["with"].exposedAt; at.IsZero() != tc.lose {
				t.Errorf("the change came at %s", at)
			}
			look, at := l.until(arrives + 25)
			if look.Verdict != tc.want {
				t.Errorf("at minute %d: %s: %s", at, look.Verdict, look.Why())
			}
			if tc.want == verdict.Fail && (!strings.HasPrefix(look.Why(), checkWriteLatency+":") || !look.Attributed()) {
				t.Errorf("at minute %d, attributed %t: %s", at, look.Attributed(), look.Why())
			}
			if had := figureOf(look, "99th percentile of writes before"); had == tc.lose {
				t.Errorf("it is compared with before: %t", had)
			}
		})
	}
}

// What an earlier process measured passes nothing, whatever the clock says of its age.
func TestRestartIsNoFreshLook(t *testing.T) {
	for _, skew := range []time.Duration{0, -time.Minute, -26 * time.Hour, 26 * time.Hour} {
		t.Run(fmt.Sprint("a clock that is ", skew, " wrong"), func(t *testing.T) {
			silent := false
			l := begin(t, nil, func(cluster string, minute int) *Record {
				if silent {
					return nil
				}
				return calm(cluster, minute)
			})
			if look, at := l.until(arrives + 5); look.Verdict != verdict.Pass {
				t.Fatalf("at minute %d: %s: %s", at, look.Verdict, look.Why())
			}
			silent, l.skew = true, skew
			l.restart()
			if len(l.clusters["with"].history) == 0 {
				t.Fatal("nothing was kept")
			}
			for range 3 {
				look := l.look()
				if look.Verdict != verdict.Unknown {
					t.Errorf("with nothing measured: %s: %s", look.Verdict, look.Why())
				}
				for _, f := range look.Findings {
					if f.Verdict == verdict.Pass || f.Fresh {
						t.Errorf("%s is %s, fresh %t: %s", f.Check, f.Verdict, f.Fresh, f.Reason)
					}
				}
			}
			// The first look that measures is the first of a row.
			silent = false
			if look := l.look(); look.Verdict != verdict.Unknown || !strings.Contains(look.Why(), "1 of 3 looks") {
				t.Errorf("the first look: %s: %s", look.Verdict, look.Why())
			}
		})
	}
}

// A cluster that has the change is no control after a restart, though nobody looks at it any more.
func TestRestartKnowsWhoHasTheChange(t *testing.T) {
	l := begin(t, nil, calm)
	l.until(arrives + 3)
	l.restart()
	if controls := l.controls(l.clusters["without"]); len(controls) != 0 {
		t.Errorf("%s counts as a cluster without the change", controls[0].Name)
	}
	if controls := l.controls(l.clusters["with"]); len(controls) != 1 {
		t.Errorf("%d clusters count as without the change, want 1", len(controls))
	}
}

// A leak is found over a restart as without one.
func TestRestartKeepsTheCourse(t *testing.T) {
	leak := func(cluster string, minute int) *Record {
		r := calm(cluster, minute)
		if cluster == "with" && minute >= arrives {
			r.Levels[checkWatches] += float64(minute-arrives) * 4
		}
		return r
	}
	const within = 45
	l := begin(t, nil, leak)
	if look, at := l.until(arrives + 14); look.Verdict == verdict.Fail {
		t.Fatalf("at minute %d already: %s", at, look.Why())
	}
	l.restart()
	look, at := l.until(arrives + within)
	if look.Verdict != verdict.Fail || !strings.HasPrefix(look.Why(), "slow."+checkWatches) || !look.Attributed() {
		t.Errorf("at minute %d, attributed %t: %s: %s", at, look.Attributed(), look.Verdict, look.Why())
	}
	lost := begin(t, nil, leak)
	lost.until(arrives + 14)
	if err := os.Remove(lost.file); err != nil {
		t.Fatal(err)
	}
	lost.restart()
	if look, at := lost.until(arrives + within); look.Verdict == verdict.Fail {
		t.Errorf("without the file at minute %d: %s", at, look.Why())
	}
}

// What the slow horizon sees of what is asked and of pods, that the fast one lets pass.
func TestSlowCourses(t *testing.T) {
	asked := func(n, answered int, took time.Duration) map[string]verdict.Asked {
		a := verdict.Asked{Asked: n, Answered: answered}
		for range answered {
			a.Took = append(a.Took, took)
		}
		return map[string]verdict.Asked{checkDNS + "/10.0.0.1:53": a, checkProbes + probeConnect: {Asked: 3, Answered: 3, Took: []time.Duration{took}}, checkProbes + probeList: {Asked: 3, Answered: 3, Took: []time.Duration{took}}, checkProbes + probeCreatePod: {Asked: 3, Answered: 3, Took: []time.Duration{took}}}
	}
	pods := func(name string, n, restarts, late int) []verdict.Pod {
		all := make([]verdict.Pod, n)
		for i := range all {
			all[i] = verdict.Pod{Name: fmt.Sprint(name, i), Created: time.Unix(1.6e9, 0), Ready: i >= late, Restarts: (restarts + n - 1 - i) / n}
		}
		return all
	}
	const ms = time.Millisecond
	for name, tc := range map[string]struct {
		// with is what the cluster with the change shows, minutes after it came.
		with func(after int) (map[string]verdict.Asked, *verdict.Workload)
		want string // the check that fails; "" none
		own  bool
	}{
		"all is well": {func(int) (map[string]verdict.Asked, *verdict.Workload) {
			return asked(50, 50, 2*ms), &verdict.Workload{Update: pods("u", 20, 0, 0), Stable: pods("s", 10, 0, 0)}
		}, "", false},
		"answers get slower": {func(after int) (map[string]verdict.Asked, *verdict.Workload) {
			return asked(50, 50, 2*ms+time.Duration(after)*ms), &verdict.Workload{Update: pods("u", 20, 0, 0), Stable: pods("s", 10, 0, 0)}
		}, "slow.dns.latency", true},
		"ever more is not answered, never twice in a row": {func(after int) (map[string]verdict.Asked, *verdict.Workload) {
			lost := 0
			if after%3 == 0 {
				lost = after / 10
			}
			return asked(100, 100-lost, 2*ms), &verdict.Workload{Update: pods("u", 20, 0, 0), Stable: pods("s", 10, 0, 0)}
		}, "slow.dns.failed", true},
		"pods restart ever more often": {func(after int) (map[string]verdict.Asked, *verdict.Workload) {
			return asked(50, 50, 2*ms), &verdict.Workload{Update: pods("u", 20, after*after/120, 0), Stable: pods("s", 10, 0, 0)}
		}, "slow.workload.restarts", true},
		"pods of both revisions do": {func(after int) (map[string]verdict.Asked, *verdict.Workload) {
			return asked(50, 50, 2*ms), &verdict.Workload{Update: pods("u", 20, after*after/120, 0), Stable: pods("s", 20, after*after/120, 0)}
		}, "", false},
		"ever more pods fall over, and come back": {func(after int) (map[string]verdict.Asked, *verdict.Workload) {
			late := 0
			if after%3 == 0 {
				late = after / 6
			}
			return asked(50, 50, 2*ms), &verdict.Workload{Update: pods("u", 40, 0, late), Stable: pods("s", 10, 0, 0)}
		}, "slow.workload.ready", true},
		"one pod restarts once": {func(after int) (map[string]verdict.Asked, *verdict.Workload) {
			restarts := 0
			if after > 40 {
				restarts = 1
			}
			return asked(50, 50, 2*ms), &verdict.Workload{Update: pods("u", 3, restarts, 0), Stable: pods("s", 10, 0, 0)}
		}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(t, func(a *v1alpha1.RolloutAnalysis) {
				a.DNS.Mode, a.Probes.Mode, a.Workload.Mode = v1alpha1.Enabled, v1alpha1.Enabled, v1alpha1.Enabled
				a.Workload.MaxRestarts = new(5)
			}, func(cluster string, minute int) *Record {
				r := calm(cluster, minute)
				after := 0
				if cluster == "with" {
					after = max(0, minute-arrives)
				}
				r.Asked, r.Workload = tc.with(after)
				return r
			})
			look, at := l.until(arrives + 80)
			l.restart()
			if look.Verdict != verdict.Fail {
				look, at = l.until(arrives + 100)
			}
			got := ""
			if look.Verdict == verdict.Fail {
				got, _, _ = strings.Cut(look.Why(), ":")
			}
			t.Logf("minute %d: %s: %s", at-arrives, look.Verdict, look.Why())
			if got != tc.want || look.Attributed() != tc.own {
				t.Errorf("%q fails (attributed %t), want %q (%t)", got, look.Attributed(), tc.want, tc.own)
			}
		})
	}
}

// kept is how many lines the file has, by cluster.
func (l *life) kept() map[string]int {
	l.t.Helper()
	f, err := os.Open(l.file)
	if err != nil {
		l.t.Fatal(err)
	}
	defer f.Close()
	kept, err := readKept(f)
	if err != nil {
		l.t.Fatal(err)
	}
	n := map[string]int{}
	for _, k := range kept {
		n[k.Cluster]++
	}
	return n
}

// Killed at any instant: whatever the last write left, the next process reads what is whole and goes on after it.
func TestRestartAfterATornLine(t *testing.T) {
	l := begin(t, nil, calm)
	for i := range 10 {
		l.until(l.minute + 2)
		f, err := os.OpenFile(l.file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(`{"cluster":"with","at":"2026-11-26T09:00:00Z","controlPlane":{"cpu":0.1234567`[:7*i+1]); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		l.restart()
	}
	// Each process measured twice, and the last reading of each died with it.
	if n := l.kept(); n["with"] != 10 || n["without"] != 10 {
		t.Errorf("kept %v", n)
	}
	info, err := os.Stat(l.file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
}

func TestRestartRefusesABrokenFile(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(file string) error
		want  string
	}{
		"a line in the midst": {func(file string) error { return os.WriteFile(file, []byte("{\"cluster\":\"with\"\n"), 0o600) }, "readings.jsonl: line 1: "},
		"a cluster of another run": {func(file string) error {
			return os.WriteFile(file, []byte("{\"cluster\":\"other\",\"at\":\"2026-11-26T09:00:00Z\"}\n"), 0o600)
		}, `readings.jsonl: reading 1: the run has no cluster "other"`},
		"a link": {func(file string) error {
			if err := os.Rename(file, file+".moved"); err != nil {
				return err
			}
			return os.Symlink(file+".moved", file)
		}, "readings.jsonl: it must be a file"},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(t, nil, calm)
			l.until(3)
			if err := tc.spoil(l.file); err != nil {
				t.Fatal(err)
			}
			if err := l.open(); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want …%s…", err, tc.want)
			}
		})
	}
}

// The file does not grow without end, and what it keeps is the baseline whole and the course thinned.
func TestReadingsAreBounded(t *testing.T) {
	l := begin(t, func(a *v1alpha1.RolloutAnalysis) { a.Slow.Mode = v1alpha1.Disabled }, calm)
	most := 0
	l.until(3)
	for l.minute < 1200 {
		l.look()
		kept := l.kept()
		most = max(most, kept["with"]+kept["without"])
	}
	if most > 2*(keptReadings+keptSlack) {
		t.Errorf("%d lines", most)
	}
	info, err := os.Stat(l.file)
	if err != nil {
		t.Fatal(err)
	}
	n := l.kept()
	t.Logf("at most %d lines, of %d bytes each", most, info.Size()/int64(n["with"]+n["without"]))
	l.restart()
	before, _ := l.clusters["with"].split(l.now())
	if len(before) != arrives {
		t.Errorf("%d readings from before the change, want all %d", len(before), arrives)
	}
	since := l.clusters["with"].course(l.now().Add(-3 * time.Hour))
	if len(since) < 40 || l.now().Sub(since[0].at) < 160*time.Minute {
		t.Errorf("%d readings with the change since %s", len(since), l.now().Sub(since[0].at))
	}
}

// While nothing can be written down nothing passes, and when it can again all of it is there.
func TestReadingsCannotBeWritten(t *testing.T) {
	for name, tc := range map[string]struct{ spoil, mend func(l *life) error }{
		"a folder in its way": {
			func(l *life) error {
				if err := os.Remove(l.file); err != nil {
					return err
				}
				return os.MkdirAll(filepath.Join(l.file, "x"), 0o700)
			},
			func(l *life) error { return os.RemoveAll(l.file) },
		},
		"a file in the way of its folder": {
			func(l *life) error {
				if err := os.RemoveAll(filepath.Dir(l.file)); err != nil {
					return err
				}
				return os.WriteFile(filepath.Dir(l.file), nil, 0o600)
			},
			func(l *life) error { return os.Remove(filepath.Dir(l.file)) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := begin(t, nil, calm)
			l.until(5)
			if err := tc.spoil(l); err != nil {
				t.Fatal(err)
			}
			l.look()
			l.unkept()
			if err := tc.mend(l); err != nil {
				t.Fatal(err)
			}
			l.keepsAgain()
		})
	}
}

// unkept looks, and wants it said that nothing is kept.
func (l *life) unkept() {
	l.t.Helper()
	for range 5 {
		look := l.look()
		if look.Verdict != verdict.Unknown || !strings.HasPrefix(look.Why(), checkKept+": what is measured cannot be kept") {
			l.t.Errorf("%s: %s", look.Verdict, look.Why())
		}
	}
}

func (l *life) keepsAgain() {
	l.t.Helper()
	if look, at := l.until(l.minute + 5); look.Verdict != verdict.Pass {
		l.t.Errorf("at minute %d: %s: %s", at, look.Verdict, look.Why())
	}
	if n := l.kept(); n["with"] != l.minute-1 || n["without"] != l.minute-1 {
		l.t.Errorf("kept %v at minute %d", n, l.minute)
	}
	l.restart()
}

// A file that is taken away is written anew, with all that is known.
func TestReadingsAreTakenAway(t *testing.T) {
	l := begin(t, nil, calm)
	l.until(7)
	if err := os.Remove(l.file); err != nil {
		t.Fatal(err)
	}
	l.until(l.minute + 2)
	if n := l.kept(); n["with"] != l.minute-1 { // one waits for the next
		t.Errorf("kept %v after the file was taken away at minute %d", n, l.minute)
	}
}

// A lane looks before its first step has begun: what it sees then is of before the change, on the first cluster all there is.
func TestBeforeAStepBeginsIsBefore(t *testing.T) {
	l := begin(t, nil, calm)
	for range 3 {
		if _, err := l.Look(t.Context(), engine.Exposure{Cluster: "with", Step: 1}); err != nil {
			t.Fatal(err)
		}
		l.minute++
	}
	look, err := l.Look(t.Context(), engine.Exposure{Cluster: "with", Step: 1, Since: l.now()})
	if err != nil || !figureOf(look, "99th percentile of writes before") {
		t.Errorf("nothing is of before the change: %+v, %v", look, err)
	}
	if before, since := l.clusters["with"].split(l.now()); len(before) != 3 || len(since) != 1 {
		t.Errorf("%d readings before the change and %d since, want 3 and 1", len(before), len(since))
	}
}
