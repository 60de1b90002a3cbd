package engine

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/journal"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// While the scale gate knows too little, what is held is measured again, and goes on when that is enough.
func TestUnknownGrowthIsMeasuredAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := simulate(t, map[string]int{"a": 9}, func(r *v1alpha1.Rollout) { r.OnUnknown = v1alpha1.OnUnknownWait })
		const three, enough = "all a 3", 4
		measured := func(j *judge) (times int) {
			for _, o := range j.observed {
				if o == three {
					times++
				}
			}
			return times
		}
		s.judge.set(func(j *judge) {
			j.takes = time.Minute
			j.grows = func(_ string, nodes int) verdict.Finding {
				f := pass()
				if nodes > 3 && measured(j) < enough {
					f.Verdict, f.Reason = verdict.Unknown, "more samples narrow it"
				}
				return f
			}
		})
		s.pass(2 * time.Hour)
		s.want(journal.Completed, "")
		s.judge.set(func(j *judge) {
			if times := measured(j); times < enough || times > enough+1 || !slices.Contains(j.observed, "all a 9") {
				t.Errorf("three nodes were measured %d times, want %d: %v", times, enough, j.observed)
			}
		})
	})
}

// A forecast from one node that nobody may be blamed for does not stop a rollout half-way to its answer: the third node tells. One
// that is the change's own beyond doubt does, and so does any of three.
func TestTheThirdNodeDecides(t *testing.T) {
	for name, tc := range map[string]struct {
		ownAt, most int // from how many nodes on it is the change's own; how many come to run it
		phase       journal.Phase
	}{
		"own by the first node": {1, 1, journal.RolledBack},
		"own by the third node": {3, 3, journal.RolledBack},
		"nobody's own":          {9, 3, journal.Paused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := simulate(t, map[string]int{"a": 27}, nil)
				s.judge.set(func(j *judge) {
					j.grows = func(cluster string, nodes int) verdict.Finding {
						f := pass()
						if nodes > 3 {
							f.Verdict, f.Reason, f.Attributed = verdict.Fail, "32 of 2 cores", j.saw[cluster] >= tc.ownAt
						}
						return f
					}
				})
				s.pass(time.Hour)
				s.want(tc.phase, "")
				s.judge.set(func(j *judge) {
					if most := j.saw["a"]; most != tc.most {
						t.Errorf("%d nodes came to run it, want %d", most, tc.most)
					}
				})
				if told := slices.Contains(reasons(s.e.View()), "ScaleGate"); told != (tc.ownAt > 1) {
					t.Errorf("that the first node does not decide was said: %t", told)
				}
			})
		})
	}
}
