package main

import (
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/forecast/observe"
)

func TestParse(t *testing.T) {
	none := func(string) string { return "" }
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	o, err := parse([]string{"-seakeep", self, "-live", "3", "-only", "traces"}, none, io.Discard)
	if err != nil || o.live != 3 || o.nodes != 300 || !o.Wanted("traces") || o.Wanted("live") {
		t.Errorf("%+v %v", o, err)
	}
	for _, args := range [][]string{{"-seakeep", self, "-nodes", "3"}, {"-seakeep", self, "-few", "1"}, {"-seakeep", "gone"}, {"-seakeep", self, "-window", "1ms"}} {
		if _, err := parse(args, none, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	if _, err := parse([]string{"-no-such"}, none, io.Discard); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v", err)
	}
}

// The same seed draws the same components, each of which is one an agent of the lab can be, and not too dear.
func TestVariations(t *testing.T) {
	one, two := variations(8, 300, 7), variations(8, 300, 7)
	if diff := cmp.Diff(one, two); diff != "" {
		t.Error(diff)
	}
	if cmp.Equal(one, variations(8, 300, 8)) {
		t.Error("another seed draws the same")
	}
	for _, v := range one {
		if v.Period < 4*time.Second || v.Period > 5*time.Minute || v.Objects < 20 || v.annotations()["seakeep.dev/agent-verb"] != "list" || v.String() == "" {
			t.Errorf("%+v", v)
		}
		if w := v.whole(20 * time.Second); w%v.every() != 0 || w < v.every() {
			t.Errorf("%s is not whole periods of %s", w, v.every())
		}
	}
}

// made is a trace of 30 nodes that ask every five seconds for 20 ms.
func made() *trace {
	t := &trace{header: header{
		Variation: variation{Name: "v1", Period: 5 * time.Second, Objects: 100}, Nodes: 30,
		Phases: []phase{phaseOf(0, 0, 20*time.Second), phaseOf(1, 20*time.Second, 140*time.Second), phaseOf(3, 140*time.Second, 260*time.Second), phaseOf(30, 260*time.Second, 320*time.Second)},
	}}
	for node := range 30 {
		from := 260 * time.Second
		switch node {
		case 0:
			from = 20 * time.Second
		case 1, 2:
			from = 140 * time.Second
		}
		for at := from + time.Duration(node)*150*time.Millisecond; at < 320*time.Second; at += 5 * time.Second {
			t.requests = append(t.requests, observe.Request{Start: begin.Add(at), From: "node-" + string(rune('a'+node)), Took: 20 * time.Millisecond, Code: 200, Seats: 1})
		}
	}
	return t
}

func TestTraces(t *testing.T) {
	dir := t.TempDir()
	want := made()
	if err := want.write(dir); err != nil {
		t.Fatal(err)
	}
	traces, err := readTraces(dir)
	if err != nil || len(traces) != 1 {
		t.Fatal(len(traces), err)
	}
	if diff := cmp.Diff(want.header, traces[0].header); diff != "" {
		t.Error(diff)
	}
	if len(traces[0].requests) != len(want.requests) {
		t.Errorf("%d requests are read of %d", len(traces[0].requests), len(want.requests))
	}
	outcomes, err := draw(traces, 12, 3)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outcomes {
		if !o.right() || math.Abs(o.error()) > 25 {
			t.Errorf("%s", o)
		}
	}
	if len(outcomes) != 36 {
		t.Errorf("%d outcomes", len(outcomes))
	}
	// The numbers make a report that can be published, with what is missed and why.
	outcomes[0].mean, outcomes[0].lower, outcomes[0].upper = 9, 8, 10
	report := &result.Report{Part: "forecast", Subject: subject, Machine: "a machine", Setup: []string{"So."}}
	if err := (&rig{}).cases(report, outcomes); err != nil {
		t.Fatal(err)
	}
	if err := report.Validate(); err != nil {
		t.Error(err)
	}
	if len(report.Profiles) != 1 || !strings.Contains(strings.Join(report.Profiles[0].Top, "\n"), "OUTSIDE") {
		t.Errorf("%+v", report.Profiles)
	}
}

func TestReadTraceRefuses(t *testing.T) {
	head := `{"nodes":3,"phases":[{"exposed":1,"fromMillis":0,"toMillis":10}]}` + "\n"
	for name, text := range map[string]string{
		"no header": "{}\n", "no JSON": "x\n", "a phase that runs back": strings.Replace(head, `"toMillis":10`, `"toMillis":0`, 1),
		"three fields": head + "1 a 2\n", "less than nothing": head + "-1 a 2 200\n", "no number": head + "x a 2 200\n", "beyond all": head + "9999999999999999 a 2 200\n",
	} {
		if _, err := readTrace(bytes.NewReader(zipped(t, text))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := readTrace(strings.NewReader(head)); err == nil {
		t.Error("what is not compressed is taken")
	}
	if _, err := draw(nil, 1, 1); err == nil {
		t.Error("nothing is drawn from")
	}
}

func zipped(t testing.TB, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func FuzzReadTrace(f *testing.F) {
	f.Add(zipped(f, `{"nodes":3,"phases":[{"exposed":1,"fromMillis":0,"toMillis":10}]}`+"\n1 a 2 200\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readTrace(bytes.NewReader(text))
		if err == nil && (got.Nodes < 1 || len(got.Phases) == 0) {
			t.Errorf("%+v", got.header)
		}
	})
}

func TestWilson(t *testing.T) {
	low, high := wilson(38, 40)
	if math.Abs(low-0.835) > 0.002 || math.Abs(high-0.986) > 0.002 {
		t.Errorf("38 of 40: %.3f–%.3f", low, high)
	}
}
