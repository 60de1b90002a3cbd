package drill

import (
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func samples(probe, series string, outcomes ...Outcome) []Sample {
	var out []Sample
	for i, o := range outcomes {
		out = append(out, Sample{Probe: probe, Series: series, Due: time.Duration(i) * time.Second, Latency: time.Duration(i+1) * 100 * time.Millisecond, Outcome: o})
	}
	return out
}

func TestJudge(t *testing.T) {
	seconds := func(s float64) *time.Duration { d := time.Duration(s * float64(time.Second)); return &d }
	for name, tc := range map[string]struct {
		hypothesis v1alpha1.DrillHypothesis
		result     Result
		want       Verdict
	}{
		"no data is unknown, not a pass": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "admin", Metric: "successRatio", Op: "<", Value: 0.5},
			want:       Unknown,
		},
		"no data is unknown for a count too": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "leases", Series: "renewal", Metric: "missed", Op: "==", Value: 0},
			want:       Unknown,
		},
		"good enough": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "admin", Metric: "successRatio", Op: ">=", Value: 0.5},
			result:     Result{Samples: samples("admin", "get", OK, Timeout)},
			want:       Pass,
		},
		"not good enough": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "admin", Metric: "successRatio", Op: ">", Value: 0.5},
			result:     Result{Samples: samples("admin", "get", OK, Rejected)},
			want:       Fail,
		},
		"another probe's data is no data": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "breakglass", Metric: "successRatio", Op: ">=", Value: 0},
			result:     Result{Samples: samples("admin", "get", OK)},
			want:       Unknown,
		},
		"what was not seen could have been a miss": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "leases", Metric: "missed", Op: "==", Value: 0},
			result:     Result{Samples: samples("leases", "renewal", OK, Undetermined)},
			want:       Unknown,
		},
		"one miss is enough, whatever was not seen": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "leases", Metric: "missed", Op: "==", Value: 0},
			result:     Result{Samples: samples("leases", "renewal", Missed, Undetermined)},
			want:       Fail,
		},
		"a slow good answer counts within its own limit": {
			hypothesis: v1alpha1.DrillHypothesis{Probe: "breakglass", Metric: "withinRatio", Within: &metav1.Duration{Duration: time.Second}, Op: "==", Value: 1},
			result:     Result{Samples: samples("breakglass", "get", OK, Slow)},
			want:       Pass,
		},
		"mitigated in time": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "mitigationSeconds", Op: "<=", Value: 1},
			result:     Result{Mitigation: seconds(0.2)},
			want:       Pass,
		},
		"never mitigated, and the run was long enough to tell": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "mitigationSeconds", Op: "<=", Value: 1},
			result:     Result{End: time.Minute},
			want:       Fail,
		},
		"every agent got its answers": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "agentSuccessRatio", Op: "==", Value: 1},
			result:     Result{Agents: map[string]uint64{AgentsOK: 900, "receivedBytes": 1 << 30}},
			want:       Pass,
		},
		"an agent was refused": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "agentSuccessRatio", Op: "==", Value: 1},
			result:     Result{Agents: map[string]uint64{AgentsOK: 900, AgentsThrottled: 1}},
			want:       Fail,
		},
		"an agent failed": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "agentSuccessRatio", Op: ">=", Value: 0.99},
			result:     Result{Agents: map[string]uint64{AgentsOK: 900, AgentsFailed: 10}},
			want:       Fail,
		},
		"no agent ran": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "agentSuccessRatio", Op: "==", Value: 1},
			result:     Result{Agents: map[string]uint64{AgentsOK: 0}},
			want:       Unknown,
		},
		"a change that was stopped": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "stopped", Op: "==", Value: 1},
			result:     Result{Rollout: &Rollout{Stopped: new(time.Second)}},
			want:       Pass,
		},
		"a change that was let on": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "stopped", Op: "==", Value: 1},
			result:     Result{Rollout: &Rollout{}},
			want:       Fail,
		},
		"a good change that was let on": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "stopped", Op: "==", Value: 0},
			result:     Result{Rollout: &Rollout{}},
			want:       Pass,
		},
		"a change without a verdict": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "stopped", Op: "==", Value: 0},
			result:     Result{Rollout: &Rollout{Undecided: true}},
			want:       Unknown,
		},
		"no change": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "stopped", Op: "==", Value: 0},
			want:       Unknown,
		},
		"never recovered proves no lower bound": {
			hypothesis: v1alpha1.DrillHypothesis{Metric: "recoverySeconds", Op: ">", Value: 1},
			result:     Result{End: time.Minute},
			want:       Unknown,
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := tc.result
			r.Layers = "none"
			r.Phases = []Phase{{Name: "all", Start: 0, End: time.Minute}}
			r.Drill = &v1alpha1.Drill{Hypothesis: []v1alpha1.DrillHypothesis{tc.hypothesis}}
			got := Judge(&r)
			if len(got) != 1 || got[0].Verdict != tc.want {
				t.Errorf("want %s, got %+v", tc.want, got)
			}
		})
	}
}

func TestJudgeSelectsByLayers(t *testing.T) {
	h := v1alpha1.DrillHypothesis{Layers: []string{"gate"}}
	for layers, want := range map[string]bool{"none": false, "gate": true, "gate,dns": true, "gate-unlimited": false} {
		if got := about(h, layers); got != want {
			t.Errorf("a claim about gate and a run with %q: want %v, got %v", layers, want, got)
		}
	}
}

func TestOverall(t *testing.T) {
	for name, tc := range map[string]struct {
		verdicts []Verdict
		want     Verdict
	}{
		"nothing was claimed": {nil, Unknown},
		"all passed":          {[]Verdict{Pass, Pass}, Pass},
		"one is unknown":      {[]Verdict{Pass, Unknown}, Unknown},
		"one failed":          {[]Verdict{Unknown, Fail, Pass}, Fail},
	} {
		t.Run(name, func(t *testing.T) {
			var judgements []Judgement
			for _, v := range tc.verdicts {
				judgements = append(judgements, Judgement{Verdict: v})
			}
			if got := Overall(judgements); got != tc.want {
				t.Errorf("want %s, got %s", tc.want, got)
			}
		})
	}
}
