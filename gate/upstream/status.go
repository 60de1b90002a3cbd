package upstream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/gate/upstream/choice"
)

// WriteStatus answers with a Kubernetes Status, and with Retry-After when the status says when to come back.
// It is how every room of the gate speaks to a client, so that kubectl and client-go understand it.
func WriteStatus(w http.ResponseWriter, status *metav1.Status) {
	body, err := encodeStatus(w.Header(), status)
	if err != nil {
		http.Error(w, status.Message, int(status.Code))
		return
	}
	w.WriteHeader(int(status.Code))
	_, _ = w.Write(body) // the client may be gone; nothing else is to be done about it
}

// StatusResponse is the same as the answer of a RoundTripper, for what the gate asks on behalf of others: they get it as it is.
func StatusResponse(r *http.Request, status *metav1.Status) (*http.Response, error) {
	header := http.Header{}
	body, err := encodeStatus(header, status)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(int(status.Code)), StatusCode: int(status.Code), Proto: "HTTP/2.0", ProtoMajor: 2, Header: header,
		Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: r,
	}, nil
}

// encodeStatus completes a status, and sets the header of an answer that is one.
func encodeStatus(header http.Header, status *metav1.Status) ([]byte, error) {
	status.Kind, status.APIVersion, status.Status = "Status", "v1", metav1.StatusFailure
	body, err := json.Marshal(status)
	if err != nil {
		return nil, err
	}
	header.Set("Content-Type", "application/json")
	header.Set("Cache-Control", "no-cache, private")
	header.Set("Content-Length", strconv.Itoa(len(body)))
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		header.Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	return body, nil
}

func unreachableStatus(server string, err error) *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusServiceUnavailable,
		Reason:  metav1.StatusReasonServiceUnavailable,
		Message: fmt.Sprintf("seakeep gate: no API server can be reached; the last tried was %s: %v. The request was not sent.", server, err),
		Details: &metav1.StatusDetails{RetryAfterSeconds: int32(1 + rand.IntN(3))},
	}
}

// allOutStatus is 429 and not 503, because client-go reads everything again when a watch is answered 503.
func allOutStatus() *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusTooManyRequests,
		Reason:  metav1.StatusReasonTooManyRequests,
		Message: "seakeep gate: " + choice.ErrAllOut.Error() + ". The request was not sent.",
		Details: &metav1.StatusDetails{RetryAfterSeconds: int32(1 + rand.IntN(3))},
	}
}

func brokenStatus(server string, err error) *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusBadGateway,
		Reason:  metav1.StatusReasonInternalError,
		Message: fmt.Sprintf("seakeep gate: the connection to API server %s broke before it answered: %v. The request may have been carried out.", server, err),
	}
}

func notKeptStatus(server string) *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusTooManyRequests,
		Reason:  metav1.StatusReasonTooManyRequests,
		Message: fmt.Sprintf("seakeep gate: API server %s was closing the connection and did not take the request; its body was not kept to be sent again. Nothing was carried out: send it again.", server),
		Details: &metav1.StatusDetails{RetryAfterSeconds: 1},
	}
}

func timeoutStatus(server string, after time.Duration) *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusGatewayTimeout,
		Reason:  metav1.StatusReasonTimeout,
		Message: fmt.Sprintf("seakeep gate: API server %s took the request and did not answer within %s. The request may have been carried out.", server, after),
	}
}

func clientLateStatus(after time.Duration) *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusRequestTimeout,
		Reason:  metav1.StatusReasonTimeout,
		Message: fmt.Sprintf("seakeep gate: the request's body did not arrive within %s; the API server did not get all of it and did not carry it out.", after),
	}
}

func badBodyStatus(err error) *metav1.Status {
	code, reason := int32(http.StatusBadRequest), metav1.StatusReasonBadRequest
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		code, reason = http.StatusRequestEntityTooLarge, metav1.StatusReasonRequestEntityTooLarge
	}
	return &metav1.Status{
		Code:    code,
		Reason:  reason,
		Message: fmt.Sprintf("seakeep gate: %v; the API server did not get all of it and did not carry it out.", err),
	}
}

func endedStatus(cause error) *metav1.Status {
	return &metav1.Status{
		Code:    http.StatusTooManyRequests,
		Reason:  metav1.StatusReasonTooManyRequests,
		Message: "seakeep gate: " + cause.Error(),
		Details: &metav1.StatusDetails{RetryAfterSeconds: int32(1 + rand.IntN(5))},
	}
}
