package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// EmergencyAction is what an emergency rule does to the standard lane.
type EmergencyAction string

// The emergency actions. They stand before every configured rule, in force on the next request.
const (
	// EmergencyThrottle bounds what the match takes.
	EmergencyThrottle EmergencyAction = "Throttle"
	// EmergencyBlock denies what the match selects and ends its open requests.
	EmergencyBlock EmergencyAction = "Block"
	// EmergencyLockdown denies everyone but the users and groups named in Except, and ends their open requests.
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
