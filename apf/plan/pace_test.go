package plan

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// script feeds a pacer one line an event, "SECOND WANTED", where "-" is a source that says nothing, and returns what it wrote.
func script(t *testing.T, full int, text string) string {
	t.Helper()
	start := time.Unix(1_700_000_000, 0)
	pacer := NewPacer(Pacing{Min: 10, Change: 0.1, Quiet: 2 * time.Second, Settle: 30 * time.Second, Hold: time.Minute, Relax: 10 * time.Second}, start)
	var out strings.Builder
	for line := range strings.Lines(text) {
		var second int
		var word string
		if _, err := fmt.Sscan(line, &second, &word); err != nil {
			continue
		}
		wanted := math.NaN()
		if word != "-" {
			if _, err := fmt.Sscan(word, &wanted); err != nil {
				t.Fatal(err)
			}
		}
		now := start.Add(time.Duration(second) * time.Second)
		if d := pacer.Next(now, wanted, word != "-", full); d.Write {
			pacer.Wrote(now, d, full)
			fmt.Fprintf(&out, "%d:%d ", second, d.Seats)
		}
	}
	return strings.TrimSpace(out.String())
}

func TestPacer(t *testing.T) {
	for name, tc := range map[string]struct{ events, want string }{
		"by half at a time, to what is wanted": {"0 40\n1 40\n2 40\n4 40\n6 40\n8 40", "0:200 2:100 4:50 6:40"},
		"never under the least":                {"0 0\n2 0\n4 0\n6 0\n8 0\n10 0\n12 0", "0:200 2:100 4:50 6:25 8:13 10:10"},
		"what is there needs no ballast":       {"0 400\n2 900\n4 1e300", ""},
		"small changes wait":                   {"0 200\n2 195\n4 190\n6 185\n8 180\n10 199\n40 199", "0:200 8:180 10:199"},
		"and are written in the end":           {"0 200\n2 195\n29 195\n30 195", "0:200 30:195"},
		"double at a time, up to nothing":      {"0 100\n2 100\n4 900\n6 900\n8 900", "0:200 2:100 4:200 6:400"},
		"silent: hold, then relax":             {"0 100\n2 100\n10 -\n61 -\n62 -\n63 -\n71 -\n72 -\n73 -", "0:200 2:100 62:200 72:400"},
		"silent from the start: nothing":       {"0 -\n100 -\n200 -", ""},
		"back after a silence":                 {"0 200\n70 -\n72 200\n74 -\n133 -\n135 -", "0:200 70:400 72:200 133:400"},
		"not a number is silence":              {"0 200\n1 NaN\n2 -5\n3 +Inf\n60 -", "0:200 60:400"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := script(t, 400, tc.events); got != tc.want {
				t.Errorf("wrote %q, want %q", got, tc.want)
			}
		})
	}
}

// Without evidence it never gets tighter.
func TestPacerSilenceNeverTightens(t *testing.T) {
	now := time.Unix(0, 0)
	for inForce := 1; inForce < 400; inForce++ {
		pacer := NewPacer(DefaultPacing, now)
		pacer.Wrote(now, Decision{Seats: inForce}, 400)
		for second := range 300 {
			if d := pacer.Next(now.Add(time.Duration(second)*time.Second), 1, false, 400); d.Seats < inForce {
				t.Fatalf("silent for %d s, from %d to %d", second, inForce, d.Seats)
			}
		}
	}
}

func TestLaw(t *testing.T) {
	var l Law
	busy, idle, between := Load{CPU: 0.95}, Load{CPU: 0.2, Memory: 0.3}, Load{CPU: 0.8}
	if got := l.Next([]Load{idle, busy}, 10, 400); got != 280 {
		t.Errorf("one of two is busy: %v", got)
	}
	if got := l.Next([]Load{between}, 10, 400); got != 280 {
		t.Errorf("neither busy nor idle: %v", got)
	}
	if got := l.Next(nil, 10, 400); got != 280 {
		t.Errorf("no reading must not raise it: %v", got)
	}
	if got := l.Next([]Load{idle}, 10, 400); got != 300 {
		t.Errorf("idle: %v", got)
	}
	for range 100 {
		l.Next([]Load{{Memory: 0.9}}, 10, 400)
	}
	if got := l.Next([]Load{between}, 10, 400); got != 10 {
		t.Errorf("the least: %v", got)
	}
}
