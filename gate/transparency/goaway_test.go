package transparency_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
)

// TestGoawayFailsNoWrite is the case that keeps proxies from being put before API servers with --goaway-chance
// (gravitational/teleport#57766, kubernetes/kubernetes#135287): at the highest chance there is, thousands of concurrent
// writes with bodies pass two API servers that keep hanging up. Every one of them succeeds, and the API servers' audit logs
// have every one of them exactly once.
func TestGoawayFailsNoWrite(t *testing.T) {
	const writers, objects, patches = 24, 30, 3
	l := lab.Start(t, lab.Options{APIServers: 2, ExtraArgs: map[string][]string{lab.KindAPIServer: {"--goaway-chance=0.02"}}})
	file := gatetest.Write(t, l, t.TempDir(), gatetest.Options{More: "defaultLimits: Disabled\n" + sharing()})
	both(t, l, file)
	n := gatetest.Serve(t, l, file)
	client := n.HTTP(true, n.Certificate(lab.Admin))
	const namespace = "goaway"
	collection := n.URL + "/api/v1/namespaces/" + namespace + "/configmaps"
	var ids sync.Map // Audit-ID: what was sent
	write := func(method, url, contentType, body string, want int) error {
		id := uuid.NewString()
		ids.Store(id, method+" "+url)
		request, err := http.NewRequestWithContext(t.Context(), method, url, io.NopCloser(strings.NewReader(body)))
		if err != nil {
			return err
		}
		request.ContentLength = int64(len(body))
		request.Header.Set("Content-Type", contentType)
		request.Header.Set("Audit-ID", id)
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		if err != nil {
			return err
		}
		if response.StatusCode != want {
			return fmt.Errorf("%s %s: %d, want %d: %s", method, url, response.StatusCode, want, answer)
		}
		return nil
	}
	check(t, write(http.MethodPost, n.URL+"/api/v1/namespaces", "application/json", `{"metadata":{"name":"`+namespace+`"}}`, http.StatusCreated))

	// A watch that was open before is not hurt by what happens to the connection it is on. It is of another resource: an
	// API server that is short of CPU ends a watch that cannot keep up, whoever reads it.
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL+"/api/v1/namespaces/"+namespace+"/secrets?watch=true", nil)
	check(t, err)
	watch, err := client.Do(request)
	check(t, err)
	defer watch.Body.Close()

	padding := strings.Repeat("what an object holds. ", 400) // more than one frame, less than one window
	var writing sync.WaitGroup
	var failures atomic.Int64
	for w := range writers {
		writing.Go(func() {
			for i := range objects {
				name := fmt.Sprintf("goaway-%d-%d", w, i)
				errs := []error{write(http.MethodPost, collection, "application/json",
					fmt.Sprintf(`{"metadata":{"name":%q},"data":{"n":"0","padding":%q}}`, name, padding), http.StatusCreated)}
				for p := range patches {
					// A patch that is applied twice fails the second time, by its test.
					errs = append(errs, write(http.MethodPatch, collection+"/"+name, "application/json-patch+json",
						fmt.Sprintf(`[{"op":"test","path":"/data/n","value":"%d"},{"op":"replace","path":"/data/n","value":"%d"}]`, p, p+1), http.StatusOK))
				}
				for _, err := range errs {
					if err != nil && failures.Add(1) <= 5 {
						t.Error(err)
					}
				}
			}
		})
	}
	writing.Wait()
	if failed := failures.Load(); failed > 0 {
		t.Fatalf("%d of %d writes failed", failed, writers*objects*(1+patches))
	}
	check(t, write(http.MethodPost, n.URL+"/api/v1/namespaces/"+namespace+"/secrets", "application/json", `{"metadata":{"name":"after-the-storm"}}`, http.StatusCreated))
	if event, err := bufio.NewReader(watch.Body).ReadString('\n'); err != nil || !strings.Contains(event, "after-the-storm") {
		t.Errorf("the watch that was open throughout brings %q, %v", event, err)
	}
	exactlyOnce(t, l, &ids)
	replays := metric(t, n, "seakeep_gate_upstream_replays_total")
	if replays == 0 {
		t.Error("no write met a GOAWAY: this run has shown nothing")
	}
	t.Logf("%d writes, %v sent again after a GOAWAY, none failed, each carried out once", writers*objects*(1+patches), replays)
}

// both gives the gate's file the lab's second API server too.
func both(t *testing.T, l *lab.Lab, file string) {
	t.Helper()
	text, err := os.ReadFile(file)
	check(t, err)
	one := fmt.Sprintf("{name: lab, url: %q, caFile: %s}", l.APIServerURL(0), l.CAFile())
	two := one + ", " + fmt.Sprintf("{name: second, url: %q, caFile: %s}", l.APIServerURL(1), l.CAFile())
	if !strings.Contains(string(text), one) {
		t.Fatalf("the configuration has no %s", one)
	}
	check(t, os.WriteFile(file, []byte(strings.Replace(string(text), one, two, 1)), 0o600))
}

// exactlyOnce wants each of the requests once in all audit logs together.
func exactlyOnce(t *testing.T, l *lab.Lab, ids *sync.Map) {
	t.Helper()
	var counts map[string]int
	within(t, "every request is in an audit log", func() bool {
		counts = map[string]int{}
		for i := range l.APIServers() {
			log, err := os.Open(l.AuditLog(i))
			check(t, err)
			lines := bufio.NewScanner(log)
			lines.Buffer(nil, 1<<20)
			for lines.Scan() {
				var event struct {
					AuditID string `json:"auditID"`
					Stage   string `json:"stage"`
				}
				if json.Unmarshal(lines.Bytes(), &event) == nil && event.Stage == "ResponseComplete" {
					counts[event.AuditID]++
				}
			}
			check(t, log.Close())
		}
		missing := 0
		ids.Range(func(id, _ any) bool {
			if counts[id.(string)] == 0 {
				missing++
			}
			return true
		})
		return missing == 0
	})
	ids.Range(func(id, what any) bool {
		if counts[id.(string)] > 1 {
			t.Errorf("%s was carried out %d times", what, counts[id.(string)])
		}
		return true
	})
}

// metric is the sum of a metric of the gate over its labels.
func metric(t *testing.T, n *gatetest.Lane, name string) (sum float64) {
	t.Helper()
	families, err := n.Registry.Gather()
	check(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
		return sum
	}
	t.Fatalf("the gate has no metric %s", name)
	return 0
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB, what string, done func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not in time: " + what)
		}
	}
}
