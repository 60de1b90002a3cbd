package relay

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/identity"
	"github.com/seakeep/seakeep/gate/relay/commit"
	"github.com/seakeep/seakeep/gate/relay/watch"
)

// key is what requests must have in common to share a read: everything that decides which bytes the API server would
// answer with, but for the version, which is the rule's business, and for the time the client would wait.
type key struct {
	path, query, accept string
	gzip                bool
	// initial is true for the initial events of a WatchList, false for a LIST.
	initial bool
}

// asked is a request as the relay understands it.
type asked struct {
	key      key
	rule     *rule
	resource schema.GroupResource
	ask      commit.Ask
	// labels and fields are the selectors, as the client wrote them.
	labels, fields string
	// live is true for a WATCH from a version on, which has no initial events; from is the version.
	live bool
	from uint64
	// Of any watch: bookmarks says whether the client understands them, and lasts how long it is to be, 0 being the API
	// server's own measure.
	bookmarks bool
	lasts     time.Duration
	// patience is the client's own limit on waiting for an answer; 0: none.
	patience time.Duration
}

// classify says what a request asks for, or why it is forwarded: "" with nil means that no rule names its resource.
// Whatever is not understood to the last parameter is forwarded: a parameter that the next API server gives a meaning to
// must not be lost here (KEP-5866 adds one).
func (s *settings) classify(r *http.Request, f *flow.Request) (*asked, reason) {
	if r.Method != http.MethodGet || f.Verb != "list" && f.Verb != "watch" || f.Subresource != "" || f.Resource == "" {
		return nil, ""
	}
	a := &asked{resource: schema.GroupResource{Group: f.APIGroup, Resource: f.Resource}}
	if a.rule = s.ruleFor(a.resource); a.rule == nil {
		return nil, ""
	}
	switch {
	case f.Upgrade, r.ContentLength > 0, hasPreconditions(r.Header):
		return nil, forwardedUnknown
	case identity.CarriesImpersonation(r.Header):
		return nil, forwardedImpersonation
	case f.Caller.Certainty != flow.CertificateVerified && !f.Caller.Bearer:
		return nil, forwardedUnauthenticated
	case deprecatedWatchPath(r.URL.Path):
		return nil, forwardedUnknown
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, forwardedUnknown
	}
	kept := url.Values{}
	for name, values := range query {
		if len(values) != 1 {
			return nil, forwardedUnknown
		}
		switch name {
		case "labelSelector", "fieldSelector", "limit", "pretty", "includeObject":
			if values[0] != "" {
				kept[name] = values
			}
		case "watch", "resourceVersion", "resourceVersionMatch", "timeoutSeconds", "timeout", "allowWatchBookmarks", "sendInitialEvents":
		case "continue":
			if values[0] != "" {
				return nil, forwardedContinue
			}
		default:
			return nil, forwardedUnknown
		}
	}
	a.labels, a.fields = kept.Get("labelSelector"), kept.Get("fieldSelector")
	a.key = key{path: r.URL.EscapedPath(), query: kept.Encode(), accept: strings.TrimSpace(r.Header.Get("Accept"))}
	if len(r.Header.Values("Accept")) > 1 || len(r.Header.Values("Accept-Encoding")) > 1 {
		return nil, forwardedUnknown
	}
	if a.patience, err = clientPatience(query, f.Verb); err != nil {
		return nil, forwardedUnknown
	}
	if f.Verb == "watch" {
		return a, a.watch(query)
	}
	a.key.gzip = flow.AcceptsGzip(r.Header)
	return a, a.list(query)
}

// reason is why a request of a shared resource was forwarded, "" if it was not. They are metric labels: a closed set.
type reason string

const (
	forwardedUnknown         reason = "parameters"      // something in it is not understood
	forwardedContinue        reason = "continue"        // a page of a paged LIST
	forwardedExact           reason = "exact"           // one particular version
	forwardedImpersonation   reason = "impersonation"   // who it is for is the API server's to decide
	forwardedUnauthenticated reason = "unauthenticated" // nobody we can ask the API server about
	forwardedDenied          reason = "denied"          // the API server said no, and says why itself
	forwardedAuthorizer      reason = "authorizer"      // who may read could not be found out
	forwardedAggregated      reason = "aggregated"      // another server's data, or not known whose
	forwardedMemory          reason = "memory"          // the bound is reached
	forwardedLegacyWatch     reason = "legacy-watch"    // initial events without an end that could be seen
	forwardedMediaType       reason = "media-type"      // a stream whose frames are not understood
	forwardedVersion         reason = "version"         // asked for a newer state than the shared answer has
	forwardedIdentity        reason = "identity"        // the gate's own identity may not read it
	forwardedFailed          reason = "failed"          // the shared read failed, and the client's own may not
)

