package drill

import (
	"slices"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Stats sums samples up.
type Stats struct {
	// Samples is how many were seen; Undetermined ones are not among them.
	Samples, OK, Late, Missed, Undetermined int
	// SuccessRatio is OK ÷ Samples. WithinRatio is the share of good answers within the limit asked for, which may be
	// another than the probe's own.
	SuccessRatio, WithinRatio float64
	// P50, P99 and Max are of all samples, the failed ones with the time until they failed: a request that was given
	// up after 5 s is a slow one, and leaving it out would make an outage look fast.
	P50, P99, Max time.Duration
	// Outcomes counts the samples by outcome.
	Outcomes map[Outcome]int
}

// Histograms hold 10 µs to 10 min with three digits.
const (
	histogramUnit = 10 * time.Microsecond
	histogramMax  = int64(10 * time.Minute / histogramUnit)
)

// Summarize sums samples up; within is the limit of WithinRatio.
func Summarize(samples []Sample, within time.Duration) Stats {
	s := Stats{Outcomes: map[Outcome]int{}}
	h := hdrhistogram.New(1, histogramMax, 3)
	good := 0
	for _, sample := range samples {
		s.Outcomes[sample.Outcome]++
		switch sample.Outcome {
		case Undetermined:
			s.Undetermined++
			continue
		case OK:
			s.OK++
		case Late:
			s.Late++
		case Missed:
			s.Missed++
		}
		s.Samples++
		s.Max = max(s.Max, sample.Latency)
		if (sample.Outcome == OK || sample.Outcome == Slow) && sample.Latency <= within {
			good++
		}
		// A value past the histogram's end counts as its end.
		_ = h.RecordValue(min(int64(sample.Latency/histogramUnit), histogramMax))
	}
	if s.Samples == 0 {
		return s
	}
	s.SuccessRatio = float64(s.OK) / float64(s.Samples)
	s.WithinRatio = float64(good) / float64(s.Samples)
	s.P50 = time.Duration(h.ValueAtQuantile(50)) * histogramUnit
	s.P99 = time.Duration(h.ValueAtQuantile(99)) * histogramUnit
	return s
}

// Select returns the samples of a probe's series ("" is all of them) that were due in the phases, or, when none is
// named, after the first phase.
func (r *Result) Select(probe, series string, phases []string) []Sample {
	var selected []Sample
	for _, s := range r.Samples {
		if s.Probe == probe && (series == "" || s.Series == series) && r.within(s.Due, phases) {
			selected = append(selected, s)
		}
	}
	return selected
}

func (r *Result) within(at time.Duration, phases []string) bool {
	for i, p := range r.Phases {
		if at < p.Start || at >= p.End && i < len(r.Phases)-1 {
			continue
		}
		if len(phases) == 0 {
			return i > 0 || len(r.Phases) == 1
		}
		if slices.Contains(phases, p.Name) {
			return true
		}
	}
	return false
}
