package forecast

import (
	"fmt"
	"time"
)

// Options say how to fit. The zero value is good.
type Options struct {
	// Period is the component's slowest timer. A step must have been held for two of them, or its cost was not seen. 0: not
	// known; then a step needs two requests of each node, or MinHold.
	Period time.Duration
	// MinHold is how long a step must be held that shows less than two requests a node, default 10m: an agent that only
	// watches makes none.
	MinHold time.Duration
	// Window is how long a measurement of the full exposure would be, default 1m. The interval holds such a measurement.
	Window time.Duration
	// PriorExponent is β where sizes do not tell: default 1, cost of a node ∝ size of the cluster, as of 2024-12-11; of
	// requests and watches it is 0: how often an agent asks does not depend on how much it gets. Its
	// standard deviation PriorSpread is 0.6 by default: 95 % of it covers 0, an agent that asks for its own node's objects,
	// to 2.
	PriorExponent, PriorSpread float64
	// MinSizes is how many sizes of clusters it takes for β to be read from them, the largest four times the smallest; default 3.
	MinSizes int
	// ModelError is the relative standard deviation of what a straight line leaves out (nodes that differ, caches, the hour of
	// the day), default 0.05: no interval gets narrower than ±10 %, however many samples there are. TimedError is that of kinds
	// that are made of how long something took (seats, service, processors), default 0.08: what a few nodes ask of a quiet server
	// takes a little less than what all ask. Live runs say whether it is enough: make bench-forecast.
	ModelError, TimedError float64
	// ClusterError is the relative standard deviation between clusters of the same size (their processors, their versions),
	// default 0.1.
	ClusterError float64
}

func (o Options) withDefaults() (Options, error) {
	for _, d := range []struct {
		v       *float64
		value   float64
		name    string
		highest float64
	}{
		{&o.PriorExponent, 1, "prior exponent", 3},
		{&o.PriorSpread, 0.6, "prior spread", 3},
		{&o.ModelError, 0.05, "model error", 1},
		{&o.TimedError, 0.08, "timed error", 1},
		{&o.ClusterError, 0.1, "cluster error", 1},
	} {
		if *d.v == 0 {
			*d.v = d.value
		}
		if !(*d.v > 0 && *d.v <= d.highest) {
			return o, fmt.Errorf("%s must be > 0 and ≤ %g, got %g", d.name, d.highest, *d.v)
		}
	}
	if o.MinSizes == 0 {
		o.MinSizes = 3
	}
	if o.MinSizes < 2 {
		return o, fmt.Errorf("sizes must be ≥ 2, got %d", o.MinSizes)
	}
	if o.Window == 0 {
		o.Window = time.Minute
	}
	if o.MinHold == 0 {
		o.MinHold = 10 * time.Minute
	}
	if o.Window < 0 || o.MinHold < 0 || o.Period < 0 {
		return o, fmt.Errorf("window, least hold and period must be > 0, got %s, %s and %s", o.Window, o.MinHold, o.Period)
	}
	return o, nil
}

// exponent is β where sizes do not tell.
func (o Options) exponent(kind Kind) float64 {
	if kind == Requests || kind == Watches {
		return 0
	}
	return o.PriorExponent
}

// floor is the relative standard deviation that no number of samples takes away.
func (o Options) floor(kind Kind) float64 {
	if kind == Seats || kind == Service || kind == CPU {
		return o.TimedError
	}
	return o.ModelError
}
