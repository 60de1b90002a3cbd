package observe

import (
	"context"
	"fmt"
	"time"

	"github.com/seakeep/seakeep/forecast"
)

// Cost is what happened between two marks.
type Cost struct {
	// Own is the component's, Server what API servers took for everybody.
	Own, Server map[forecast.Kind]float64
	Censored    forecast.Censoring
}

// Mark is one look at counters that only grow.
type Mark interface {
	// Taken is when.
	Taken() time.Time
	// Since is what happened since an earlier mark of the same meter. An error means that it cannot be said: a process began
	// anew in between.
	Since(earlier Mark) (Cost, error)
}

// Meter counts what a component costs. It is used by one goroutine at a time.
type Meter interface {
	Mark(ctx context.Context) (Mark, error)
}

// Exposure is where the component runs.
type Exposure struct {
	Cluster string
	// Nodes the cluster has, Exposed of them run the component; Objects of what it reads, 0 when not known.
	Nodes, Exposed, Objects int
}

// Place says where the component runs now.
type Place interface {
	Exposure(ctx context.Context) (Exposure, error)
}

// Hold is how long to measure.
type Hold struct {
	// Window is the length of one sample, Windows how many are taken.
	Window  time.Duration
	Windows int
	// Skip is told of a window that gave no sample, and why. nil: nobody is.
	Skip func(reason string)
}

// MinWindow is the shortest window: shorter ones cut the requests they count in two.
const MinWindow = time.Second

// Samples takes one sample after the other and hands each to yield. A window over which the exposure grew is a startup's; one
// over which it shrank, or that could not be measured, is passed over. It ends with the context's error when that ends.
func Samples(ctx context.Context, m Meter, p Place, h Hold, yield func(forecast.Sample)) error {
	if h.Window < MinWindow || h.Windows < 1 {
		return fmt.Errorf("measuring: a window must be ≥ %s and there must be one, got %d of %s", MinWindow, h.Windows, h.Window)
	}
	look := func() (Mark, Exposure, error) {
		e, err := p.Exposure(ctx)
		if err != nil {
			return nil, e, err
		}
		mark, err := m.Mark(ctx)
		return mark, e, err
	}
	skip := func(err error) {
		if h.Skip != nil {
			h.Skip(err.Error())
		}
	}
	tick := time.NewTicker(h.Window)
	defer tick.Stop()
	before, at, err := look()
	if err != nil {
		return fmt.Errorf("measuring: %w", err) // what cannot be asked at all will not be in a minute
	}
	for range h.Windows {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		mark, now, err := look()
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil:
			skip(err)
			before = nil
			continue
		case before == nil:
			before, at = mark, now
			continue
		}
		if s, err := sample(before, mark, at, now); err != nil {
			skip(err)
		} else {
			yield(s)
		}
		before, at = mark, now
	}
	return nil
}

func sample(before, after Mark, from, to Exposure) (forecast.Sample, error) {
	cost, err := after.Since(before)
	if err != nil {
		return forecast.Sample{}, err
	}
	s := forecast.Sample{
		Cluster: to.Cluster, Nodes: max(to.Nodes, from.Nodes), Exposed: to.Exposed, Objects: to.Objects,
		From: before.Taken(), To: after.Taken(), Cost: cost.Own, Server: cost.Server, Censored: cost.Censored,
	}
	switch {
	case to.Exposed < from.Exposed:
		return s, fmt.Errorf("the component left %d nodes in the meantime", from.Exposed-to.Exposed)
	case to.Exposed > from.Exposed:
		s.Startup, s.Started = true, to.Exposed-from.Exposed
	}
	if err := s.Validate(); err != nil {
		return s, err
	}
	return s, nil
}
