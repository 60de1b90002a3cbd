package ledger

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/seakeep/seakeep/gate/flow"
)

// clock is a hand-turned clock.
type clock struct{ now time.Time }

func newClock() *clock { return &clock{now: time.Date(2024, 12, 11, 15, 12, 0, 0, time.UTC)} }

func (c *clock) Now() time.Time { return c.now }

func (c *clock) advance(d time.Duration) { c.now = c.now.Add(d) }

func request(user, agent, verb, resource string) *flow.Request {
	return &flow.Request{
		Caller: flow.Caller{User: user}, UserAgent: agent, Verb: verb, Resource: resource,
		Source: netip.MustParseAddr("10.0.0.1"),
	}
}

func TestTopRanksByWhatIsAsked(t *testing.T) {
	c := newClock()
	l := New(Options{Clock: c.Now})
	for range 60 {
		c.advance(time.Second)
		l.Record(request("agent", "otel/1.0", "list", "pods"), Outcome{Code: 200, SeatSeconds: 2, ResponseBytes: 1000})
		for range 10 {
			l.Record(request("kubelet", "kubelet/1.36", "get", "nodes"), Outcome{Code: 200, SeatSeconds: 0.01, ResponseBytes: 10})
		}
		l.Record(request("copier", "curl", "get", "configmaps"), Outcome{Code: 200, SeatSeconds: 0.1, ResponseBytes: 1 << 20})
		l.Record(request("storm", "x", "list", "secrets"), Outcome{Code: 429, RejectedBy: RejectedLimit})
	}
	for order, want := range map[Order]string{BySeats: "agent", ByRequests: "kubelet", ByBytes: "copier", ByRejected: "storm"} {
		snap := l.Top(1, order)
		if len(snap.Entries) != 1 || snap.Entries[0].User != want {
			t.Errorf("first by %s is %+v, want %s", order, snap.Entries, want)
		}
	}
	snap := l.Top(0, BySeats)
	agent := snap.Entries[0]
	if agent.Requests != 60 || agent.SeatSeconds != 120 || agent.Codes["2xx"] != 60 || agent.Sources != 1 {
		t.Errorf("agent: %+v", agent)
	}
	// One LIST of two seat-seconds each second holds two seats, whatever the window.
	for name, rate := range map[string]Rate{"10s": agent.Rates.TenSeconds, "1m": agent.Rates.Minute, "10m": agent.Rates.TenMinutes} {
		if math.Abs(rate.Seats-2) > 0.15 || math.Abs(rate.Requests-1) > 0.08 {
			t.Errorf("rates over %s: %+v, want 2 seats and 1 request per second", name, rate)
		}
	}
	if snap.Total.Requests != 60*13 || snap.Total.Rejected != 60 || snap.Clients != 4 || snap.Evicted != 0 || snap.Floor != (Missed{}) {
		t.Errorf("total %+v, %d clients, %d evicted, floor %+v", snap.Total, snap.Clients, snap.Evicted, snap.Floor)
	}
}

func TestRatesFollowWhatHappensNow(t *testing.T) {
	c := newClock()
	l := New(Options{Clock: c.Now})
	f := request("agent", "otel", "list", "pods")
	for range 600 {
		c.advance(time.Second)
		l.Record(f, Outcome{Code: 200, SeatSeconds: 1})
	}
	c.advance(time.Minute)
	rates := l.Top(1, BySeats).Entries[0].Rates
	if rates.TenSeconds.Seats > 0.01 || math.Abs(rates.Minute.Seats-math.Exp(-1)) > 0.02 || rates.TenMinutes.Seats < 0.8 {
		t.Errorf("a minute after the end: %+v", rates)
	}
}

func TestStreams(t *testing.T) {
	c := newClock()
	registry := prometheus.NewRegistry()
	l := New(Options{Clock: c.Now, Registerer: registry})
	watch := request("agent", "otel", "watch", "pods")
	l.Opened(watch)
	l.Opened(watch)
	l.Record(watch, Outcome{Open: true, SeatSeconds: 1.5, ResponseBytes: 100}) // its initial events
	c.advance(time.Hour)

	snap := l.Top(0, BySeats)
	if e := snap.Entries[0]; e.OpenStreams != 2 || e.Requests != 2 || e.SeatSeconds != 1.5 || e.Codes != nil {
		t.Errorf("open: %+v", e)
	}
	l.Closed(watch, Outcome{Code: 200, ResponseBytes: 50})
	l.Closed(watch, Outcome{Code: 410})
	snap = l.Top(0, BySeats)
	e := snap.Entries[0]
	if e.OpenStreams != 0 || e.Requests != 2 || e.ResponseBytes != 150 || snap.OpenStreams != 0 {
		t.Errorf("closed: %+v", e)
	}
	if diff := cmp.Diff(map[string]int64{"2xx": 1, "4xx": 1}, e.Codes); diff != "" {
		t.Error(diff)
	}
	if got := testutil.ToFloat64(l.metrics.streams); got != 0 {
		t.Errorf("gauge of open streams is %v", got)
	}
}