var reasons = []reason{
	forwardedUnknown, forwardedContinue, forwardedExact, forwardedImpersonation, forwardedUnauthenticated, forwardedDenied,
	forwardedAuthorizer, forwardedAggregated, forwardedMemory, forwardedLegacyWatch, forwardedMediaType, forwardedVersion,
	forwardedIdentity, forwardedFailed,
}

// list reads a LIST's versions as the API server does.
func (a *asked) list(query url.Values) reason {
	version, match := query.Get("resourceVersion"), query.Get("resourceVersionMatch")
	if query.Has("sendInitialEvents") {
		return forwardedUnknown
	}
	switch match {
	case "", "NotOlderThan":
	default:
		return forwardedExact
	}
	switch {
	case version == "" && match == "":
		a.ask = commit.Ask{Class: commit.Recent, MaxAge: a.rule.maxAge}
		return ""
	case version == "":
		return forwardedUnknown // the API server refuses it
	case version != "0" && match == "" && query.Get("limit") != "" && query.Get("limit") != "0":
		return forwardedExact // as it always was with a limit, unless the match says otherwise
	}
	return a.notBelow(version)
}

func (a *asked) notBelow(version string) reason {
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return forwardedUnknown
	}
	a.ask = commit.Ask{Class: commit.Cached, NotBelow: n}
	return ""
}

// watch reads a WATCH's versions. One that begins with initial events is shared only if it says where they end (KEP-3157).
func (a *asked) watch(query url.Values) reason {
	// The end of a Table's initial events stands in its row, where it is not looked for, and only its first event has the
	// columns.
	if strings.Contains(a.key.accept, "cbor") || watch.AsTable(a.key.accept) {
		return forwardedMediaType
	}
	a.bookmarks = flow.Flag(query, "allowWatchBookmarks")
	if seconds, err := strconv.ParseUint(query.Get("timeoutSeconds"), 10, 31); err == nil {
		a.lasts = time.Duration(seconds) * time.Second
	}
	version, match, said := query.Get("resourceVersion"), query.Get("resourceVersionMatch"), query.Has("sendInitialEvents")
	switch {
	case query.Get("pretty") != "", query.Get("includeObject") != "", !said && match != "", said && match != "NotOlderThan", query.Get("limit") != "" && query.Get("limit") != "0":
		return forwardedUnknown
	case flow.Flag(query, "sendInitialEvents"):
		if !a.bookmarks {
			return forwardedUnknown
		}
		a.key.initial = true
		if version == "" {
			a.ask = commit.Ask{Class: commit.Recent, MaxAge: a.rule.maxAge}
			return ""
		}
		return a.notBelow(version)
	case version == "" || version == "0":
		return forwardedLegacyWatch
	}
	from, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		return forwardedUnknown
	}
	a.live, a.from = true, from
	return ""
}

// clientPatience is how long the client wants to wait for an answer. timeoutSeconds of a watch is how long it lasts, which
// is another matter.
func clientPatience(query url.Values, verb string) (time.Duration, error) {
	if text := query.Get("timeout"); text != "" {
		d, err := time.ParseDuration(text)
		return max(0, d), err
	}
	if text := query.Get("timeoutSeconds"); text != "" && verb == "list" {
		n, err := strconv.ParseInt(text, 10, 32)
		return time.Duration(max(0, n)) * time.Second, err
	}
	return 0, nil
}

// hasPreconditions is true for headers with which a client makes its answer depend on what it has.
func hasPreconditions(h http.Header) bool {
	for _, name := range [...]string{"If-None-Match", "If-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range", "Range"} {
		if _, ok := h[name]; ok {
			return true
		}
	}
	return false
}

// deprecatedWatchPath is true for the /watch/ prefix of old clients.
func deprecatedWatchPath(path string) bool {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 5)
	return len(parts) > 2 && parts[0] == "api" && parts[2] == "watch" || len(parts) > 3 && parts[0] == "apis" && parts[3] == "watch"
}
