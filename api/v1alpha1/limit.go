package v1alpha1

import (
	"math"

	"k8s.io/apimachinery/pkg/api/resource"
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

// Mode is whether a rule acts, or only counts whom it would have hurt.
type Mode string

// The modes.
const (
	// Enforce acts.
	Enforce Mode = "Enforce"
	// Shadow counts and names whom it would have turned away, and turns nobody away.
	Shadow Mode = "Shadow"
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
	// Mode is Enforce (the default) or Shadow: the rule keeps its buckets and counts whom it would have turned away
	// (`seakeep gate shadow`), turns nobody away, and leaves the request to the rules after it. Not with action Allow.
	Mode Mode `json:"mode,omitempty"`
}

// LimitMatch selects requests. Within a list any entry may match; across fields all must. A user agent is a claim:
// rules that match one may deny or throttle, never allow, and a request that such a throttle admits goes on to the
// rules after it.
type LimitMatch struct {
	// UserAgents are globs over the whole User-Agent header: * matches any run of characters, ? one.
	UserAgents []string `json:"userAgents,omitempty"`
	// Users are globs over the user name. Unverified callers have the name "unverified:<source address>".
	Users []string `json:"users,omitempty"`
	// Groups are exact group names.
	Groups []string `json:"groups,omitempty"`
	// ServiceAccountNamespaces match callers that are service accounts of these namespaces.
	ServiceAccountNamespaces []string `json:"serviceAccountNamespaces,omitempty"`
	// Pods match service accounts by the pod that their token was issued to, globs over "namespace/name"; tokens that name
	// none match no entry. It tells pods of one service account apart, as those of a new revision from the old one's.
	Pods []string `json:"pods,omitempty"`
	// Verbs are Kubernetes verbs (get, list, watch, create, update, patch, delete, deletecollection), or for
	// non-resource requests the lower-case HTTP method. "list" also matches a watch that asks for initial
	// events, because it costs the API server a LIST.
	Verbs []string `json:"verbs,omitempty"`
	// Resources are plural resource names, "resource/subresource", "resource/*", "*/subresource", or "*" for all,
	// subresources included; "resource" alone does not match its subresources.
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
	// Lanes are the lanes meant, Standard and BreakGlass; left out, Standard only, so that no rule reaches the
	// break-glass lane unless it says so, and such a rule may not deny.
	Lanes []LaneName `json:"lanes,omitempty"`
	// OwnNode is true to match only what a node (system:node:<name>) does to objects named like itself, and what it
	// creates: a create carries no name in its path.
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

// LaneName is a way into the gate.
type LaneName string

// The lanes.
const (
	LaneStandard   LaneName = "Standard"
	LaneBreakGlass LaneName = "BreakGlass"
)

// Throttle bounds what a bucket may take. At least one bound is required; one that is left out does not bind.
type Throttle struct {
	// RequestsPerSecond is the sustained rate, > 0.
	RequestsPerSecond *float64 `json:"requestsPerSecond,omitempty"`
	// Burst is how many requests may come at once; default max(1, RequestsPerSecond).
	Burst *int `json:"burst,omitempty"`
	// Concurrency is how many may run at once, ≥ 1. A watch holds its place while it sends initial events only. A
	// request that finds only the places taken waits up to 1 s for one before it is rejected.
	Concurrency *int `json:"concurrency,omitempty"`
	// BytesPerSecond is the sustained response rate, counted before compression, ≥ 1Ki. Responses are never cut or slowed: what they take beyond
	// the balance is a debt, and the bucket admits again when it is paid.
	BytesPerSecond *resource.Quantity `json:"bytesPerSecond,omitempty"`
	// BurstBytes is the balance an idle bucket holds; default BytesPerSecond × 1 s.
	BurstBytes *resource.Quantity `json:"burstBytes,omitempty"`
	// Per is who shares a bucket; default User. With UserAgent all who show the same user agent share one, and each
	// caller has one of the same size besides, so that changing the user agent gains nothing. An unverified caller's
	// bucket is its address's, for IPv6 its /64's.
	Per LimitKey `json:"per,omitempty"`
}

// SetDefaults fills what the user left out of the rule. It is idempotent.
func (r *LimitRule) SetDefaults() {
	if r.Mode == "" {
		r.Mode = Enforce
	}
	if r.Throttle != nil {
		r.Throttle.setDefaults()
	}
}

func (t *Throttle) setDefaults() {
	if t.Per == "" {
		t.Per = PerUser
	}
	if t.RequestsPerSecond != nil && t.Burst == nil {
		// Kept within int for a rate that Validate refuses.
		burst := int(max(1, min(maxRequestsPerSecond, math.Ceil(*t.RequestsPerSecond))))
		t.Burst = &burst
	}
	if t.BytesPerSecond != nil && t.BurstBytes == nil {
		burst := t.BytesPerSecond.DeepCopy()
		t.BurstBytes = &burst
	}
}
