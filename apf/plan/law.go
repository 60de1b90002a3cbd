package plan

import "math"

// Load is what one API server uses of what it has: 1 is all of it. A part that is not bounded is 0.
type Load struct{ CPU, Memory float64 }

// The bounds of Law. Processor time is read over an interval, and at nine tenths of it requests queue for the rest; memory is
// not given back quickly, and there is no second try at its end.
const (
	lawCPUHigh, lawCPULow       = 0.9, 0.7
	lawMemoryHigh, lawMemoryLow = 0.85, 0.7
	lawDown                     = 0.7
	lawUp                       = 0.05
)

// Law moves a number of seats with the API servers' own load, for clusters without a gate to follow: down by 30 % while one
// of them is near its bounds, up by 5 % of what there is while all are well below, and otherwise not at all. It is coarse: it
// knows neither latency nor etcd, as a gate does.
type Law struct{ seats float64 }

// Next takes a reading of every API server and returns the seats for one. full is what there is without a ballast, least what
// is always left.
func (l *Law) Next(loads []Load, least, full int) float64 {
	if l.seats == 0 {
		l.seats = float64(full)
	}
	high, low := false, len(loads) > 0
	for _, o := range loads {
		high = high || o.CPU >= lawCPUHigh || o.Memory >= lawMemoryHigh
		low = low && o.CPU < lawCPULow && o.Memory < lawMemoryLow
	}
	switch {
	case high:
		l.seats *= lawDown
	case low:
		l.seats += math.Max(1, lawUp*float64(full))
	}
	l.seats = math.Min(math.Max(l.seats, float64(least)), float64(full))
	return l.seats
}
