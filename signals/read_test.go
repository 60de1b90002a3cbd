package signals

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const sample = `# HELP apiserver_current_inflight_requests [STABLE] Maximal number of currently used inflight request limit.
# TYPE apiserver_current_inflight_requests gauge
apiserver_current_inflight_requests{request_kind="mutating"} 3
apiserver_current_inflight_requests{request_kind="readOnly"} 40
# TYPE apiserver_flowcontrol_current_executing_seats gauge
apiserver_flowcontrol_current_executing_seats{flow_schema="service-accounts",priority_level="workload-low"} 245
apiserver_flowcontrol_current_executing_seats{flow_schema="global-default",priority_level="global-default"} 2
# TYPE apiserver_flowcontrol_current_inqueue_requests gauge
apiserver_flowcontrol_current_inqueue_requests{flow_schema="service-accounts",priority_level="workload-low"} 128
# TYPE apiserver_flowcontrol_rejected_requests_total counter
apiserver_flowcontrol_rejected_requests_total{flow_schema="service-accounts",priority_level="workload-low",reason="queue-full"} 90
# TYPE apiserver_request_duration_seconds histogram
apiserver_request_duration_seconds_bucket{verb="LIST",le="0.1"} 12
# TYPE apiserver_request_total counter
apiserver_request_total{code="200",verb="LIST",resource="pods"} 300
apiserver_request_total{code="429",verb="LIST",resource="pods"} 90
apiserver_request_total{code="200",verb="GET",resource="nodes"} 1000
# TYPE process_cpu_seconds_total counter
process_cpu_seconds_total 12.5
# TYPE process_resident_memory_bytes gauge
process_resident_memory_bytes 2.5e+08
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e+09
`

func TestRead(t *testing.T) {
	now := time.Unix(1700000100, 0)
	got, err := Read(strings.NewReader(sample), now)
	if err != nil {
		t.Fatal(err)
	}
	want := APIServer{
		Read: now, Started: time.Unix(1700000000, 0), CPUSeconds: 12.5, ResidentBytes: 2.5e8,
		InFlightReadOnly: 40, InFlightMutating: 3, QueuedRequests: 128, ExecutingSeats: 247,
		Requests: 1390, Lists: 390, TooMany: 90, Rejected: 90,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
	if got.InFlight() != 43 {
		t.Errorf("in flight: want 43, got %v", got.InFlight())
	}
}

func TestReadRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing at all":     "",
		"another process":    "# TYPE go_goroutines gauge\ngo_goroutines 7\n",
		"cut in the middle":  "process_cpu_seconds_total 1",
		"an HTML page":       "<html><body>503 Service Unavailable</body></html>",
		"a value is missing": sample + "process_cpu_seconds_total\n",
	} {
		t.Run(name, func(t *testing.T) {
			if s, err := Read(strings.NewReader(text), time.Unix(0, 0)); err == nil {
				t.Errorf("want an error, got %+v", s)
			}
		})
	}
	var missing *MissingError
	if _, err := Read(strings.NewReader(""), time.Unix(0, 0)); !errors.As(err, &missing) || missing.Metric != cpuSeconds {
		t.Errorf("want a MissingError that names %s, got %v", cpuSeconds, err)
	}
}

func TestReadSkipsLongLinesOfOthers(t *testing.T) {
	long := `other_metric{label="` + strings.Repeat("x", 200<<10) + "\"} 1\n"
	if _, err := Read(strings.NewReader(long+sample), time.Unix(0, 0)); err != nil {
		t.Error(err)
	}
}

func TestSince(t *testing.T) {
	start := time.Unix(1700000000, 0)
	at := func(s float64, started time.Time, cpu, lists float64) APIServer {
		return APIServer{Read: start.Add(time.Duration(s * float64(time.Second))), Started: started, CPUSeconds: cpu, Lists: lists}
	}
	for name, tc := range map[string]struct {
		earlier, later APIServer
		want           Change
	}{
		"the same process": {
			earlier: at(0, start, 10, 100), later: at(2, start, 14, 150),
			want: Change{Seconds: 2, CPUSeconds: 4, Lists: 50},
		},
		"restarted: what the new process did counts, not the difference": {
			earlier: at(0, start, 10, 100), later: at(2, start.Add(time.Minute), 1, 5),
			want: Change{Seconds: 2, CPUSeconds: 1, Lists: 5, Restarted: true},
		},
		"a start time that wobbles is no restart": {
			earlier: at(0, start, 10, 100), later: at(2, start.Add(10*time.Millisecond), 11, 101),
			want: Change{Seconds: 2, CPUSeconds: 1, Lists: 1},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.later.Since(tc.earlier)); diff != "" {
				t.Errorf("change (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample)
	f.Add("process_cpu_seconds_total{")
	f.Add("# TYPE apiserver_request_total histogram\napiserver_request_total{le=\"1\"} NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Read(strings.NewReader(text), time.Unix(0, 0))
		if err != nil {
			return
		}
		s.Since(APIServer{})
	})
}

func ExampleRead() {
	reading, err := Read(strings.NewReader(sample), time.Now())
	if err != nil {
		panic(err)
	}
	_ = reading.InFlight() // 43 requests execute now
}
