package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// event is the part of a test2json event that is read here; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output and build-fail
	Test       string
	Elapsed    float64
	Output     string
}

// counts is the verdict over the whole stream.
type counts struct {
	passed, failed, skipped int
	brokenPackages          int // did not build, or ended without a test having failed
}

func (c counts) good() bool {
	return c.failed == 0 && c.skipped == 0 && c.brokenPackages == 0 && c.passed > 0
}

// failure is one failed or skipped test with what it printed.
type failure struct {
	verdict, pkg, test string
	output             string
}

func (f failure) title() string { return strings.TrimSpace(f.verdict + " " + f.pkg + " " + f.test) }

func (f failure) String() string { return f.title() + ": " + f.reason() }

// A failure is printed with its first and last lines: a test that ran out of time prints every goroutine's stack, thousands
// of lines that push out of sight (a CI's log is often cut in its middle) what other tests said.
const headLines, tailLines = 150, 50

// slowest is how many tests are named at the end as those that took longest, and slowSeconds what is not worth naming.
const slowest, slowSeconds = 20, 10

// timed is how long one test took.
type timed struct {
	name    string
	seconds float64
}

// reader holds the output of what is still running.
type reader struct {
	out      io.Writer
	counts   counts
	output   map[string]*strings.Builder // by package + " " + test
	bad      map[string]int              // failed tests of a package so far
	notable  []failure
	times    []timed // of tests, not of their parts
	buildLog strings.Builder
}

// tally prints progress and verdict to out. Lines that are no events (the go command prints some errors plainly) are
// passed on.
func tally(in io.Reader, out io.Writer) (counts, error) {
	r := &reader{out: out, output: map[string]*strings.Builder{}, bad: map[string]int{}}
	lines := bufio.NewReader(in)
	for {
		line, err := lines.ReadBytes('\n')
		if len(bytes.TrimSpace(line)) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return r.counts, err
		}
	}
	r.finish()
	return r.counts, nil
}

func (r *reader) line(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil || e.Action == "" {
		fmt.Fprintf(r.out, "%s\n", bytes.TrimRight(line, "\n"))
		return
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		r.buildLog.WriteString(e.Output)
	case "output":
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			r.packageEnds(e)
		} else {
			r.testEnds(e)
		}
		delete(r.output, key)
	}
}

func (r *reader) testEnds(e event) {
	if !strings.Contains(e.Test, "/") && e.Elapsed >= slowSeconds {
		r.times = append(r.times, timed{e.Package + " " + e.Test, e.Elapsed})
	}
	switch e.Action {
	case "pass":
		r.counts.passed++
	case "fail":
		r.counts.failed++
		r.bad[e.Package]++
		r.keep("FAIL", e)
	case "skip":
		r.counts.skipped++
		r.keep("SKIP", e)
	}
}

func (r *reader) packageEnds(e event) {
	if e.Action == "skip" { // no test files, or none selected
		return
	}
	word := "ok  "
	if e.Action == "fail" {
		word = "FAIL"
		if r.bad[e.Package] == 0 {
			r.counts.brokenPackages++
			r.keep("FAIL", e)
		}
		r.keepUnfinished(e.Package)
	}
	fmt.Fprintf(r.out, "%s %s %.1fs\n", word, e.Package, e.Elapsed)
	for _, f := range r.notable { // at once: the rest may take an hour
		if f.pkg == e.Package && f.test != "" {
			fmt.Fprintf(r.out, "     %s\n", f)
		}
	}
}

func (r *reader) keep(verdict string, e event) {
	f := failure{verdict: verdict, pkg: e.Package, test: e.Test}
	if b := r.output[e.Package+" "+e.Test]; b != nil {
		f.output = b.String()
	}
	r.notable = append(r.notable, f)
}

// keepUnfinished keeps what tests printed that had not ended when their package failed: after a panic or a time-out
// the reason is there.
func (r *reader) keepUnfinished(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(r.output)) {
		if test, ok := strings.CutPrefix(key, pkg+" "); ok && test != "" {
			r.keep("UNFINISHED", event{Package: pkg, Test: test})
			delete(r.output, key)
		}
	}
}

func (r *reader) finish() {
	if r.buildLog.Len() > 0 {
		fmt.Fprintf(r.out, "\n%s", r.buildLog.String())
	}
	for _, f := range r.notable {
		fmt.Fprintf(r.out, "\n%s\n", f.title())
		lines := slices.Collect(strings.Lines(f.output))
		if left := len(lines) - headLines - tailLines; left > 0 {
			lines = slices.Replace(lines, headLines, headLines+left, fmt.Sprintf("… %d lines left out\n", left))
		}
		for _, line := range lines {
			fmt.Fprintf(r.out, "    %s", line)
		}
	}
	if len(r.times) > 0 {
		slices.SortStableFunc(r.times, func(a, b timed) int { return cmp.Compare(b.seconds, a.seconds) })
		fmt.Fprintf(r.out, "\nslowest:\n")
		for _, t := range r.times[:min(slowest, len(r.times))] {
			fmt.Fprintf(r.out, "    %.0fs %s\n", t.seconds, t.name)
		}
	}
	if len(r.notable) > 0 {
		fmt.Fprintf(r.out, "\nnot passed:\n")
		for _, f := range r.notable {
			fmt.Fprintf(r.out, "    %s\n", f)
		}
	}
	if r.counts.brokenPackages > 0 {
		fmt.Fprintf(r.out, "\n%d packages failed without a failed test: they did not build, panicked or ran out of time\n", r.counts.brokenPackages)
	}
	if r.counts.skipped > 0 {
		fmt.Fprintf(r.out, "\n%d tests were skipped; none may be\n", r.counts.skipped)
	}
	fmt.Fprintf(r.out, "\n%d passed, %d failed, %d skipped\n", r.counts.passed, r.counts.failed, r.counts.skipped)
}

// reason is what says why: the first lines that a test reported (the stream does not tell errors from remarks), or a panic; of a
// test that says neither, its first line. It is cut, since the whole is printed above.
func (f failure) reason() string {
	const most, longest = 3, 300 // lines, runes
	var reasons []string
	first := ""
	for line := range strings.Lines(f.output) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "panic: "), strings.HasPrefix(line, "fatal error: "):
			return cut(line, longest)
		case strings.Contains(line, "_test.go:") && len(reasons) < most:
			reasons = append(reasons, cut(line, longest))
		case first == "" && line != "" && !strings.HasPrefix(line, "=== "):
			first = line
		}
	}
	if len(reasons) == 0 {
		return cut(first, longest)
	}
	return strings.Join(reasons, " | ")
}

func cut(line string, longest int) string {
	if runes := []rune(line); len(runes) > longest {
		return string(runes[:longest]) + "…"
	}
	return line
}
