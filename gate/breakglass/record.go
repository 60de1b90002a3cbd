package breakglass

import (
	"strings"
	"time"

	"github.com/seakeep/seakeep/gate/flow"
)

// The events of the audit file.
const (
	// eventRequest is written before a request goes upstream: for everything that changes the cluster, streams, or
	// reads a secret, so that it is on record even if the lane dies the next moment.
	eventRequest = "request"
	// eventResponse ends every request.
	eventResponse = "response"
	// eventRefused is a request or a known certificate the lane did not let in.
	eventRefused = "refused"
	eventSqueeze = "squeeze"
	eventStarted = "started"
	eventStopped = "stopped"
	// eventGap says that events before it were lost; they are on standard error.
	eventGap = "gap"
	// eventBroken says that the file before this one did not verify and was moved aside.
	eventBroken = "brokenChainSetAside"
)

// record is one event of the audit file. It never holds a token, a body or a query value that is not known to be
// harmless.
type record struct {
	Event string `json:"event"`
	// ID joins the request to its response; it is also sent upstream as the Audit-ID, so the API server's own audit
	// log can be joined.
	ID     string   `json:"id,omitempty"`
	User   string   `json:"user,omitempty"`
	Groups []string `json:"groups,omitempty"`
	// Serial is the certificate's, as the list of denied serials wants it.
	Serial      string `json:"serial,omitempty"`
	Source      string `json:"source,omitempty"`
	UserAgent   string `json:"userAgent,omitempty"`
	As          string `json:"as,omitempty"` // whom the caller asks to impersonate
	Verb        string `json:"verb,omitempty"`
	APIGroup    string `json:"apiGroup,omitempty"`
	Resource    string `json:"resource,omitempty"`
	Subresource string `json:"subresource,omitempty"`
	Namespace   string `json:"namespace,omitempty"`
	Name        string `json:"name,omitempty"`
	Path        string `json:"path,omitempty"`
	// Start is when the request arrived; Seconds and Code are the response's.
	Start    *time.Time `json:"start,omitempty"`
	Seconds  float64    `json:"seconds,omitempty"`
	Code     int        `json:"code,omitempty"`
	Upstream string     `json:"upstream,omitempty"`
	// Unrecorded is true when the request went upstream before it was on record, because the file could not be
	// written.
	Unrecorded bool   `json:"unrecorded,omitempty"`
	Reason     string `json:"reason,omitempty"`
	// Lost counts the events of a gap.
	Lost uint64 `json:"lost,omitempty"`
}

// recordOf is the part of a record that a request's flow decides.
func recordOf(event, id, serial string, f *flow.Request, query string) record {
	arrived := f.Arrived.UTC()
	return record{
		Event: event, ID: id, Serial: serial,
		User: f.Caller.User, Groups: f.Caller.Groups,
		Source: f.Source.String(), UserAgent: bounded(f.UserAgent),
		Verb: f.Verb, APIGroup: f.APIGroup, Resource: f.Resource, Subresource: f.Subresource,
		Namespace: f.Namespace, Name: f.Name, Path: auditPath(f, query), Start: &arrived,
	}
}

// recordedFirst says whether a request is on record before it goes upstream. Plain reads are not: they are recorded
// with their answer, and do not wait for a disk that etcd may be keeping busy.
func recordedFirst(f *flow.Request) bool {
	if f.LongRunning || f.Resource == "secrets" {
		return true
	}
	switch f.Verb {
	case "get", "list", "head", "options":
		return false
	}
	return true
}

// maxText bounds what a client's words take in the file.
const maxText = 1024

func bounded(text string) string {
	if len(text) > maxText {
		return strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// auditPath is the path and the query of a request without secrets.
func auditPath(f *flow.Request, query string) string {
	path := flow.RedactPath(f)
	if query = flow.RedactQuery(query); query != "" {
		path += "?" + query
	}
	return bounded(path)
}
