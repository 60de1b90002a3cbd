package tracing_test

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/tracing"
	"github.com/seakeep/seakeep/gate/tracing/tracingtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	sampledParent   = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsampledParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

func tracerTo(t *testing.T, endpoint string, rate int32, clients v1alpha1.Switch) (*tracing.Tracer, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	tracer, err := tracing.New(tracing.Options{
		Config:  v1alpha1.GateTracing{Endpoint: endpoint, SamplingRatePerMillion: &rate, ClientSampling: clients},
		Version: "v0", Address: "127.0.0.1:1", Metrics: tracing.NewMetrics(registry), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tracer.Close)
	return tracer, registry
}

func get(parent string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://gate/api/v1/pods?token=hunter2", nil)
	if parent != "" {
		r.Header.Set("traceparent", parent)
		r.Header.Set("tracestate", "vendor=1")
	}
	r.Header.Set("Authorization", "Bearer hunter2")
	return r
}

var listPods = &flow.Request{
	Caller: flow.Caller{User: "jane"}, UserAgent: "kubectl", Source: netip.MustParseAddr("10.0.0.1"), Lane: flow.Standard,
	Verb: "list", Resource: "pods", Namespace: "default", Name: "hunter2", Scope: v1alpha1.ScopeNamespace,
}

// Who decides what is traced: the rate, unless clients are trusted; never a client's flag or choice of an id otherwise.
func TestSampling(t *testing.T) {
	const none, all = 0, 1_000_000
	for name, test := range map[string]struct {
		rate       int32
		clients    v1alpha1.Switch
		parent     string
		wantSpan   bool
		wantParent string // what goes upstream when there is no span
	}{
		"no parent, all":                     {all, v1alpha1.Disabled, "", true, ""},
		"no parent, none":                    {none, v1alpha1.Disabled, "", false, ""},
		"a client's flag forces nothing":     {none, v1alpha1.Disabled, sampledParent, false, unsampledParent},
		"a client's flag prevents nothing":   {all, v1alpha1.Disabled, unsampledParent, true, ""},
		"a trusted client's flag":            {none, v1alpha1.Enabled, sampledParent, true, ""},
		"a trusted client's flag, the other": {all, v1alpha1.Enabled, unsampledParent, false, unsampledParent},
		"a trusted client without a trace":   {none, v1alpha1.Enabled, "", false, ""},
		"nonsense is passed over":            {none, v1alpha1.Enabled, "nonsense", false, "nonsense"},
	} {
		t.Run(name, func(t *testing.T) {
			tracer, _ := tracerTo(t, "http://127.0.0.1:1", test.rate, test.clients)
			r := get(test.parent)
			span := tracer.Begin(r, time.Now())
			if (span != nil) != test.wantSpan {
				t.Fatalf("traced: %t, want %t", span != nil, test.wantSpan)
			}
			if got := r.Header.Get("traceparent"); span == nil && got != test.wantParent {
				t.Errorf("upstream sees %q, want %q", got, test.wantParent)
			}
			if test.parent != "" && test.parent != "nonsense" && r.Header.Get("tracestate") != "vendor=1" {
				t.Error("the client's tracestate is gone")
			}
			span.Enter(tracing.Upstream)
			span.Propagate(r.Header)
			got := r.Header.Get("traceparent")
			if test.wantSpan && (!strings.HasSuffix(got, "-01") || got == test.parent) {
				t.Errorf("upstream sees %q, want the span's own", got)
			}
			if test.wantSpan && test.parent != "" && got[:35] != sampledParent[:35] {
				t.Errorf("upstream sees %q, want the client's trace continued", got)
			}
			span.End()
		})
	}
}

func TestRate(t *testing.T) {
	tracer, _ := tracerTo(t, "http://127.0.0.1:1", 100_000, v1alpha1.Disabled)
	traced := 0
	for range 5000 {
		// One id for all: if the id decided, it would be all or none.
		if span := tracer.Begin(get(sampledParent), time.Now()); span != nil {
			span.End()
			traced++
		}
	}
	if traced < 350 || traced > 650 { // ten standard deviations are 212
		t.Errorf("%d of 5000 traced at a rate of one in ten", traced)
	}
}

func TestSpansOfARequest(t *testing.T) {
	receiver := tracingtest.New(t)
	tracer, registry := tracerTo(t, receiver.URL, 1_000_000, v1alpha1.Disabled)
	r := get(sampledParent)
	span := tracer.Begin(r, time.Now().Add(-time.Second))
	span.Enter(tracing.Identity)
	span.Enter(tracing.Limit)
	span.Enter(tracing.Upstream)
	span.Propagate(r.Header)
	span.Describe(listPods, &tracing.Outcome{Code: 503, Server: "a", AuditID: "id"})
	span.End()
	spans := receiver.Await(t, "four spans", func(s []tracingtest.Span) bool { return len(s) == 4 })
	byName := map[string]tracingtest.Span{}
	for _, s := range spans {
		byName[s.Name] = s
		if s.TraceID != sampledParent[3:35] || s.TraceState != "vendor=1" {
			t.Errorf("%s is in trace %s, %s; want the client's", s.Name, s.TraceID, s.TraceState)
		}
	}
	root := byName["list pods"]
	if root.Parent != sampledParent[36:52] || root.Status != 2 || root.End.Sub(root.Begin) < time.Second || root.Service != "seakeep-gate" {
		t.Errorf("the request's span: %+v", root)
	}
	for _, room := range []string{"identity", "limit", "upstream"} {
		if byName[room].Parent != root.ID {
			t.Errorf("%s is no child of the request's span: %+v", room, byName[room])
		}
	}
	if got := r.Header.Get("traceparent"); !strings.Contains(got, byName["upstream"].ID) {
		t.Errorf("the API server's parent is %s, want the span of the room upstream", got)
	}
	for key, want := range map[string]string{"user.name": "jane", "k8s.namespace.name": "default", "seakeep.upstream": "a", "k8s.audit_id": "id"} {
		if root.Attributes[key] != want {
			t.Errorf("attribute %s is %q, want %q", key, root.Attributes[key], want)
		}
	}
	if strings.Contains(string(receiver.Raw()), "hunter2") {
		t.Error("a token, a query value or an object's name was exported")
	}
	tracer.Close()
	if got := results(t, registry); got["exported"] != 4 || got["failed"] != 0 || got["dropped"] != 0 {
		t.Errorf("counted %v", got)
	}
	tracer.Begin(get(""), time.Now()).End()
	if got := results(t, registry); got["dropped"] != 1 {
		t.Errorf("a span after the end is not counted as dropped: %v", got)
	}
}

func results(t *testing.T, registry *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.Metric {
			got[metric.Label[0].GetValue()] = metric.Counter.GetValue()
		}
	}
	return got
}

