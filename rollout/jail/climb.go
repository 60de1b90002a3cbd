package jail

import (
	"fmt"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// Info is what the ladder's decision needs to know of a rung.
type Info struct {
	Name       v1alpha1.RungName
	HitsStable bool
	// ReducesLoad is as in Rung.
	ReducesLoad bool
}

// takesLoad is true for rungs that take load away themselves.
func (i Info) takesLoad() bool {
	return i.ReducesLoad && i.Name != v1alpha1.RungFreeze && i.Name != v1alpha1.RungRevert && i.Name != v1alpha1.RungEmergency
}

// Taken is a rung that was tried.
type Taken struct {
	Name v1alpha1.RungName `json:"name"`
	At   time.Time         `json:"at"`
	// Err is why it did not work; "" when it did.
	Err string `json:"err,omitempty"`
}

// Situation is what is known on one cluster when the next rung is asked for.
type Situation struct {
	Now     time.Time
	Verdict verdict.Verdict
	// Attributed is true when the harm can be laid at the change's door, ControlPlaneFails when API servers or etcd are
	// harmed, Load when what failed is load: the control plane, or the scale gate.
	Attributed, ControlPlaneFails, Load bool
	// Reduced is the share of the component's cost that is gone since it failed, 0–1; Measured false when it is not known.
	Reduced  float64
	Measured bool
	// Protected is why the component is not jailed or cut by itself; "" when it may be.
	Protected string
	// Taken are the rungs tried so far, in order.
	Taken []Taken
}

// SituationOf reads what a look says.
func SituationOf(now time.Time, look verdict.Look) Situation {
	s := Situation{Now: now, Verdict: look.Verdict, Attributed: look.Attributed(), ControlPlaneFails: look.ControlPlaneFails()}
	s.Load = s.ControlPlaneFails
	for _, f := range look.Findings {
		if f.Verdict == verdict.Fail && len(f.Check) >= len(scaleGate) && f.Check[:len(scaleGate)] == scaleGate {
			s.Load = true
		}
	}
	return s
}

const scaleGate = "scaleGate"

// Decision is what to do next.
type Decision struct {
	// Do is the rung to take now; "" for none.
	Do v1alpha1.RungName
	// Wait is how long until it makes sense to ask again, when nothing is to be done now.
	Wait time.Duration
	// Done is true when nothing is left to do by itself.
	Done bool
	// Why says it in a sentence; Passed says of each rung that was passed over, why.
	Why    string
	Passed []string
}

// Next decides what may be done, and what is left to people. It takes rungs in the order of the list, each once; one that takes
// load away is given time to show it, and when it has, the others of its kind are passed over. Nothing that costs the API
// server something is done while nothing says that the change is to blame.
func Next(l v1alpha1.RolloutLadder, rungs []Info, s Situation) Decision {
	var d Decision
	if s.Verdict == verdict.Pass {
		d.Done, d.Why = true, "nothing has failed"
		return d
	}
	if last, effective, wait := lastLoad(l, rungs, s); wait > 0 {
		d.Wait, d.Why = wait, fmt.Sprintf("%s has %s to show effect", last, l.EffectWithin.Duration)
		return d
	} else if effective {
		rungs = slices.DeleteFunc(slices.Clone(rungs), func(r Info) bool {
			over := r.takesLoad() && !taken(s, r.Name)
			if over {
				d.Passed = append(d.Passed, fmt.Sprintf("%s: %s took %.0f %% of the component's cost away", r.Name, last, 100*s.Reduced))
			}
			return over
		})
	}
	reverted := false
	for _, r := range rungs {
		if taken(s, r.Name) {
			reverted = reverted || r.Name == v1alpha1.RungRevert && worked(s, r.Name)
			continue
		}
		if r.Name == v1alpha1.RungEmergency && reverted {
			d.Done, d.Why = true, "the change is taken back"
			return d
		}
		if why := held(l, r, s); why != "" {
			d.Passed = append(d.Passed, fmt.Sprintf("%s: %s", r.Name, why))
			continue
		}
		d.Do, d.Why = r.Name, reason(r.Name, s)
		return d
	}
	d.Done, d.Why = true, "every rung that may be taken was"
	return d
}

func taken(s Situation, name v1alpha1.RungName) bool {
	return slices.ContainsFunc(s.Taken, func(t Taken) bool { return t.Name == name })
}

func worked(s Situation, name v1alpha1.RungName) bool {
	return slices.ContainsFunc(s.Taken, func(t Taken) bool { return t.Name == name && t.Err == "" })
}

// lastLoad finds the newest rung that should have taken load away, whether it has, and how long to wait for it. A cost that is
// not measured is no effect: the next rung is then taken when the time is over.
func lastLoad(l v1alpha1.RolloutLadder, rungs []Info, s Situation) (name v1alpha1.RungName, effective bool, wait time.Duration) {
	for i := len(s.Taken) - 1; i >= 0; i-- {
		t := s.Taken[i]
		at := slices.IndexFunc(rungs, func(r Info) bool { return r.Name == t.Name })
		if t.Err != "" || at < 0 || !rungs[at].takesLoad() {
			continue
		}
		if s.Measured && s.Reduced >= l.EffectiveReduction {
			return t.Name, true, 0
		}
		return t.Name, false, max(0, t.At.Add(l.EffectWithin.Duration).Sub(s.Now))
	}
	return "", false, 0
}

// held says why a rung is not taken by itself; "" when it is.
func held(l v1alpha1.RolloutLadder, r Info, s Situation) string {
	if r.Name == v1alpha1.RungFreeze {
		return ""
	}
	switch r.Name {
	case v1alpha1.RungEmergency:
		if s.Verdict == verdict.Unknown && !s.ControlPlaneFails {
			return "nothing is known to have failed"
		}
		return ""
	case v1alpha1.RungRevert:
		switch {
		case l.Mode == v1alpha1.LadderFreezeOnly:
			return "onFailure.mode is FreezeOnly"
		case s.Verdict != verdict.Fail:
			return "the verdict is Unknown: what writes needs one of Fail, or a human"
		case !s.Attributed:
			return "nothing shows that the change is to blame: it needs a human"
		}
		return ""
	}
	switch {
	case l.Mode == v1alpha1.LadderFreezeOnly:
		return "onFailure.mode is FreezeOnly"
	case s.Verdict == verdict.Unknown && !s.ControlPlaneFails:
		return "the verdict is Unknown and the control plane is well"
	case !s.Load:
		return "what failed is not load"
	case s.Protected != "":
		return s.Protected
	case !r.ReducesLoad:
		return "it does not only take load away"
	case r.HitsStable && l.HitStable == v1alpha1.StableNever:
		return "it hits the stable revision too, and onFailure.hitStable is Never"
	case r.HitsStable && l.HitStable == v1alpha1.StableWhenControlPlaneFails && !s.ControlPlaneFails:
		return "it hits the stable revision too, and the control plane does not fail"
	}
	return ""
}

func reason(name v1alpha1.RungName, s Situation) string {
	switch name {
	case v1alpha1.RungFreeze:
		return "nothing may move any more"
	case v1alpha1.RungRevert:
		return "the change is to blame"
	case v1alpha1.RungEmergency:
		return "what is left needs people"
	}
	if s.ControlPlaneFails {
		return "the control plane fails: load must go first"
	}
	return "the component asks for more than there is"
}
