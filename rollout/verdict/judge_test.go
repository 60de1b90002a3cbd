package verdict

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func compared(change func(*v1alpha1.RolloutMetricCompare)) v1alpha1.RolloutMetricCompare {
	m := v1alpha1.RolloutMetric{Compare: &v1alpha1.RolloutMetricCompare{}}
	m.SetDefaults(time.Minute)
	if change != nil {
		change(m.Compare)
	}
	return *m.Compare
}

// many are samples of so many nodes over so many periods, around a value, each node with a level of its own.
func many(seed uint64, prefix string, nodes, periods int, value, spread float64) []Sample {
	random := rand.New(rand.NewPCG(seed, 1))
	var all []Sample
	for n := range nodes {
		for p := range periods {
			all = append(all, Sample{Unit: fmt.Sprint(prefix, n), Period: p, Value: value * (1 + spread*(random.Float64()-0.5))})
		}
	}
	return all
}

func TestCompare(t *testing.T) {
	increase := func(c *v1alpha1.RolloutMetricCompare) { c.Direction = v1alpha1.DirectionIncrease }
	for name, tc := range map[string]struct {
		exposed, control []Sample
		change           func(*v1alpha1.RolloutMetricCompare)
		want             Verdict
		critical         bool
	}{
		"alike":                            {many(1, "a", 3, 5, 10, 0.2), many(2, "b", 10, 5, 10, 0.2), nil, Pass, false},
		"half as much again":               {many(1, "a", 3, 5, 15, 0.2), many(2, "b", 10, 5, 10, 0.2), nil, Fail, false},
		"half as much":                     {many(1, "a", 3, 5, 5, 0.2), many(2, "b", 10, 5, 10, 0.2), nil, Fail, false},
		"less, and only more is bad":       {many(1, "a", 3, 5, 5, 0.2), many(2, "b", 10, 5, 10, 0.2), increase, Pass, false},
		"certain and small":                {many(1, "a", 20, 5, 10.5, 0.01), many(2, "b", 20, 5, 10, 0.01), nil, Pass, false},
		"one node, one period: no telling": {many(1, "a", 1, 1, 50, 0.2), many(2, "b", 10, 1, 10, 0.2), increase, Unknown, false},
		"one node, many periods":           {many(1, "a", 1, 8, 20, 0.2), many(2, "b", 10, 8, 10, 0.2), increase, Fail, false},
		"large and perhaps chance":         {many(5, "a", 2, 2, 20, 1.9), many(7, "b", 20, 2, 10, 1.9), increase, Unknown, false},
		"something of nothing":             {many(1, "a", 3, 5, 2, 0.1), many(2, "b", 10, 5, 0, 0), increase, Fail, false},
		"critical":                         {many(1, "a", 3, 5, 30, 0.2), many(2, "b", 10, 5, 10, 0.2), func(c *v1alpha1.RolloutMetricCompare) { c.EffectSize.CriticalIncrease = 2 }, Fail, true},
		"not yet critical":                 {many(1, "a", 3, 5, 15, 0.2), many(2, "b", 10, 5, 10, 0.2), func(c *v1alpha1.RolloutMetricCompare) { c.EffectSize.CriticalIncrease = 2 }, Fail, false},
		"no data":                          {nil, nil, nil, Unknown, false},
		"no data, which it must have":      {nil, many(2, "b", 10, 5, 10, 0.2), func(c *v1alpha1.RolloutMetricCompare) { c.MustHaveData = true }, Fail, false},
		"no controls":                      {many(1, "a", 3, 5, 15, 0.2), nil, nil, Unknown, false},
		"only NaN":                         {many(1, "a", 3, 5, math.NaN(), 0), many(2, "b", 10, 5, 10, 0.2), nil, Unknown, false},
		"NaN as nothing":                   {many(1, "a", 3, 5, math.NaN(), 0), many(2, "b", 10, 5, 10, 0.2), func(c *v1alpha1.RolloutMetricCompare) { c.NaNStrategy = v1alpha1.NaNReplace }, Fail, false},
	} {
		t.Run(name, func(t *testing.T) {
			f := Compare("c", Groups{Exposed: tc.exposed, Control: tc.control}, compared(tc.change))
			if f.Verdict != tc.want || f.Critical != tc.critical {
				t.Errorf("%s (critical %t): %s; want %s (critical %t)", f.Verdict, f.Critical, f.Reason, tc.want, tc.critical)
			}
			if f.Reason == "" || f.Verdict == Fail && len(f.Figures) > 0 != f.Attributed {
				t.Errorf("the reason is %q, attributed %t", f.Reason, f.Attributed)
			}
		})
	}
}

