package observe

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/seakeep/seakeep/forecast"
)

// GatedFlow measures by a flow schema, and by gates' ledgers what no flow schema counts: bytes, and which of the open watches are
// the component's. Seats, requests, processors and memory are the flow schema's, which sees also what comes round the gates. What
// does has no bytes, and a window with more than a few such requests is an error: bytes that were never counted would pass.
type GatedFlow struct {
	Flow  *Flow
	Gates *Gates
}

var _ Meter = (*GatedFlow)(nil)

const (
	// roundGates is which share of the component's requests may have come round the gates, and roundFew how many in a window may
	// in any case: the two are not read at the same instant.
	roundGates = 0.1
	roundFew   = 3
)

type gatedMark struct {
	flow, gates Mark
}

// Mark implements Meter.
func (g *GatedFlow) Mark(ctx context.Context) (Mark, error) {
	var m gatedMark
	var errs [2]error
	var both sync.WaitGroup
	both.Go(func() { m.flow, errs[0] = g.Flow.Mark(ctx) })
	both.Go(func() { m.gates, errs[1] = g.Gates.Mark(ctx) })
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return &m, nil
}

// Taken implements Mark.
func (m *gatedMark) Taken() time.Time { return m.flow.Taken() }

// Since implements Mark.
func (m *gatedMark) Since(earlier Mark) (Cost, error) {
	before, ok := earlier.(*gatedMark)
	if !ok {
		return Cost{}, errors.New("the marks are not of the same meter")
	}
	cost, err := m.flow.Since(before.flow)
	if err != nil {
		return Cost{}, err
	}
	gated, err := m.gates.Since(before.gates)
	if err != nil {
		return Cost{}, err
	}
	seconds := m.Taken().Sub(before.Taken()).Seconds()
	all, seen := cost.Own[forecast.Requests]*seconds, gated.Own[forecast.Requests]*seconds
	if round := all - seen; round > max(roundFew, roundGates*all) {
		return Cost{}, fmt.Errorf("the API servers answered %.0f requests of the component and the gates saw %.0f: what comes round the gates has no bytes; name all gates of the cluster, and have the component go by them", all, seen)
	}
	cost.Own[forecast.Bytes], cost.Own[forecast.Watches] = gated.Own[forecast.Bytes], gated.Own[forecast.Watches]
	delete(cost.Server, forecast.Watches)
	// A gate does not tell its own refusals from those it passed on, of which the flow schema says more.
	if cost.Censored == forecast.Whole {
		cost.Censored = gated.Censored
	}
	return cost, nil
}
