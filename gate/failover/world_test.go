package failover_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/seakeep/seakeep/gate/gatetest"
	"github.com/seakeep/seakeep/lab"
	"github.com/seakeep/seakeep/lab/link"
)

// namespace holds what the tests write.
const namespace = "failover"

// tooLong is a hang: a client that waits longer counts it as a failure.
const tooLong = 2 * time.Second

// world is a control plane of three, with a link before each API server and between each and its etcd.
type world struct {
	*lab.Lab
	etcd, api []*link.Link
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	open := func(target string) *link.Link {
		l, err := link.To(target)
		check(t, err)
		t.Cleanup(l.Close)
		return l
	}
	w.Lab = lab.Start(t, lab.Options{
		Dir: t.TempDir(), APIServers: 3, Etcd: 3,
		EtcdServers: func(i int, members []string) []string {
			for len(w.etcd) <= i {
				w.etcd = append(w.etcd, open(strings.TrimPrefix(members[len(w.etcd)], "https://")))
			}
			return []string{"https://" + w.etcd[i].Address()}
		},
	})
	for i := range w.APIServers() {
		w.api = append(w.api, open(strings.TrimPrefix(w.APIServerURL(i), "https://")))
	}
	return w
}

// leave stops the gate, and then the links and the control plane, which belong to this process too: what is left then is
// the gate's.
func (w *world) leave(t *testing.T, n *gatetest.Lane) {
	n.Stop()
	check(t, w.Down(context.Background()))
	for _, l := range append(w.api, w.etcd...) {
		l.Close()
	}
}

// upstream is a server of a gate's configuration.
type upstream struct{ name, url string }

func (w *world) upstreams() []upstream {
	var servers []upstream
	for i, l := range w.api {
		servers = append(servers, upstream{fmt.Sprintf("server-%d", i), "https://" + l.Address()})
	}
	return servers
}

// configure writes the configuration of a gate before the servers.
func (w *world) configure(t *testing.T, more string, servers ...upstream) string {
	t.Helper()
	file := gatetest.Write(t, w.Lab, t.TempDir(), gatetest.Options{More: "defaultLimits: Disabled\n" + more})
	text, err := os.ReadFile(file)
	check(t, err)
	check(t, os.WriteFile(file, []byte(w.with(t, string(text), servers...)), 0o600))
	return file
}

// with puts servers in the place of those in a configuration.
func (w *world) with(t *testing.T, text string, servers ...upstream) string {
	t.Helper()
	before, rest, found := strings.Cut(text, "upstreams: [")
	_, after, closed := strings.Cut(rest, "]\n")
	if !found || !closed {
		t.Fatal("the configuration has no upstreams")
	}
	var list []string
	for _, s := range servers {
		list = append(list, fmt.Sprintf("{name: %s, url: %q, caFile: %s}", s.name, s.url, w.CAFile()))
	}
	return before + "upstreams: [" + strings.Join(list, ", ") + "]\n" + after
}

// sent is what became of one request.
type sent struct {
	at, took time.Duration
	id       string
	code     int
	err      error
}

func (s *sent) failed() bool { return s.err != nil || s.code >= 400 || s.took > tooLong }

// storm sends at a rate that does not depend on the answers, as many clients do.
type storm struct {
	t      *testing.T
	client *http.Client
	url    string
	// request makes the nth request; nil: a ConfigMap is created.
	request func(ctx context.Context, n int) (*http.Request, error)

	mu  sync.Mutex
	all []*sent
}

var names = sync.OnceValue(func() string { return uuid.NewString()[:8] })

func (s *storm) create(ctx context.Context, _ int) (*http.Request, error) {
	body := fmt.Sprintf(`{"metadata":{"name":"w-%s-%s"},"data":{"a":"b"}}`, names(), uuid.NewString())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/api/v1/namespaces/"+namespace+"/configmaps", strings.NewReader(body))
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r, err
}

// run sends perSecond requests for the duration and waits for their ends. The times in what it returns count from its
// beginning.
func (s *storm) run(perSecond int, duration time.Duration) []*sent {
	began := time.Now()
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	var under sync.WaitGroup
	for n := 0; time.Since(began) < duration; n++ {
		<-tick.C
		at := time.Since(began)
		under.Go(func() {
			one := s.send(n)
			one.at = at
			s.mu.Lock()
			defer s.mu.Unlock()
			s.all = append(s.all, one)
		})
	}
	under.Wait()
	return s.all
}

