package bypass

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

const mark = "0123456789ab"

func event(id, stage, user, agent string, at time.Time) string {
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","stage":%q,"auditID":%q,"user":{"username":%q},"userAgent":%q,"sourceIPs":["1.2.3.4","10.0.0.7"],"stageTimestamp":%q}`,
		stage, id, user, agent, at.Format(time.RFC3339Nano)) + "\n"
}

func TestAudit(t *testing.T) {
	const done = "ResponseComplete"
	in := noon.Add(time.Second)
	text := event("x-"+mark, done, "alice", "kubectl/v1 (linux)", in) +
		event("y", done, "alice", "kubectl/v1 (darwin)", in) +
		event("z", done, "system:node:a", "kubelet/v1", in) +
		event("z", done, "system:node:a", "kubelet/v1", in) +
		event("z", "ResponseStarted", "system:node:a", "kubelet/v1", in) +
		event("z", done, "system:node:a", "kubelet/v1", noon.Add(-time.Second)) +
		event("z", done, "system:node:a", "kubelet/v1", noon.Add(time.Hour)) +
		event("s", done, "system:apiserver", "kube-apiserver/v1", in) +
		"not json\n\n{}\n" +
		strings.Replace(event("i", done, "gate", "helm", in), `"userAgent"`, `"impersonatedUser":{"username":"bob"},"userAgent"`, 1) +
		strings.Repeat("x", maxAuditLine+10) + "\n" +
		event("", done, "alice", "kubectl/v1", in)[:40]
	audit := NewAudit([]string{mark, ""}, noon, noon.Add(time.Minute))
	if err := audit.Read(strings.NewReader(text)); err != nil {
		t.Fatal(err)
	}
	want := &Clients{Events: 6, Self: 1, Gates: 1, Round: 4, Malformed: 2, TooLong: 1, Torn: 1, OtherStages: 1, Outside: 2, List: []ClientRow{
		{Client{"system:node:a", "kubelet/v1", "10.0.0.7"}, 2, 0},
		{Client{"alice", "kubectl/v1", "10.0.0.7"}, 1, 1},
		{Client{"bob", "helm", "10.0.0.7"}, 1, 0},
	}}
	if diff := cmp.Diff(want, audit.Clients(0)); diff != "" {
		t.Errorf("clients (-want +got):\n%s", diff)
	}
	if got := audit.Clients(1); len(got.List) != 1 || got.Events != 6 {
		t.Errorf("the first client only: %+v", got)
	}
}

// A log may be larger than memory: what is kept is bounded by the clients, and they by a number.
func TestAuditIsBounded(t *testing.T) {
	audit := NewAudit(nil, noon, noon)
	pr, pw := io.Pipe()
	go func() {
		for i := range maxClients + 100 {
			if _, err := io.WriteString(pw, event("x", "ResponseComplete", fmt.Sprint("user-", i, strings.Repeat("u", 300)), "a", noon)); err != nil {
				break
			}
		}
		_ = pw.Close()
	}()
	if err := audit.Read(pr); err != nil {
		t.Fatal(err)
	}
	got := audit.Clients(0)
	if got.Round != maxClients+100 || got.Dropped != 100 || len(got.List) != maxClients || len(got.List[0].User) > maxName {
		t.Errorf("%d round, %d dropped, %d kept, names of %d bytes", got.Round, got.Dropped, len(got.List), len(got.List[0].User))
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	write := func(text string) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			_, err = f.WriteString(text)
			_ = f.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	read := func(tail *Tail) string {
		t.Helper()
		var text strings.Builder
		if err := tail.Read(func(r io.Reader) error { _, err := io.Copy(&text, r); return err }); err != nil {
			t.Fatal(err)
		}
		return text.String()
	}
	write("old\n")
	tail, err := OpenTail(path)
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	write("one\n")
	if got := read(tail); got != "one\n" {
		t.Errorf("appended: %q", got)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if got := read(tail); got != "one\n" {
		t.Errorf("in the middle of a rotation: %q", got)
	}
	write("two\n")
	if got := read(tail); got != "one\ntwo\n" {
		t.Errorf("rotated: %q", got)
	}
	if err := os.Truncate(path+".1", 0); err != nil {
		t.Fatal(err)
	}
	if got := read(tail); got != "two\n" {
		t.Errorf("truncated: %q", got)
	}
	if _, err := OpenTail(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is read")
	}
}

func FuzzAudit(f *testing.F) {
	f.Add(event("x", "ResponseComplete", "a", "b", noon))
	f.Add("{\"kind\":\"Event\"")
	f.Add("\n\n[]\n")
	f.Fuzz(func(t *testing.T, text string) {
		audit := NewAudit([]string{mark}, noon, noon)
		if err := audit.Read(strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
		if c := audit.Clients(0); c.Events != c.Self+c.Gates+c.Round || int(c.Events) > strings.Count(text, "\n")+1 {
			t.Errorf("%+v of %q", c, text)
		}
	})
}
