package drill

import (
	"slices"
	"sync"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Outcome is what a sample came to.
type Outcome string

// The outcomes. OK is the only success.
const (
	OK           Outcome = "ok"
	Slow         Outcome = "slow"         // a good answer, later than the probe's limit
	Timeout      Outcome = "timeout"      // no answer in time
	Rejected     Outcome = "rejected"     // 429: there are too many
	Unavailable  Outcome = "unavailable"  // 5xx, or DNS SERVFAIL
	Refused      Outcome = "refused"      // no connection
	Denied       Outcome = "denied"       // 401, 403
	Wrong        Outcome = "wrong"        // any other answer than the right one
	Late         Outcome = "late"         // a lease renewed late
	Missed       Outcome = "missed"       // a lease not renewed while it lasted
	Undetermined Outcome = "undetermined" // it could not be seen; never counted as a success, nor as a failure
)

// Sample is one measurement.
type Sample struct {
	Probe, Series string
	// Due is when it was due, from the incident's start: negative in the baseline.
	Due time.Duration
	// Latency is from when it was due, not from when it was sent: a probe that is late counts its wait.
	Latency time.Duration
	Outcome Outcome
}

// Recorder keeps the samples of a run.
type Recorder struct {
	zero time.Time

	mu      sync.Mutex
	samples []Sample // in the order of their completion
}

// NewRecorder returns a recorder; zero is the start of the incident.
func NewRecorder(zero time.Time) *Recorder { return &Recorder{zero: zero} }

// Sink returns the sink of one probe.
func (r *Recorder) Sink(probe string) Sink { return probeSink{r: r, probe: probe} }

type probeSink struct {
	r     *Recorder
	probe string
}

// Record implements Sink.
func (s probeSink) Record(series string, due time.Time, latency time.Duration, outcome Outcome) {
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	s.r.samples = append(s.r.samples, Sample{
		Probe: s.probe, Series: series, Due: due.Sub(s.r.zero), Latency: max(0, latency), Outcome: outcome,
	})
}

// Samples returns a copy of all samples, in the order of their completion.
func (r *Recorder) Samples() []Sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.samples)
}

// Well says whether every condition holds now, looking only at samples due at or after since, and since when: the
// latest start of the streaks of successes that the conditions are made of.
func (r *Recorder) Well(conditions []v1alpha1.DrillCondition, since time.Duration) (from time.Duration, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	from = since
	for _, c := range conditions {
		start, length := streak(r.samples, c, since)
		if length < c.Consecutive {
			return 0, false
		}
		from = max(from, start)
	}
	return from, true
}

// streak walks back over the newest samples of a series while they are successes.
func streak(samples []Sample, c v1alpha1.DrillCondition, since time.Duration) (start time.Duration, length int) {
	for _, s := range slices.Backward(samples) {
		if s.Probe != c.Probe || c.Series != "" && s.Series != c.Series || s.Due < since {
			continue
		}
		if s.Outcome != OK {
			break
		}
		if length == 0 || s.Due < start {
			start = s.Due
		}
		length++
	}
	return start, length
}
