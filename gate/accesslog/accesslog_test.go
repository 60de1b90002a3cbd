package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/internal/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func configured(file string, ratio float64) v1alpha1.GateAccessLog {
	return v1alpha1.GateAccessLog{
		File: file, SampleRatio: &ratio, MaxLinesPerSecond: 100_000,
		Always: v1alpha1.GateAccessLogAlways{
			SlowerThan: &metav1.Duration{Duration: time.Second}, Errors: v1alpha1.Enabled, Rejections: v1alpha1.Enabled,
		},
	}
}

func open(t *testing.T, c v1alpha1.GateAccessLog, stdout io.Writer) *Log {
	t.Helper()
	l, err := New(Options{Config: c, Stdout: stdout, Metrics: NewMetrics(prometheus.NewRegistry()), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func request(name string) *flow.Request {
	return &flow.Request{
		Caller: flow.Caller{User: "jane", Groups: []string{"hidden-group"}}, UserAgent: "kubectl/v1\n\x1b[31m", Source: netip.MustParseAddr("10.0.0.1"),
		Lane: flow.Standard, Arrived: time.Date(2024, 12, 11, 15, 16, 0, 0, time.UTC),
		Verb: "get", APIVersion: "v1", Resource: "pods", Subresource: "log", Namespace: "default", Name: name,
		Path: "/api/v1/namespaces/default/pods/" + name, Scope: v1alpha1.ScopeObject,
	}
}

func TestWants(t *testing.T) {
	type switches struct{ errors, rejections bool }
	for name, test := range map[string]struct {
		outcome Outcome
		s       switches
		draw    float64
		want    bool
	}{
		"ordinary":                    {Outcome{Code: 200}, switches{true, true}, 0.5, false},
		"ordinary, drawn":             {Outcome{Code: 200}, switches{true, true}, 0.005, true},
		"an error":                    {Outcome{Code: 503}, switches{true, true}, 0.5, true},
		"an error, not asked for":     {Outcome{Code: 503}, switches{false, true}, 0.5, false},
		"an error, drawn":             {Outcome{Code: 503}, switches{false, true}, 0.001, true},
		"not found is no error":       {Outcome{Code: 404}, switches{true, true}, 0.5, false},
		"the client left":             {Outcome{Code: 499}, switches{true, true}, 0.5, true},
		"no answer":                   {Outcome{}, switches{true, true}, 0.5, true},
		"refused":                     {Outcome{Code: 429, RejectedBy: "limit:a"}, switches{true, true}, 0.5, true},
		"refused, not asked for":      {Outcome{Code: 429, RejectedBy: "limit:a"}, switches{true, false}, 0.5, false},
		"the API server's own 429":    {Outcome{Code: 429}, switches{true, true}, 0.5, false},
		"slow":                        {Outcome{Code: 200, Took: time.Second}, switches{}, 0.5, true},
		"a long watch":                {Outcome{Code: 200, Took: time.Hour, Stream: true}, switches{true, true}, 0.5, false},
		"a long watch that went away": {Outcome{Code: 502, Took: time.Hour, Stream: true}, switches{true, true}, 0.5, true},
	} {
		t.Run(name, func(t *testing.T) {
			l := &Log{ratio: 0.01, slow: time.Second, errors: test.s.errors, rejections: test.s.rejections, random: func() float64 { return test.draw }}
			if got := l.Wants(&test.outcome); got != test.want {
				t.Errorf("wanted: %t, want %t", got, test.want)
			}
		})
	}
	l := &Log{ratio: 0, slow: time.Second, random: func() float64 { return 0 }}
	if l.Wants(&Outcome{Code: 200}) {
		t.Error("a ratio of 0 lets a request through")
	}
}

func lines(t *testing.T, path string) []Line {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, data)
}

func parse(t *testing.T, data []byte) []Line {
	t.Helper()
	var all []Line
	for text := range bytes.Lines(data) {
		var l Line
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(&l); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		all = append(all, l)
	}
	return all
}

func TestLine(t *testing.T) {
	var out bytes.Buffer
	l := open(t, configured(v1alpha1.Stdout, 1), &out)
	l.Write(NewLine(request("app"), &Outcome{
		Code: 200, Server: "a", AuditID: "id", Took: 1500 * time.Millisecond, Upstream: time.Second, RequestBytes: 1, ResponseBytes: 2,
	}, "follow=true&token=hunter2"))
	l.Close()
	want := `{"time":"2024-12-11T15:16:00Z","lane":"standard","user":"jane","source":"10.0.0.1","userAgent":"kubectl/v1\n\u001b[31m","verb":"get",` +
		`"apiVersion":"v1","resource":"pods/log","namespace":"default","name":"app","scope":"Object","query":"follow=true\u0026token=…",` +
		`"code":200,"requestBytes":1,"responseBytes":2,"seconds":1.5,"upstreamSeconds":1,"upstream":"a","auditID":"id"}` + "\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the line (-want +got):\n%s", diff)
	}
	for _, hidden := range []string{"hunter2", "hidden-group"} {
		if strings.Contains(out.String(), hidden) {
			t.Errorf("%s is in the line", hidden)
		}
	}
	nonResource := request("")
	nonResource.Resource, nonResource.Subresource, nonResource.Path = "", "", "/healthz"+strings.Repeat("x", 4096)
	if got := NewLine(nonResource, &Outcome{}, ""); len(got.Path) > maxText+len("…") || !strings.HasPrefix(got.Path, "/healthz") {
		t.Errorf("path %q", got.Path)
	}
}

func TestFileIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	l := open(t, configured(path, 1), nil)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
	write := func(name string) { l.Write(NewLine(request(name), &Outcome{Code: 200}, "")) }
	write("first")
	eventually(t, "the first line", func() bool { return len(lines(t, path)) == 1 })
	// logrotate without a signal: the name is looked at every second.
	rename(t, path, path+".1")
	eventually(t, "a new file", func() bool { _, err := os.Stat(path); return err == nil })
	write("second")
	eventually(t, "the second line", func() bool { return len(lines(t, path)) == 1 })
	// logrotate with SIGHUP.
	rename(t, path, path+".2")
	l.Reopen()
	eventually(t, "a new file", func() bool { _, err := os.Stat(path); return err == nil })
	write("third")
	l.Close()
	for file, want := range map[string]string{path + ".1": "first", path + ".2": "second", path: "third"} {
		if got := lines(t, file); len(got) != 1 || got[0].Name != want {
			t.Errorf("%s has %v, want %s", file, got, want)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, want 0600", file, info.Mode())
		}
	}
	write("after the end")
	if got := testutil.ToFloat64(l.metrics.droppedQueue); got != 1 {
		t.Errorf("%g lines dropped after the end, want 1", got)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestPlacesThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{"a folder": dir, "a link": link, "a device": "/dev/null", "no such folder": filepath.Join(dir, "a", "b")} {
		t.Run(name, func(t *testing.T) {
			if l, err := New(Options{Config: configured(path, 1), Metrics: NewMetrics(nil), Log: slog.New(slog.DiscardHandler)}); err == nil {
				l.Close()
				t.Error("opened")
			}
		})
	}
}

// hanging is a disk: it takes bytes when told to, fails when told to, and hangs otherwise.
type hanging struct {
	mu      sync.Mutex
	written bytes.Buffer
	let     chan error // nil takes all, errHalf takes half and fails
}

var errHalf = errors.New("no space left on device")

func (h *hanging) Write(p []byte) (int, error) {
	err := <-h.let
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		n, _ := h.written.Write(p[:len(p)/2])
		return n, err
	}
	return h.written.Write(p)
}

func TestDiskThatHangs(t *testing.T) {
	disk := &hanging{let: make(chan error)}
	l := open(t, configured(v1alpha1.Stdout, 1), disk)
	line := NewLine(request("app"), &Outcome{Code: 200}, "")
	done := make(chan struct{})
	const sent = 3 * queueLength
	go func() {
		defer close(done)
		for range sent {
			l.Write(line)
		}
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("a request waits for the disk")
	}
	dropped := testutil.ToFloat64(l.metrics.droppedQueue)
	if dropped < sent-queueLength-chunk || dropped > sent-queueLength {
		t.Errorf("%g lines dropped of %d, with place for %d", dropped, sent, queueLength)
	}
	close(disk.let) // the disk answers again
	l.Close()
	if got := float64(len(parse(t, disk.written.Bytes()))); got+dropped != sent || testutil.ToFloat64(l.metrics.lines) != got {
		t.Errorf("%g lines written, %g dropped, of %d", got, dropped, sent)
	}
}

func TestDiskThatIsFull(t *testing.T) {
	disk := &hanging{let: make(chan error)}
	l := open(t, configured(v1alpha1.Stdout, 1), disk)
	l.Write(NewLine(request("half"), &Outcome{Code: 200}, ""))
	disk.let <- errHalf
	l.Write(NewLine(request("whole"), &Outcome{Code: 200}, ""))
	disk.let <- nil
	l.Close()
	half, whole, _ := strings.Cut(disk.written.String(), "\n")
	if got := parse(t, []byte(whole)); len(got) != 1 || got[0].Name != "whole" || strings.Contains(half, "whole") {
		t.Errorf("written:\n%s", disk.written.String())
	}
	if got := testutil.ToFloat64(l.metrics.droppedWrite); got != 1 {
		t.Errorf("%g lines counted as not written, want 1", got)
	}
}

func TestCloseDoesNotWaitForADeadDisk(t *testing.T) {
	disk := &hanging{let: make(chan error)}
	l := open(t, configured(v1alpha1.Stdout, 1), disk)
	l.Write(NewLine(request("app"), &Outcome{Code: 200}, ""))
	closed := make(chan struct{})
	go func() { l.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("the end waits for the disk")
	}
	close(disk.let)
	<-l.done
}

func TestStormIsBounded(t *testing.T) {
	c := configured(v1alpha1.Stdout, 1)
	c.MaxLinesPerSecond = 10
	var out bytes.Buffer
	l := open(t, c, &out)
	for range 1000 {
		l.Write(NewLine(request("app"), &Outcome{Code: 429, RejectedBy: "limit:a"}, ""))
	}
	l.Close()
	got := len(parse(t, out.Bytes()))
	if dropped := testutil.ToFloat64(l.metrics.droppedRate); got < 10 || got > 500 || float64(got)+dropped != 1000 {
		t.Errorf("%d lines, %g dropped", got, dropped)
	}
}

// eventually polls until the condition holds.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	testkit.Within(t, what, 15*time.Second, done)
}
