package breakglass

import (
	"net/url"
	"slices"
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

// harmless are the query parameters whose values are kept: they say what was asked for. Every other value may hold a
// secret (exec's command, a service's token) and is replaced.
var harmless = []string{
	"allowWatchBookmarks", "container", "continue", "dryRun", "fieldManager", "fieldSelector", "fieldValidation", "follow", "force",
	"gracePeriodSeconds", "labelSelector", "limit", "orphanDependents", "ports", "previous", "propagationPolicy", "resourceVersion",
	"resourceVersionMatch", "sendInitialEvents", "sinceSeconds", "stderr", "stdin", "stdout", "tailLines", "timeout",
	"timeoutSeconds", "timestamps", "tty", "verbose", "watch",
}

const redacted = "…"

// auditPath is the path and the query of a request without secrets. What follows a proxy path belongs to another server,
// and people put tokens there.
func auditPath(f *flow.Request, query string) string {
	path := f.Path
	if f.Subresource == "proxy" || f.Verb == "proxy" {
		if i := strings.Index(path, "/proxy/"); i >= 0 {
			path = path[:i+len("/proxy/")] + redacted
		}
	}
	if query == "" {
		return bounded(path)
	}
	// What does not parse is dropped: the API server drops it too.
	values, _ := url.ParseQuery(query)
	keys := make([]string, 0, len(values))
	for key := range values {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	var b strings.Builder
	b.WriteString(path)
	separator := byte('?')
	for _, key := range keys {
		for _, value := range values[key] {
			b.WriteByte(separator)
			separator = '&'
			b.WriteString(url.QueryEscape(key))
			b.WriteByte('=')
			if slices.Contains(harmless, key) {
				b.WriteString(url.QueryEscape(value))
			} else {
				b.WriteString(redacted)
			}
		}
	}
	return bounded(b.String())
}
