package survive

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/seakeep/seakeep/gate/flow"
)

// read is a request that can be answered from what is kept.
type read struct {
	// media and stream say in what form.
	media  media
	format *runtime.SerializerInfo
	gzip   bool
	// matches selects objects.
	matches func(*object) bool

	// instead: the most recent state is asked for, which nobody has; the client shall ask for any.
	instead bool

	// Of a watch: from is the version the client has, 0 when it wants the objects that exist first. bookmarks says
	// whether it understands bookmarks, and timeout when it expects the end.
	from      uint64
	bookmarks bool
	timeout   time.Duration
}

// parseRead says what a request asks of the state, or for what reason it cannot be answered from it.
func parseRead(r *http.Request, f *flow.Request, s *snapshot) (*read, string) {
	if f.APIVersion != s.kind.Version || f.Namespace != "" && !s.kind.Namespaced && f.Resource != "namespaces" {
		return nil, leftQuestion
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, leftQuestion
	}
	for name := range query {
		if !understood(f.Verb, query, name) {
			return nil, leftQuestion
		}
	}
	q := &read{gzip: flow.AcceptsGzip(r.Header)}
	var ok bool
	if q.media, q.format, ok = negotiate(r.Header.Get("Accept"), &s.kind, f.Verb); !ok {
		return nil, leftFormat
	}
	if q.matches, ok = selector(f, query, s); !ok {
		return nil, leftQuestion
	}
	version, match := query.Get("resourceVersion"), metav1.ResourceVersionMatch(query.Get("resourceVersionMatch"))
	switch f.Verb {
	case "get":
		ok = kept0(version, s)
	case "list":
		limited := query.Get("limit") != "" && query.Get("limit") != "0"
		// A limit with a version and no word on how to match it means exactly that version; with 0 it is ignored, as the
		// API server's own cache does.
		ok = kept0(version, s) && (match == metav1.ResourceVersionMatchNotOlderThan || match == "" && (version == "0" || !limited))
	case "watch":
		ok = q.watch(query, version, match, s)
	default:
		ok = false
	}
	if !ok {
		return nil, leftQuestion
	}
	return q, ""
}

// kept0 is true when any state is good enough, or one that is not older than a version no newer than what is kept.
func kept0(version string, s *snapshot) bool {
	if version == "0" {
		return true
	}
	number, err := parseVersion(version)
	return err == nil && number <= s.version
}

func (q *read) watch(query url.Values, version string, match metav1.ResourceVersionMatch, s *snapshot) bool {
	q.bookmarks = flow.Flag(query, "allowWatchBookmarks")
	if seconds, err := strconv.ParseUint(query.Get("timeoutSeconds"), 10, 31); err == nil {
		q.timeout = time.Duration(seconds) * time.Second
	}
	if !flow.Flag(query, "sendInitialEvents") {
		number, err := parseVersion(version)
		if err != nil || match != "" || query.Has("sendInitialEvents") {
			return false // a watch of old times, that begins with whatever there is
		}
		q.from = number
		return true
	}
	if match != metav1.ResourceVersionMatchNotOlderThan {
		return false
	}
	if version == "" {
		q.instead = true
		return true
	}
	return kept0(version, s)
}

// understood is false for a parameter that would change the answer in a way that is not known here.
func understood(verb string, query url.Values, name string) bool {
	switch name {
	case "resourceVersion":
		return true
	case "pretty":
		return !flow.Flag(query, name)
	case "resourceVersionMatch", "labelSelector", "fieldSelector", "limit", "timeoutSeconds", "timeout":
		return verb != "get"
	case "continue":
		return verb != "get" && query.Get(name) == ""
	case "watch":
		return verb == "watch" || !flow.Flag(query, name)
	case "allowWatchBookmarks", "sendInitialEvents":
		return verb == "watch" || name == "allowWatchBookmarks" && verb == "list"
	}
	return false
}

// selector returns what the request selects. It knows the fields every object has, and the node of pods.
func selector(f *flow.Request, query url.Values, s *snapshot) (func(*object) bool, bool) {
	byLabel, err := labels.Parse(query.Get("labelSelector"))
	if err != nil {
		return nil, false
	}
	byField, err := fields.ParseSelector(query.Get("fieldSelector"))
	if err != nil {
		return nil, false
	}
	var conditions []func(*object) bool
	if s.kind.Namespaced && f.Namespace != "" {
		conditions = append(conditions, func(o *object) bool { return o.namespace == f.Namespace })
	}
	if !byLabel.Empty() {
		conditions = append(conditions, func(o *object) bool { return byLabel.Matches(o.labels) })
	}
	for _, requirement := range byField.Requirements() {
		var value func(*object) string
		switch {
		case requirement.Field == "metadata.name":
			value = func(o *object) string { return o.name }
		case requirement.Field == "metadata.namespace" && s.kind.Namespaced:
			value = func(o *object) string { return o.namespace }
		case requirement.Field == "spec.nodeName" && s.kind.Kind == "Pod" && s.kind.Group == "":
			value = func(o *object) string { return o.node }
		default:
			return nil, false
		}
		want := requirement.Value
		switch requirement.Operator {
		case selection.Equals, selection.DoubleEquals:
			conditions = append(conditions, func(o *object) bool { return value(o) == want })
		case selection.NotEquals:
			conditions = append(conditions, func(o *object) bool { return value(o) != want })
		default:
			return nil, false
		}
	}
	return func(o *object) bool {
		for _, met := range conditions {
			if !met(o) {
				return false
			}
		}
		return true
	}, true
}
