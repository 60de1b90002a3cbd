package signals

import (
	"io"
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// The series of API Priority and Fairness that carry who costs what: the requests themselves are not counted by client.
const (
	executionSeconds = "apiserver_flowcontrol_request_execution_seconds_sum"
	dispatchedTotal  = "apiserver_flowcontrol_dispatched_requests_total"
)

// Flow is what the requests of one FlowSchema did since the API server started.
type Flow struct {
	// ExecutionSeconds is the time they executed for; wide ones count once, so it is less than their seat-seconds.
	ExecutionSeconds float64
	// Dispatched were let through, Rejected turned away with 429, TimedOut being those of them that waited for as long as
	// they may.
	Dispatched, Rejected, TimedOut float64
	// Seats are those in use now.
	Seats float64
}

// Flows is one reading of all FlowSchemas of one API server.
type Flows struct {
	Read, Started time.Time
	Schemas       map[string]Flow
}

// ReadFlows reads an API server's /metrics in the Prometheus text format.
func ReadFlows(r io.Reader, now time.Time) (Flows, error) {
	families, err := parse(r, executionSeconds, dispatchedTotal, rejectedTotal, executingSeats, startSeconds)
	if err != nil {
		return Flows{}, err
	}
	f := Flows{Read: now, Started: startOf(families), Schemas: map[string]Flow{}}
	if len(families[dispatchedTotal].GetMetric()) == 0 {
		return Flows{}, &MissingError{Metric: dispatchedTotal}
	}
	add := func(name string, put func(*Flow, *dto.Metric, float64)) {
		for _, m := range families[name].GetMetric() {
			v := m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
			schema := labelOf(m, "flow_schema")
			if !(v >= 0 && v < 1<<53) || schema == "" || len(schema) > maxRequestKindName || len(f.Schemas) > maxRequestKinds {
				continue
			}
			flow := f.Schemas[schema]
			put(&flow, m, v)
			f.Schemas[strings.Clone(schema)] = flow
		}
	}
	add(executionSeconds, func(f *Flow, _ *dto.Metric, v float64) { f.ExecutionSeconds += v })
	add(dispatchedTotal, func(f *Flow, _ *dto.Metric, v float64) { f.Dispatched += v })
	add(executingSeats, func(f *Flow, _ *dto.Metric, v float64) { f.Seats += v })
	add(rejectedTotal, func(f *Flow, m *dto.Metric, v float64) {
		f.Rejected += v
		if labelOf(m, "reason") == "time-out" {
			f.TimedOut += v
		}
	})
	return f, nil
}

func labelOf(m *dto.Metric, name string) string {
	for _, l := range m.GetLabel() {
		if l.GetName() == name {
			return l.GetValue()
		}
	}
	return ""
}

// Since returns what each schema did since an earlier reading of the same API server; Seats are those now.
func (f Flows) Since(earlier Flows) map[string]Flow {
	change := map[string]Flow{}
	restarted := math.Abs(f.Started.Sub(earlier.Started).Seconds()) > 1
	for name, now := range f.Schemas {
		if before, ok := earlier.Schemas[name]; ok && !restarted {
			now.ExecutionSeconds = max(0, now.ExecutionSeconds-before.ExecutionSeconds)
			now.Dispatched = max(0, now.Dispatched-before.Dispatched)
			now.Rejected = max(0, now.Rejected-before.Rejected)
			now.TimedOut = max(0, now.TimedOut-before.TimedOut)
		}
		change[name] = now
	}
	return change
}
