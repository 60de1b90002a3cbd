package cost

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

// The longest names the API knows: a group is a DNS subdomain, a resource and a subresource a DNS label.
const (
	longestGroup    = 253
	longestResource = 63
)

// unknown stands for a name no API can have, so that whoever invents names shares one shape with all who do.
const unknown = "(unknown)"

// ShapeOf says what a request has in common with its like. f must be r's flow. It reads the query once and does not
// allocate unless the parameters it reads are escaped.
func ShapeOf(f *flow.Request, r *http.Request) Shape {
	s := Shape{
		Verb:          verb(f),
		Group:         named(f.APIGroup, longestGroup),
		Resource:      named(f.Resource, longestResource),
		Subresource:   named(f.Subresource, longestResource),
		Scope:         f.Scope,
		InitialEvents: f.InitialEvents,
		Stream:        f.Unbounded() && !f.InitialEvents,
	}
	if f.Scope == v1alpha1.ScopeNonResource {
		s.Resource = firstSegment(f.Path)
	}
	if s.Stream {
		return s
	}
	s.Media = mediaOf(r.Header)
	switch s.Verb {
	case "get", "list", "watch":
		s.Gzip = flow.AcceptsGzip(r.Header)
		readOptions(&s, r.URL.RawQuery)
	}
	if f.Resource != "" {
		s.Selector = selectorOf(f)
	}
	return s
}

// other stands for a method that is none.
const other = "other"

func verb(f *flow.Request) string {
	if isVerb(f.Verb) {
		return f.Verb
	}
	return other
}

func isVerb(verb string) bool {
	switch verb {
	case "get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "proxy", // resources
		"head", "post", "put", "options", // the rest of non-resource requests
		other:
		return true
	}
	return false
}

// named returns a name as it is if some API could have it. What is left can be written to JSON and read back.
func named(name string, longest int) string {
	if len(name) > longest {
		return unknown
	}
	for i := range len(name) {
		switch c := name[i]; {
		case c <= ' ', c >= 0x7f, c == '"', c == '\\', c == '<', c == '>', c == '&':
			return unknown
		}
	}
	return name
}

func firstSegment(path string) string {
	if path == "" {
		return "/"
	}
	if end := strings.IndexByte(path[1:], '/'); end >= 0 {
		path = path[:1+end]
	}
	return named(path, longestResource)
}

func selectorOf(f *flow.Request) Selector {
	switch f.Verb {
	case "list", "watch", "deletecollection":
	default:
		return NoSelector
	}
	switch {
	case f.Name != "":
		return ByName
	case selectsNode(f.FieldSelector):
		return ByNode
	case f.FieldSelector != "" && f.LabelSelector != "":
		return ByBoth
	case f.FieldSelector != "":
		return ByField
	case f.LabelSelector != "":
		return ByLabel
	}
	return NoSelector
}

// selectsNode is true for the pods of one node; the pods of none (spec.nodeName=) are as many as there are.
func selectsNode(fields string) bool {
	for term := range strings.SplitSeq(fields, ",") {
		if node, ok := strings.CutPrefix(term, "spec.nodeName="); ok && strings.TrimPrefix(node, "=") != "" {
			return true
		}
	}
	return false
}

// mostParameters is how many parameters net/url reads; of more it reads none.
const mostParameters = 10_000

// readOptions reads limit, continue and the versions as the API server does: the first of each counts.
func readOptions(s *Shape, query string) {
	if len(query) > mostParameters && strings.Count(query, "&") >= mostParameters {
		return
	}
	var limit, version, match, token string
	var seen struct{ limit, version, match, token bool }
	first := func(into *string, seen *bool, value string) {
		if !*seen {
			*into, *seen = value, true
		}
	}
	for rest := query; rest != ""; {
		var name, value string
		var ok bool
		if name, value, rest, ok = flow.CutPair(rest); !ok {
			continue
		}
		switch name {
		case "limit":
			first(&limit, &seen.limit, value)
		case "continue":
			first(&token, &seen.token, value)
		case "resourceVersion":
			first(&version, &seen.version, value)
		case "resourceVersionMatch":
			first(&match, &seen.match, value)
		}
	}
	if s.Encodes() {
		s.Limit = limitOf(limit, token)
	}
	s.Version = versionOf(version, match, s.Limit != NoLimit)
}

// limitOf reads a limit; one that the API server refuses limits nothing.
func limitOf(limit, token string) Limit {
	if token != "" {
		return Continued
	}
	switch n, err := strconv.ParseInt(limit, 10, 64); {
	case limit == "" || err != nil || n <= 0:
		return NoLimit
	case n <= 50:
		return UpTo50
	case n <= 500:
		return UpTo500
	}
	return MoreThan500
}

// versionOf is the table of https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list.
func versionOf(version, match string, limited bool) Version {
	switch match {
	case "":
	case "NotOlderThan":
		if version == "0" {
			return Memory
		}
		return NotOlderThan
	default: // Exact, and what the API server refuses
		return Exact
	}
	switch {
	case version == "":
		return MostRecent
	case version == "0":
		return Memory
	case limited: // as it always was with a limit, unless the match says otherwise
		return Exact
	}
	return NotOlderThan
}
