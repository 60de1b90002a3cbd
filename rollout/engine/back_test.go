package engine

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/jail"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/target"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// What follows a Fail, on simulated clusters: what rungs take, what is let go again, what stands still.

// measured is a rung that notes what is done, and takes its share of the component's cost away.
type measured struct {
	name  v1alpha1.RungName
	share float64
	meter *meter
}

// meter is what the component costs: one second a second, less what rungs take away.
type meter struct {
	mu            sync.Mutex
	spent, rate   float64
	read          time.Time
	taken, undone []v1alpha1.RungName
}

func newMeter() *meter { return &meter{rate: 1, read: time.Now()} }

func (m *meter) at(now time.Time) float64 {
	m.spent += m.rate * now.Sub(m.read).Seconds()
	m.read = now
	return m.spent
}

func (m *meter) Spent(context.Context) (float64, time.Time, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	return m.at(now), now, nil
}

func (r measured) Name() string                                { return string(r.name) }
func (r measured) HitsStable() bool                            { return false }
func (r measured) ReducesLoad() bool                           { return true }
func (r measured) Prove(context.Context, jail.Component) error { return nil }
func (r measured) Do(context.Context, jail.Component, string, time.Duration) error {
	r.meter.mu.Lock()
	defer r.meter.mu.Unlock()
	r.meter.at(time.Now())
	r.meter.rate *= 1 - r.share
	r.meter.taken = append(r.meter.taken, r.name)
	return nil
}
func (r measured) Undo(context.Context, jail.Component) error {
	r.meter.mu.Lock()
	defer r.meter.mu.Unlock()
	r.meter.undone = append(r.meter.undone, r.name)
	return nil
}

// ladderOf has the rungs gate and apf, of which the first takes a share of the cost away.
func ladderOf(share float64, m *meter) (func(*v1alpha1.Rollout), func(*Cluster)) {
	return func(r *v1alpha1.Rollout) {
			r.OnFailure.Rungs = []v1alpha1.RolloutRung{{Name: v1alpha1.RungFreeze}, {Name: v1alpha1.RungGate}, {Name: v1alpha1.RungAPF}, {Name: v1alpha1.RungRevert}}
		}, func(c *Cluster) {
			c.Rungs = []jail.Rung{measured{v1alpha1.RungGate, share, m}, measured{v1alpha1.RungAPF, 1, m}}
			c.Spent = m.Spent
		}
}

// A rung that takes the component's cost away is enough: what also hits the stable revision is not taken after it, and the template
// is not waited with for as long as a rung may take to show effect.
func TestEffectIsMeasured(t *testing.T) {
	for name, tc := range map[string]struct {
		share    float64
		taken    []v1alpha1.RungName
		reverted time.Duration // at most
	}{
		"the first is enough":     {1, []v1alpha1.RungName{v1alpha1.RungGate}, 10 * time.Second},
		"the first is not enough": {0.5, []v1alpha1.RungName{v1alpha1.RungGate, v1alpha1.RungAPF}, 25 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeter()
				change, more := ladderOf(tc.share, m)
				s := simulateWith(t, map[string]int{"a": 9}, change, more)
				s.pass(7 * time.Minute)
				s.judge.set(func(j *judge) {
					j.says = func(Exposure) verdict.Finding {
						return verdict.Finding{Check: "scaleGate", Verdict: verdict.Fail, Attributed: true, Reason: "it asks for too much"}
					}
				})
				s.pass(2 * time.Minute)
				s.want(journal.RolledBack, "")
				if !slices.Equal(m.taken, tc.taken) {
					t.Errorf("taken are %v, want %v", m.taken, tc.taken)
				}
				for _, rung := range tc.taken {
					if !slices.Contains(m.undone, rung) {
						t.Errorf("%s stays: undone are %v", rung, m.undone)
					}
				}
				var failed, reverted time.Time
				for _, event := range s.e.View().Events {
					switch event.Reason {
					case "Failed":
						failed = event.At
					case "Reverted":
						reverted = event.At
					}
				}
				if took := reverted.Sub(failed); reverted.IsZero() || took > tc.reverted {
					t.Errorf("reverted %v after it failed, want at most %v", took, tc.reverted)
				}
			})
		})
	}
}

