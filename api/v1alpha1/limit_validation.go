package v1alpha1

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of what a rule may say. They are wide: their purpose is to catch a slip of the unit or of a paste.
const (
	maxRequestsPerSecond = 1e6
	maxBurst             = 10_000_000
	maxConcurrency       = 100_000
	minBytesPerSecond    = 1 << 10
	maxPattern           = 256
	maxEntries           = 1000
)

// ShippedPrefix begins the names of the rules that ship with Seakeep, so that no operator's rule is taken for one.
const ShippedPrefix = "seakeep-"

var (
	ruleName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9._]{0,61}[a-z0-9])?$`)

	resourceVerbs    = []string{"get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy"}
	nonResourceVerbs = []string{"get", "head", "post", "put", "patch", "delete", "options", "trace"}
	resourceName     = regexp.MustCompile(`^(\*|[a-z0-9]([-a-z0-9.]*[a-z0-9])?)(/(\*|[a-z0-9]([-a-z0-9.]*[a-z0-9])?))?$`)
)

// validateLimitRules checks the operator's rules.
func validateLimitRules(rules []LimitRule, path *field.Path) field.ErrorList {
	errs := ValidateLimitRules(rules, path)
	for i := range rules {
		if strings.HasPrefix(rules[i].Name, ShippedPrefix) {
			errs = append(errs, field.Invalid(path.Index(i).Child("name"), rules[i].Name,
				"must not begin with "+ShippedPrefix+": those are the rules that ship with Seakeep"))
		}
	}
	return errs
}

// ValidateLimitRules checks an ordered list of rules, each by itself and against those before it. The rules must have
// their defaults.
func ValidateLimitRules(rules []LimitRule, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range rules {
		r, p := &rules[i], path.Index(i)
		own := r.validate(p)
		if seen.Has(r.Name) {
			own = append(own, field.Duplicate(p.Child("name"), r.Name))
		}
		seen.Insert(r.Name)
		if len(own) == 0 {
			if by := shadowedBy(rules[:i], r); by != "" {
				own = append(own, field.Invalid(p.Child("match"), field.OmitValueType{},
					fmt.Sprintf("can never match: rule %q before it decides everything it selects", by)))
			}
		}
		errs = append(errs, own...)
	}
	return errs
}

func (r *LimitRule) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case r.Name == "":
		errs = append(errs, field.Required(path.Child("name"), "rejected clients are told it"))
	case !ruleName.MatchString(r.Name):
		errs = append(errs, field.Invalid(path.Child("name"), r.Name,
			"must be at most 63 lower-case letters, digits, '-', '.' or '_', and begin and end with a letter or digit"))
	}
	errs = append(errs, r.Match.validate(path.Child("match"))...)
	switch r.Action {
	case LimitThrottle:
		if r.Throttle == nil {
			errs = append(errs, field.Required(path.Child("throttle"), "action Throttle needs at least one bound"))
		} else {
			errs = append(errs, r.Throttle.validate(path.Child("throttle"))...)
		}
	case LimitAllow, LimitDeny:
		if r.Throttle != nil {
			errs = append(errs, field.Forbidden(path.Child("throttle"), fmt.Sprintf("only with action Throttle, and this is %s", r.Action)))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("action"), r.Action, []LimitAction{LimitAllow, LimitDeny, LimitThrottle}))
	}
	switch {
	case r.Mode != "" && r.Mode != Enforce && r.Mode != Shadow:
		errs = append(errs, field.NotSupported(path.Child("mode"), r.Mode, []Mode{Enforce, Shadow}))
	case r.Mode == Shadow && r.Action == LimitAllow:
		errs = append(errs, field.Forbidden(path.Child("mode"), "not Shadow with action Allow, which turns nobody away"))
	}
	if r.Action == LimitAllow && len(r.Match.UserAgents) > 0 {
		errs = append(errs, field.Forbidden(path.Child("match", "userAgents"),
			"not with action Allow: a user agent is whatever the client says it is, so it may tighten and never loosen"))
	}
	if r.Action == LimitDeny && slices.Contains(r.Match.Lanes, LaneBreakGlass) {
		errs = append(errs, field.Forbidden(path.Child("match", "lanes"),
			"not BreakGlass with action Deny: it would lock out those who repair"))
	}
	return errs
}

func (t *Throttle) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.RequestsPerSecond == nil && t.Concurrency == nil && t.BytesPerSecond == nil {
		errs = append(errs, field.Required(path, "at least one of requestsPerSecond, concurrency and bytesPerSecond"))
	}
	if r := t.RequestsPerSecond; r != nil && !(*r > 0 && *r <= maxRequestsPerSecond) || r != nil && math.IsNaN(*r) {
		errs = append(errs, field.Invalid(path.Child("requestsPerSecond"), *r, "must be > 0 and ≤ 1000000; to stop all, use action Deny"))
	}
	if b := t.Burst; b != nil {
		if *b < 1 || *b > maxBurst {
			errs = append(errs, field.Invalid(path.Child("burst"), *b, "must be between 1 and 10000000"))
		}
		if t.RequestsPerSecond == nil {
			errs = append(errs, field.Forbidden(path.Child("burst"), "only with requestsPerSecond, which fills it again"))
		}
	}
	if c := t.Concurrency; c != nil && (*c < 1 || *c > maxConcurrency) {
		errs = append(errs, field.Invalid(path.Child("concurrency"), *c, "must be between 1 and 100000"))
	}
	if q := t.BytesPerSecond; q != nil && q.CmpInt64(minBytesPerSecond) < 0 {
		errs = append(errs, field.Invalid(path.Child("bytesPerSecond"), q.String(), "must be ≥ 1Ki"))
	}
	if q := t.BurstBytes; q != nil {
		if q.CmpInt64(minBytesPerSecond) < 0 {
			errs = append(errs, field.Invalid(path.Child("burstBytes"), q.String(), "must be ≥ 1Ki"))
		}
		if t.BytesPerSecond == nil {
			errs = append(errs, field.Forbidden(path.Child("burstBytes"), "only with bytesPerSecond, which fills it again"))
		}
	}
	if per := []LimitKey{PerUser, PerUserAgent, PerSource, PerRule}; !slices.Contains(per, t.Per) {
		errs = append(errs, field.NotSupported(path.Child("per"), t.Per, per))
	}
	return errs
}

// validate checks each field by itself, and then, when all are good, that they can be true together.
func (m *LimitMatch) validate(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for name, patterns := range map[string][]string{
		"userAgents": m.UserAgents, "users": m.Users, "names": m.Names, "namespaces": m.Namespaces,
		"nonResourcePaths": m.NonResourcePaths, "groups": m.Groups, "pods": m.Pods,
	} {
		errs = append(errs, validatePatterns(patterns, path.Child(name))...)
	}
	for i, g := range m.Groups {
		if strings.ContainsAny(g, "*?") {
			errs = append(errs, field.Invalid(path.Child("groups").Index(i), g, "must be a group's exact name; groups know no globs"))
		}
	}
	for i, p := range m.NonResourcePaths {
		if !strings.HasPrefix(p, "/") && !strings.HasPrefix(p, "*") {
			errs = append(errs, field.Invalid(path.Child("nonResourcePaths").Index(i), p, "can never match: every path begins with /"))
		}
	}
	for i, ns := range m.ServiceAccountNamespaces {
		if problems := validation.IsDNS1123Label(ns); len(problems) > 0 {
			errs = append(errs, field.Invalid(path.Child("serviceAccountNamespaces").Index(i), ns, "must be a namespace's exact name: "+problems[0]))
		}
	}
	for i, pod := range m.Pods {
		if !strings.Contains(pod, "/") && !strings.Contains(pod, "*") {
			errs = append(errs, field.Invalid(path.Child("pods").Index(i), pod, "can never match: must be namespace/name"))
		}
	}
	known := sets.New(resourceVerbs...).Insert(nonResourceVerbs...)
	for i, v := range m.Verbs {
		if !known.Has(v) {
			errs = append(errs, field.NotSupported(path.Child("verbs").Index(i), v, sets.List(known)))
		}
	}
	for i, r := range m.Resources {
		if !resourceName.MatchString(r) {
			errs = append(errs, field.Invalid(path.Child("resources").Index(i), r,
				`must be a lower-case plural name, "resource/subresource", "resource/*", "*/subresource" or "*"`))
		}
	}
	for i, g := range m.APIGroups {
		if g == "" || g == "*" {
			continue
		}
		if problems := validation.IsDNS1123Subdomain(g); len(problems) > 0 {
			errs = append(errs, field.Invalid(path.Child("apiGroups").Index(i), g, `must be an API group, "" for core, or "*": `+problems[0]))
		}
	}
	for i, s := range m.Scopes {
		if !slices.Contains(scopes, s) {
			errs = append(errs, field.NotSupported(path.Child("scopes").Index(i), s, scopes))
		}
	}
	for i, l := range m.Lanes {
		if lanes := []LaneName{LaneStandard, LaneBreakGlass}; !slices.Contains(lanes, l) {
			errs = append(errs, field.NotSupported(path.Child("lanes").Index(i), l, lanes))
		}
	}
	for i, c := range m.SourceCIDRs {
		if problem := cidrProblem(c); problem != "" {
			errs = append(errs, field.Invalid(path.Child("sourceCIDRs").Index(i), c, problem))
		}
	}
	if len(errs) > 0 {
		slices.SortFunc(errs, func(a, b *field.Error) int { return strings.Compare(a.Field, b.Field) })
		return errs
	}
	return m.validateReach(path)
}

var scopes = []RequestScope{ScopeObject, ScopeNamespace, ScopeCluster, ScopeNonResource}

func validatePatterns(patterns []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(patterns) > maxEntries {
		errs = append(errs, field.TooMany(path, len(patterns), maxEntries))
	}
	for i, p := range patterns {
		switch {
		case p == "":
			errs = append(errs, field.Invalid(path.Index(i), p, `must not be empty; leave the field out, or write "*"`))
		case len(p) > maxPattern:
			errs = append(errs, field.TooLong(path.Index(i), "", maxPattern))
		case strings.ContainsFunc(p, unicode.IsControl):
			errs = append(errs, field.Invalid(path.Index(i), p, "must not contain control characters"))
		}
	}
	return errs
}

// cidrProblem says what is wrong with a CIDR and, where it can be guessed, what was meant.
func cidrProblem(cidr string) string {
	prefix, err := netip.ParsePrefix(cidr)
	if err != nil {
		if addr, err := netip.ParseAddr(cidr); err == nil && addr.Zone() == "" {
			return fmt.Sprintf("must be a CIDR; for this one address write %s/%d", addr, addr.BitLen())
		}
		return "must be a CIDR such as 10.0.0.0/8 or fd00::/8"
	}
	if prefix.Addr().Is4In6() {
		return "can never match: addresses are compared as IPv4; write the IPv4 CIDR"
	}
	if prefix != prefix.Masked() {
		return fmt.Sprintf("has bits set beyond its length; write %s, or %s/%d for the one address",
			prefix.Masked(), prefix.Addr(), prefix.Addr().BitLen())
	}
	return ""
}