func (s *storm) send(n int) *sent {
	one := &sent{id: uuid.NewString()}
	ctx, cancel := context.WithTimeout(s.t.Context(), tooLong)
	defer cancel()
	began := time.Now()
	defer func() { one.took = time.Since(began) }()
	request := s.request
	if request == nil {
		request = s.create
	}
	r, err := request(ctx, n)
	if err != nil {
		one.err = err
		return one
	}
	r.Header.Set("Audit-ID", one.id)
	response, err := s.client.Do(r)
	if err != nil {
		one.err = err
		return one
	}
	defer response.Body.Close()
	one.code = response.StatusCode
	body, err := io.ReadAll(response.Body)
	if one.err = err; one.code >= 400 {
		one.err = fmt.Errorf("%d: %.300s", one.code, body)
	}
	return one
}

// verdict is what a storm met.
type verdict struct {
	offered, failed int
	last            time.Duration // when the last that failed was sent
	slowest         time.Duration // of those that did not fail
}

func judge(t *testing.T, all []*sent) verdict {
	t.Helper()
	v := verdict{offered: len(all)}
	shown := 0
	for _, s := range all {
		if !s.failed() {
			v.slowest = max(v.slowest, s.took)
			continue
		}
		v.failed++
		v.last = max(v.last, s.at)
		if shown++; shown <= 5 {
			t.Logf("failed: sent at %s, %s: %v", s.at.Round(time.Millisecond), s.took.Round(time.Millisecond), s.err)
		}
	}
	t.Logf("%d offered, %d failed (%.1f %%), the last sent at %s; the slowest of the others took %s",
		v.offered, v.failed, 100*float64(v.failed)/float64(max(1, v.offered)), v.last.Round(time.Millisecond), v.slowest.Round(time.Millisecond))
	return v
}

// once wants every request that succeeded exactly once in all API servers' audit logs together, and none twice.
func (w *world) once(t *testing.T, all []*sent) {
	t.Helper()
	want := map[string]bool{}
	for _, s := range all {
		want[s.id] = !s.failed()
	}
	var counts map[string]int
	within(t, 20*time.Second, "every write that was acknowledged is in an audit log", func() bool {
		counts = w.audited(t, want)
		for id, must := range want {
			if must && counts[id] == 0 {
				return false
			}
		}
		return true
	})
	for id, n := range counts {
		if n > 1 {
			t.Errorf("request %s was carried out %d times", id, n)
		}
	}
}

func (w *world) audited(t *testing.T, ids map[string]bool) map[string]int {
	t.Helper()
	counts := map[string]int{}
	for i := range w.APIServers() {
		log, err := os.Open(w.AuditLog(i))
		check(t, err)
		lines := bufio.NewScanner(log)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			var event struct {
				AuditID string `json:"auditID"`
				Stage   string `json:"stage"`
			}
			if json.Unmarshal(lines.Bytes(), &event) == nil && event.Stage == "ResponseComplete" {
				if _, ours := ids[event.AuditID]; ours {
					counts[event.AuditID]++
				}
			}
		}
		check(t, log.Close())
	}
	return counts
}

// metric is the sum of a metric's series whose labels have all the given values.
func metric(t *testing.T, n *gatetest.Lane, name string, values ...string) float64 {
	t.Helper()
	families, err := n.Registry.Gather()
	check(t, err)
	sum := 0.0
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			matches := 0
			for _, label := range m.GetLabel() {
				for _, value := range values {
					if label.GetValue() == value {
						matches++
					}
				}
			}
			if matches == len(values) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// allIn waits until requests go to all servers again, sending some, because servers come back by requests.
func allIn(t *testing.T, n *gatetest.Lane, s *storm) {
	t.Helper()
	within(t, 60*time.Second, "all servers are in", func() bool {
		for range 8 {
			s.send(0)
		}
		return metric(t, n, "seakeep_gate_upstream_in_ratio") == 6
	})
}

func makeNamespace(t *testing.T, client *http.Client, url string) {
	t.Helper()
	created, err := client.Post(url+"/api/v1/namespaces", "application/json", strings.NewReader(`{"metadata":{"name":"`+namespace+`"}}`))
	check(t, err)
	check(t, created.Body.Close())
	if created.StatusCode != http.StatusCreated {
		t.Fatalf("creating the namespace: %d", created.StatusCode)
	}
}

func within(t *testing.T, d time.Duration, what string, done func() bool) {
	t.Helper()
	deadline := time.After(d)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