// Time of day must not look like the change: the exposed node is measured in the busy hours only.
func TestCompareTakesTheSamePeriods(t *testing.T) {
	var exposed, control []Sample
	for p := range 20 {
		value := 10.0
		if p >= 10 {
			value = 30
			exposed = append(exposed, Sample{"a", p, value})
		}
		for n := range 5 {
			control = append(control, Sample{fmt.Sprint("b", n), p, value})
		}
	}
	if f := Compare("c", Groups{Exposed: exposed, Control: control}, compared(nil)); f.Verdict != Pass {
		t.Errorf("%s: %s", f.Verdict, f.Reason)
	}
}

// Seconds apart is no new sample: one node that is slow for one period is one value.
func TestCompareCountsNodePeriods(t *testing.T) {
	var exposed, control []Sample
	for range 100 {
		exposed = append(exposed, Sample{"a", 0, 100})
		control = append(control, Sample{"b", 0, 10})
	}
	if f := Compare("c", Groups{Exposed: exposed, Control: control}, compared(nil)); f.Verdict != Unknown {
		t.Errorf("two nodes seen 100 times each give %s: %s", f.Verdict, f.Reason)
	}
}

func TestWorkload(t *testing.T) {
	now := time.Unix(1.7e9, 0)
	pod := func(name string, age time.Duration, ready bool, restarts int, waiting string) Pod {
		return Pod{Name: name, Created: now.Add(-age), Ready: ready, Restarts: restarts, Waiting: waiting}
	}
	nodes := func(n int, name string, bad ...string) []Node {
		all := make([]Node, n)
		for i := range all {
			all[i] = Node{Name: fmt.Sprint(name, i), Others: 10}
		}
		for i, condition := range bad {
			all[i].Bad = map[string]time.Time{condition: now.Add(-time.Minute)}
		}
		return all
	}
	stable := []Pod{pod("s0", time.Hour, true, 0, ""), pod("s1", time.Hour, true, 0, ""), pod("s2", time.Hour, true, 0, "")}
	sick := nodes(3, "x")
	for i := range sick {
		sick[i].OthersNotReady = 5
	}
	old := nodes(1, "x", "MemoryPressure")
	old[0].Bad["MemoryPressure"] = now.Add(-time.Hour)
	// Conditions have their times in whole seconds: this one turned after the change had come.
	atOnce := nodes(1, "x", "MemoryPressure")
	atOnce[0].Bad["MemoryPressure"] = now.Add(-10 * time.Minute)
	for name, tc := range map[string]struct {
		w    Workload
		want map[string]Verdict // of the checks that are not Pass
	}{
		"well": {Workload{Update: []Pod{pod("u", time.Minute, true, 0, "")}, Stable: stable, Exposed: nodes(1, "x"), Control: nodes(20, "c"), Planned: 1}, nil},
		"nothing there": {Workload{Stable: stable, Exposed: nodes(1, "x"), Control: nodes(20, "c"), Planned: 1},
			map[string]Verdict{"workload.ready": Unknown, "workload.restarts": Unknown}},
		"starting": {Workload{Update: []Pod{pod("u", time.Second, false, 0, "")}, Stable: stable, Exposed: nodes(1, "x"), Control: nodes(20, "c")},
			map[string]Verdict{"workload.ready": Unknown}},
		"crash loop": {Workload{Update: []Pod{pod("u", time.Minute, false, 3, "CrashLoopBackOff")}, Stable: stable, Exposed: nodes(1, "x"), Control: nodes(20, "c")},
			map[string]Verdict{"workload.ready": Fail, "workload.restarts": Fail}},
		"a crash loop between two crashes": {Workload{Update: []Pod{pod("u", time.Minute, true, 3, "")}, Stable: stable, Exposed: nodes(1, "x"), Control: nodes(20, "c")},
			map[string]Verdict{"workload.restarts": Fail}},
		"never ready": {Workload{Update: []Pod{pod("u", time.Hour, false, 0, "")}, Stable: stable, Exposed: nodes(1, "x"), Control: nodes(20, "c")},
			map[string]Verdict{"workload.ready": Fail}},
		"the stable ones neither": {Workload{Update: []Pod{pod("u", time.Hour, false, 0, "")}, Stable: []Pod{pod("s", time.Hour, false, 0, "")}, Exposed: nodes(1, "x"), Control: nodes(20, "c")},
			map[string]Verdict{"workload.ready": Unknown}},
		"a first install that never gets ready": {Workload{Update: []Pod{pod("u", time.Hour, false, 0, "")}, Exposed: nodes(1, "x"), Control: nodes(20, "c")},
			map[string]Verdict{"workload.ready": Fail}},
		"fewer than planned": {Workload{Update: []Pod{pod("u", time.Hour, true, 0, "")}, Exposed: nodes(1, "x"), Control: nodes(20, "c"), Planned: 3},
			map[string]Verdict{"workload.ready": Unknown}},
		"the node turns bad": {Workload{Update: []Pod{pod("u", time.Hour, true, 0, "")}, Exposed: nodes(1, "x", "MemoryPressure"), Control: nodes(20, "c")},
			map[string]Verdict{"workload.nodes": Fail}},
		"the node turns bad at once": {Workload{Update: []Pod{pod("u", time.Hour, true, 0, "")}, Exposed: atOnce, Control: nodes(20, "c")},
			map[string]Verdict{"workload.nodes": Fail}},
		"it was bad before": {Workload{Update: []Pod{pod("u", time.Hour, true, 0, "")}, Exposed: old, Control: nodes(20, "c")}, nil},
		"all nodes turn bad": {Workload{Update: []Pod{pod("u", time.Hour, true, 0, "")}, Exposed: nodes(1, "x", "Ready"), Control: nodes(2, "c", "Ready", "Ready")},
			map[string]Verdict{"workload.nodes": Unknown}},
		"one of many others turned bad as well": {Workload{Update: []Pod{pod("u", time.Hour, true, 0, "")}, Exposed: nodes(2, "x", "Ready"), Control: nodes(20, "c", "Ready")},
			map[string]Verdict{"workload.nodes": Unknown}},
		"neighbours fall": {Workload{Update: []Pod{pod("u", time.Hour, true, 0, "")}, Exposed: sick, Control: nodes(20, "c")},
			map[string]Verdict{"workload.neighbours": Fail}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.w.At, tc.w.Since = now, now.Add(-10*time.Minute+200*time.Millisecond)
			spec := v1alpha1.RolloutWorkload{ReadyWithin: duration(2 * time.Minute), MaxRestarts: new(1), Neighbours: v1alpha1.Enabled}
			for _, f := range tc.w.Judge(spec) {
				want, ok := tc.want[f.Check]
				if !ok {
					want = Pass
				}
				if f.Verdict != want || f.Reason == "" {
					t.Errorf("%s is %s, want %s: %s", f.Check, f.Verdict, want, f.Reason)
				}
			}
		})
	}
}

