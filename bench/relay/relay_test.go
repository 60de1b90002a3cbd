package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

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
		wantErr bool
	}{
		"as it is":               {turn: 5 * time.Second},
		"quick":                  {seconds: "1", turn: time.Second},
		"a flag wins":            {args: []string{"-turn", "2s"}, seconds: "1", turn: 2 * time.Second},
		"no number":              {seconds: "fast", wantErr: true},
		"too few agents":         {args: []string{"-agents", "10"}, wantErr: true},
		"it shrinks":             {args: []string{"-grown", "500"}, wantErr: true},
		"no program":             {args: []string{"-naive", filepath.Join(t.TempDir(), "naive")}, wantErr: true},
		"a flag that is not one": {args: []string{"-loud"}, wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"-seakeep", self, "-naive", self}, tc.args...)
			o, err := parse(args, func(string) string { return tc.seconds }, io.Discard)
			if (err != nil) != tc.wantErr || err == nil && o.Turn != tc.turn {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

// Events come in pieces, as the network likes, and several at once.
func TestWatchersReadEvents(t *testing.T) {
	const stream = `{"type":"MODIFIED","object":{"data":{"at":"100"}}}` + "\n" + `{"type":"MODIFIED","object":{"data":{"at":"200"}}}` + "\n"
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader, "halves": iotest.HalfReader,
	} {
		t.Run(name, func(t *testing.T) {
			w := &watchers{latency: load.NewHistogram()}
			if err := w.read(wrap(strings.NewReader(stream))); err != io.EOF {
				t.Errorf("got %v", err)
			}
			if w.events.Load() != 2 || w.latency.Count() != 2 {
				t.Errorf("%d events were seen", w.events.Load())
			}
		})
	}
	for name, events := range map[string]string{
		"an error":  `{"type":"ERROR","object":{"code":410}}` + "\n",
		"no number": `{"data":{"at":"soon"}}` + "\n",
		"no end":    strings.Repeat("x", 4000),
		"twice":     `{"data":{"at":"100"}}` + "\n" + `{"data":{"at":"100"}}` + "\n",
		"backwards": `{"data":{"at":"100"}}` + "\n" + `{"data":{"at":"99"}}` + "\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := &watchers{latency: load.NewHistogram()}
			if err := w.read(strings.NewReader(events)); err == nil || err == io.EOF {
				t.Errorf("got %v: a watch that breaks must be noticed", err)
			}
		})
	}
}

func TestUpstream(t *testing.T) {
	const text = `# HELP apiserver_request_duration_seconds x
apiserver_request_duration_seconds_sum{component="apiserver",resource="pods",scope="cluster",subresource="",verb="LIST"} 4
apiserver_request_duration_seconds_count{component="apiserver",resource="pods",scope="cluster",subresource="",verb="LIST"} 20
apiserver_request_duration_seconds_sum{component="apiserver",resource="pods",scope="namespace",subresource="",verb="LIST"} 400
apiserver_request_duration_seconds_sum{component="apiserver",resource="pods",scope="cluster",subresource="",verb="WATCH"} 400
apiserver_request_duration_seconds_sum{component="apiserver",resource="nodes",scope="cluster",subresource="",verb="LIST"} 400
apiserver_watch_list_duration_seconds_sum{group="",resource="pods",scope="cluster",version="v1"} 1
apiserver_watch_list_duration_seconds_count{group="",resource="pods",scope="cluster",version="v1"} 5
`
	now, err := parseUpstream([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	now.at = time.Unix(110, 0)
	got := now.since(upstream{at: time.Unix(100, 0), reads: 5, seconds: 1})
	if got.perSecond() != 2 || got.each() != 200 || got.atATime() != 0.4 {
		t.Errorf("%g reads a second, %g ms each, %g at a time", got.perSecond(), got.each(), got.atATime())
	}
	if (upstream{elapsed: time.Second}).each() != 0 {
		t.Error("no read took long")
	}
	if _, err := parseUpstream([]byte(`apiserver_watch_list_duration_seconds_sum{resource="pods",scope="cluster"} much`)); err == nil {
		t.Error("a number that is none was read")
	}
}

// verdicts are what the cases say, by metric.
func verdicts(cases []result.Case) map[string]bool {
	got := map[string]bool{}
	for _, c := range cases {
		if c.Met != nil {
			got[c.Metric] = *c.Met
		}
	}
	return got
}

func one(contenders map[string]*reading) *numbers {
	n := newNumbers()
	for contender, r := range contenders {
		r.Seconds, r.upstream.elapsed = 1, time.Second
		r.admin = &load.Result{Latency: load.NewHistogram()}
		r.admin.Latency.Add(time.Duration(r.P99) * time.Millisecond)
		n.add(contender, r)
	}
	return n
}

func outcome(delivered int64, admin float64) agents.Outcome {
	return agents.Outcome{Delivered: delivered, Bytes: delivered, Received: delivered, Size: 1, P99: admin}
}

func TestTargets(t *testing.T) {
	s := sharing{agents: 1000, pods: 1000, saturates: true}
	good := one(map[string]*reading{
		gateName:   {Outcome: outcome(40, 50), upstream: upstream{reads: 5, seconds: 1}, cpu: usage{1, 1}, peak: 1 << 20},
		directName: {Outcome: outcome(10, 5000), upstream: upstream{reads: 10, seconds: 60}, cpu: usage{0, 2}},
		naiveName:  {Outcome: outcome(20, 60), upstream: upstream{reads: 5, seconds: 1}, cpu: usage{1, 1}, peak: 1 << 30},
	})
	want := map[string]bool{
		"complete answers delivered": true, "delivered, those under way in part": true, "peak memory of the proxy over idle": true,
		"small request, p99": true, "reads of the API server under way (their rate × T)": true,
	}
	if diff := cmp.Diff(want, verdicts(good.cases(s))); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	bad := one(map[string]*reading{
		gateName:   {Outcome: outcome(30, 70), upstream: upstream{reads: 12, seconds: 2}, cpu: usage{1, 9}, peak: 2 << 30},
		directName: {Outcome: outcome(10, 5000), upstream: upstream{reads: 10, seconds: 60}, cpu: usage{0, 2}},
		naiveName:  {Outcome: outcome(40, 60), upstream: upstream{reads: 5, seconds: 1}, cpu: usage{1, 1}, peak: 1 << 30},
	})
	for metric, met := range verdicts(append(bad.cases(s), bad.series(s, 100, good)...)) {
		if met {
			t.Errorf("%s was met", metric)
		}
	}
	if got := verdicts(good.cases(sharing{agents: 100, pods: 1000})); len(got) != 1 {
		t.Errorf("below saturation only the reads upstream are held to something, got %v", got)
	}
}