// A table far too small for its clients: the open streams still add up, whoever lost his line.
func TestStreamsOfEvictedClients(t *testing.T) {
	c := newClock()
	l := New(Options{Clock: c.Now, MaxClients: 16})
	var open []*flow.Request
	for i := range 60 {
		f := request(fmt.Sprintf("user-%d", i), "x", "watch", "pods")
		l.Opened(f)
		open = append(open, f)
	}
	if got := l.Top(0, BySeats).OpenStreams; got != 60 {
		t.Errorf("%d streams open, want 60", got)
	}
	for i, f := range open {
		l.Closed(f, Outcome{Code: 200})
		if got := l.Top(0, BySeats).OpenStreams; got != int64(59-i) {
			t.Fatalf("%d streams open, want %d", got, 59-i)
		}
	}
}

// The promise of the package, checked against the truth: no entry has cost more than its count plus what it states it may
// have missed, none less than its count; who is not listed stays under the floor. Zipf-like clients, 40 places for 5000.
func TestStatedErrorHolds(t *testing.T) {
	for seed := range uint64(5) {
		random := rand.New(rand.NewPCG(seed, 1))
		zipf := rand.NewZipf(random, 1.2, 1, 4999)
		c := newClock()
		l := New(Options{Clock: c.Now, MaxClients: 40, WholeRun: true})
		truth := map[string]*Amounts{}
		for range 50_000 {
			user := fmt.Sprint(zipf.Uint64())
			o := Outcome{Code: 200, SeatSeconds: random.ExpFloat64() * 0.01, ResponseBytes: random.Int64N(100_000)}
			l.Record(request(user, "x", "get", "pods"), o)
			if truth[user] == nil {
				truth[user] = &Amounts{}
			}
			truth[user].Requests++
			truth[user].SeatSeconds += o.SeatSeconds
			truth[user].ResponseBytes += o.ResponseBytes
		}
		snap := l.Top(0, BySeats)
		if snap.Evicted == 0 {
			t.Fatal("the table was not too small")
		}
		within := func(what string, stated, missed, true float64) {
			if true < stated-1e-6 || true > stated+missed+1e-6 {
				t.Errorf("%s is %v, stated %v + at most %v", what, true, stated, missed)
			}
		}
		for _, e := range snap.Entries {
			actual := truth[e.User]
			within("seat-seconds", e.SeatSeconds, e.MaybeMissed.SeatSeconds, actual.SeatSeconds)
			within("requests", float64(e.Requests), float64(e.MaybeMissed.Requests), float64(actual.Requests))
			within("bytes", float64(e.ResponseBytes), float64(e.MaybeMissed.Bytes), float64(actual.ResponseBytes))
			delete(truth, e.User)
		}
		for user, actual := range truth {
			within("unlisted "+user, 0, snap.Floor.SeatSeconds, actual.SeatSeconds)
			within("unlisted "+user, 0, float64(snap.Floor.Requests), float64(actual.Requests))
			within("unlisted "+user, 0, float64(snap.Floor.Bytes), float64(actual.ResponseBytes))
		}
		// A client with over a 1/40th of all cost cannot be missing; the first few of a Zipf law have it.
		if snap.Entries[0].User != "0" || snap.Entries[1].User != "1" {
			t.Errorf("first are %s and %s, want 0 and 1", snap.Entries[0].User, snap.Entries[1].User)
		}
	}
}

