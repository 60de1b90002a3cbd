package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/yaml"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/drill"
	"github.com/seakeep/seakeep/drill/catalog"
	"github.com/seakeep/seakeep/rollout/journal"
)

const (
	// rolledInterval is the shortest that a Rollout may have, rolledBake how long each step is held.
	rolledInterval = time.Second
	rolledBake     = 12 * time.Second
	// rolledWithin bounds a trial, and stepWithin the time until its nodes run the change: the cluster is measured without it first.
	rolledWithin = 6 * time.Minute
	stepWithin   = 3 * time.Minute
)

// trialLabel is on the nodes that a rolled-out trial may come to, three in each cluster: what it claims, it claims of at most so many.
const trialLabel = "seakeep.dev/trial"

// rolledTrial is what became of a trial that `seakeep rollout run` carried out.
type rolledTrial struct {
	trial trial
	phase journal.Phase
	why   string
	// found is from the first node's move to the verdict, back from there until no node ran the change; 0 when it did not come to that.
	found, back time.Duration
	judged      drill.Verdict
}

// right is true when a bad change is back and a good one everywhere.
func (o rolledTrial) right() bool {
	return o.phase == journal.Completed && !o.trial.bad || o.phase == journal.RolledBack && o.trial.bad
}

// rolledTrial plays a trial with a change that `seakeep rollout run` brings to both labs, and takes back by itself or does not. What
// is left of it afterwards the rig takes back.
func (r *labRig) rolledTrial(ctx context.Context, t trial, seakeep, dir string) (o rolledTrial, err error) {
	o.trial = t
	before := map[*world]state{}
	for _, w := range []*world{r.big, r.small} {
		if before[w], err = w.state(ctx); err != nil {
			return o, err
		}
	}
	d := *t.Drill
	d.Timeline = slices.Clone(d.Timeline)
	for i := range d.Timeline {
		if d.Timeline[i].Name == t.update.Name {
			d.Timeline[i].Timeout = &metav1.Duration{Duration: stepWithin}
		}
	}
	d.End.At.Duration = rolledWithin
	within, cancel := context.WithTimeout(ctx, rolledWithin)
	defer cancel()
	var rollout atomic.Pointer[rolled]
	target := drilled{world: r.big,
		roll: func(_ context.Context, manifest string) error {
			text, err := trialRollout(t, manifest)
			if err != nil {
				return err
			}
			// Not of the step's context: that ends with the step.
			begun, err := r.rollOut(within, seakeep, dir, text, "--every", "500ms")
			rollout.Store(begun)
			return err
		},
		over: func() bool {
			begun := rollout.Load()
			if begun == nil {
				return false
			}
			select {
			case <-begun.ended:
				return true
			default:
				return false
			}
		},
	}
	result, err := drill.Run(within, &d, target, drill.Options{Layers: "rollout", NewAction: catalog.NewAction, NewProbe: catalog.NewProbe, Log: slog.New(slog.DiscardHandler)})
	cancel()
	if begun := rollout.Load(); begun != nil {
		view, ended := begun.wait()
		err = errors.Join(err, ended)
		if ended == nil {
			o.read(view.Phase, view.Message, view.Events)
		}
	}
	for w, was := range before {
		if back := w.back(ctx, was); back != nil {
			err = errors.Join(err, fmt.Errorf("taking back what is left: %w", back))
		}
	}
	if err != nil {
		return o, err
	}
	if len(result.Problems) > 0 {
		return o, fmt.Errorf("the drill did not go as it is written: %q", result.Problems)
	}
	result.Rollout = &drill.Rollout{Phase: string(o.phase), Reason: o.why, Undecided: o.phase == journal.Running}
	if o.phase != journal.Completed {
		result.Rollout.Stopped = &o.found
	}
	o.judged = drill.Overall(drill.Judge(result))
	return o, nil
}

// read takes from a run's events when what came about.
func (o *rolledTrial) read(phase journal.Phase, why string, events []journal.Event) {
	o.phase, o.why = phase, why
	at := map[string]time.Time{}
	for _, e := range events {
		if _, seen := at[e.Reason]; !seen && e.Cluster == "big" {
			at[e.Reason] = e.At
		}
	}
	if failed, stepped := at["Failed"], at["Step"]; !failed.IsZero() && !stepped.IsZero() {
		o.found = failed.Sub(stepped)
		if back := at["TakenBack"]; !back.IsZero() {
			o.back = back.Sub(failed)
		}
	}
}

