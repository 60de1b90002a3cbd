package observe

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/forecast"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/ledger"
)

var epoch = time.Date(2024, 12, 11, 15, 0, 0, 0, time.UTC)

// counter is a meter whose one count grows with the nodes exposed.
type counter struct {
	exposed func() int
	breaks  map[int]error
	looks   int
	total   float64
	last    time.Time
}

type count struct {
	at    time.Time
	total float64
}

func (c count) Taken() time.Time { return c.at }

func (c count) Since(earlier Mark) (Cost, error) {
	e := earlier.(count)
	return Cost{Own: map[forecast.Kind]float64{forecast.Requests: (c.total - e.total) / c.at.Sub(e.at).Seconds()}}, nil
}

func (c *counter) Mark(context.Context) (Mark, error) {
	now := time.Now()
	if !c.last.IsZero() {
		c.total += now.Sub(c.last).Seconds() * float64(c.exposed())
	}
	c.last = now
	c.looks++
	if err := c.breaks[c.looks]; err != nil {
		return nil, err
	}
	return count{now, c.total}, nil
}

func (c *counter) Exposure(context.Context) (Exposure, error) {
	return Exposure{Cluster: "c", Nodes: 10, Exposed: c.exposed(), Objects: 7}, nil
}

func TestSamples(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		c := &counter{breaks: map[int]error{7: errors.New("connection refused")}}
		c.exposed = func() int { // 1, then 3, then 2
			switch at := time.Since(began); {
			case at < 150*time.Second:
				return 1
			case at < 290*time.Second:
				return 3
			}
			return 2
		}
		var got []string
		hold := Hold{Window: time.Minute, Windows: 9, Skip: func(why string) { got = append(got, why) }}
		err := Samples(t.Context(), c, c, hold, func(s forecast.Sample) {
			got = append(got, fmt.Sprintf("%d %.0f/s %t %d", s.Exposed, s.Cost[forecast.Requests], s.Startup, s.Started))
		})
		if err != nil {
			t.Fatal(err)
		}
		// The sixth look is the first that finds two nodes; the seventh fails, and the eighth has nothing before it.
		want := []string{"1 1/s false 0", "1 1/s false 0", "3 3/s true 2", "3 3/s false 0", "the component left 1 nodes in the meantime", "connection refused", "2 2/s false 0", "2 2/s false 0"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
	})
}

func TestSamplesEndWithTheirContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
		defer cancel()
		c := &counter{exposed: func() int { return 1 }}
		n := 0
		if err := Samples(ctx, c, c, Hold{Window: time.Minute, Windows: 10}, func(forecast.Sample) { n++ }); !errors.Is(err, context.DeadlineExceeded) || n != 1 {
			t.Errorf("%d samples, %v", n, err)
		}
	})
	if err := Samples(t.Context(), nil, nil, Hold{Window: time.Millisecond, Windows: 1}, nil); err == nil {
		t.Error("a window of a millisecond is taken")
	}
}

// gateOf answers as a gate's admin endpoint does, from a real ledger.
func gateOf(t *testing.T, l *ledger.Ledger) Ledger {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/top" {
			http.NotFound(w, r)
			return
		}
		_ = json.NewEncoder(w).Encode(l.Top(0, ledger.BySeats))
	}))
	t.Cleanup(server.Close)
	return Ledger{Name: "gate", URL: server.URL, Client: server.Client()}
}

func request(user, agent, verb string) *flow.Request {
	r := &flow.Request{UserAgent: agent, Verb: verb, Resource: "pods", Source: netip.MustParseAddr("10.0.0.1")}
	r.Caller.User = user
	return r
}