// In a live ledger a heavy client of yesterday makes room for light ones of now, over days, without the decay's weights
// leaving the range of numbers.
func TestOldCostMakesRoom(t *testing.T) {
	c := newClock()
	l := New(Options{Clock: c.Now, MaxClients: 16})
	for i := range 16 {
		l.Record(request(fmt.Sprintf("old-%d", i), "x", "list", "pods"), Outcome{Code: 200, SeatSeconds: 1e6})
	}
	for day := range 10 {
		c.advance(24 * time.Hour)
		for i := range 16 {
			l.Record(request(fmt.Sprintf("day-%d-%d", day, i), "x", "list", "pods"), Outcome{Code: 200, SeatSeconds: 1})
		}
		snap := l.Top(0, BySeats)
		if len(snap.Entries) != 16 {
			t.Fatalf("%d entries", len(snap.Entries))
		}
		for _, e := range snap.Entries {
			if !strings.HasPrefix(e.User, fmt.Sprintf("day-%d-", day)) || e.MaybeMissed.SeatSeconds > 1e-6 {
				t.Errorf("day %d lists %s, missed %v", day, e.User, e.MaybeMissed)
			}
		}
	}
}

// Everything a client chooses is bounded, and a number that is none does not stick.
func TestHostileRequests(t *testing.T) {
	c := newClock()
	l := New(Options{Clock: c.Now, MaxClients: 64})
	for i := range 5000 {
		long := strings.Repeat("x", 10_000) + fmt.Sprint(i)
		f := &flow.Request{Caller: flow.Caller{User: long}, UserAgent: long, Verb: long, Path: "/" + long}
		l.Record(f, Outcome{Code: 999999, SeatSeconds: math.NaN(), RequestBytes: -5, Upstream: -1, RejectedBy: long})
	}
	snap := l.Top(0, ByRejected)
	for _, e := range snap.Entries {
		if len(e.User) > maxUser || len(e.UserAgent) > maxAgent || len(e.Verb) > maxVerb || len(e.Resource) > maxResource {
			t.Errorf("an unbounded key: %d %d %d %d", len(e.User), len(e.UserAgent), len(e.Verb), len(e.Resource))
		}
	}
	if snap.Clients > 64 || snap.Total.SeatSeconds != 0 || snap.Total.RequestBytes != 0 || snap.Total.Requests != 5000 {
		t.Errorf("%d clients, total %+v", snap.Clients, snap.Total)
	}
	if _, err := json.Marshal(snap); err != nil {
		t.Error(err)
	}
}

func TestSourcesGrowWithTheCluster(t *testing.T) {
	for _, nodes := range []int{1, 3, 10, 30, 100, 300, 1000, 5000} {
		l := New(Options{Clock: newClock().Now})
		f := request("agent", "otel", "list", "pods")
		for i := range nodes {
			f.Source = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
			l.Record(f, Outcome{Code: 200})
			l.Record(f, Outcome{Code: 200})
		}
		got := float64(l.Top(1, BySeats).Entries[0].Sources)
		// Five standard errors, because the hash is seeded anew in each run.
		if tolerance := 1 + 0.65*float64(nodes); math.Abs(got-float64(nodes)) > tolerance {
			t.Errorf("%d nodes counted as %v", nodes, got)
		}
	}
}

func TestNormaliseAgent(t *testing.T) {
	for agent, want := range map[string]string{
		"kubelet/v1.36.3 (linux/amd64) kubernetes/8b5c1a2":                                              "kubelet/v1.36.3 (linux/amd64) kubernetes/*",
		"kube-controller-manager/v1.36.3 (linux/amd64) kubernetes/8b5c1a2d4e/system:serviceaccount:x:y": "kube-controller-manager/v1.36.3 (linux/amd64) kubernetes/*/system:serviceaccount:x:y",
		"agent-6f9c7d8b5c/2.0":                     "agent-*/2.0",
		"job/550e8400-e29b-41d4-a716-446655440000": "job/*-e29b-41d4-a716-*",
		"a\x00\x01b\xff":                           "a*b*",
		"":                                         "",
		"deadbeef":                                 "deadbeef", // no digit: a word may look like that
		strings.Repeat("a", 300):                   strings.Repeat("a", 127) + "*",
		"telemetry (" + strings.Repeat("x-", 200): "telemetry (" + strings.Repeat("x-", 58) + "*",
	} {
		if got := NormaliseAgent(agent); got != want {
			t.Errorf("NormaliseAgent(%q) = %q, want %q", agent, got, want)
		}
	}
}