// trialRollout is the Rollout that brings a trial's change to both labs.
func trialRollout(t trial, manifest string) ([]byte, error) {
	var set struct {
		Spec struct {
			Template map[string]any `json:"template"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal([]byte(manifest), &set); err != nil {
		return nil, err
	}
	r := v1alpha1.Rollout{TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindRollout}, Name: t.Name}
	r.Change.DaemonSet = &v1alpha1.DaemonSetChange{WorkloadChange: v1alpha1.WorkloadChange{Namespace: namespace, Name: agent, Patch: set.Spec.Template}}
	for _, stage := range []string{"first", "second"} {
		r.Stages = append(r.Stages, v1alpha1.RolloutStage{Name: stage, LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"stage": stage}}})
	}
	r.Steps = []v1alpha1.RolloutStep{{Replicas: intstr.FromInt(1)}, {Replicas: intstr.FromString("100%")}}
	r.Nodes.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{trialLabel: "yes"}}
	r.Nodes.MaxUnavailable = new(intstr.FromInt(3))
	r.LargestClusterProbe.Disabled = true
	r.Interval = &metav1.Duration{Duration: rolledInterval}
	r.Analysis = spec(rolledInterval)
	// Nearer to what they are by default, 360 and 20 looks: a trend over few looks is found in noise now and then.
	r.Analysis.Slow.Window, r.Analysis.Slow.Interval = &metav1.Duration{Duration: 60 * rolledInterval}, &metav1.Duration{Duration: 5 * rolledInterval}
	r.ScaleGate.Window = &metav1.Duration{Duration: 10 * time.Second}
	r.Bake.MinDuration, r.Bake.DetectionWindow = &metav1.Duration{Duration: rolledBake}, &metav1.Duration{Duration: 3 * rolledInterval}
	r.OnFailure.Rungs = []v1alpha1.RolloutRung{{Name: v1alpha1.RungFreeze}, {Name: v1alpha1.RungAPF}, {Name: v1alpha1.RungRevert}}
	return yaml.Marshal(r)
}

// measureRolled plays every trial with `seakeep rollout run`.
func (r *rig) measureRolled(ctx context.Context, labs *labRig, trials []trial) (all []rolledTrial, err error) {
	for _, t := range trials {
		if !r.options.Wanted(t.Name) {
			continue
		}
		o, err := labs.rolledTrial(ctx, t, r.options.seakeep, r.folder("rolled-"+t.Name))
		if err != nil {
			r.say("trial %s could not be rolled out: %v", t.Name, err)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue
		}
		r.say("rolled %-16s %s, found after %s, back after %s: %s; the drill: %s", t.Name, o.phase, o.found.Round(100*time.Millisecond), o.back.Round(100*time.Millisecond), o.why, o.judged)
		all = append(all, o)
	}
	return all, nil
}

// rolledCases are how many bad changes were taken back by themselves, how many good ones came everywhere, and how long it took.
func rolledCases(all []rolledTrial) []result.Case {
	if len(all) == 0 {
		return nil
	}
	var c counts
	times := map[string][]float64{}
	for _, o := range all {
		switch {
		case o.trial.bad && o.right():
			c.hit++
			times["time to Fail"] = append(times["time to Fail"], o.found.Seconds())
			times["change taken back after that"] = append(times["change taken back after that"], o.back.Seconds())
		case o.trial.bad:
			c.missed++
		case o.right():
			c.quiet++
		default:
			c.alarm++
		}
	}
	const name = "live trials by seakeep rollout run"
	var cases []result.Case
	for _, share := range []struct {
		metric, target string
		least          float64
		of             func() (int, int)
	}{{"precision of taking back", "≥ 0.9", 0.9, c.precision}, {"recall of taking back", "≥ 0.95", 0.95, c.recall}} {
		k, n := share.of()
		low, high := wilson(k, n)
		met := ratio(k, n) >= share.least
		cases = append(cases, result.Case{
			Case: name, Metric: share.metric, Unit: "ratio", Value: ratio(k, n), Baselines: map[string]float64{}, Spread: map[string]result.Range{subject: {Min: low, Max: high}},
			Runs: len(all), Target: share.target, Met: &met,
			Note: fmt.Sprintf("%d of %d; %d of %d good changes came to every node of both clusters by themselves", k, n, c.quiet, c.quiet+c.alarm),
		})
	}
	for _, metric := range []string{"time to Fail", "change taken back after that"} {
		if t := times[metric]; len(t) > 0 {
			slices.Sort(t)
			cases = append(cases, result.Case{
				Case: name, Metric: metric, Unit: "s", Value: t[len(t)/2], Baselines: map[string]float64{}, Spread: map[string]result.Range{subject: {Min: t[0], Max: t[len(t)-1]}}, Runs: len(t),
				Note: "from the first node's move; a look is every second",
			})
		}
	}
	return cases
}
