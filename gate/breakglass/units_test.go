package breakglass

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/seakeep/seakeep/gate/flow"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestParseDenied(t *testing.T) {
	tests := map[string]struct {
		in      string
		want    []string
		wantErr string
	}{
		"empty":             {in: "# nobody\n\n"},
		"every spelling":    {in: "0aFF # alice\n0A:ff\n  b1 \n", want: []string{"aff", "b1"}},
		"not hexadecimal":   {in: "12\nalice\n", wantErr: "line 2"},
		"a sign":            {in: "-12\n", wantErr: "line 1"},
		"too long":          {in: strings.Repeat("f", 41), wantErr: "line 1"},
		"an endless line":   {in: strings.Repeat("f", 1<<17), wantErr: "reading lines"},
		"leading zero byte": {in: "00:e1", want: []string{"e1"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := parseDenied([]byte(test.in))
			if test.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), test.wantErr) {
					t.Fatalf("got error %v, want one that says %q", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sets.New(test.want...), got); diff != "" {
				t.Errorf("denied (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzParseDenied(f *testing.F) {
	f.Add([]byte("0aFF # alice\n0A:ff\n"))
	f.Add([]byte(":\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		denied, err := parseDenied(data)
		if err != nil {
			return
		}
		for serial := range denied {
			again, err := parseSerial(serial)
			if err != nil || again != serial {
				t.Errorf("%q reads back as %q, %v", serial, again, err)
			}
		}
	})
}

func TestAuditPathHoldsNoSecrets(t *testing.T) {
	tests := map[string]struct {
		flow  flow.Request
		query string
		want  string
	}{
		"exec's command": {
			flow.Request{Path: "/api/v1/namespaces/n/pods/p/exec", Subresource: "exec"}, "command=mysql&command=-phunter2&container=c",
			"/api/v1/namespaces/n/pods/p/exec?command=…&command=…&container=c",
		},
		"what follows a proxy": {
			flow.Request{Path: "/api/v1/namespaces/n/services/s/proxy/login/hunter2", Subresource: "proxy"}, "token=hunter2",
			"/api/v1/namespaces/n/services/s/proxy/…?token=…",
		},
		"selectors are what was asked for": {
			flow.Request{Path: "/api/v1/pods"}, "labelSelector=app%3Dx&watch=1", "/api/v1/pods?labelSelector=app%3Dx&watch=1",
		},
		"a query that does not parse": {flow.Request{Path: "/api"}, "%zz=hunter2&watch=1", "/api?watch=1"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := auditPath(&test.flow, test.query); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func FuzzAuditPath(f *testing.F) {
	f.Add("/api/v1/pods", "watch=1&token=hunter2")
	f.Fuzz(func(t *testing.T, path, query string) {
		got := auditPath(&flow.Request{Path: path}, query)
		if len(got) > maxText+len("…") {
			t.Errorf("%d bytes on record", len(got))
		}
	})
}

func TestRecordedFirst(t *testing.T) {
	tests := map[string]struct {
		flow flow.Request
		want bool
	}{
		"get":     {flow.Request{Verb: "get", Resource: "pods"}, false},
		"list":    {flow.Request{Verb: "list", Resource: "pods"}, false},
		"secrets": {flow.Request{Verb: "get", Resource: "secrets"}, true},
		"delete":  {flow.Request{Verb: "delete", Resource: "pods"}, true},
		"watch":   {flow.Request{Verb: "watch", Resource: "pods", LongRunning: true}, true},
		"exec":    {flow.Request{Verb: "get", Resource: "pods", Subresource: "exec", LongRunning: true}, true},
		"post":    {flow.Request{Verb: "post"}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if got := recordedFirst(&test.flow); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

// disk is an audit file that can fail and hang.
type disk struct {
	mu     sync.Mutex
	full   bool
	hang   chan struct{}
	events []record
}

func (d *disk) Append(event any) error {
	d.mu.Lock()
	hang := d.hang
	d.mu.Unlock()
	if hang != nil {
		<-hang
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.full {
		return errors.New("no space left on device")
	}
	d.events = append(d.events, event.(record))
	return nil
}

func (d *disk) Close() error { return nil }

func (d *disk) set(full bool, hang chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.full, d.hang = full, hang
}

func TestRecorderSurvivesAFullDiskAndTellsTheGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, stderr := &disk{}, &buffer{}
		r := newRecorder(func() (chain, error) { return d, nil }, stderr, discard(), newMetrics(prometheus.NewRegistry()))
		if err := r.write(record{ID: "1"}); err != nil {
			t.Fatal(err)
		}
		d.set(true, nil)
		if err := r.write(record{ID: "2"}); err == nil {
			t.Error("a full disk went unnoticed")
		}
		if !r.broken() || !strings.Contains(stderr.String(), `"id":"2"`) {
			t.Error("the lost event is not announced or not on standard error")
		}
		d.set(false, nil)
		if err := r.write(record{ID: "3"}); err == nil {
			t.Error("the file was opened again at once: a full disk would be asked for every request")
		}
		<-time.After(reopenAfter)
		if err := r.write(record{ID: "4"}); err != nil {
			t.Error(err)
		}
		if r.broken() {
			t.Error("still failing after it was written")
		}
		r.close()
		want := []string{" 1 0", "gap  2", " 4 0"}
		var got []string
		for _, e := range d.events {
			got = append(got, fmt.Sprintf("%s %s %d", e.Event, e.ID, e.Lost))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("in the file (-want +got):\n%s", diff)
		}
	})
}

func TestRecorderDoesNotHangWithTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, stderr := &disk{hang: make(chan struct{})}, &buffer{}
		r := newRecorder(func() (chain, error) { return d, nil }, stderr, discard(), newMetrics(prometheus.NewRegistry()))
		start := time.Now()
		if err := r.write(record{ID: "1"}); !errors.Is(err, errLate) {
			t.Errorf("got %v, want %v", err, errLate)
		}
		if took := time.Since(start); took != recordWait {
			t.Errorf("the request waited %v, want %v", took, recordWait)
		}
		for range recordQueue + 10 {
			r.note(record{ID: "flood"})
		}
		if lost := r.lost.Load(); lost == 0 {
			t.Error("the queue has no bound")
		}
		start = time.Now()
		r.close()
		if took := time.Since(start); took != closeWait {
			t.Errorf("closing took %v, want %v", took, closeWait)
		}
		close(d.hang)
		<-r.done
		if err := r.write(record{}); !errors.Is(err, errClosed) {
			t.Errorf("writing after the end: %v", err)
		}
	})
}

func TestBrokenChainIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte("{\"forged\":true}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := openChain(path, discard())
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	records := readRecords(t, path)
	if len(records) != 1 || records[0].Event != eventBroken {
		t.Fatalf("the new file begins with %+v", records)
	}
	kept := must(os.ReadFile(records[0].Path))(t)
	if string(kept) != "{\"forged\":true}\n" {
		t.Errorf("the evidence was changed: %s", kept)
	}
}

// A device named by mistake is neither read as a chain nor moved out of its place.
func TestAuditFileMustBeAFile(t *testing.T) {
	dir := t.TempDir()
	if file, err := openChain(dir, discard()); err == nil {
		file.Close()
		t.Error("a folder was opened as audit file")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Errorf("it was moved: %v", err)
	}
}

// pipeListener hands out connections of the test's making.
type pipeListener struct {
	net.Listener
	conns chan net.Conn
}

func (l *pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func TestStrangersGiveWay(t *testing.T) {
	inner := &pipeListener{conns: make(chan net.Conn, 8)}
	l := newListener(inner, 2, newMetrics(prometheus.NewRegistry()))
	var far []net.Conn
	connect := func() *conn {
		near, other := net.Pipe()
		far = append(far, other)
		inner.conns <- near
		return must(l.Accept())(t).(*conn)
	}
	closed := func(i int) bool {
		far[i].SetReadDeadline(time.Now().Add(-time.Second))
		_, err := far[i].Read(make([]byte, 1))
		return !errors.Is(err, os.ErrDeadlineExceeded)
	}
	first := connect()
	second := connect()
	second.authenticated()
	third := connect() // first has not authenticated and gives way
	if !closed(0) || closed(1) || closed(2) {
		t.Fatal("the oldest stranger should have given way, and nobody else")
	}
	third.authenticated()
	near, other := net.Pipe()
	inner.conns <- near
	close(inner.conns)
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v: a place was made where engineers held them all", err)
	}
	if _, err := other.Read(make([]byte, 1)); err == nil {
		t.Error("the one too many was not closed")
	}
	first.Close()
	second.Close()
	second.Close()
	third.Close()
	if l.open != 0 || l.pending.Len() != 0 {
		t.Errorf("%d open, %d pending after all closed", l.open, l.pending.Len())
	}
}

func TestJoinCgroup(t *testing.T) {
	dir := t.TempDir()
	if _, err := joinCgroup(filepath.Join(dir, "plain"), 1, 1); err == nil {
		t.Error("a plain folder was taken for a cgroup")
	}
	if _, err := os.Stat(filepath.Join(dir, "plain", "cgroup.procs")); err == nil {
		t.Error("a cgroup was faked")
	}
	fake := filepath.Join(dir, "cgroup")
	if err := os.Mkdir(fake, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"cgroup.procs", "cpu.weight", "memory.min"} {
		if err := os.WriteFile(filepath.Join(fake, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	notes, err := joinCgroup(fake, 42, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(notes)
	if diff := cmp.Diff([]string{"cpu.weight=10000", "memory.min=67108864"}, notes); diff != "" {
		t.Errorf("reserved (-want +got):\n%s", diff)
	}
	if got := string(must(os.ReadFile(filepath.Join(fake, "cgroup.procs")))(t)); got != "42" {
		t.Errorf("joined as %q", got)
	}
}