// A collector that takes connections and never answers: no span waits, what does not fit is counted, and the end is not
// held up either.
func TestCollectorThatHangs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	tracer, registry := tracerTo(t, "http://"+listener.Addr().String(), 1_000_000, v1alpha1.Disabled)
	const requests = 10_000
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range requests {
			span := tracer.Begin(get(""), time.Now())
			span.Describe(listPods, &tracing.Outcome{Code: 200})
			span.End()
		}
		tracer.Close()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("requests wait for the collector")
	}
	got := results(t, registry)
	if got["dropped"] == 0 || got["dropped"]+got["failed"] != requests || got["exported"] != 0 {
		t.Errorf("counted %v of %d", got, requests)
	}
}

func TestCollectorThatIsDown(t *testing.T) {
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "overloaded", http.StatusServiceUnavailable)
	}))
	defer refusing.Close()
	for name, endpoint := range map[string]string{"nobody listens": "http://127.0.0.1:1", "503": refusing.URL} {
		t.Run(name, func(t *testing.T) {
			tracer, registry := tracerTo(t, endpoint, 1_000_000, v1alpha1.Disabled)
			for range 10 {
				tracer.Begin(get(""), time.Now()).End()
			}
			tracer.Close()
			if got := results(t, registry); got["failed"] != 10 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

// What is off must cost nothing: it stands in the way of every request.
func TestOffCostsNothing(t *testing.T) {
	var off *tracing.Tracer
	r := get(sampledParent)
	outcome := &tracing.Outcome{Code: 200}
	if n := testing.AllocsPerRun(1000, func() {
		span := off.Begin(r, time.Time{})
		span.Enter(tracing.Identity)
		span.Enter(tracing.Upstream)
		span.Propagate(r.Header)
		span.Describe(listPods, outcome)
		span.End()
	}); n != 0 {
		t.Errorf("%g allocations a request when tracing is off", n)
	}
	tracer, _ := tracerTo(t, "http://127.0.0.1:1", 0, v1alpha1.Disabled)
	r = get("")
	if n := testing.AllocsPerRun(1000, func() { tracer.Begin(r, time.Time{}).End() }); n != 0 {
		t.Errorf("%g allocations for a request that is not sampled", n)
	}
}

func TestMetricNames(t *testing.T) {
	registry := prometheus.NewRegistry()
	tracing.NewMetrics(registry)
	if n, err := testutil.GatherAndCount(registry, "seakeep_gate_trace_spans_total"); n != 3 || err != nil {
		t.Errorf("%d series, %v", n, err)
	}
}