// What a real ledger says in its JSON is read back: the component's only, by identity, and by what it calls itself if asked.
func TestGates(t *testing.T) {
	const user = "system:serviceaccount:telemetry:telemetry"
	if got := ServiceAccountUser("telemetry/telemetry"); got != user {
		t.Fatalf("the user is %q", got)
	}
	now := epoch
	l := ledger.New(ledger.Options{Clock: func() time.Time { return now }})
	gates := &Gates{Ledgers: []Ledger{gateOf(t, l)}, User: user}
	one := func(g *Gates) Mark {
		t.Helper()
		m, err := g.Mark(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	l.Record(request(user, "telemetry/1", "list"), ledger.Outcome{Code: 200, SeatSeconds: 99})
	before := one(gates)
	now = now.Add(10 * time.Second)
	for range 5 {
		l.Record(request(user, "telemetry/1", "list"), ledger.Outcome{Code: 200, SeatSeconds: 0.5, RequestBytes: 10, ResponseBytes: 990})
		l.Record(request("somebody", "telemetry/1", "list"), ledger.Outcome{Code: 200, SeatSeconds: 7})
	}
	l.Record(request(user, "other/2", "get"), ledger.Outcome{Code: 200, SeatSeconds: 1})
	l.Opened(request(user, "telemetry/1", "watch"))
	cost, err := one(gates).Since(before)
	if err != nil {
		t.Fatal(err)
	}
	want := Cost{Own: map[forecast.Kind]float64{forecast.Seats: 0.35, forecast.Requests: 0.7, forecast.Bytes: 500, forecast.Watches: 1}}
	if diff := cmp.Diff(want, cost, cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	claimed := *gates
	claimed.Agents = []string{"telemetry/*"}
	if cost, err = one(&claimed).Since(before); err != nil || math.Abs(cost.Own[forecast.Seats]-0.25) > 1e-9 {
		t.Errorf("by what it calls itself: %v %v", cost, err)
	}

	// It is refused and nobody else is: it asks for more than it gets. Then everybody is.
	before = one(gates)
	now = now.Add(10 * time.Second)
	l.Record(request(user, "telemetry/1", "list"), ledger.Outcome{Code: 429, RejectedBy: "limit"})
	after := one(gates)
	if cost, err = after.Since(before); err != nil || cost.Censored != forecast.ByItself {
		t.Errorf("refused alone: %v %v", cost, err)
	}
	now = now.Add(10 * time.Second)
	for range 50 {
		l.Record(request("somebody", "x", "list"), ledger.Outcome{Code: 429, RejectedBy: "admit"})
	}
	if cost, err = one(gates).Since(after); err != nil || cost.Censored != forecast.ByOthers {
		t.Errorf("others refused: %v %v", cost, err)
	}

	// A gate that began anew counts from nothing.
	gates.Ledgers[0] = gateOf(t, ledger.New(ledger.Options{}))
	if _, err := one(gates).Since(after); err == nil {
		t.Error("a gate that began anew is compared")
	}
	gates.Ledgers[0].URL += "/nowhere"
	if _, err := gates.Mark(t.Context()); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a gate that has no ranking: %v", err)
	}
}

// costed is a mark with what it says to have happened since any other.
type costed struct {
	at   time.Time
	cost Cost
	err  error
}

func (c costed) Taken() time.Time         { return c.at }
func (c costed) Since(Mark) (Cost, error) { return c.cost, c.err }

// What gates count stands beside what the flow schema does, and never in the place of what came round them.
func TestGatedFlow(t *testing.T) {
	flow := func(requests float64, censored forecast.Censoring) Cost {
		return Cost{
			Own:    map[forecast.Kind]float64{forecast.Seats: 0.5, forecast.Requests: requests},
			Server: map[forecast.Kind]float64{forecast.CPU: 2, forecast.Watches: 90}, Censored: censored,
		}
	}
	gates := func(requests float64, censored forecast.Censoring) Cost {
		return Cost{Own: map[forecast.Kind]float64{forecast.Seats: 0.9, forecast.Requests: requests, forecast.Bytes: 7000, forecast.Watches: 3}, Censored: censored}
	}
	for name, tc := range map[string]struct {
		flow, gates Cost
		failed      error
		want        forecast.Censoring
		err         string
	}{
		"all by the gates":                 {flow(10, ""), gates(10, ""), nil, forecast.Whole, ""},
		"some that the gates refused":      {flow(8, ""), gates(10, forecast.ByItself), nil, forecast.ByItself, ""},
		"the flow schema knows why":        {flow(10, forecast.ByOthers), gates(10, forecast.ByItself), nil, forecast.ByOthers, ""},
		"a few that are under way":         {flow(0.3, ""), gates(0, ""), nil, forecast.Whole, ""},
		"all round the gates":              {flow(10, ""), gates(0, ""), nil, "", "answered 100 requests of the component and the gates saw 0"},
		"more than a tenth round them":     {flow(10, ""), gates(8.9, ""), nil, "", "round the gates has no bytes"},
		"a gate that cannot be told about": {flow(10, ""), gates(10, ""), errors.New("a gate began anew"), "", "a gate began anew"},
	} {
		t.Run(name, func(t *testing.T) {
			before := &gatedMark{flow: costed{at: epoch}, gates: costed{at: epoch}}
			after := &gatedMark{flow: costed{epoch.Add(10 * time.Second), tc.flow, nil}, gates: costed{epoch.Add(10 * time.Second), tc.gates, tc.failed}}
			cost, err := after.Since(before)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("got %v, want …%s…", err, tc.err)
				}
				return
			}
			want := Cost{
				Own:      map[forecast.Kind]float64{forecast.Seats: 0.5, forecast.Requests: tc.flow.Own[forecast.Requests], forecast.Bytes: 7000, forecast.Watches: 3},
				Server:   map[forecast.Kind]float64{forecast.CPU: 2},
				Censored: tc.want,
			}
			if diff := cmp.Diff(want, cost); err != nil || diff != "" {
				t.Errorf("%v (-want +got)\n%s", err, diff)
			}
		})
	}
}

