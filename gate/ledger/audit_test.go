package ledger

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// line is an event as the API server writes it, with a duration in milliseconds.
func line(user, agent, verb, uri, ref string, code, ms int) string {
	if ref != "" {
		ref = `"objectRef":` + ref + `,`
	}
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","auditID":"x","stage":"ResponseComplete",`+
		`"requestURI":%q,"verb":%q,"user":{"username":%q,"groups":["g"]},"sourceIPs":["10.0.0.7"],"userAgent":%q,%s`+
		`"responseStatus":{"metadata":{},"code":%d},"requestReceivedTimestamp":"2024-12-11T15:12:00.000000Z",`+
		`"stageTimestamp":"2024-12-11T15:12:%02d.%03d000Z"}`+"\n", uri, verb, user, agent, ref, code, ms/1000, ms%1000)
}

const pods = `{"resource":"pods","apiVersion":"v1"}`

var auditLog = line("agent", "otel/1.0 8b5c1a2d", "list", "/api/v1/pods", pods, 200, 3000) +
	line("agent", "otel/1.0 9c6d2b3e", "list", "/api/v1/pods", pods, 200, 5000) +
	line("agent", "otel/1.0 9c6d2b3e", "list", "/api/v1/pods", pods, 429, 1) +
	line("kubelet", "kubelet/1.36", "get", "/api/v1/nodes/a", `{"resource":"nodes","name":"a"}`, 200, 10) +
	line("kubelet", "kubelet/1.36", "watch", "/api/v1/pods?watch=1", pods, 200, 50_000) +
	line("jane", "kubectl", "get", "/api/v1/namespaces/x/pods/p/log?follow=true", `{"resource":"pods","subresource":"log"}`, 200, 40_000) +
	line("jane", "kubectl", "get", "/api/v1/namespaces/x/pods/p/log", `{"resource":"pods","subresource":"log"}`, 200, 100) +
	line("", "curl", "get", "/healthz?verbose", "", 500, 2) +
	strings.Replace(line("jane", "kubectl", "list", "/api/v1/pods", pods, 200, 900), "ResponseComplete", "RequestReceived", 1) +
	strings.Replace(line("root", "kubectl", "get", "/api/v1/pods", pods, 200, 20), `"sourceIPs"`, `"impersonatedUser":{"username":"jane"},"sourceIPs"`, 1) +
	"{\"kind\":\"Event\"\n" + `{"kind":"Pod","apiVersion":"v1"}` + "\n\n"

func TestAudit(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(z, auditLog); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"plain": auditLog, "gzip": zipped.String(), "without the last newline": strings.TrimRight(auditLog, "\n")} {
		t.Run(name, func(t *testing.T) {
			a := NewAudit(AuditOptions{})
			if err := a.Read("audit.log", strings.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			r := a.Report(0, BySeats)
			if r.Lines != 12 || r.Counted != 9 || r.OtherStages != 1 || r.Malformed != 2 || r.FirstMalformed != "audit.log:11: unexpected end of JSON input" {
				t.Errorf("lines %d, counted %d, other stages %d, malformed %d: %s", r.Lines, r.Counted, r.OtherStages, r.Malformed, r.FirstMalformed)
			}
			if diff := cmp.Diff([]string{
				"agent otel/1.0 * list pods 3 8.001",
				"jane kubectl get pods/log 1 0.1",
				"jane kubectl get pods 1 0.02", // impersonated
				"kubelet kubelet/1.36 get nodes 1 0.01",
				" curl get /healthz 1 0.002",
			}, ranking(r.Requests)); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"jane kubectl get pods/log 1 0", "kubelet kubelet/1.36 watch pods 1 0"}, ranking(r.Streams)); diff != "" {
				t.Errorf("streams (-want +got):\n%s", diff)
			}
			first := r.Requests.Entries[0]
			if first.Rejected != 1 || first.Codes["429"] != 1 || first.Sources != 1 || first.Rates != (Rates{}) {
				t.Errorf("first: %+v", first)
			}
			if got := r.Streams.Entries[1].UpstreamSeconds; got != 50 {
				t.Errorf("the watch was open %vs, want 50", got)
			}
			if got := r.Requests.Taken.Sub(r.Requests.Since).Seconds(); got != 50 {
				t.Errorf("the file spans %vs", got)
			}
		})
	}
}

