package v1alpha1

import (
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// RungName is one measure of the ladder.
type RungName string

// The rungs, from the lightest to the last.
const (
	// RungFreeze lets nothing move any more, on any cluster. It writes nothing.
	RungFreeze RungName = "freeze"
	// RungGate throttles or blocks the component at the gates.
	RungGate RungName = "gate"
	// RungAPF puts the component's ServiceAccount into a priority level that dispatches nothing.
	RungAPF RungName = "apf"
	// RungRBAC takes the component's ServiceAccount out of the bindings that name it: its requests are answered 403.
	RungRBAC RungName = "rbac"
	// RungRevert puts the template from before the change back and deletes the new pods, within the budget.
	RungRevert RungName = "revert"
	// RungEmergency hands the incident to people, with the commands that are left.
	RungEmergency RungName = "emergency"
)

var rungNames = []RungName{RungFreeze, RungGate, RungAPF, RungRBAC, RungRevert, RungEmergency}

// LadderMode is who climbs.
type LadderMode string

// The modes.
const (
	// LadderAutomatic climbs by itself as far as verdict and attribution allow.
	LadderAutomatic LadderMode = "Automatic"
	// LadderFreezeOnly freezes by itself and leaves the rest to people.
	LadderFreezeOnly LadderMode = "FreezeOnly"
)

// StablePolicy says what becomes of rungs that hit the revision from before the change too.
type StablePolicy string

// The policies.
const (
	// StableWhenControlPlaneFails takes them only while the control plane fails: a workload without API access is then the
	// lesser harm.
	StableWhenControlPlaneFails StablePolicy = "WhenControlPlaneFails"
	// StableAlways takes them like the others.
	StableAlways StablePolicy = "Always"
	// StableNever leaves them to people.
	StableNever StablePolicy = "Never"
)

// RolloutLadder is what is done when the verdict is Fail, in order, until the component's cost is down and the change is gone.
// With a verdict of Unknown only rungs that take load away run by themselves.
type RolloutLadder struct {
	// Mode is Automatic (the default) or FreezeOnly.
	Mode LadderMode `json:"mode,omitempty"`
	// Rungs are those used, from the lightest on; default freeze, gate, apf, revert, emergency. rbac is used only where it is
	// named. Each is proved on each cluster before stage 1, or the rollout does not start.
	Rungs []RolloutRung `json:"rungs,omitempty"`
	// HitStable is WhenControlPlaneFails (the default), Always or Never.
	HitStable StablePolicy `json:"hitStable,omitempty"`
	// Duration is how long gate rules and jails last unless they are taken back; default 1h, 1m–24h. A gate rule ends by itself then, a
	// jail when the next process that writes jails comes by.
	Duration *metav1.Duration `json:"duration,omitempty"`
	// EffectWithin is how long a rung may take to show effect before the next one is tried; default 15s, 1s–10m.
	EffectWithin *metav1.Duration `json:"effectWithin,omitempty"`
	// EffectiveReduction is the share of the component's cost that must be gone for a rung to be enough; default 0.95, > 0–1. It is
	// measured where the scale gate is enabled.
	EffectiveReduction float64 `json:"effectiveReduction,omitempty"`
}

// RolloutRung is one rung.
type RolloutRung struct {
	// Name is freeze, gate, apf, rbac, revert or emergency.
	Name RungName `json:"name"`
	// Optional lets the rollout start on clusters where the rung cannot be proved, as gate where there is none.
	Optional bool `json:"optional,omitempty"`
}

// SetDefaults fills what was left out.
func (l *RolloutLadder) SetDefaults() { l.setDefaults() }

func (l *RolloutLadder) setDefaults() {
	if l.Mode == "" {
		l.Mode = LadderAutomatic
	}
	if len(l.Rungs) == 0 {
		// Not every cluster has a gate: its rung is a good that may be missing.
		l.Rungs = []RolloutRung{{Name: RungFreeze}, {Name: RungGate, Optional: true}, {Name: RungAPF}, {Name: RungRevert}, {Name: RungEmergency}}
	}
	if l.HitStable == "" {
		l.HitStable = StableWhenControlPlaneFails
	}
	defaultDuration(&l.Duration, time.Hour)
	defaultDuration(&l.EffectWithin, 15*time.Second)
	l.EffectiveReduction = orFloat(l.EffectiveReduction, 0.95)
}

func (l *RolloutLadder) validate(path *field.Path) field.ErrorList {
	errs := oneOf(string(l.Mode), path.Child("mode"), string(LadderAutomatic), string(LadderFreezeOnly))
	last := -1
	for i, r := range l.Rungs {
		p := path.Child("rungs").Index(i)
		at := slices.Index(rungNames, r.Name)
		switch {
		case at < 0:
			errs = append(errs, field.NotSupported(p.Child("name"), r.Name, rungNames))
		case at == last:
			errs = append(errs, field.Duplicate(p.Child("name"), r.Name))
		case at < last:
			errs = append(errs, field.Invalid(p.Child("name"), r.Name, "the order is freeze, gate, apf, rbac, revert, emergency: load is taken away before anything is written that costs some"))
		}
		last = max(last, at)
		if r.Name == RungFreeze && r.Optional {
			errs = append(errs, field.Invalid(p.Child("optional"), true, "freezing needs nothing and is never left out"))
		}
	}
	if len(l.Rungs) > 0 && l.Rungs[0].Name != RungFreeze {
		errs = append(errs, field.Invalid(path.Child("rungs").Index(0).Child("name"), l.Rungs[0].Name, "the first rung is freeze"))
	}
	errs = append(errs, oneOf(string(l.HitStable), path.Child("hitStable"), string(StableWhenControlPlaneFails), string(StableAlways), string(StableNever))...)
	errs = append(errs, durationBetween(l.Duration, time.Minute, MaxEmergencyDuration, path.Child("duration"))...)
	errs = append(errs, durationBetween(l.EffectWithin, time.Second, 10*time.Minute, path.Child("effectWithin"))...)
	return append(errs, share(l.EffectiveReduction, path.Child("effectiveReduction"))...)
}

func number(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }
