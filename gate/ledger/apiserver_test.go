package ledger

import (
	"os"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/seakeep/seakeep/lab"
)

// The log a real API server writes is read without a malformed line, and the client that lists is found in it.
func TestAuditLogOfARealAPIServer(t *testing.T) {
	l := lab.Start(t, lab.Options{})
	config := l.RESTConfig(lab.Admin)
	config.UserAgent = "telemetry-agent/1.0 (linux/amd64) 0123abc"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	short := int64(1)
	watch, err := client.CoreV1().ConfigMaps("").Watch(t.Context(), metav1.ListOptions{TimeoutSeconds: &short})
	if err != nil {
		t.Fatal(err)
	}
	for range watch.ResultChan() { // until the server ends it: only then is it in the log
	}
	const lists = 25
	for range lists {
		if _, err := client.CoreV1().ConfigMaps("").List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	deadline := time.After(30 * time.Second) // the server writes its log a little later
	for {
		f, err := os.Open(l.AuditLog(0))
		if err != nil {
			t.Fatal(err)
		}
		a := NewAudit(AuditOptions{})
		err = a.Read("audit.log", f)
		_ = f.Close()
		if err != nil {
			t.Fatal(err)
		}
		r := a.Report(0, ByRequests)
		for _, e := range r.Requests.Entries {
			if e.UserAgent != "telemetry-agent/1.0 (linux/amd64) *" || e.Requests < lists {
				continue
			}
			if e.User != lab.AdminUser || e.Verb != "list" || e.Resource != "configmaps" || e.SeatSeconds <= 0 || e.Codes["2xx"] != lists || e.Sources != 1 {
				t.Errorf("the client is %+v", e)
			}
			// A line may be half written when it is read; more than that is a fault of the parser.
			if r.Malformed > 1 {
				t.Errorf("%d malformed lines: %s", r.Malformed, r.FirstMalformed)
			}
			if i := slices.IndexFunc(r.Streams.Entries, func(s Entry) bool { return s.Key == (Key{e.User, e.UserAgent, "watch", e.Resource}) }); i < 0 {
				t.Errorf("its watch is not among the streams: %+v", r.Streams.Entries)
			} else if s := r.Streams.Entries[i]; s.Requests != 1 || s.UpstreamSeconds < 0.9 || s.SeatSeconds != 0 {
				t.Errorf("its watch is %+v", s)
			}
			return
		}
		select {
		case <-deadline:
			t.Fatalf("the client is not among %d after 30s", len(r.Requests.Entries))
		case <-time.After(50 * time.Millisecond):
		}
	}
}
