package admit

import (
	"maps"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/admit/law"
)

// Status is what admission does now, for an operator.
type Status struct {
	Taken time.Time             `json:"taken"`
	Mode  v1alpha1.OverloadMode `json:"mode"`
	// LimitSeats is how many seats may be held at once; ListLimitBytes how many bytes of LISTs may be under way, 0 for no bound.
	LimitSeats     int   `json:"limitSeats"`
	ListLimitBytes int64 `json:"listLimitBytes"`
	// Signal is what binds the limit and Reason says it in words; Pressures say by signal how near it is to making the limit
	// fall, 1 being there.
	Signal    law.Signal         `json:"signal,omitempty"`
	Reason    string             `json:"reason,omitempty"`
	Pressures map[string]float64 `json:"pressures,omitempty"`
	// Healthy is false while the control plane has all it can take; Ramping is true while it is coming back and LISTs and
	// watches are let in a few at a time.
	Healthy bool          `json:"healthy"`
	Ramping bool          `json:"ramping"`
	Levels  []LevelStatus `json:"levels"`
	// Servers are the API servers' parts of the limit.
	Servers []ServerStatus `json:"servers,omitempty"`
	Cost    CostStatus     `json:"cost"`
	// Callees are the users whom API servers call (webhooks, aggregated API servers), ordered: what they ask is of callbacks.
	Callees []string `json:"callees"`
}

// LevelStatus is one level's part; all but the counts are in seats.
type LevelStatus struct {
	Name       v1alpha1.LevelName `json:"name"`
	LimitSeats int                `json:"limitSeats"`
	InUse      int                `json:"inUse"`
	Waiting    int                `json:"waiting"`
	// MeanSeconds is about how long a request of the level takes: of those that take one seat and those that take more, the
	// longer.
	MeanSeconds float64 `json:"meanSeconds"`
}

// ServerStatus is one API server's part of the limit.
type ServerStatus struct {
	Name           string  `json:"name"`
	LimitSeats     float64 `json:"limitSeats"`
	ListLimitBytes float64 `json:"listLimitBytes"`
	// Fresh is false when it does not say how it is.
	Fresh bool `json:"fresh"`
}

// CostStatus is how well costs are known.
type CostStatus struct {
	// Shapes are the kinds of request whose cost is known.
	Shapes int `json:"shapes"`
	// Measured are the requests whose cost was predicted and then measured, of kinds seen 20 times or more; SecondsError and
	// BytesError the medians of |predicted − measured| / measured.
	Measured     int64   `json:"measured"`
	SecondsError float64 `json:"secondsError"`
	BytesError   float64 `json:"bytesError"`
}

// Status returns what is so now.
func (r *Room) Status() Status {
	s := Status{
		Taken: time.Now(), Mode: r.config.Load().Mode, LimitSeats: int(r.seats.Load()), ListLimitBytes: r.bytes.Load()}
	for i, name := range v1alpha1.LevelNames {
		level := LevelStatus{Name: name}
		for _, l := range r.levels[2*i : 2*i+2] {
			level.LimitSeats += int(l.limit.Load())
			level.InUse += int(l.inUse.Load())
			level.Waiting += int(l.waiting.Load())
			level.MeanSeconds = max(level.MeanSeconds, r.window.mean(l).Seconds())
		}
		s.Levels = append(s.Levels, level)
	}
	if d := r.decision.Load(); d != nil {
		s.Signal, s.Reason, s.Healthy = d.Signal, d.Reason, d.Healthy
		s.Pressures = map[string]float64{}
		for signal, p := range d.Pressures {
			s.Pressures[string(signal)] = p
		}
		for _, part := range d.Servers {
			s.Servers = append(s.Servers, ServerStatus{Name: part.Name, LimitSeats: part.Seats, ListLimitBytes: part.ListBytes, Fresh: part.Fresh})
		}
	}
	errors := r.costs.Errors().All
	s.Cost = CostStatus{Shapes: r.costs.Len(), Measured: errors.Samples, SecondsError: errors.Seconds, BytesError: errors.Bytes}
	s.Callees = []string{}
	if set := r.callees.Load(); set != nil {
		s.Callees = slices.Sorted(maps.Keys(*set))
	}
	r.mu.Lock()
	s.Ramping = r.ramp.Active()
	r.mu.Unlock()
	return s
}
