package signals

import (
	"io"
	"time"

	dto "github.com/prometheus/client_model/go"
)

// What an API server says of one flow schema and its priority level, as v1.30 to v1.36 do.
const (
	estimatedSeats  = "apiserver_flowcontrol_work_estimated_seats_sum"
	estimatedCount  = "apiserver_flowcontrol_work_estimated_seats_count"
	seatUtilization = "apiserver_flowcontrol_priority_level_seat_utilization_sum"
	currentLimit    = "apiserver_flowcontrol_current_limit_seats"
)

// OwnFlow is one reading of what one API server did for one flow schema that has a priority level of its own, beside how loaded it
// is.
type OwnFlow struct {
	Load
	// Dispatched is the number of requests let through, watches among them; Refused of those turned away (not of those whose
	// client went before), RefusedElse of those of all other schemas.
	Dispatched, Refused, RefusedElse float64
	// SeatSeconds is how long how many of the level's seats were taken: the width of each request and what it goes on holding
	// after its answer are in it. Watches hold seats while they begin.
	SeatSeconds float64
	// Limit is the level's seats now.
	Limit float64
}

// OwnFlowChange is what happened between two readings of the same API server.
type OwnFlowChange struct {
	LoadChange
	// Dispatched, Refused, RefusedElse and SeatSeconds are as in OwnFlow.
	Dispatched, Refused, RefusedElse, SeatSeconds float64
}

// ReadOwnFlow reads an API server's /metrics in the Prometheus text format. A schema that was never used has zeros; a level that the
// API server does not have is an error.
func ReadOwnFlow(r io.Reader, now time.Time, schema, level string) (OwnFlow, error) {
	families, err := parse(r, append([]string{
		dispatchedTotal, executionSeconds, estimatedSeats, estimatedCount, seatUtilization, currentLimit, nominalSeats,
	}, loadMetrics...)...)
	if err != nil {
		return OwnFlow{}, err
	}
	load, err := loadOf(families, now)
	if err != nil {
		return OwnFlow{}, err
	}
	ours := func(m *dto.Metric) bool { return label("flow_schema", schema)(m) }
	f := OwnFlow{Load: load, Dispatched: sum(families[dispatchedTotal], ours)}
	f.Limit = sum(families[currentLimit], label("priority_level", level))
	if f.Limit == 0 {
		f.Limit = sum(families[nominalSeats], label("priority_level", level))
	}
	if f.Limit <= 0 {
		return OwnFlow{}, &MissingError{Metric: currentLimit + " of the priority level " + level}
	}
	for _, m := range families[rejectedTotal].GetMetric() {
		one := sum(&dto.MetricFamily{Metric: []*dto.Metric{m}}, nil)
		switch {
		case label("reason", "cancelled")(m): // its client did not wait; that may be the client's own death
		case ours(m):
			f.Refused += one
		default:
			f.RefusedElse += one
		}
	}
	// A timing histogram counts nanoseconds; its sum is the integral of the share of the level's seats that are taken.
	taken := sum(families[seatUtilization], func(m *dto.Metric) bool {
		return label("priority_level", level)(m) && label("phase", "executing")(m)
	})
	f.SeatSeconds = taken * f.Limit / 1e9
	if taken == 0 {
		// Kubernetes without that histogram: the mean width of a request times how long they took.
		if n := sum(families[estimatedCount], ours); n > 0 {
			f.SeatSeconds = sum(families[executionSeconds], ours) * sum(families[estimatedSeats], ours) / n
		}
	}
	return f, nil
}

// Since returns what happened between an earlier reading and this one.
func (f OwnFlow) Since(earlier OwnFlow) OwnFlowChange {
	c := OwnFlowChange{
		LoadChange: f.Load.Since(earlier.Load), Dispatched: f.Dispatched, Refused: f.Refused, RefusedElse: f.RefusedElse, SeatSeconds: f.SeatSeconds,
	}
	if !c.Restarted {
		c.Dispatched -= earlier.Dispatched
		c.Refused -= earlier.Refused
		c.RefusedElse -= earlier.RefusedElse
		c.SeatSeconds = max(0, c.SeatSeconds-earlier.SeatSeconds)
	}
	return c
}
