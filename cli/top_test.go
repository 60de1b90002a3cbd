package cli

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/ledger"
)

// serveTop answers GET /v1/top on a socket, as a gate's admin endpoint does.
func serveTop(t *testing.T, l *ledger.Ledger) (socket string) {
	t.Helper()
	leavesNothing(t)
	socket = filepath.Join(t.TempDir(), "gate.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var n int
		_, _ = fmt.Sscan(r.URL.Query().Get("n"), &n)
		_ = json.NewEncoder(w).Encode(l.Top(n, ledger.Order(r.URL.Query().Get("by"))))
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return socket
}

func TestGateTop(t *testing.T) {
	now := time.Date(2024, 12, 11, 15, 16, 0, 0, time.UTC)
	l := ledger.New(ledger.Options{Clock: func() time.Time { return now }})
	agent := &flow.Request{
		Caller: flow.Caller{User: "system:serviceaccount:telemetry:agent"}, UserAgent: "otel/1.0\x1b[31m", Verb: "list", Resource: "pods",
		Source: netip.MustParseAddr("10.0.0.1"),
	}
	for range 60 {
		now = now.Add(time.Second)
		l.Record(agent, ledger.Outcome{Code: 200, SeatSeconds: 2, ResponseBytes: 1 << 20})
	}
	socket := serveTop(t, l)

	code, stdout, stderr := command(t, "", "gate", "top", "--socket", socket)
	lines := strings.Split(stdout, "\n")
	if code != ExitOK || len(lines) < 3 {
		t.Fatalf("code %d, %q, %q", code, stdout, stderr)
	}
	if want := "SEATS  ±  REQ/S  REJ/S  BYTES/S  STREAMS  SOURCES  VERB  RESOURCE  USER  USER AGENT"; strings.Join(strings.Fields(lines[1]), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("head is %q", lines[1])
	}
	if got := strings.Join(strings.Fields(lines[2])[7:], " "); got != "1 list pods system:serviceaccount:telemetry:agent otel/1.0*[31m" && got != "list pods system:serviceaccount:telemetry:agent otel/1.0*[31m" {
		t.Errorf("line is %q", lines[2])
	}
	if strings.Contains(stdout, "\x1b") {
		t.Error("a client's control characters reach the terminal")
	}

	code, stdout, _ = command(t, "", "gate", "top", "--socket", socket, "-o", "json", "--sort", "bytes", "-n", "1")
	var snap ledger.Snapshot
	if err := json.Unmarshal([]byte(stdout), &snap); code != ExitOK || err != nil || snap.Order != ledger.ByBytes || len(snap.Entries) != 1 || snap.Entries[0].Requests != 60 {
		t.Errorf("code %d, %v, %+v", code, err, snap)
	}
}

func TestGateTopRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no gate":              {[]string{"--socket", "/nowhere/gate.sock"}, ExitFailure, "error: asking the gate at /nowhere/gate.sock: dial unix"},
		"unknown order":        {[]string{"--sort", "name"}, ExitUsage, "error: reading --sort: order must be one of"},
		"unknown output":       {[]string{"-o", "xml"}, ExitUsage, `error: output must be table or json, got "xml"`},
		"argument":             {[]string{"x"}, ExitUsage, "error: top takes no argument without --audit"},
		"watching a file":      {[]string{"--audit", "x", "--watch"}, ExitUsage, "error: --watch shows a gate"},
		"by, live":             {[]string{"--by", "user"}, ExitUsage, "error: --by needs --audit"},
		"no such log":          {[]string{"--audit", "/nowhere/audit.log"}, ExitUsage, "error: reading audit log: open /nowhere"},
		"bytes of a log":       {[]string{"--audit", "x", "--sort", "bytes"}, ExitUsage, "error: an audit log does not say"},
		"log without an event": {[]string{"--audit", "-"}, ExitFailure, "error: the audit log holds no ResponseComplete event"},
	} {
		t.Run(name, func(t *testing.T) {
			code, stdout, stderr := command(t, "", append([]string{"gate", "top"}, test.args...)...)
			if code != test.code || stdout != "" || !strings.HasPrefix(stderr, test.want) {
				t.Errorf("code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}

const auditLine = `{"kind":"Event","apiVersion":"audit.k8s.io/v1","stage":"ResponseComplete","requestURI":"/api/v1/pods","verb":"%s",` +
	`"user":{"username":"%s"},"sourceIPs":["10.0.0.7"],"userAgent":"otel/1.0","objectRef":{"resource":"pods"},"responseStatus":{"code":200},` +
	`"requestReceivedTimestamp":"2024-12-11T15:12:00.000000Z","stageTimestamp":"2024-12-11T15:12:0%d.000000Z"}` + "\n"

func TestGateTopOfAnAuditLog(t *testing.T) {
	log := fmt.Sprintf(auditLine, "list", "agent", 4) + fmt.Sprintf(auditLine, "get", "jane", 1) + fmt.Sprintf(auditLine, "watch", "agent", 9) + "garbage\n"
	code, stdout, stderr := command(t, log, "gate", "top", "--audit", "-")
	want := `3 events over 9s, 5.0 seat-seconds (time executing; one seat each)

SEAT-SECONDS  ±  SHARE  REQUESTS  ±  MEAN  429  5XX  SOURCES  VERB  RESOURCE  USER   USER AGENT
4.00          0  80.0%  1         0  4s    0    0    1        list  pods      agent  otel/1.0
1.00          0  20.0%  1         0  1s    0    0    1        get   pods      jane   otel/1.0

Watches and other streams, by number; what their initial events cost is not in the log:
OPENED  ±  MEAN OPEN  429  5XX  SOURCES  VERB   RESOURCE  USER   USER AGENT
1       0  9s         0    0    1        watch  pods      agent  otel/1.0
`
	if code != ExitOK || stdout != want {
		t.Errorf("code %d, stdout:\n%s\nwant:\n%s", code, stdout, want)
	}
	if !strings.HasPrefix(stderr, "warning: passed over 1 malformed and 0 too long lines of 4; first: <stdin>:4: ") {
		t.Errorf("stderr %q", stderr)
	}

	file := filepath.Join(t.TempDir(), "audit.log.gz")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	z := gzip.NewWriter(f)
	if _, err := z.Write([]byte(log)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	code, stdout, _ = command(t, log, "gate", "top", "--audit", file, "-", "--by", "user", "-o", "json")
	var report ledger.AuditReport
	if err := json.Unmarshal([]byte(stdout), &report); code != ExitOK || err != nil || report.Counted != 6 || report.Requests.Entries[0].User != "agent" || report.Requests.Entries[0].Verb != "" {
		t.Errorf("code %d, %v, %+v", code, err, report)
	}
}