// A normalised user agent is a glob that matches what it came from, bounded, printable, and its own normal form.
func FuzzNormaliseAgent(f *testing.F) {
	f.Add("kubelet/v1.36.3 (linux/amd64) kubernetes/8b5c1a2")
	f.Add(strings.Repeat("0123456789/", 40))
	f.Add("*?*")
	f.Fuzz(func(t *testing.T, agent string) {
		normal := NormaliseAgent(agent)
		if len(normal) > maxAgent {
			t.Errorf("%d bytes", len(normal))
		}
		if strings.ContainsFunc(normal, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("unprintable: %q", normal)
		}
		if again := NormaliseAgent(normal); again != normal {
			t.Errorf("not stable: %q, then %q", normal, again)
		}
		if !globMatches(normal, agent) {
			t.Errorf("%q does not match %q", normal, agent)
		}
	})
}

// globMatches knows * only, byte by byte; ? is taken literally, which is stricter.
func globMatches(glob, s string) bool {
	parts := strings.Split(glob, "*")
	if len(parts) == 1 {
		return glob == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, part := range parts[1 : len(parts)-1] {
		_, after, found := strings.Cut(s, part)
		if !found {
			return false
		}
		s = after
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	l := New(Options{Clock: newClock().Now, Registerer: registry})
	l.Record(request("a", "x", "list", "pods"), Outcome{Code: 200, SeatSeconds: 0.5, ResponseBytes: 10})
	l.Record(request("a", "x", "BREW", "pods"), Outcome{Code: 429, RejectedBy: "limit:no-brewing"})
	l.Record(request("a", "x", "list", "pods"), Outcome{Code: 503, RejectedBy: "made up"})
	l.Started()
	want := `
# HELP seakeep_gate_rejections_total Requests the gate itself refused, by reason.
# TYPE seakeep_gate_rejections_total counter
seakeep_gate_rejections_total{reason="emergency"} 0
seakeep_gate_rejections_total{reason="identity"} 0
seakeep_gate_rejections_total{reason="limit"} 1
seakeep_gate_rejections_total{reason="other"} 1
seakeep_gate_rejections_total{reason="overload"} 0
seakeep_gate_rejections_total{reason="request"} 0
seakeep_gate_rejections_total{reason="upstream"} 0
# HELP seakeep_gate_requests_in_flight Requests being handled, streams included.
# TYPE seakeep_gate_requests_in_flight gauge
seakeep_gate_requests_in_flight 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "seakeep_gate_rejections_total", "seakeep_gate_requests_in_flight"); err != nil {
		t.Error(err)
	}
	for verb, want := range map[string]float64{"list": 2, other: 1} {
		got := 0.0
		for _, counter := range l.metrics.perVerb[verb].requests {
			got += testutil.ToFloat64(counter)
		}
		if got != want {
			t.Errorf("%v requests with verb %s, want %v", got, verb, want)
		}
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v, %v", problems, err)
	}
}

// Every method at once, for the race detector; and nothing is lost.
func TestConcurrentUse(t *testing.T) {
	l := New(Options{MaxClients: 128})
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 2000 {
				f := request(fmt.Sprint(worker, i%300), "x", "get", "pods")
				l.Started()
				l.Opened(f)
				l.Record(f, Outcome{Open: true, SeatSeconds: 0.001})
				l.Closed(f, Outcome{Code: 200})
				l.Record(f, Outcome{Code: 200})
				l.Finished()
				if i%500 == 0 {
					l.Top(10, ByRequests)
				}
			}
		})
	}
	group.Wait()
	if snap := l.Top(0, BySeats); snap.Total.Requests != 8*2000*2 || snap.OpenStreams != 0 {
		t.Errorf("%d requests, %d open streams", snap.Total.Requests, snap.OpenStreams)
	}
}

func BenchmarkRecord(b *testing.B) {
	for name, clients := range map[string]int{"kept": 1000, "evicting": 20_000} {
		b.Run(name, func(b *testing.B) {
			l := New(Options{})
			requests := make([]*flow.Request, clients)
			for i := range requests {
				requests[i] = request(fmt.Sprintf("system:node:%d", i), "kubelet/v1.36.3 (linux/amd64) kubernetes/8b5c1a2", "get", "nodes")
			}
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(p *testing.PB) {
				i := rand.IntN(clients)
				for p.Next() {
					i++
					l.Record(requests[i%clients], Outcome{Code: 200, SeatSeconds: 0.001, ResponseBytes: 1000})
				}
			})
		})
	}
}

func BenchmarkTop(b *testing.B) {
	l := New(Options{})
	for i := range 2048 {
		l.Record(request(fmt.Sprint(i), "x", "get", "pods"), Outcome{Code: 200, SeatSeconds: 1})
	}
	for b.Loop() {
		l.Top(20, BySeats)
	}
}