func ranking(s Snapshot) []string {
	var lines []string
	for _, e := range s.Entries {
		lines = append(lines, fmt.Sprintf("%s %s %s %s %d %.4g", e.User, e.UserAgent, e.Verb, e.Resource, e.Requests, e.SeatSeconds))
	}
	return lines
}

func TestAuditByDimension(t *testing.T) {
	for by, want := range map[Dimension]string{
		ByUser:      "agent    3 8.001",
		ByUserAgent: " otel/1.0 *   3 8.001",
		ByVerb:      "  list  3 8.001",
		ByResource:  "   pods 4 8.021",
	} {
		a := NewAudit(AuditOptions{By: by})
		if err := a.Read("audit.log", strings.NewReader(auditLog)); err != nil {
			t.Fatal(err)
		}
		if got := ranking(a.Report(1, BySeats).Requests); got[0] != want {
			t.Errorf("by %s: %q, want %q", by, got[0], want)
		}
	}
}

func TestAuditOfDamagedFiles(t *testing.T) {
	t.Run("cut gzip", func(t *testing.T) {
		var zipped bytes.Buffer
		z := gzip.NewWriter(&zipped)
		for range 1000 {
			_, _ = io.WriteString(z, auditLog)
		}
		_ = z.Close()
		a := NewAudit(AuditOptions{})
		if err := a.Read("audit.log.gz", bytes.NewReader(zipped.Bytes()[:zipped.Len()/2])); err != nil {
			t.Fatal(err)
		}
		if r := a.Report(0, BySeats); len(r.Truncated) != 1 || r.Counted == 0 {
			t.Errorf("truncated %v, counted %d", r.Truncated, r.Counted)
		}
	})
	t.Run("a line over the limit", func(t *testing.T) {
		a := NewAudit(AuditOptions{})
		long := io.MultiReader(strings.NewReader(auditLog), io.LimitReader(endless('x'), maxAuditLine+1), strings.NewReader("\n"+auditLog))
		if err := a.Read("audit.log", long); err != nil {
			t.Fatal(err)
		}
		if r := a.Report(0, BySeats); r.TooLong != 1 || r.Counted != 18 {
			t.Errorf("too long %d, counted %d", r.TooLong, r.Counted)
		}
	})
	t.Run("an error while reading", func(t *testing.T) {
		a := NewAudit(AuditOptions{})
		broken := errors.New("disk on fire")
		err := a.Read("audit.log", io.MultiReader(strings.NewReader(auditLog), errorReader{broken}))
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "after line 12") {
			t.Errorf("error is %v", err)
		}
	})
}

type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// Whatever the bytes, the counts add up and nothing panics.
func FuzzAudit(f *testing.F) {
	f.Add([]byte(auditLog))
	f.Add([]byte("\x1f\x8b\x08"))
	f.Add([]byte(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","stage":"ResponseComplete","requestReceivedTimestamp":"0001-01-02T00:00:00Z","stageTimestamp":"9999-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := NewAudit(AuditOptions{MaxClients: 16})
		if err := a.Read("x", bytes.NewReader(data)); err != nil {
			return
		}
		r := a.Report(0, BySeats)
		if r.Lines != r.Counted+r.OtherStages+r.Malformed+r.TooLong {
			t.Errorf("%d lines, but %d counted, %d of other stages, %d malformed, %d too long", r.Lines, r.Counted, r.OtherStages, r.Malformed, r.TooLong)
		}
		if r.Requests.Total.Requests+r.Streams.Total.Requests != r.Counted {
			t.Errorf("%d + %d ranked of %d", r.Requests.Total.Requests, r.Streams.Total.Requests, r.Counted)
		}
	})
}

func BenchmarkAudit(b *testing.B) {
	data := []byte(strings.Repeat(auditLog, 1000))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if err := NewAudit(AuditOptions{}).Read("x", bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}
