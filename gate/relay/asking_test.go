package relay

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/relay/commit"
)

var known = flow.Caller{User: "someone", Certainty: flow.CertificateVerified}

func request(t testing.TB, target string, header ...string) (*http.Request, *flow.Request) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	f, err := flow.Classify(r, known, flow.Standard, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return r, f
}

func rules(resources ...string) *settings {
	return compile(&v1alpha1.GateRelay{Rules: []v1alpha1.RelayRule{{Resources: resources}}})
}

func TestClassify(t *testing.T) {
	const pods = "/api/v1/pods"
	recent, any := commit.Ask{}, commit.Ask{Class: commit.Cached}
	tests := map[string]struct {
		target string
		header []string
		want   commit.Ask
		// key's query and whether it is for initial events
		query   string
		initial bool
		live    uint64
		reason  reason
	}{
		"a plain LIST":                       {target: pods, want: recent},
		"a LIST of kubectl":                  {target: pods + "?limit=500", want: recent, query: "limit=500"},
		"an informer's first LIST":           {target: pods + "?limit=500&resourceVersion=0", want: any, query: "limit=500"},
		"not older than":                     {target: pods + "?resourceVersion=7&resourceVersionMatch=NotOlderThan", want: commit.Ask{Class: commit.Cached, NotBelow: 7}},
		"a version means not older than":     {target: pods + "?resourceVersion=7", want: commit.Ask{Class: commit.Cached, NotBelow: 7}},
		"but with a limit it means exactly":  {target: pods + "?resourceVersion=7&limit=1", reason: forwardedExact},
		"an exact version":                   {target: pods + "?resourceVersion=7&resourceVersionMatch=Exact", reason: forwardedExact},
		"a page":                             {target: pods + "?continue=abc&limit=500", reason: forwardedContinue},
		"a shard":                            {target: pods + "?selector=shardRange(0,4)", reason: forwardedUnknown},
		"a parameter given twice":            {target: pods + "?limit=1&limit=2", reason: forwardedUnknown},
		"a query that cannot be parsed":      {target: pods + "?limit=%zz", reason: forwardedUnknown},
		"a version that is no number":        {target: pods + "?resourceVersion=abc", reason: forwardedUnknown},
		"a match without a version":          {target: pods + "?resourceVersionMatch=NotOlderThan", reason: forwardedUnknown},
		"time limits are not of the key":     {target: pods + "?timeout=30s&timeoutSeconds=30", want: recent},
		"selectors are":                      {target: pods + "?labelSelector=a%3Db&fieldSelector=spec.nodeName%3Dn1", want: recent, query: "fieldSelector=spec.nodeName%3Dn1&labelSelector=a%3Db"},
		"a WATCH":                            {target: pods + "?watch=true&resourceVersion=7&allowWatchBookmarks=true&timeoutSeconds=300", live: 7},
		"a WatchList":                        {target: pods + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", want: recent, initial: true},
		"a WatchList of any age":             {target: pods + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&resourceVersion=0", want: any, initial: true},
		"a WatchList without bookmarks":      {target: pods + "?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", reason: forwardedUnknown},
		"a WATCH from now":                   {target: pods + "?watch=1", reason: forwardedLegacyWatch},
		"a WATCH from any":                   {target: pods + "?watch=1&resourceVersion=0", reason: forwardedLegacyWatch},
		"a WATCH in CBOR":                    {target: pods + "?watch=1&resourceVersion=5", header: []string{"Accept", "application/cbor-seq"}, reason: forwardedMediaType},
		"a WATCH as kubectl's":               {target: pods + "?watch=1&resourceVersion=5", header: []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}, reason: forwardedMediaType},
		"the deprecated way to watch":        {target: "/api/v1/watch/pods?resourceVersion=5", reason: forwardedUnknown},
		"impersonation":                      {target: pods, header: []string{"Impersonate-User", "x"}, reason: forwardedImpersonation},
		"impersonation in an unusual letter": {target: pods, header: []string{"impersonate-uid", "x"}, reason: forwardedImpersonation},
		"a precondition":                     {target: pods, header: []string{"If-None-Match", "x"}, reason: forwardedUnknown},
		"two Accept headers":                 {target: pods, header: []string{"Accept", "a/b", "Accept", "c/d"}, reason: forwardedUnknown},
		"sendInitialEvents on a LIST":        {target: pods + "?sendInitialEvents=true", reason: forwardedUnknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r, f := request(t, test.target, test.header...)
			a, why := rules("pods").classify(r, f)
			if why != test.reason {
				t.Fatalf("want reason %q, got %q", test.reason, why)
			}
			if why != "" {
				return
			}
			if a.live != (test.live != 0) || a.from != test.live {
				t.Fatalf("want a watch from %d, got %t from %d", test.live, a.live, a.from)
			}
			if diff := cmp.Diff(test.want, a.ask); diff != "" {
				t.Error(diff)
			}
			if a.key.query != test.query || a.key.initial != test.initial {
				t.Errorf("want key query %q, initial %t; got %q, %t", test.query, test.initial, a.key.query, a.key.initial)
			}
		})
	}
}

