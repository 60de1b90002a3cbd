package v1alpha1

import (
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How long an emergency rule may live, and how long its reason may be: it is sent to every client that is turned away.
const (
	MinEmergencyDuration = time.Second
	MaxEmergencyDuration = 24 * time.Hour
	maxReason            = 500
)

var emergencyActions = []EmergencyAction{EmergencyThrottle, EmergencyBlock, EmergencyLockdown, EmergencyPassthrough}

// SetDefaults fills what the user left out. It is idempotent.
func (r *EmergencyRule) SetDefaults() {
	if r.Throttle != nil {
		r.Throttle.setDefaults()
	}
}

// Validate returns every violation in what a user sets. What would lock out those who repair is refused here as far
// as the rule alone shows it; whether it would lock out its own author the gate knows.
func (r *EmergencyRule) Validate() field.ErrorList {
	var errs field.ErrorList
	if !slices.Contains(emergencyActions, r.Action) {
		errs = append(errs, field.NotSupported(field.NewPath("action"), r.Action, emergencyActions))
	}
	switch reason := field.NewPath("reason"); {
	case strings.TrimSpace(r.Reason) == "":
		errs = append(errs, field.Required(reason, "it goes to the audit log and to the clients that are turned away"))
	case len(r.Reason) > maxReason:
		errs = append(errs, field.TooLong(reason, "", maxReason))
	case strings.ContainsFunc(r.Reason, unicode.IsControl):
		errs = append(errs, field.Invalid(reason, r.Reason, "must be one line without control characters"))
	}
	if d := r.Duration.Duration; d < MinEmergencyDuration || d > MaxEmergencyDuration {
		errs = append(errs, field.Invalid(field.NewPath("duration"), d.String(), "must be between 1s and 24h: every emergency rule ends by itself"))
	}
	switch {
	case r.Mode != "" && r.Mode != Enforce && r.Mode != Shadow:
		errs = append(errs, field.NotSupported(field.NewPath("mode"), r.Mode, []Mode{Enforce, Shadow}))
	case r.Mode == Shadow && r.Action == EmergencyPassthrough:
		errs = append(errs, field.Forbidden(field.NewPath("mode"), "not Shadow with Passthrough, which turns nobody away"))
	}
	errs = append(errs, r.validateMatch()...)
	errs = append(errs, r.validateThrottle()...)
	return append(errs, r.validateExceptions()...)
}

func (r *EmergencyRule) validateMatch() field.ErrorList {
	path := field.NewPath("match")
	given := !reflect.ValueOf(r.Match).IsZero()
	if r.Action == EmergencyLockdown || r.Action == EmergencyPassthrough {
		if given {
			return field.ErrorList{field.Forbidden(path, "only with Throttle and Block: "+string(r.Action)+" is for everyone")}
		}
		return nil
	}
	if !given {
		return field.ErrorList{field.Required(path, "at least one field; to deny everyone but those who repair, use Lockdown")}
	}
	errs := r.Match.validate(path)
	if slices.Contains(r.Match.Lanes, LaneBreakGlass) {
		errs = append(errs, field.Forbidden(path.Child("lanes"), "not BreakGlass: it would lock out those who repair"))
	}
	if len(errs) == 0 && r.Action == EmergencyBlock && r.Match.isEveryone() {
		errs = append(errs, field.Invalid(path, field.OmitValueType{},
			"it would lock out everyone, those who repair among them; use Lockdown and name them in exceptUsers or exceptGroups"))
	}
	return errs
}

func (r *EmergencyRule) validateThrottle() field.ErrorList {
	path := field.NewPath("throttle")
	switch {
	case r.Action == EmergencyThrottle && r.Throttle == nil:
		return field.ErrorList{field.Required(path, "at least one of requestsPerSecond, concurrency and bytesPerSecond")}
	case r.Action == EmergencyThrottle:
		return r.Throttle.validate(path)
	case r.Throttle != nil:
		return field.ErrorList{field.Forbidden(path, "only with action Throttle")}
	}
	return nil
}

func (r *EmergencyRule) validateExceptions() field.ErrorList {
	errs := append(validatePatterns(r.ExceptUsers, field.NewPath("exceptUsers")),
		validatePatterns(r.ExceptGroups, field.NewPath("exceptGroups"))...)
	for i, u := range r.ExceptUsers {
		if strings.Trim(u, "*?") == "" && u != "" {
			errs = append(errs, field.Invalid(field.NewPath("exceptUsers").Index(i), u, "would except everyone: the lockdown would do nothing"))
		}
	}
	for i, g := range r.ExceptGroups {
		switch {
		case strings.ContainsAny(g, "*?"):
			errs = append(errs, field.Invalid(field.NewPath("exceptGroups").Index(i), g, "must be a group's exact name; groups know no globs"))
		case g == "system:authenticated":
			errs = append(errs, field.Invalid(field.NewPath("exceptGroups").Index(i), g, "would except everyone: the lockdown would do nothing"))
		}
	}
	excepts := len(r.ExceptUsers) + len(r.ExceptGroups)
	if r.Action == EmergencyLockdown && excepts == 0 {
		errs = append(errs, field.Required(field.NewPath("exceptUsers"),
			"exceptUsers or exceptGroups: without either it would lock out those who repair"))
	}
	if r.Action != EmergencyLockdown && excepts > 0 {
		errs = append(errs, field.Forbidden(field.NewPath("exceptUsers"), "only with action Lockdown"))
	}
	return errs
}

// isEveryone is true when every field given matches everything, so that the match as a whole narrows nothing.
func (m *LimitMatch) isEveryone() bool {
	all := func(patterns []string) bool {
		return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool { return strings.Trim(p, "*") == "" })
	}
	everyGroup := func(groups []string) bool {
		return len(groups) == 0 || slices.Contains(groups, "system:authenticated")
	}
	everySource := len(m.SourceCIDRs) == 0 || slices.ContainsFunc(m.SourceCIDRs, func(c string) bool { return strings.HasSuffix(c, "/0") })
	return all(m.UserAgents) && all(m.Users) && everyGroup(m.Groups) && len(m.ServiceAccountNamespaces) == 0 && len(m.Pods) == 0 &&
		(len(m.Verbs) == 0 || !containsMissing(resourceVerbs[:8], m.Verbs)) &&
		(all(m.Resources) || slices.Contains(m.Resources, "*/*")) && all(m.APIGroups) &&
		len(m.Names) == 0 && len(m.Namespaces) == 0 && len(m.NonResourcePaths) == 0 &&
		(len(m.Scopes) == 0 || !containsMissing(scopes[:3], m.Scopes)) && everySource && !m.OwnNode
}
