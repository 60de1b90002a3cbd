package flow

import (
	"net/url"
	"slices"
	"strings"
)

// Redacted stands for what is not kept.
const Redacted = "…"

// harmless are the query parameters whose values may be written down: they say what was asked for.
var harmless = []string{
	"allowWatchBookmarks", "container", "continue", "dryRun", "fieldManager", "fieldSelector", "fieldValidation", "follow", "force",
	"gracePeriodSeconds", "labelSelector", "limit", "orphanDependents", "ports", "previous", "propagationPolicy", "resourceVersion",
	"resourceVersionMatch", "sendInitialEvents", "sinceSeconds", "stderr", "stdin", "stdout", "tailLines", "timeout",
	"timeoutSeconds", "timestamps", "tty", "verbose", "watch",
}

// secretive are those whose values may be secrets, and whose names alone say something.
var secretive = []string{"command", "sinceTime", "token"}

// RedactPath is the path of a request as it may be written down. What follows a proxy path belongs to another server, and
// people put tokens there.
func RedactPath(f *Request) string {
	if f.Subresource == "proxy" || f.Verb == "proxy" || f.Resource == "" { // refused ones were not classified
		if i := strings.Index(f.Path, "/proxy/"); i >= 0 {
			return f.Path[:i+len("/proxy/")] + Redacted
		}
	}
	return f.Path
}

// RedactQuery is a raw query as it may be written down: the values of parameters known to be harmless, and of all others
// neither value nor name, because a client may write a secret where a name belongs.
func RedactQuery(raw string) string {
	if raw == "" {
		return ""
	}
	// What does not parse is dropped: the API server drops it too.
	values, _ := url.ParseQuery(raw)
	var b strings.Builder
	add := func(part string) {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(part)
	}
	keys := make([]string, 0, len(values))
	hidden := false
	for key := range values {
		if slices.Contains(harmless, key) || slices.Contains(secretive, key) {
			keys = append(keys, key)
		} else {
			hidden = true
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		for _, value := range values[key] {
			if slices.Contains(harmless, key) {
				add(key + "=" + url.QueryEscape(value))
			} else {
				add(key + "=" + Redacted)
			}
		}
	}
	if hidden {
		add(Redacted)
	}
	return b.String()
}
