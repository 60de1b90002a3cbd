package v1alpha1

import (
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// GateOverload says how requests are admitted: how much the API servers can take, and who comes first.
type GateOverload struct {
	// Mode is Enforce (the default), Shadow (nobody waits or is turned away; whom it would have hurt is counted and named)
	// or Disabled.
	Mode OverloadMode `json:"mode,omitempty"`
	// Limit bounds the seats that follow the control plane.
	Limit OverloadLimit `json:"limit,omitempty"`
	// CPU and Memory are what each API server has. Default: what it says of itself, GOMAXPROCS and GOMEMLIMIT; an API
	// server with neither bounds is watched by latency alone.
	CPU    *resource.Quantity `json:"cpu,omitempty"`
	Memory *resource.Quantity `json:"memory,omitempty"`
	// Levels override the shares and the queues of the built-in levels: system, callbacks, interactive, workload, background.
	Levels []OverloadLevel `json:"levels,omitempty"`
	// Rules sort requests into levels, before the built-in rules; the first that matches decides. A rule that matches user
	// agents may name background only: a user agent is a claim, and may tighten what a request gets, never loosen it.
	Rules []OverloadRule `json:"rules,omitempty"`
}

// OverloadMode is what admission does.
type OverloadMode string

// The modes of admission.
const (
	OverloadEnforce  OverloadMode = "Enforce"
	OverloadShadow   OverloadMode = "Shadow"
	OverloadDisabled OverloadMode = "Disabled"
)

// OverloadLimit bounds the seats of all API servers together, as one gate sees them. With Min equal to Max the limit is
// fixed.
type OverloadLimit struct {
	// Min is never undercut, whatever the control plane says; default 4, ≥ 1.
	Min int `json:"min,omitempty"`
	// Max is never exceeded; default 600 for each API server's worth of default --max-requests-inflight and
	// --max-mutating-requests-inflight; at most 100000.
	Max int `json:"max,omitempty"`
	// Initial is where a gate without memory begins; default 40, between Min and Max.
	Initial int `json:"initial,omitempty"`
}

// OverloadLevel is one level's part of the seats.
type OverloadLevel struct {
	// Name is one of the built-in levels.
	Name LevelName `json:"name"`
	// Share is the level's own part of the limit in per cent, 1–90; those of all levels are at most 100 together.
	Share int `json:"share,omitempty"`
	// Queues is among how many queues the level's flows are spread; 1–1024.
	Queues int `json:"queues,omitempty"`
	// QueueLength is how many requests may wait in one queue; 1–10000.
	QueueLength int `json:"queueLength,omitempty"`
	// MaxWait is how long a request may wait before it is turned away; 100ms–30s.
	MaxWait *metav1.Duration `json:"maxWait,omitempty"`
}

// LevelName is a level of admission.
type LevelName string

// The levels, highest first.
const (
	LevelSystem      LevelName = "system"
	LevelCallbacks   LevelName = "callbacks"
	LevelInteractive LevelName = "interactive"
	LevelWorkload    LevelName = "workload"
	LevelBackground  LevelName = "background"
)

// LevelNames are all levels, highest first.
var LevelNames = []LevelName{LevelSystem, LevelCallbacks, LevelInteractive, LevelWorkload, LevelBackground}

// OverloadRule sorts what it matches into a level.
type OverloadRule struct {
	// Name is unique among the rules.
	Name string `json:"name"`
	// Match selects requests, as in limits.
	Match LimitMatch `json:"match,omitempty"`
	// Level is where they go.
	Level LevelName `json:"level"`
}

// defaultLevels are the built-in shares and queues. The system level is small in cost and must not wait: its share is half of
// an idle control plane's use and more. Waits are shorter than the shortest time limit of the level's clients.
var defaultLevels = map[LevelName]OverloadLevel{
	LevelSystem:      {Share: 30, Queues: 64, QueueLength: 50, MaxWait: &metav1.Duration{Duration: 5 * time.Second}},
	LevelCallbacks:   {Share: 10, Queues: 16, QueueLength: 50, MaxWait: &metav1.Duration{Duration: 5 * time.Second}},
	LevelInteractive: {Share: 20, Queues: 64, QueueLength: 50, MaxWait: &metav1.Duration{Duration: 10 * time.Second}},
	LevelWorkload:    {Share: 20, Queues: 64, QueueLength: 50, MaxWait: &metav1.Duration{Duration: 5 * time.Second}},
	LevelBackground:  {Share: 5, Queues: 64, QueueLength: 10, MaxWait: &metav1.Duration{Duration: 2 * time.Second}},
}

// NewGateOverload is a configuration of that mode with every default.
func NewGateOverload(mode OverloadMode) *GateOverload {
	o := &GateOverload{Mode: mode}
	o.setDefaults()
	return o
}

func (o *GateOverload) setDefaults() {
	if o.Mode == "" {
		o.Mode = OverloadEnforce
	}
	if o.Limit.Max == 0 {
		o.Limit.Max = max(600, o.Limit.Min)
	}
	if o.Limit.Min == 0 {
		o.Limit.Min = min(4, o.Limit.Max)
	}
	if o.Limit.Initial == 0 {
		o.Limit.Initial = min(max(40, o.Limit.Min), o.Limit.Max)
	}
	for _, name := range LevelNames {
		i := slices.IndexFunc(o.Levels, func(l OverloadLevel) bool { return l.Name == name })
		if i < 0 {
			i = len(o.Levels)
			o.Levels = append(o.Levels, OverloadLevel{Name: name})
		}
		l, built := &o.Levels[i], defaultLevels[name]
		if l.Share == 0 {
			l.Share = built.Share
		}
		if l.Queues == 0 {
			l.Queues = built.Queues
		}
		if l.QueueLength == 0 {
			l.QueueLength = built.QueueLength
		}
		if l.MaxWait == nil {
			l.MaxWait = &metav1.Duration{Duration: built.MaxWait.Duration}
		}
	}
}

func (o *GateOverload) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	modes := []OverloadMode{OverloadEnforce, OverloadShadow, OverloadDisabled}
	if !slices.Contains(modes, o.Mode) {
		errs = append(errs, field.NotSupported(path.Child("mode"), o.Mode, modes))
	}
	limit := path.Child("limit")
	switch l := o.Limit; {
	case l.Min < 1:
		errs = append(errs, field.Invalid(limit.Child("min"), l.Min, "must be at least 1"))
	case l.Max < l.Min || l.Max > 100_000:
		errs = append(errs, field.Invalid(limit.Child("max"), l.Max, fmt.Sprintf("must be between min (%d) and 100000", l.Min)))
	case l.Initial < l.Min || l.Initial > l.Max:
		errs = append(errs, field.Invalid(limit.Child("initial"), l.Initial, fmt.Sprintf("must be between min (%d) and max (%d)", l.Min, l.Max)))
	}
	for name, q := range map[string]*resource.Quantity{"cpu": o.CPU, "memory": o.Memory} {
		if q != nil && q.Sign() <= 0 {
			errs = append(errs, field.Invalid(path.Child(name), q.String(), "must be more than nothing"))
		}
	}
	errs = append(errs, o.validateLevels(path.Child("levels"))...)
	return append(errs, o.validateRules(path.Child("rules"))...)
}

