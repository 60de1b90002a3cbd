package signals

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"
)

const ownFlowSample = loadSample + `# TYPE apiserver_flowcontrol_current_limit_seats gauge
apiserver_flowcontrol_current_limit_seats{priority_level="own"} 24
apiserver_flowcontrol_current_limit_seats{priority_level="other"} 90
# TYPE apiserver_flowcontrol_dispatched_requests_total counter
apiserver_flowcontrol_dispatched_requests_total{flow_schema="own",priority_level="own"} 10
apiserver_flowcontrol_dispatched_requests_total{flow_schema="other",priority_level="other"} 1000
apiserver_flowcontrol_rejected_requests_total{flow_schema="own",priority_level="own",reason="queue-full"} 3
apiserver_flowcontrol_rejected_requests_total{flow_schema="own",priority_level="own",reason="cancelled"} 50
apiserver_flowcontrol_rejected_requests_total{flow_schema="other",priority_level="other",reason="time-out"} 7
# TYPE apiserver_flowcontrol_priority_level_seat_utilization histogram
apiserver_flowcontrol_priority_level_seat_utilization_sum{phase="executing",priority_level="own"} 5e+08
apiserver_flowcontrol_priority_level_seat_utilization_sum{phase="waiting",priority_level="own"} 9e+09
apiserver_flowcontrol_priority_level_seat_utilization_sum{phase="executing",priority_level="other"} 9e+09
# TYPE apiserver_flowcontrol_request_execution_seconds histogram
apiserver_flowcontrol_request_execution_seconds_sum{flow_schema="own",priority_level="own",type="regular"} 4
# TYPE apiserver_flowcontrol_work_estimated_seats histogram
apiserver_flowcontrol_work_estimated_seats_sum{flow_schema="own",priority_level="own"} 30
apiserver_flowcontrol_work_estimated_seats_count{flow_schema="own",priority_level="own"} 10
`

func TestReadOwnFlow(t *testing.T) {
	now := time.Unix(1700000100, 0)
	f, err := ReadOwnFlow(strings.NewReader(ownFlowSample), now, "own", "own")
	if err != nil {
		t.Fatal(err)
	}
	// Half a second of all 24 seats.
	if f.Dispatched != 10 || f.Refused != 3 || f.Limit != 24 || math.Abs(f.SeatSeconds-12) > 1e-9 || f.RefusedElse < 7 || f.Processors != 2 {
		t.Errorf("%+v", f)
	}
	// Without the integral: ten requests, three seats wide, of four seconds together.
	older := strings.ReplaceAll(ownFlowSample, "priority_level_seat_utilization", "gone")
	if old, err := ReadOwnFlow(strings.NewReader(older), now, "own", "own"); err != nil || math.Abs(old.SeatSeconds-12) > 1e-9 {
		t.Errorf("%+v %v", old, err)
	}
	// A schema that was never used has cost nothing; a level that is not there is an error.
	if unused, err := ReadOwnFlow(strings.NewReader(ownFlowSample), now, "unused", "other"); err != nil || unused.Dispatched != 0 || unused.Refused != 0 {
		t.Errorf("%+v %v", unused, err)
	}
	var missing *MissingError
	if _, err := ReadOwnFlow(strings.NewReader(ownFlowSample), now, "own", "none"); !errors.As(err, &missing) {
		t.Errorf("got %v", err)
	}
	later := f
	later.Read, later.Dispatched, later.SeatSeconds = now.Add(10*time.Second), 30, 20
	if c := later.Since(f); c.Seconds != 10 || c.Dispatched != 20 || math.Abs(c.SeatSeconds-8) > 1e-9 || c.Refused != 0 {
		t.Errorf("%+v", c)
	}
}

func FuzzReadOwnFlow(f *testing.F) {
	f.Add(ownFlowSample)
	f.Fuzz(func(t *testing.T, text string) {
		flow, err := ReadOwnFlow(strings.NewReader(text), time.Unix(1700000100, 0), "own", "own")
		if err == nil && (math.IsNaN(flow.SeatSeconds) || !(flow.Limit > 0)) {
			t.Errorf("%+v", flow)
		}
	})
}
