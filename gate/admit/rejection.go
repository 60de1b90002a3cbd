package admit

import (
	"fmt"
	"net/http"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Reason is why a request was turned away.
type Reason string

// The reasons.
const (
	// ReasonQueueFull: the queue of its flow is full.
	ReasonQueueFull Reason = "queue-full"
	// ReasonWaitedTooLong: no seat was free in its level's time.
	ReasonWaitedTooLong Reason = "waited-too-long"
	// ReasonRamp: the control plane has just come back, and takes LISTs and watches in again a few at a time.
	ReasonRamp Reason = "ramp"
)

var reasons = []Reason{ReasonQueueFull, ReasonWaitedTooLong, ReasonRamp}

var reasonText = map[Reason]string{
	ReasonQueueFull:     "the API servers are busy, and enough requests of yours wait already",
	ReasonWaitedTooLong: "the API servers are busy, and no seat became free in time",
	ReasonRamp:          "the API servers have just come back, and LISTs and watches begin again a few at a time",
}

// Rejection says that a request may not go on now, and what the client is told.
type Rejection struct {
	Level  v1alpha1.LevelName
	Reason Reason
	// RetryAfter is in whole seconds, ≥ 1 s, with jitter.
	RetryAfter time.Duration
}

// Status is the body for the client. It is 429 for LISTs and watches too, never 503: client-go takes a 503 on a watch for a
// reason to LIST again.
func (r *Rejection) Status() *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusTooManyRequests,
		Reason:  metav1.StatusReasonTooManyRequests,
		Message: fmt.Sprintf("Seakeep (level %s) turned the request away: %s; retry after %v", r.Level, reasonText[r.Reason], r.RetryAfter),
		Details: &metav1.StatusDetails{
			RetryAfterSeconds: int32(r.RetryAfter / time.Second),
			Causes:            []metav1.StatusCause{{Type: "SeakeepLevel", Field: string(r.Level), Message: string(r.Reason)}},
		},
	}
}

// reject counts a request that is turned away, or would be.
func (r *Room) reject(s *Seats, reason Reason) *Rejection {
	s.level.metrics.rejected[reason].Inc()
	return &Rejection{Level: s.level.name, Reason: reason, RetryAfter: s.level.retryAfter(r.window.mean(s.level))}
}