func (o *GateOverload) validateLevels(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[LevelName]bool{}
	total := 0
	for i, l := range o.Levels {
		p := path.Index(i)
		if !slices.Contains(LevelNames, l.Name) {
			errs = append(errs, field.NotSupported(p.Child("name"), l.Name, LevelNames))
		}
		if seen[l.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), l.Name))
		}
		seen[l.Name] = true
		total += l.Share
		for name, bound := range map[string]struct{ value, least, most int }{
			"share": {l.Share, 1, 90}, "queues": {l.Queues, 1, 1024}, "queueLength": {l.QueueLength, 1, 10_000},
		} {
			if bound.value < bound.least || bound.value > bound.most {
				errs = append(errs, field.Invalid(p.Child(name), bound.value, fmt.Sprintf("must be between %d and %d", bound.least, bound.most)))
			}
		}
		if l.MaxWait != nil && (l.MaxWait.Duration < 100*time.Millisecond || l.MaxWait.Duration > 30*time.Second) {
			errs = append(errs, field.Invalid(p.Child("maxWait"), l.MaxWait.Duration.String(), "must be between 100ms and 30s"))
		}
	}
	if total > 100 {
		errs = append(errs, field.Invalid(path, total, "the shares of all levels, the built-in ones of levels left out included, must be at most 100 together"))
	}
	return errs
}

func (o *GateOverload) validateRules(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range o.Rules {
		r, p := &o.Rules[i], path.Index(i)
		errs = append(errs, required(r.Name, p.Child("name"), "metrics name the rule")...)
		if seen[r.Name] {
			errs = append(errs, field.Duplicate(p.Child("name"), r.Name))
		}
		seen[r.Name] = true
		if !slices.Contains(LevelNames, r.Level) {
			errs = append(errs, field.NotSupported(p.Child("level"), r.Level, LevelNames))
		}
		if len(r.Match.UserAgents) > 0 && r.Level != LevelBackground {
			errs = append(errs, field.Invalid(p.Child("level"), r.Level, "must be background where a user agent is matched: anyone may send any"))
		}
		errs = append(errs, r.Match.validate(p.Child("match"))...)
	}
	return errs
}
