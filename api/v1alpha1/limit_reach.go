package v1alpha1

import (
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// This file finds rules that can never do anything. A rule that silently matches nothing is the worst kind in an
// outage: whoever wrote it believes to be protected.

const (
	serviceAccountPrefix = "system:serviceaccount:"
	nodePrefix           = "system:node:"
)

// validateReach finds fields that can never be true together.
func (m *LimitMatch) validateReach(path *field.Path) field.ErrorList {
	var errs field.ErrorList
	never := func(child, why string) {
		errs = append(errs, field.Invalid(path.Child(child), field.OmitValueType{}, "can never match: "+why))
	}
	onResources := m.resourceField()
	if len(m.NonResourcePaths) > 0 {
		if onResources != "" {
			never("nonResourcePaths", "a request has either a path of its own or "+onResources)
		}
		if len(m.Scopes) > 0 && !slices.Contains(m.Scopes, ScopeNonResource) {
			never("scopes", "with nonResourcePaths it must contain NonResource")
		}
		if len(m.Verbs) > 0 && !containsAny(m.Verbs, nonResourceVerbs) {
			never("verbs", "requests outside the resource API have the HTTP method in lower case as their verb")
		}
	}
	if onResources != "" && len(m.Verbs) > 0 && !containsAny(m.Verbs, resourceVerbs) {
		never("verbs", "requests for "+onResources+" have Kubernetes verbs (create, not post)")
	}
	if onResources != "" && len(m.Scopes) > 0 && !containsAny(m.Scopes, []RequestScope{ScopeObject, ScopeNamespace, ScopeCluster}) {
		never("scopes", "NonResource excludes "+onResources)
	}
	if (len(m.Names) > 0 || m.OwnNode) && len(m.Scopes) > 0 && !slices.Contains(m.Scopes, ScopeObject) {
		never("scopes", "a request for a named object has the scope Object")
	}
	if len(m.Names) > 0 && len(m.Resources) > 0 && onlyVerb(m.Verbs, "create") && !slices.ContainsFunc(m.Resources, reachesSubresource) {
		never("names", "a create carries no name in its path")
	}
	if len(m.Namespaces) > 0 && onlyScope(m.Scopes, ScopeCluster) {
		never("namespaces", "a request of scope Cluster is in no namespace")
	}
	m.validateCallers(never)
	return errs
}

// validateCallers finds callers that cannot exist.
func (m *LimitMatch) validateCallers(never func(child, why string)) {
	anyUser := func(pattern string) bool {
		return len(m.Users) == 0 || slices.ContainsFunc(m.Users, func(u string) bool { return globsOverlap(u, pattern) })
	}
	if m.OwnNode {
		if !anyUser(nodePrefix + "?*") {
			never("ownNode", "no entry of users can be a node, "+nodePrefix+"<name>")
		}
		if len(m.ServiceAccountNamespaces) > 0 {
			never("ownNode", "a node is not a service account")
		}
		if len(m.NonResourcePaths) > 0 {
			never("ownNode", "a path is not an object named like a node")
		}
		if onlyVerb(m.Verbs, "deletecollection") {
			never("ownNode", "a collection has no name")
		}
	}
	if len(m.Pods) > 0 && !anyUser(serviceAccountPrefix+"?*:?*") {
		never("pods", "only service accounts have tokens that name a pod, and no entry of users can be one")
	}
	if len(m.ServiceAccountNamespaces) > 0 && len(m.Users) > 0 &&
		!slices.ContainsFunc(m.ServiceAccountNamespaces, func(ns string) bool { return anyUser(serviceAccountPrefix + ns + ":?*") }) {
		never("serviceAccountNamespaces", "no entry of users can be a service account of these namespaces")
	}
}

// resourceField is the first field given that only requests for resources have, for messages.
func (m *LimitMatch) resourceField() string {
	switch {
	case len(m.Resources) > 0:
		return "resources"
	case len(m.APIGroups) > 0:
		return "apiGroups"
	case len(m.Namespaces) > 0:
		return "namespaces"
	case len(m.Names) > 0:
		return "names"
	}
	return ""
}

func reachesSubresource(r string) bool { return r == "*" || strings.Contains(r, "/") }

func onlyVerb(verbs []string, verb string) bool { return len(verbs) > 0 && !containsOther(verbs, verb) }

func onlyScope(scopes []RequestScope, scope RequestScope) bool {
	return len(scopes) > 0 && !containsOther(scopes, scope)
}

func containsOther[T comparable](list []T, one T) bool {
	return slices.ContainsFunc(list, func(x T) bool { return x != one })
}

func containsAny[T comparable](list, of []T) bool {
	return slices.ContainsFunc(list, func(x T) bool { return slices.Contains(of, x) })
}

// shadowedBy returns the name of an earlier rule that decides everything r selects, or "". It never accuses wrongly:
// where it cannot tell it says "".
func shadowedBy(earlier []LimitRule, r *LimitRule) string {
	for i := range earlier {
		if e := &earlier[i]; e.decides() && e.Match.covers(&r.Match) {
			return e.Name
		}
	}
	return ""
}

// decides is false for rules after which the search goes on.
func (r *LimitRule) decides() bool {
	return r.Mode != Shadow && (r.Action == LimitDeny || len(r.Match.UserAgents) == 0)
}

// covers is true when everything other selects is selected by m as well.
func (m *LimitMatch) covers(other *LimitMatch) bool {
	return coversGlobs(m.UserAgents, other.UserAgents) &&
		coversGlobs(m.Users, other.Users) &&
		coversAll(m.Groups, other.Groups) &&
		coversAll(m.ServiceAccountNamespaces, other.ServiceAccountNamespaces) &&
		coversGlobs(m.Pods, other.Pods) &&
		coversAll(m.Verbs, other.Verbs) &&
		coversBy(m.Resources, other.Resources, coversResource) &&
		coversBy(m.APIGroups, other.APIGroups, func(a, b string) bool { return a == b || a == "*" }) &&
		coversGlobs(m.Names, other.Names) &&
		coversGlobs(m.Namespaces, other.Namespaces) &&
		(coversAll(m.Scopes, other.Scopes) || !containsMissing(scopes, m.Scopes)) &&
		coversGlobs(m.NonResourcePaths, other.NonResourcePaths) &&
		coversBy(m.SourceCIDRs, other.SourceCIDRs, coversCIDR) &&
		coversAll(m.lanes(), other.lanes()) &&
		(!m.OwnNode || other.OwnNode)
}

func (m *LimitMatch) lanes() []LaneName {
	if len(m.Lanes) == 0 {
		return []LaneName{LaneStandard}
	}
	return m.Lanes
}

func containsMissing[T comparable](all, list []T) bool {
	return slices.ContainsFunc(all, func(x T) bool { return !slices.Contains(list, x) })
}

// coversBy is true when every entry of b lies within one of a; an empty list is everything.
func coversBy[T any](a, b []T, within func(a, b T) bool) bool {
	if len(a) == 0 {
		return true
	}
	if len(b) == 0 {
		return false
	}
	for _, y := range b {
		if !slices.ContainsFunc(a, func(x T) bool { return within(x, y) }) {
			return false
		}
	}
	return true
}

func coversAll[T comparable](a, b []T) bool {
	return coversBy(a, b, func(x, y T) bool { return x == y })
}

func coversGlobs(a, b []string) bool { return coversBy(a, b, globCovers) }

func coversResource(a, b string) bool {
	if a == b || a == "*" {
		return true
	}
	aResource, aSub, _ := strings.Cut(a, "/")
	bResource, bSub, _ := strings.Cut(b, "/")
	if b == "*" {
		bSub = "*"
	}
	return (aResource == "*" || aResource == bResource) && (aSub == bSub || aSub == "*")
}

func coversCIDR(a, b string) bool {
	pa, pb := prefixOf(a), prefixOf(b)
	return pa.IsValid() && pb.IsValid() && pa.Bits() <= pb.Bits() && pa.Contains(pb.Addr())
}
