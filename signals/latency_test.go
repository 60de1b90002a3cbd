package signals

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const latencySample = `# TYPE apiserver_request_duration_seconds histogram
apiserver_request_duration_seconds_bucket{component="apiserver",resource="pods",scope="resource",subresource="",verb="GET",le="0.1"} 90
apiserver_request_duration_seconds_bucket{component="apiserver",resource="pods",scope="resource",subresource="",verb="GET",le="1"} 100
apiserver_request_duration_seconds_bucket{component="apiserver",resource="pods",scope="resource",subresource="",verb="GET",le="+Inf"} 100
apiserver_request_duration_seconds_bucket{component="apiserver",resource="nodes",scope="resource",subresource="",verb="GET",le="0.1"} 0
apiserver_request_duration_seconds_bucket{component="apiserver",resource="nodes",scope="resource",subresource="",verb="GET",le="1"} 100
apiserver_request_duration_seconds_bucket{component="apiserver",resource="nodes",scope="resource",subresource="",verb="GET",le="+Inf"} 100
apiserver_request_duration_seconds_bucket{component="apiserver",resource="pods",scope="resource",subresource="log",verb="GET",le="+Inf"} 7
apiserver_request_duration_seconds_bucket{component="a\"}b",resource="pods",scope="cluster",subresource="",verb="LIST",le="+Inf"} 3
apiserver_request_duration_seconds_bucket{component="apiserver",resource="pods",scope="cluster",subresource="",verb="WATCH",le="+Inf"} 3000
apiserver_request_duration_seconds_sum{component="apiserver",verb="GET"} 12
process_start_time_seconds 1.7e+09
`

func TestReadLatencies(t *testing.T) {
	now := time.Unix(1700000100, 0)
	got, err := ReadLatencies(strings.NewReader(latencySample), now)
	if err != nil {
		t.Fatal(err)
	}
	inf := math.Inf(1)
	want := Latencies{Read: now, Started: time.Unix(1700000000, 0), Classes: map[RequestClass]Histogram{
		ClassRead: {Bounds: []float64{0.1, 1, inf}, Counts: []float64{90, 200, 200}},
		ClassList: {Bounds: []float64{inf}, Counts: []float64{3}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("latencies (-want +got):\n%s", diff)
	}
	var missing *MissingError
	if _, err := ReadLatencies(strings.NewReader(sample[:100]), now); !errors.As(err, &missing) {
		t.Errorf("metrics without a histogram: want a MissingError, got %v", err)
	}
	later := got
	later.Classes = map[RequestClass]Histogram{ClassRead: {Bounds: []float64{0.1, 1, inf}, Counts: []float64{90, 300, 300}}}
	if diff := cmp.Diff([]float64{0, 100, 100}, later.Since(got)[ClassRead].Counts); diff != "" {
		t.Errorf("since (-want +got):\n%s", diff)
	}
	later.Started = later.Started.Add(time.Minute)
	if diff := cmp.Diff([]float64{90, 300, 300}, later.Since(got)[ClassRead].Counts); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
}

func TestQuantile(t *testing.T) {
	h := Histogram{Bounds: []float64{0.1, 1, math.Inf(1)}, Counts: []float64{50, 90, 100}}
	for q, want := range map[float64]float64{0.25: 0.05, 0.5: 0.1, 0.7: 0.55, 0.99: 1} {
		if got, ok := h.Quantile(q); !ok || math.Abs(got-want) > 1e-9 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if _, ok := (Histogram{}).Quantile(0.5); ok {
		t.Error("nothing has a median")
	}
	if got := h.Plus(h).Total(); got != 200 {
		t.Errorf("twice is %v", got)
	}
}

func TestReadFlows(t *testing.T) {
	const text = `apiserver_flowcontrol_dispatched_requests_total{flow_schema="telemetry",priority_level="telemetry"} 40
apiserver_flowcontrol_dispatched_requests_total{flow_schema="service-accounts",priority_level="workload-low"} 10
apiserver_flowcontrol_request_execution_seconds_sum{flow_schema="telemetry",priority_level="telemetry",type="regular"} 3
apiserver_flowcontrol_request_execution_seconds_sum{flow_schema="telemetry",priority_level="telemetry",type="watch"} 1
apiserver_flowcontrol_rejected_requests_total{flow_schema="telemetry",priority_level="telemetry",reason="time-out"} 2
apiserver_flowcontrol_rejected_requests_total{flow_schema="telemetry",priority_level="telemetry",reason="queue-full"} 5
apiserver_flowcontrol_current_executing_seats{flow_schema="telemetry",priority_level="telemetry"} 6
process_start_time_seconds 1.7e+09
`
	got, err := ReadFlows(strings.NewReader(text), time.Unix(1700000100, 0))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Flow{
		"telemetry":        {ExecutionSeconds: 4, Dispatched: 40, Rejected: 7, TimedOut: 2, Seats: 6},
		"service-accounts": {Dispatched: 10},
	}
	if diff := cmp.Diff(want, got.Schemas); diff != "" {
		t.Errorf("flows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(Flow{Seats: 6}, got.Since(got)["telemetry"]); diff != "" {
		t.Errorf("nothing happened since (-want +got):\n%s", diff)
	}
	var missing *MissingError
	if _, err := ReadFlows(strings.NewReader("x 1\n"), time.Unix(0, 0)); !errors.As(err, &missing) {
		t.Errorf("want a MissingError, got %v", err)
	}
}

func TestReadEtcd(t *testing.T) {
	got, err := ReadEtcd(strings.NewReader("etcd_server_has_leader 1\netcd_server_leader_changes_seen_total 3\netcd_mvcc_db_total_size_in_bytes 5e6\netcd_server_quota_backend_bytes 2e9\n"), time.Unix(5, 0))
	want := Etcd{Read: time.Unix(5, 0), Leader: true, LeaderChanges: 3, DatabaseBytes: 5e6, QuotaBytes: 2e9}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := ReadEtcd(strings.NewReader(sample), time.Unix(5, 0)); err == nil {
		t.Error("an API server is taken for etcd")
	}
}

func FuzzReadLatencies(f *testing.F) {
	f.Add(latencySample)
	f.Add(durationBucket + `{verb="GET",le="0.1"`)
	f.Add(durationBucket + `{verb="GET",le="\"} NaN` + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ReadLatencies(strings.NewReader(text), time.Unix(0, 0))
		if err != nil {
			return
		}
		for class, h := range l.Since(Latencies{}) {
			if len(h.Bounds) != len(h.Counts) || class == "" {
				t.Fatalf("%q: %+v", class, h)
			}
			for _, q := range []float64{0, 0.5, 0.99, 1} {
				if v, ok := h.Quantile(q); ok && (math.IsNaN(v) || v < 0) {
					t.Errorf("quantile %v of %+v is %v", q, h, v)
				}
			}
		}
	})
}

func FuzzReadFlows(f *testing.F) {
	f.Add("apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"a\"} 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		flows, err := ReadFlows(strings.NewReader(text), time.Unix(0, 0))
		if err != nil {
			return
		}
		for name, flow := range flows.Since(Flows{}) {
			if name == "" || !(flow.Rejected >= 0) || !(flow.ExecutionSeconds >= 0) {
				t.Errorf("%q: %+v", name, flow)
			}
		}
	})
}

func FuzzReadEtcd(f *testing.F) {
	f.Add("etcd_server_has_leader 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if e, err := ReadEtcd(strings.NewReader(text), time.Unix(0, 0)); err == nil && e.QuotaBytes < 0 {
			t.Errorf("%+v", e)
		}
	})
}