// What a human resumes is let go on wherever it stands: a cluster that is done already, or waits for its stage, is not left in jail.
func TestResumeReleasesWhatIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter()
		change, more := ladderOf(1, m)
		s := simulateWith(t, map[string]int{"a": 3, "b": 27}, change, more)
		s.pass(20 * time.Minute)
		s.judge.set(func(j *judge) {
			j.says = func(e Exposure) verdict.Finding {
				f := pass()
				if e.Cluster == "a" {
					f.Check, f.Verdict, f.Reason = "scaleGate", verdict.Fail, "it asks for too much"
				}
				return f
			}
		})
		s.pass(20 * time.Minute)
		s.want(journal.Paused, "NeedsHuman")
		if leg := s.e.View().Stages[0].Legs[0]; leg.Cluster != "a" || leg.Phase != journal.Completed || len(leg.Rungs) == 0 {
			t.Fatalf("nothing is held down: %+v", leg)
		}
		s.judge.set(func(j *judge) { j.says = nil })
		s.order(journal.Resume)
		if leg := s.e.View().Stages[0].Legs[0]; len(leg.Rungs) > 0 || !slices.Contains(m.undone, v1alpha1.RungGate) {
			t.Errorf("it is held down by %v still; undone are %v", leg.Rungs, m.undone)
		}
		s.pass(3 * time.Hour)
		s.want(journal.Completed, "")
	})
}

// forbidden is a cluster that refuses to take the change back.
type forbidden struct {
	*simulated
	no *bool
}

func (f forbidden) Revert(ctx context.Context, p target.Pins) error {
	if *f.no {
		return errors.New("daemonsets.apps is forbidden")
	}
	return f.simulated.Revert(ctx, p)
}

// A way back that cannot be gone says so, once, and when it can.
func TestStandingStillIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		no := true
		s := simulateWith(t, map[string]int{"a": 9}, nil, func(c *Cluster) { c.Target = forbidden{c.Target.(*simulated), &no} })
		s.pass(time.Minute)
		s.order(journal.Rollback)
		s.pass(10 * time.Minute)
		s.want(journal.RollingBack, "")
		leg := s.e.View().Stages[0].Legs[0]
		if !strings.Contains(leg.Error, "forbidden") {
			t.Errorf("shown is %q", leg.Error)
		}
		no = false
		s.pass(time.Minute)
		s.want(journal.RolledBack, "")
		told := map[string]int{}
		for _, reason := range reasons(s.e.View()) {
			told[reason]++
		}
		if told["StandsStill"] != 1 || told["GoesOn"] != 1 {
			t.Errorf("told: %v", told)
		}
	})
}

// A stage that failed everywhere, though within the budget, shows nothing: the next one is not begun without a human.
func TestStageOfFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 3, "b": 9}, func(r *v1alpha1.Rollout) {
			one := intstr.FromInt32(1)
			r.MaxFailures = &one
			first := v1alpha1.RolloutStage{Name: "first", LabelSelector: metav1.LabelSelector{MatchLabels: map[string]string{"name": "a"}}}
			r.Stages[0].LabelSelector = metav1.LabelSelector{MatchLabels: map[string]string{"name": "b"}}
			r.Stages = append([]v1alpha1.RolloutStage{first}, r.Stages...)
		})
		s.judge.set(func(j *judge) {
			j.says = func(e Exposure) verdict.Finding {
				f := pass()
				if e.Cluster == "a" && len(e.Exposed) > 0 {
					f.Verdict, f.Attributed, f.Reason = verdict.Fail, true, "ill"
				}
				return f
			}
		})
		s.pass(time.Hour)
		s.want(journal.Paused, "StageFailed")
		if a, b := s.clusters["a"].exposed(), s.clusters["b"].exposed(); a+b > 0 {
			t.Errorf("%d and %d nodes have it", a, b)
		}
		s.again()
		s.pass(time.Minute)
		s.want(journal.Paused, "StageFailed")
		s.order(journal.Resume)
		s.pass(3 * time.Hour)
		s.want(journal.Completed, "CompletedWithFailures")
		if n := s.clusters["b"].exposed(); n != 9 {
			t.Errorf("%d of 9 nodes have it", n)
		}
	})
}
