package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// LimitAction is what a rule does with what it matches.
type LimitAction string

// The actions of a rule.
const (
	LimitAllow    LimitAction = "Allow"
	LimitDeny     LimitAction = "Deny"
	LimitThrottle LimitAction = "Throttle"
)

// LimitKey says who shares one bucket of a throttling rule.
type LimitKey string

// The keys of a bucket.
const (
	PerUser      LimitKey = "User"
	PerUserAgent LimitKey = "UserAgent"
	PerSource    LimitKey = "Source"
	PerRule      LimitKey = "Rule"
)

// LimitRule matches requests and says what happens to them.
type LimitRule struct {
	// Name is unique among all rules; rejected clients are told it.
	Name string `json:"name"`
	// Match selects requests; every field given must match, an empty Match matches everything.
	Match LimitMatch `json:"match,omitempty"`
	// Action is Allow, Deny or Throttle.
	Action LimitAction `json:"action"`
	// Throttle is required with, and only allowed with, action Throttle.
	Throttle *Throttle `json:"throttle,omitempty"`
}

// LimitMatch selects requests. Within a list any entry may match; across fields all must. A user agent is a claim:
// rules that match one may deny or throttle, never allow.
type LimitMatch struct {
	// UserAgents are globs over the whole User-Agent header: * matches any run of characters, ? one.
	UserAgents []string `json:"userAgents,omitempty"`
	// Users are globs over the user name. Unverified callers have the name "unverified:<source address>".
	Users []string `json:"users,omitempty"`
	// Groups are exact group names.
	Groups []string `json:"groups,omitempty"`
	// ServiceAccountNamespaces match callers that are service accounts of these namespaces.
	ServiceAccountNamespaces []string `json:"serviceAccountNamespaces,omitempty"`
	// Verbs are Kubernetes verbs (get, list, watch, create, update, patch, delete, deletecollection), or for
	// non-resource requests the lower-case HTTP method. "list" also matches a watch that asks for initial
	// events, because it costs the API server a LIST.
	Verbs []string `json:"verbs,omitempty"`
	// Resources are plural resource names, "resource/subresource", "*" or "*/subresource"; "resource" alone does
	// not match its subresources.
	Resources []string `json:"resources,omitempty"`
	// APIGroups are API groups; "" is core, "*" any.
	APIGroups []string `json:"apiGroups,omitempty"`
	// Names match a single object's name, globs.
	Names []string `json:"names,omitempty"`
	// Namespaces are globs; requests over all namespaces match only through Scopes.
	Namespaces []string `json:"namespaces,omitempty"`
	// Scopes are Object, Namespace, Cluster (a collection over all namespaces, or of a cluster-scoped resource,
	// without a selector on metadata.name) and NonResource.
	Scopes []RequestScope `json:"scopes,omitempty"`
	// NonResourcePaths are globs over the path of non-resource requests.
	NonResourcePaths []string `json:"nonResourcePaths,omitempty"`
	// SourceCIDRs match the client's address.
	SourceCIDRs []string `json:"sourceCIDRs,omitempty"`
	// OwnNode is true to match only what a node (system:node:<name>) does to objects named like itself.
	OwnNode bool `json:"ownNode,omitempty"`
}

// RequestScope is how much of the cluster a request covers.
type RequestScope string

// The scopes of a request.
const (
	ScopeObject      RequestScope = "Object"
	ScopeNamespace   RequestScope = "Namespace"
	ScopeCluster     RequestScope = "Cluster"
	ScopeNonResource RequestScope = "NonResource"
)

// Throttle bounds what a bucket may take. At least one bound is required; one that is left out does not bind.
type Throttle struct {
	// RequestsPerSecond is the sustained rate, > 0.
	RequestsPerSecond *float64 `json:"requestsPerSecond,omitempty"`
	// Burst is how many requests may come at once; default max(1, RequestsPerSecond).
	Burst *int `json:"burst,omitempty"`
	// Concurrency is how many may run at once, ≥ 1. A watch holds its place while it sends initial events only.
	Concurrency *int `json:"concurrency,omitempty"`
	// BytesPerSecond is the sustained response rate, ≥ 1Ki. Responses are never cut or slowed: what they take beyond
	// the balance is a debt, and the bucket admits again when it is paid.
	BytesPerSecond *resource.Quantity `json:"bytesPerSecond,omitempty"`
	// BurstBytes is the balance an idle bucket holds; default BytesPerSecond × 1 s.
	BurstBytes *resource.Quantity `json:"burstBytes,omitempty"`
	// Per is who shares a bucket; default User.
	Per LimitKey `json:"per,omitempty"`
}

func (r *LimitRule) setDefaults() {}

func validateLimitRules(rules []LimitRule, path *field.Path) field.ErrorList { return nil }
