package relay

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"

	"github.com/seakeep/seakeep/dns/store"
)

// query is the parameters of a request.
type query struct {
	version       uint64
	hasVersion    bool // one that is not 0
	zero          bool // resourceVersion=0: anything will do
	match         metav1.ResourceVersionMatch
	limit         int
	token         *token
	bookmarks     bool
	initialEvents bool
	timeout       time.Duration
	selects       func(store.Object) bool
}

// token is where the next page of a list begins. Whoever makes one up reads what the pages would have shown.
type token struct {
	ID      string    `json:"id"`
	Epoch   uint64    `json:"epoch"`
	Changes uint64    `json:"changes"`
	Version uint64    `json:"version"`
	After   store.Key `json:"after"`
}

func (t token) String() string {
	text, err := json.Marshal(t)
	if err != nil {
		panic("BUG: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func parseToken(text string) (*token, error) {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("continue: %q is none of ours", text)
	}
	t := &token{}
	if err := json.Unmarshal(raw, t); err != nil {
		return nil, fmt.Errorf("continue: %q is none of ours", text)
	}
	return t, nil
}

func parseQuery(values url.Values, t target) (*query, error) {
	q := &query{selects: func(store.Object) bool { return true }}
	if text := values.Get("resourceVersion"); text == "0" {
		q.zero = true
	} else if text != "" {
		v, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("resourceVersion: invalid value %q", text)
		}
		q.version, q.hasVersion = v, true
	}
	switch q.match = metav1.ResourceVersionMatch(values.Get("resourceVersionMatch")); q.match {
	case "", metav1.ResourceVersionMatchExact, metav1.ResourceVersionMatchNotOlderThan:
	default:
		return nil, fmt.Errorf("resourceVersionMatch: unsupported value %q", q.match)
	}
	if text := values.Get("limit"); text != "" {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("limit: invalid value %q", text)
		}
		q.limit = int(min(n, 1<<30))
	}
	if text := values.Get("continue"); text != "" {
		var err error
		if q.token, err = parseToken(text); err != nil {
			return nil, err
		}
		if q.hasVersion {
			return nil, fmt.Errorf("specifying resource version is not allowed when using continue")
		}
	}
	if text := values.Get("timeoutSeconds"); text != "" {
		n, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			return nil, fmt.Errorf("timeoutSeconds: invalid value %q", text)
		}
		q.timeout = time.Duration(n) * time.Second
	}
	for name, to := range map[string]*bool{"allowWatchBookmarks": &q.bookmarks, "sendInitialEvents": &q.initialEvents} {
		text := values.Get(name)
		if text == "" {
			continue
		}
		on, err := strconv.ParseBool(text)
		if err != nil {
			return nil, fmt.Errorf("%s: invalid value %q", name, text)
		}
		*to = on
	}
	if q.initialEvents && (!t.watch || q.match != metav1.ResourceVersionMatchNotOlderThan) {
		return nil, fmt.Errorf("sendInitialEvents: it is for a watch, with resourceVersionMatch=%s", metav1.ResourceVersionMatchNotOlderThan)
	}
	return q, q.parseSelectors(values, t)
}

// parseSelectors refuses what our data does not have: an answer that ignored a selector would be a wrong one.
func (q *query) parseSelectors(values url.Values, t target) error {
	var tests []func(store.Object) bool
	if t.namespace != "" {
		tests = append(tests, func(o store.Object) bool { return o.Key().Namespace == t.namespace })
	}
	if t.name != "" {
		tests = append(tests, func(o store.Object) bool { return o.Key().Name == t.name })
	}
	selector, err := labels.Parse(values.Get("labelSelector"))
	if err != nil {
		return fmt.Errorf("labelSelector: %w", err)
	}
	known := resources[t.kind].selectableLabel
	requirements, _ := selector.Requirements()
	for _, requirement := range requirements {
		if known[requirement.Key()] == nil {
			return fmt.Errorf("labelSelector: a relay does not keep the label %q of %s", requirement.Key(), t.kind)
		}
	}
	if len(requirements) > 0 {
		tests = append(tests, func(o store.Object) bool {
			set := labels.Set{}
			for key, of := range known {
				if value := of(o); value != "" {
					set[key] = value
				}
			}
			return selector.Matches(set)
		})
	}
	fieldTests, err := fieldTests(values.Get("fieldSelector"), t.kind)
	if err != nil {
		return err
	}
	tests = append(tests, fieldTests...)
	q.selects = func(o store.Object) bool {
		return !slices.ContainsFunc(tests, func(passes func(store.Object) bool) bool { return !passes(o) })
	}
	return nil
}

func fieldTests(text string, kind store.Kind) (tests []func(store.Object) bool, err error) {
	selector, err := fields.ParseSelector(text)
	if err != nil {
		return nil, fmt.Errorf("fieldSelector: %w", err)
	}
	for _, r := range selector.Requirements() {
		var of func(store.Object) string
		switch {
		case r.Field == "metadata.name":
			of = func(o store.Object) string { return o.Key().Name }
		case r.Field == "metadata.namespace":
			of = func(o store.Object) string { return o.Key().Namespace }
		case r.Field == "status.phase" && kind == store.Pods && r.Operator == selection.NotEquals && r.Value != "Running" && r.Value != "Pending":
			continue // pods that are finished are not kept
		default:
			return nil, fmt.Errorf("fieldSelector: a relay cannot select %s by %s", kind, r.Field)
		}
		tests = append(tests, func(o store.Object) bool {
			return (of(o) == r.Value) == (r.Operator != selection.NotEquals)
		})
	}
	return tests, nil
}
