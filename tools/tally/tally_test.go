package main

import (
	"strings"
	"testing"
)

func TestTally(t *testing.T) {
	tests := map[string]struct {
		stream   string
		wantGood bool
		wantLast string
		wantText string
	}{
		"all pass": {
			stream: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Elapsed":1.5}`,
			wantGood: true,
			wantLast: "1 passed, 0 failed, 0 skipped",
			wantText: "ok   p 1.5s",
		},
		"a skipped test fails the run and is named": {
			stream: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestB","Output":"no binaries\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
{"Action":"pass","Package":"p"}`,
			wantLast: "1 passed, 0 failed, 1 skipped",
			wantText: "SKIP p TestB\n    no binaries",
		},
		"a package without tests is not a skipped test": {
			stream: `{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
{"Action":"skip","Package":"q"}`,
			wantGood: true,
			wantLast: "1 passed, 0 failed, 0 skipped",
		},
		"a failed test prints what it said": {
			stream: `{"Action":"output","Package":"p","Test":"TestA","Output":"got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Elapsed":0.1}`,
			wantLast: "0 passed, 1 failed, 0 skipped",
			wantText: "    got 1, want 2",
		},
		"a package that does not build fails the run": {
			stream: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/a.go:1:1: expected 'package'\n"}
{"Action":"pass","Package":"q","Test":"TestA"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}`,
			wantLast: "1 passed, 0 failed, 0 skipped",
			wantText: "expected 'package'",
		},
		"a package that dies outside a test fails the run": {
			stream: `{"Action":"output","Package":"p","Output":"panic: in TestMain\n"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}`,
			wantLast: "1 passed, 0 failed, 0 skipped",
			wantText: "panic: in TestMain",
		},
		"a test that never ended is named with what it printed": {
			stream: `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: test timed out after 20m\\n"}
{"Action":"fail","Package":"p"}`,
			wantLast: "0 passed, 0 failed, 0 skipped",
			wantText: "UNFINISHED p TestA\n    panic: test timed out",
		},
		"what failed is said again at the end, shortly, with remarks that came before": {
			stream: `{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"some log\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: got 1, want 2\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:9: more\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"FAIL\n"}
{"Action":"fail","Package":"p"}`,
			wantLast: "0 passed, 1 failed, 0 skipped",
			wantText: "not passed:\n    FAIL p TestA: a_test.go:7: got 1, want 2 | a_test.go:9: more\n",
		},
		"every goroutine's stack does not push out what others said": {
			stream: `{"Action":"output","Package":"p","Output":"panic: test timed out after 20m0s\n"}
` + strings.Repeat(`{"Action":"output","Package":"p","Output":"goroutine 1\n"}
`, 998) + `{"Action":"output","Package":"p","Output":"the end\n"}
{"Action":"fail","Package":"p"}`,
			wantLast: "0 passed, 0 failed, 0 skipped",
			wantText: strings.Repeat("    goroutine 1\n", 149) + "    … 800 lines left out\n" + strings.Repeat("    goroutine 1\n", 49) + "    the end\n\nnot passed:\n    FAIL p: panic: test timed out after 20m0s\n",
		},
		"what took long is named": {
			stream: `{"Action":"pass","Package":"p","Test":"TestA","Elapsed":12}
{"Action":"pass","Package":"p","Test":"TestB/part","Elapsed":40}
{"Action":"pass","Package":"p","Test":"TestB","Elapsed":40}
{"Action":"pass","Package":"p","Test":"TestC","Elapsed":1}
{"Action":"pass","Package":"p","Elapsed":53}`,
			wantGood: true,
			wantLast: "4 passed, 0 failed, 0 skipped",
			wantText: "\nslowest:\n    40s p TestB\n    12s p TestA\n\n",
		},
		"what failed is named when its package ends": {
			stream: `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Elapsed":3}
{"Action":"pass","Package":"q","Test":"TestB"}
{"Action":"pass","Package":"q","Elapsed":1}`,
			wantLast: "1 passed, 1 failed, 0 skipped",
			wantText: "FAIL p 3.0s\n     FAIL p TestA: a_test.go:7: got 1, want 2\nok   q 1.0s\n",
		},
		"nothing ran": {
			stream:   "go: updates to go.mod needed\n",
			wantLast: "0 passed, 0 failed, 0 skipped",
			wantText: "go: updates to go.mod needed",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			result, err := tally(strings.NewReader(tc.stream), &out)
			if err != nil {
				t.Fatal(err)
			}
			if result.good() != tc.wantGood {
				t.Errorf("good = %t, want %t", result.good(), tc.wantGood)
			}
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if last := lines[len(lines)-1]; last != tc.wantLast {
				t.Errorf("last line %q, want %q", last, tc.wantLast)
			}
			if !strings.Contains(out.String(), tc.wantText) {
				t.Errorf("output lacks %q:\n%s", tc.wantText, out.String())
			}
		})
	}
}