func TestNotOurs(t *testing.T) {
	for _, target := range []string{
		"/api/v1/namespaces/default/pods/a", "/api/v1/namespaces/default/pods/a/log", "/healthz", "/apis/apps/v1/deployments",
		"/api/v1/secrets", "/apis/metrics.k8s.io/v1beta1/pods",
	} {
		r, f := request(t, target)
		if a, why := rules("pods", "secrets.example.com").classify(r, f); a != nil || why != "" {
			t.Errorf("%s: no rule names it, got %q", target, why)
		}
	}
	r, f := request(t, "/api/v1/pods")
	f.Caller = flow.Caller{User: "unverified:127.0.0.1"}
	if _, why := rules("pods").classify(r, f); why != forwardedUnauthenticated {
		t.Errorf("a caller without a credential: got %q", why)
	}
}

func TestRules(t *testing.T) {
	for target, want := range map[string]map[string]bool{
		"/api/v1/pods":                          {"pods": true, "*": true, "pods.apps": false, "*.apps": false},
		"/api/v1/secrets":                       {"*": false, "secrets": true},
		"/apis/apps/v1/deployments":             {"deployments": false, "deployments.apps": true, "*.apps": true, "*": true},
		"/apis/example.com/v1/secrets":          {"*": true, "secrets": false},
		"/apis/example.com/v1/namespaces/a/foo": {"foo.example.com": true, "*.example.com": true, "*.com": false},
	} {
		for name, shared := range want {
			r, f := request(t, target)
			a, _ := rules(name).classify(r, f)
			if (a != nil) != shared {
				t.Errorf("rule %q and %s: want shared %t, got %t", name, target, shared, a != nil)
			}
		}
	}
}

// FuzzClassify: whatever is shared is asked of the API server with nothing lost and nothing added but versions.
func FuzzClassify(f *testing.F) {
	for _, query := range []string{
		"", "limit=500&resourceVersion=0", "labelSelector=a%3Db", "watch=1&resourceVersion=7", "continue=x", "timeout=1s",
		"watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true", "a=b;c=d", "%", "pretty=1&pretty",
	} {
		f.Add(query, "application/json", "gzip")
	}
	timing := map[string]bool{"timeout": true, "timeoutSeconds": true, "resourceVersion": true, "resourceVersionMatch": true, "watch": true,
		"allowWatchBookmarks": true, "sendInitialEvents": true, "continue": true}
	f.Fuzz(func(t *testing.T, query, accept, encoding string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/api/v1/pods", RawQuery: query}, Header: http.Header{"Accept": {accept}, "Accept-Encoding": {encoding}}}
		flowed, err := flow.Classify(r, known, flow.Standard, time.Unix(0, 0))
		if err != nil {
			return
		}
		a, why := rules("pods").classify(r, flowed)
		if a == nil || why != "" || a.live {
			return
		}
		e := &entry{key: a.key, rule: a.rule}
		sent, err := url.ParseQuery(e.upstreamQuery(&batch{Class: a.ask.Class}))
		if err != nil {
			t.Fatalf("%q is asked of the API server as something that cannot be parsed: %v", query, err)
		}
		given, err := url.ParseQuery(query)
		if err != nil {
			t.Fatalf("%q cannot be parsed and is shared", query)
		}
		for name := range given {
			if !timing[name] && given.Get(name) != sent.Get(name) {
				t.Errorf("%q: %s was %q and is asked as %q", query, name, given.Get(name), sent.Get(name))
			}
		}
		for name := range sent {
			if !timing[name] && given.Get(name) == "" {
				t.Errorf("%q: %s was not given and is asked", query, name)
			}
		}
	})
}
