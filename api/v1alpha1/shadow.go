package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// ShadowStatus is whom rules and policies in shadow would have turned away: what GET /v1/shadow answers.
type ShadowStatus struct {
	// Since is when the gate began to count, Time its clock.
	Since metav1.Time `json:"since"`
	Time  metav1.Time `json:"time"`
	// Rejected are the clients that would have been turned away, most often first.
	Rejected []ShadowedClient `json:"rejected"`
}

// ShadowedClient is one client that one rule would have turned away.
type ShadowedClient struct {
	// Rule is the rule's name, the emergency rule's ID, or api-budget.
	Rule string `json:"rule"`
	// Reason is what the client would have been told: rate, concurrency, bytes, budget, denied, blocked or lockdown.
	Reason string `json:"reason"`
	// Emergency is true for an emergency rule.
	Emergency bool   `json:"emergency,omitempty"`
	User      string `json:"user"`
	UserAgent string `json:"userAgent"`
	// Count is how many of its requests; First and Last when.
	Count int64       `json:"count"`
	First metav1.Time `json:"first"`
	Last  metav1.Time `json:"last"`
}
