package main

import (
	"context"
	"math"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/rollout/analysis"
	"github.com/seakeep/seakeep/rollout/engine"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// The names of the two clusters.
const (
	withChange = "exposed"
	without    = "control"
)

// interval is how often is looked, bakes how long a change must be well to pass: what are 30 s and 10 min otherwise.
const (
	interval = 500 * time.Millisecond
	bakes    = 9 * time.Second
)

// spec is what all trials are judged by: the defaults, with the times made shorter as the interval is.
func spec(interval time.Duration) v1alpha1.RolloutAnalysis {
	times := func(n time.Duration) *metav1.Duration { return &metav1.Duration{Duration: n * interval} }
	a := v1alpha1.RolloutAnalysis{
		MaxDataAge: times(10),
		Slow:       v1alpha1.RolloutSlowAnalysis{Window: times(20), Interval: times(2), Watch: times(120)},
		Workload:   v1alpha1.RolloutWorkload{ReadyWithin: times(8)},
	}
	a.SetDefaults(interval)
	return a
}

// outcome is what one judge said of one trial.
type outcome struct {
	verdict verdict.Verdict
	// took is the time from the exposure to the verdict, looks how many looks it was.
	took  time.Duration
	looks int
	why   string
	// attributed is whether the change may be taken back by itself.
	attributed bool
	// judged is what the trial's own hypothesis is by that; "" when no drill was run.
	judged drill.Verdict
}

// rollout is the outcome as a drill's hypotheses are told of it.
func (o outcome) rollout(exposed, nodes int) *drill.Rollout {
	r := &drill.Rollout{ExposedNodes: exposed, Nodes: nodes, Phase: string(o.verdict), Reason: o.why, Undecided: o.verdict == verdict.Unknown}
	if o.verdict == verdict.Fail {
		r.Stopped = &o.took
	}
	return r
}

// replayed judges a trace again, as an Analyst would have live.
func replayed(ctx context.Context, t *trace) (outcome, error) {
	at := -1
	now := time.Time{}
	newest := map[string]analysis.Record{}
	a := spec(interval)
	analyst, err := analysis.New(analysis.Options{
		Analysis: a, Interval: interval, Now: func() time.Time { return now },
		Replay: func(cluster string) (analysis.Record, bool) { r, ok := newest[cluster]; return r, ok },
		Clusters: []analysis.Cluster{
			{Name: withChange, Config: &rest.Config{Host: "https://127.0.0.1:1"}, Servers: []analysis.Endpoint{{Name: "s", URL: "https://127.0.0.1:1"}}},
			{Name: without, Config: &rest.Config{Host: "https://127.0.0.1:2"}, Servers: []analysis.Endpoint{{Name: "s", URL: "https://127.0.0.1:2"}}},
		},
	})
	if err != nil {
		return outcome{}, err
	}
	var h held
	for at = range t.Looks {
		r := t.Looks[at]
		now = r.At
		newest[r.Cluster] = r
		if r.Workload == nil {
			analyst.Measure(ctx) // as Run does, beside the looks
			continue
		}
		e := engine.Exposure{
			Cluster: r.Cluster, Step: 1, Nodes: len(t.Exposed), Planned: len(t.Exposed), Exposed: t.Exposed, Since: t.Since, Ready: t.Since,
		}
		look, err := analyst.Look(ctx, e)
		if err != nil {
			return outcome{}, err
		}
		if h.add(now, t.Since, look) {
			break
		}
	}
	return h.outcome, nil
}

// held waits for a verdict: the first Fail, or Pass for as long as a bake is.
type held struct {
	outcome
	seen   time.Time
	passed time.Duration
}

func (h *held) add(now, since time.Time, look verdict.Look) (done bool) {
	if !look.At.After(h.seen) {
		return false
	}
	gap := now.Sub(h.seen)
	if h.seen.IsZero() {
		gap = 0
	}
	h.seen = look.At
	h.looks++
	h.took, h.why = now.Sub(since), look.Why()
	switch look.Verdict {
	case verdict.Fail:
		h.verdict, h.attributed = verdict.Fail, look.Attributed()
		return true
	case verdict.Pass:
		h.passed += min(gap, 2*interval)
	}
	h.verdict = verdict.Unknown
	if h.passed >= bakes {
		h.verdict = verdict.Pass
		return true
	}
	return false
}

// readinessOnly is the gate that most have: the step's pods are ready within their time, and still are when the bake is over.
func readinessOnly(t *trace) outcome {
	within := spec(interval).Workload.ReadyWithin.Duration
	o := outcome{verdict: verdict.Pass}
	for _, r := range t.Looks {
		if r.Cluster != withChange || r.Workload == nil || r.At.Before(t.Since) {
			continue
		}
		o.looks++
		o.took = r.At.Sub(t.Since)
		all := len(r.Workload.Update) >= len(t.Exposed)
		for _, p := range r.Workload.Update {
			all = all && p.Ready
		}
		if !all && o.took > within {
			o.verdict, o.why = verdict.Fail, "a pod is not ready"
			return o
		}
		if o.took >= bakes+2*interval {
			break
		}
	}
	return o
}

// thresholds are an AnalysisTemplate as teams write them: latencies at Kubernetes' objectives, one request in a hundred refused,
// DNS at 99 %, restarts, and readiness, each with a failureLimit of 2.
var thresholds = []struct {
	name, condition string
	of              func(analysis.Record) (float64, bool)
}{
	{"read latency", "result < 1", level("controlPlane.readLatency")},
	{"list latency", "result < 30", level("controlPlane.listLatency")},
	{"write latency", "result < 1", level("controlPlane.writeLatency")},
	{"rejected", "result < 0.01", level("controlPlane.rejected")},
	{"processors", "result < 0.85", level("controlPlane.cpu")},
	{"DNS", "result >= 0.99", answered("dns")},
	{"ready", "result == 0", notReady},
}

func level(check string) func(analysis.Record) (float64, bool) {
	return func(r analysis.Record) (float64, bool) { v, ok := r.Levels[check]; return v, ok }
}

func answered(check string) func(analysis.Record) (float64, bool) {
	return func(r analysis.Record) (float64, bool) {
		asked, ok := 0, 0
		for key, a := range r.Asked {
			if strings.HasPrefix(key, check) {
				asked += a.Asked
				ok += a.Answered
			}
		}
		return float64(ok) / float64(asked), asked > 0
	}
}

// notReady counts pods that had their time.
func notReady(r analysis.Record) (float64, bool) {
	if r.Workload == nil {
		return 0, false
	}
	n := 0
	for _, p := range r.Workload.Update {
		if !p.Ready && r.At.Sub(p.Created) > spec(interval).Workload.ReadyWithin.Duration {
			n++
		}
	}
	return float64(n), true
}

// fixedThresholds judges each look by itself against numbers that somebody wrote down once.
func fixedThresholds(t *trace) (outcome, error) {
	o := outcome{verdict: verdict.Pass}
	limit := 2
	spec := v1alpha1.RolloutMetric{FailureLimit: limit, ConsecutiveErrorLimit: new(math.MaxInt32)}
	taken := make([][]verdict.Measurement, len(thresholds))
	conditions := make([]verdict.Conditions, len(thresholds))
	for i, one := range thresholds {
		c, err := verdict.ParseCondition(one.condition)
		if err != nil {
			return o, err
		}
		conditions[i].Success = c
	}
	for _, r := range t.Looks {
		if r.Cluster != withChange || r.Workload == nil || r.At.Before(t.Since) {
			continue
		}
		o.looks++
		o.took = r.At.Sub(t.Since)
		for i, one := range thresholds {
			v, ok := one.of(r)
			if !ok {
				continue // Argo passes on what it has no value for, too
			}
			taken[i] = append(taken[i], conditions[i].Measure(r.At, v, nil))
			if f := verdict.Judge(&spec, taken[i], r.At, time.Hour); f.Verdict == verdict.Fail {
				o.verdict, o.why = verdict.Fail, one.name+": "+f.Reason
				return o, nil
			}
		}
		if o.took >= bakes+2*interval {
			break
		}
	}
	return o, nil
}
