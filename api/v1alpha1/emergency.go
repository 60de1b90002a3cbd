package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EmergencyAction is what an emergency rule does to the standard lane.
type EmergencyAction string

// The emergency actions. They stand before every configured rule, in force on the next request.
const (
	// EmergencyThrottle bounds what the match takes, besides what the configured rules allow it. What is never
	// delayed by default (a node's own lease and status, leader election, reviews) it reaches only when Match names
	// resources: a throttle of everyone must not cost a cluster its nodes.
	EmergencyThrottle EmergencyAction = "Throttle"
	// EmergencyBlock denies what the match selects and ends its open requests.
	EmergencyBlock EmergencyAction = "Block"
	// EmergencyLockdown denies everyone but the users and groups named in Except, and ends their open requests. What
	// is never delayed by default still passes: with no leases every node would turn NotReady, and every Service
	// would lose its endpoints, as soon as a controller is let in again.
	EmergencyLockdown EmergencyAction = "Lockdown"
	// EmergencyPassthrough switches every limit off, for the day Seakeep itself is the suspect.
	EmergencyPassthrough EmergencyAction = "Passthrough"
)

// EmergencyRule is one emergency action on a gate: what `seakeep emergency` sends and what the gate keeps in its
// state directory over a restart. Every rule ends by itself.
type EmergencyRule struct {
	// ID is given by the gate: short, unique, used to lift the rule.
	ID string `json:"id,omitempty"`
	// Action decides which of the fields below apply.
	Action EmergencyAction `json:"action"`
	// Match selects requests for Throttle and Block; at least one field.
	Match LimitMatch `json:"match,omitempty"`
	// Throttle bounds them.
	Throttle *Throttle `json:"throttle,omitempty"`
	// Mode is Enforce (the default) or Shadow: nobody is turned away and no request ended; whom the rule would have
	// turned away is counted (`seakeep gate shadow`). Not with Passthrough.
	Mode Mode `json:"mode,omitempty"`
	// ExceptUsers and ExceptGroups may still enter during a Lockdown.
	ExceptUsers  []string `json:"exceptUsers,omitempty"`
	ExceptGroups []string `json:"exceptGroups,omitempty"`
	// Reason is required and goes to the audit chain and to the clients that are rejected.
	Reason string `json:"reason"`
	// Duration is how long the rule lives, 1s–24h.
	Duration metav1.Duration `json:"duration"`
	// By and Created are filled in by the gate; Expires = Created + Duration, on the wall clock, so that a restart
	// does not prolong it.
	By      string      `json:"by,omitempty"`
	Created metav1.Time `json:"created,omitempty"`
	Expires metav1.Time `json:"expires,omitempty"`
}

// EmergencyStatus is what the admin endpoint answers to "what is going on here": whom the gate turns away comes
// first, because an engineer who suspects Seakeep needs that before anything else.
type EmergencyStatus struct {
	// Rejected are the clients turned away in the last minute, most often first.
	Rejected []RejectedClient `json:"rejected"`
	// Rules are the emergency rules in force.
	Rules []EmergencyRule `json:"rules"`
	// SqueezedUntil is set while the standard lane makes room for the break-glass lane.
	SqueezedUntil *metav1.Time `json:"squeezedUntil,omitempty"`
	// Warnings say what does not work as it should: state that is not durable, a broken audit chain.
	Warnings []string `json:"warnings,omitempty"`
	// Time is the gate's wall clock.
	Time metav1.Time `json:"time"`
	// Version is the gate's.
	Version string `json:"version,omitempty"`
}

// RejectedClient is one client turned away by one rule in the last minute.
type RejectedClient struct {
	// Rule is the rule's name, or the emergency rule's ID.
	Rule string `json:"rule"`
	// Reason is rate, concurrency, bytes, budget, denied, blocked, lockdown or squeezed.
	Reason string `json:"reason"`
	// Emergency is true when an emergency rule did it.
	Emergency bool   `json:"emergency,omitempty"`
	User      string `json:"user"`
	UserAgent string `json:"userAgent"`
	// Count is how many requests were turned away in the last minute, Last when the latest was.
	Count int         `json:"count"`
	Last  metav1.Time `json:"last"`
}

// EmergencyRuleResult is the answer to a new rule.
type EmergencyRuleResult struct {
	Rule EmergencyRule `json:"rule"`
	// EndedRequests is how many open requests the rule ended.
	EndedRequests int `json:"endedRequests"`
	// Durable is false when the rule is in force and could not be saved: a restart would lift it.
	Durable  bool     `json:"durable"`
	Warnings []string `json:"warnings,omitempty"`
	// DryRun is true when the rule was only checked.
	DryRun bool `json:"dryRun,omitempty"`
}
