package limit

import (
	"fmt"
	"math"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Rejection says that a request may not go on, and what the client is told.
type Rejection struct {
	// Rule is the rule's name, or the emergency rule's ID.
	Rule string
	// Reason is one of the Reason constants.
	Reason string
	// Code is 429 when the client may try again, 403 when a rule denies it.
	Code int
	// RetryAfter is in whole seconds, ≥ 1s, with jitter; zero with code 403.
	RetryAfter time.Duration
	// Emergency is true for emergency rules and while break-glass squeezes the lane.
	Emergency bool

	reason  Reason
	message string
}

// denials is what an emergency rule adds to a rejection.
type denials struct {
	emergency bool
	why       string // the words of whoever set the rule
}

var reasonText = map[Reason]string{
	ReasonRate:        "more requests per second than it allows",
	ReasonConcurrency: "more requests at once than it allows",
	ReasonBytes:       "the responses so far took more bytes than it allows",
	ReasonDenied:      "it denies this request",
	ReasonBlocked:     "an operator blocked this request",
	ReasonLockdown:    "an operator locked the API down; those who repair may enter",
	ReasonSqueezed:    "the break-glass lane is slow and needs the room",
	ReasonBudget:      "the account has spent its API budget",
}

func (e *Engine) deny(name string, reason Reason, d denials) *Rejection {
	r := &Rejection{Rule: name, Reason: string(reason), Code: http.StatusForbidden, Emergency: d.emergency, reason: reason}
	r.message = message(name, reason, d)
	return r
}

func (e *Engine) throttle(name string, refused *refusal, d denials) *Rejection {
	r := &Rejection{Rule: name, Reason: string(refused.reason), Code: http.StatusTooManyRequests,
		RetryAfter: Jittered(refused.wait, e.rand), Emergency: d.emergency, reason: refused.reason}
	r.message = message(name, refused.reason, d) + fmt.Sprintf("; retry after %v", r.RetryAfter)
	return r
}

func message(name string, reason Reason, d denials) string {
	kind := "rule"
	if d.emergency {
		kind = "emergency rule"
	}
	text := fmt.Sprintf("Seakeep %s %q turned the request away: %s", kind, name, reasonText[reason])
	if d.why != "" {
		text += " (" + d.why + ")"
	}
	return text
}

// Jittered spreads a wait, of a second at least, over itself to its double; random returns numbers in [0,1). Retry-After has
// whole seconds only; rounding at random keeps the mean, where rounding up would bring everyone back in the same second.
func Jittered(wait time.Duration, random func() float64) time.Duration {
	s := max(wait, minWait).Seconds() * (1 + random())
	whole := math.Floor(s)
	if random() < s-whole {
		whole++
	}
	return time.Duration(whole) * time.Second
}

// Status is the body for the client, in the form every Kubernetes client prints. For LISTs and watches too it is 429
// with Retry-After, never 503: reflectors take a 503 for a broken server and begin from the start.
func (r *Rejection) Status() *metav1.Status {
	status := &metav1.Status{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"},
		Status:   metav1.StatusFailure,
		Code:     int32(r.Code),
		Reason:   metav1.StatusReasonTooManyRequests,
		Message:  r.message,
		Details: &metav1.StatusDetails{
			RetryAfterSeconds: int32(r.RetryAfter / time.Second),
			Causes: []metav1.StatusCause{
				{Type: "SeakeepRule", Field: r.Rule, Message: r.Reason},
			},
		},
	}
	if r.Code == http.StatusForbidden {
		status.Reason = metav1.StatusReasonForbidden
	}
	return status
}