func TestAsked(t *testing.T) {
	took := func(n int, d time.Duration) []time.Duration {
		all := make([]time.Duration, n)
		for i := range all {
			all[i] = d
		}
		return all
	}
	nan := math.NaN()
	for name, tc := range map[string]struct {
		a          Asked
		want       Verdict
		attributed bool
	}{
		"well":                 {Asked{Asked: 10, Answered: 10, Took: took(10, time.Millisecond), Before: 1, Control: nan}, Pass, false},
		"not asked":            {Asked{Before: 1, Control: nan}, Unknown, false},
		"one of ten is lost":   {Asked{Asked: 10, Answered: 9, Took: took(9, time.Millisecond), Before: 1, Control: nan}, Fail, true},
		"as before":            {Asked{Asked: 10, Answered: 9, Took: took(9, time.Millisecond), Before: 0.9, Control: nan}, Unknown, false},
		"as everywhere":        {Asked{Asked: 10, Answered: 9, Took: took(9, time.Millisecond), Before: 1, Control: 0.5}, Unknown, false},
		"nothing known before": {Asked{Asked: 10, Answered: 0, Before: nan, Control: nan}, Fail, false},
		"slow":                 {Asked{Asked: 10, Answered: 10, Took: took(10, time.Second), Before: 1, Control: nan}, Fail, true},
	} {
		t.Run(name, func(t *testing.T) {
			tc.a.Whom = "10.0.0.1:53"
			f := tc.a.Judge(0.99, 500*time.Millisecond)
			if f.Verdict != tc.want || f.Attributed != tc.attributed {
				t.Errorf("%s, attributed %t: %s; want %s, %t", f.Verdict, f.Attributed, f.Reason, tc.want, tc.attributed)
			}
		})
	}
}

func FuzzParseCondition(f *testing.F) {
	for _, text := range []string{"result[0] >= 0.95", "len(result) == 0 || isNaN(result[0])", "asFloat(result.data.ok) > default(result, 1)", "all(result, {# < 1})", "((((", "result ? 1 : 2"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCondition(text)
		if err != nil {
			return
		}
		for _, result := range []any{nil, 1.0, []float64{}, []float64{1, math.NaN()}, map[string]any{"data": "x"}} {
			m := Conditions{Success: c}.Measure(time.Unix(0, 0), result, nil)
			if m.Phase != PhaseSuccessful && m.Phase != PhaseFailed && m.Phase != PhaseError {
				t.Errorf("%q of %v is %s", text, result, m.Phase)
			}
			if strings.Contains(m.Value, "\n") && m.Phase == PhaseError && !strings.Contains(text, "\n") {
				t.Errorf("an error in several lines: %q", m.Value)
			}
		}
	})
}

func duration(d time.Duration) *metav1.Duration { return &metav1.Duration{Duration: d} }
