package drill

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"
)

// OutcomeOf judges the answer to an HTTP request: what the status code or the error says, and whether it came within
// the limit.
func OutcomeOf(code int, err error, latency, within time.Duration) Outcome {
	if err != nil {
		return outcomeOfError(err)
	}
	switch {
	case code == http.StatusTooManyRequests:
		return Rejected
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return Denied
	case code == http.StatusGatewayTimeout:
		return Timeout // the API server's own time limit
	case code >= 500:
		return Unavailable
	case code < 200 || code >= 300:
		return Wrong
	case latency > within:
		return Slow
	default:
		return OK
	}
}

func outcomeOfError(err error) Outcome {
	var netError net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded) || errors.As(err, &netError) && netError.Timeout():
		return Timeout
	case errors.Is(err, syscall.ECONNREFUSED):
		return Refused
	default:
		return Unavailable
	}
}