// auditLine is an event as the API server writes it.
func auditLine(at time.Time, user, node, verb string, took time.Duration, code int) string {
	stage := "ResponseComplete"
	if verb == "watch" {
		stage = "ResponseStarted"
	}
	return fmt.Sprintf(`{"kind":"Event","apiVersion":"audit.k8s.io/v1","level":"Metadata","stage":%q,"verb":%q,"user":{"username":%q,"extra":{"authentication.kubernetes.io/node-name":[%q]}},"sourceIPs":["127.0.0.1"],"userAgent":"telemetry/1","responseStatus":{"code":%d},"requestReceivedTimestamp":%q,"stageTimestamp":%q}`,
		stage, verb, user, node, code, at.Format(time.RFC3339Nano), at.Add(took).Format(time.RFC3339Nano)) + "\n"
}

// Steps show by themselves in an audit log: a node is exposed from its first request on.
func TestAuditLog(t *testing.T) {
	const user = "system:serviceaccount:telemetry:telemetry"
	var log strings.Builder
	log.WriteString(auditLine(epoch, "admin", "", "get", time.Millisecond, 200))
	for second := range 600 {
		at := epoch.Add(time.Duration(second) * time.Second)
		if second >= 120 && second%10 == 0 { // node-0 begins in the third minute, 1 and 2 in the sixth; each LIST takes 100 ms
			log.WriteString(auditLine(at, user, "node-0", "list", 100*time.Millisecond, 200))
		}
		if second >= 330 && second%10 == 5 {
			log.WriteString(auditLine(at, user, "node-1", "list", 100*time.Millisecond, 200))
			log.WriteString(auditLine(at, user, "node-2", "list", 100*time.Millisecond, 200))
		}
	}
	log.WriteString("not JSON\n")
	log.WriteString(auditLine(epoch.Add(599*time.Second), user, "node-0", "watch", 0, 200))
	log.WriteString(auditLine(epoch.Add(600*time.Second), "admin", "", "get", 10*time.Millisecond, 200))

	for name, content := range map[string][]byte{"plain": []byte(log.String()), "gzip": zipped(t, log.String())} {
		t.Run(name, func(t *testing.T) {
			a, err := NewAuditLog(AuditOptions{User: user, Cluster: "large", Nodes: 300})
			if err != nil {
				t.Fatal(err)
			}
			if err := a.Read("audit.log", bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
			samples, err := a.Samples()
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range samples {
				got = append(got, fmt.Sprintf("%d %d %.3f %.3f", s.Exposed, s.Started, s.Cost[forecast.Seats], s.Cost[forecast.Requests]))
			}
			want := []string{
				"0 0 0.000 0.000", "0 0 0.000 0.000",
				"1 1 0.010 0.100", "1 0 0.010 0.100", "1 0 0.010 0.100",
				"3 2 0.020 0.200", "3 0 0.030 0.300", "3 0 0.030 0.300", "3 0 0.030 0.300", "3 0 0.030 0.317",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			if a.Malformed != 1 || a.Lines != 2+48+54+1+1 {
				t.Errorf("%d lines, %d malformed", a.Lines, a.Malformed)
			}
			m, err := forecast.Fit(samples, forecast.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if i := m.Predict(forecast.At{Cluster: "large", Nodes: 300}).Kinds[forecast.Seats]; i.Unbounded || math.Abs(i.Mean-3) > 0.1 {
				t.Errorf("300 nodes are predicted to hold %+v", i)
			}
		})
	}
}

func zipped(t *testing.T, text string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Three requests in four wait for processors that others take, on one step and not on the other: what they would take without
// is told all the same.
func TestService(t *testing.T) {
	trace := Trace{Cluster: "c", Nodes: 300, First: epoch, Last: epoch.Add(10 * time.Minute)}
	for second := range 600 {
		at := epoch.Add(time.Duration(second) * time.Second)
		for node, from := range []int{0, 300, 300} {
			if second < from || second%5 != node {
				continue
			}
			took := time.Duration(10+second%3) * time.Millisecond
			if second >= 300 && second%2 == 0 {
				took *= 7
			}
			trace.Requests = append(trace.Requests, Request{Start: at, Took: took, From: fmt.Sprint("node-", node), Like: "list /api/v1/pods", Code: 200, Seats: 1})
		}
	}
	samples, err := trace.Samples(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range samples {
		each, seats := s.Cost[forecast.Service]/float64(s.Exposed), s.Cost[forecast.Seats]/float64(s.Exposed)
		if !s.Startup && (each < 0.0018 || each > 0.0024) {
			t.Errorf("%d nodes: %.5f each without waiting, %.5f with, want a fifth of 10 ms", s.Exposed, each, seats)
		}
		if s.Exposed == 3 && !s.Startup && seats < 0.006 {
			t.Errorf("the seats held do not show the waiting: %.5f", seats)
		}
	}
}

func TestAuditLogRefused(t *testing.T) {
	for name, o := range map[string]AuditOptions{
		"no user":        {Cluster: "c", Nodes: 1},
		"no cluster":     {User: "u", Nodes: 1},
		"no nodes":       {User: "u", Cluster: "c"},
		"a short window": {User: "u", Cluster: "c", Nodes: 1, Window: time.Millisecond},
		"a negative one": {User: "u", Cluster: "c", Nodes: 1, Window: -time.Minute},
	} {
		if _, err := NewAuditLog(o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	a, err := NewAuditLog(AuditOptions{User: "u", Cluster: "c", Nodes: 3})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Read("x", strings.NewReader(auditLine(epoch, "v", "n", "get", 0, 200))); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Samples(); err == nil || !strings.Contains(err.Error(), "no request of u") {
		t.Errorf("got %v", err)
	}
}

func TestSchemaValidate(t *testing.T) {
	good := Schema{ServiceAccount: "a/b", Shares: 20, For: time.Hour}
	for name, change := range map[string]func(*Schema){
		"no namespace":    func(s *Schema) { s.ServiceAccount = "b" },
		"all of them":     func(s *Schema) { s.ServiceAccount = "a/*" },
		"no shares":       func(s *Schema) { s.Shares = 0 },
		"all shares":      func(s *Schema) { s.Shares = 100_000 },
		"for a second":    func(s *Schema) { s.For = time.Second },
		"for a fortnight": func(s *Schema) { s.For = 14 * 24 * time.Hour },
	} {
		s := good
		change(&s)
		if s.Validate() == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	long := Schema{ServiceAccount: strings.Repeat("n", 63) + "/" + strings.Repeat("s", 253)}
	if name := long.Name(); len(name) > 63 || name == good.Name() {
		t.Errorf("the name %q", name)
	}
}

// What is written is read back; what is wrong is named by its line; half a line at the end is of a process that was killed.
func TestRecord(t *testing.T) {
	want := []forecast.Sample{
		{Cluster: "c", Nodes: 3, Exposed: 1, From: epoch, To: epoch.Add(time.Minute), Cost: map[forecast.Kind]float64{forecast.Seats: 0.25}},
		{Cluster: "c", Nodes: 3, Exposed: 3, From: epoch.Add(time.Minute), To: epoch.Add(2 * time.Minute), Server: map[forecast.Kind]float64{forecast.CPU: 1}, Startup: true, Started: 2},
	}
	file := filepath.Join(t.TempDir(), "samples.jsonl")
	record, err := OpenRecord(file, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range want {
		if err := record.Keep(s); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadSamples(bytes.NewReader(append(kept, "\n{\"cluster\":\"c\",\"nod"...)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	for name, text := range map[string]string{
		"an unknown field": `{"cluster":"c","nodez":3}`,
		"no JSON":          "seats=3",
		"no sense":         `{"cluster":"c","nodes":3,"exposed":9,"from":"2024-12-11T15:00:00Z","to":"2024-12-11T15:01:00Z","cost":{"seats":1}}`,
		"too long":         strings.Repeat(" ", 2*maxSampleLine),
	} {
		if _, err := ReadSamples(strings.NewReader("\n" + text + "\n")); err == nil || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzReadSamples(f *testing.F) {
	f.Add([]byte(`{"cluster":"c","nodes":3,"exposed":1,"from":"2024-12-11T15:00:00Z","to":"2024-12-11T15:01:00Z","cost":{"seats":1}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		samples, err := ReadSamples(bytes.NewReader(text))
		if err != nil {
			return
		}
		if _, err := forecast.Fit(samples, forecast.Options{}); err != nil {
			t.Errorf("what was read cannot be fitted: %v", err)
		}
	})
}

func FuzzAuditLog(f *testing.F) {
	f.Add([]byte(auditLine(epoch, "u", "n", "list", time.Second, 200)+auditLine(epoch.Add(time.Hour), "u", "m", "watch", time.Second, 429)), uint16(60))
	f.Add([]byte("\x1f\x8b\n"), uint16(1))
	f.Fuzz(func(t *testing.T, content []byte, seconds uint16) {
		a, err := NewAuditLog(AuditOptions{User: "u", Cluster: "c", Nodes: 3, Window: max(time.Hour, time.Duration(seconds)*time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		if a.Read("x", bytes.NewReader(content)) != nil || a.Last.Sub(a.First) > 1000*time.Hour {
			return
		}
		samples, err := a.Samples()
		if err != nil {
			return
		}
		for _, s := range samples {
			if err := s.Validate(); err != nil {
				t.Errorf("%+v: %v", s, err)
			}
		}
	})
}

func FuzzTop(f *testing.F) {
	l := ledger.New(ledger.Options{})
	l.Record(request("u", "a/1", "list"), ledger.Outcome{Code: 200, SeatSeconds: 1})
	text, err := json.Marshal(l.Top(0, ledger.BySeats))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		got, err := readTop(bytes.NewReader(text))
		if err == nil && (got.Taken.IsZero() || got.Since.IsZero()) {
			t.Errorf("%+v", got)
		}
	})
}
