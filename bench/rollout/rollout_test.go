package main

import (
	"io"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTrialsAreRead(t *testing.T) {
	trials, err := loadTrials()
	if err != nil {
		t.Fatal(err)
	}
	classes := map[string]int{}
	for _, one := range trials {
		classes[one.class]++
		// All are run on the same labs.
		first := trials[0]
		if diff := cmp.Diff(first.Target, one.Target) + cmp.Diff(first.Parameters, one.Parameters) + cmp.Diff(first.Fixtures, one.Fixtures) + cmp.Diff(first.DNS, one.DNS); diff != "" {
			t.Errorf("%s and %s are about other labs:\n%s", first.Name, one.Name, diff)
		}
	}
	for _, class := range []string{"crash-loop", "dns-breakage", "control-plane-cost", "slow-leak", "node-only", "latency-only", good} {
		if classes[class] == 0 {
			t.Errorf("there is no trial of the class %s", class)
		}
	}
}

// Of Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
func TestWilson(t *testing.T) {
	for _, tc := range []struct {
		k, n      int
		low, high float64
	}{{81, 263, 0.2553, 0.3662}, {15, 148, 0.0624, 0.1605}, {0, 20, 0, 0.1611}, {1, 29, 0.0061, 0.1718}} {
		low, high := wilson(tc.k, tc.n)
		if math.Abs(low-tc.low) > 1e-4 || math.Abs(high-tc.high) > 1e-4 {
			t.Errorf("%d of %d: %.4f–%.4f, want %.4f–%.4f", tc.k, tc.n, low, high, tc.low, tc.high)
		}
	}
}

// What was recorded live must be judged as well by what judges now: a check that is made stricter, or laxer, shows here first.
func TestTracesAreJudgedRight(t *testing.T) {
	trials, err := loadTrials()
	if err != nil {
		t.Fatal(err)
	}
	// As the benchmark counts: the courses that it draws by default, and the live ones as they were.
	o, err := parse(nil, func(string) string { return "" }, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	drawn, err := draw(t.Context(), trials, "testdata", o.drawn, o.seed)
	if err != nil {
		t.Fatal(err)
	}
	live, err := judgeAgain(t.Context(), trials, "testdata")
	if err != nil {
		t.Fatal(err)
	}
	drawn = append(drawn, live...)
	for _, j := range drawn {
		if j.wrong() {
			t.Logf("%s: %s after %s: %s", j.trial.Name, j.by[subject].verdict, j.by[subject].took, j.by[subject].why)
		}
	}
	c := count(drawn, subject)
	t.Logf("%+v", c)
	// Every class by itself: each is a share of all that precision and recall of them together may hide.
	classes := map[string][]judged{}
	for _, j := range drawn {
		if j.trial.bad {
			classes[j.trial.class] = append(classes[j.trial.class], j)
		}
	}
	if len(classes) != 6 {
		t.Errorf("courses are drawn of %d classes of harm", len(classes))
	}
	for class, of := range classes {
		if k, n := count(of, subject).recall(); ratio(k, n) < 0.9 {
			t.Errorf("recall of the class %s is %d of %d", class, k, n)
		}
	}
	if k, n := c.precision(); ratio(k, n) < 0.9 {
		t.Errorf("precision is %d of %d", k, n)
	}
	if k, n := c.recall(); ratio(k, n) < 0.95 {
		t.Errorf("recall is %d of %d", k, n)
	}
}
