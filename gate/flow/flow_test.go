package flow

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

func TestClassify(t *testing.T) {
	type want struct {
		Verb, Group, Resource, Subresource, Namespace, Name string
		Scope                                               v1alpha1.RequestScope
		List, LongRunning                                   bool
	}
	tests := map[string]struct {
		method, url string
		want        want
	}{
		"list of the cluster": {"GET", "/api/v1/pods?limit=500",
			want{Verb: "list", Resource: "pods", Scope: v1alpha1.ScopeCluster, List: true}},
		"list of a namespace": {"GET", "/apis/apps/v1/namespaces/shop/deployments",
			want{Verb: "list", Group: "apps", Resource: "deployments", Namespace: "shop", Scope: v1alpha1.ScopeNamespace, List: true}},
		"list narrowed to one name is one object": {"GET", "/api/v1/nodes?fieldSelector=metadata.name%3Dn1",
			want{Verb: "list", Resource: "nodes", Name: "n1", Scope: v1alpha1.ScopeObject, List: true}},
		"watch from now on": {"GET", "/api/v1/pods?watch=true&resourceVersion=17",
			want{Verb: "watch", Resource: "pods", Scope: v1alpha1.ScopeCluster, LongRunning: true}},
		"watch with initial events costs a list": {"GET", "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=17",
			want{Verb: "watch", Resource: "pods", Scope: v1alpha1.ScopeCluster, LongRunning: true, List: true}},
		"watch from nothing sends what exists": {"GET", "/api/v1/services?watch=true&resourceVersion=0",
			want{Verb: "watch", Resource: "services", Scope: v1alpha1.ScopeCluster, LongRunning: true, List: true}},
		"watch that declines initial events": {"GET", "/api/v1/services?watch=true&sendInitialEvents=false",
			want{Verb: "watch", Resource: "services", Scope: v1alpha1.ScopeCluster, LongRunning: true}},
		"exec": {"POST", "/api/v1/namespaces/shop/pods/web/exec?command=sh",
			want{Verb: "create", Resource: "pods", Subresource: "exec", Namespace: "shop", Name: "web", Scope: v1alpha1.ScopeObject, LongRunning: true}},
		"a log to its end is no stream": {"GET", "/api/v1/namespaces/shop/pods/web/log",
			want{Verb: "get", Resource: "pods", Subresource: "log", Namespace: "shop", Name: "web", Scope: v1alpha1.ScopeObject}},
		"a followed log is": {"GET", "/api/v1/namespaces/shop/pods/web/log?follow=true",
			want{Verb: "get", Resource: "pods", Subresource: "log", Namespace: "shop", Name: "web", Scope: v1alpha1.ScopeObject, LongRunning: true}},
		"lease renewal": {"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1",
			want{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Namespace: "kube-node-lease", Name: "n1", Scope: v1alpha1.ScopeObject}},
		"no resource": {"GET", "/readyz",
			want{Verb: "get", Scope: v1alpha1.ScopeNonResource}},
		"delete of a collection": {"DELETE", "/api/v1/namespaces/shop/pods",
			want{Verb: "deletecollection", Resource: "pods", Namespace: "shop", Scope: v1alpha1.ScopeNamespace}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			f, err := Classify(httptest.NewRequest(test.method, test.url, nil), Caller{}, Standard, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			got := want{f.Verb, f.APIGroup, f.Resource, f.Subresource, f.Namespace, f.Name, f.Scope, f.IsList(), f.LongRunning}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestMayUpgrade(t *testing.T) {
	tests := map[string]struct {
		url, protocol string
		want          bool
	}{
		"exec over SPDY":               {"/api/v1/namespaces/a/pods/b/exec", "SPDY/3.1", true},
		"port-forward over WebSocket":  {"/api/v1/namespaces/a/pods/b/portforward", "websocket", true},
		"a watch over WebSocket":       {"/api/v1/pods?watch=true", "websocket", true},
		"a get does not upgrade":       {"/api/v1/namespaces/a/pods/b", "websocket", false},
		"nor to another protocol":      {"/api/v1/namespaces/a/pods/b/exec", "h2c", false},
		"nor where no resource stands": {"/metrics", "SPDY/3.1", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, test.url, nil)
			r.Header.Set("Upgrade", test.protocol)
			r.Header.Set("Connection", "keep-alive, Upgrade")
			f, err := Classify(r, Caller{}, Standard, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			if !f.Upgrade || !f.LongRunning {
				t.Error("the upgrade was not seen")
			}
			if got := MayUpgrade(f, r); got != test.want {
				t.Errorf("MayUpgrade is %v", got)
			}
		})
	}
}

func TestServiceAccountNamespace(t *testing.T) {
	for user, want := range map[string]string{
		"system:serviceaccount:telemetry:agent": "telemetry",
		"system:serviceaccount:telemetry":       "",
		"jane":                                  "",
	} {
		if got := (&Caller{User: user}).ServiceAccountNamespace(); got != want {
			t.Errorf("%s: got %q, want %q", user, got, want)
		}
	}
}

func TestOriginOfAnAddress(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.7":            "192.0.2.7",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64",
		"fe80::1%eth0":         "fe80::/64",
	} {
		if got := Origin(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: got %q, want %q", address, got, want)
		}
	}
}

func TestWhatMayTakeLong(t *testing.T) {
	for target, want := range map[string]bool{
		"/api/v1/namespaces/shop/pods":                         false,
		"/api/v1/namespaces/shop/pods?watch=true":              true,
		"/api/v1/namespaces/shop/pods/web":                     false,
		"/api/v1/namespaces/shop/pods/web/log":                 true,
		"/api/v1/namespaces/shop/pods/web/log?follow=true":     true,
		"/api/v1/namespaces/shop/pods/web/proxy/anything":      true,
		"/api/v1/namespaces/shop/services/web:80/proxy/metric": true,
	} {
		f, err := Classify(httptest.NewRequest(http.MethodGet, target, nil), Caller{}, Standard, time.Now())
		if err != nil || f.Unbounded() != want {
			t.Errorf("%s: unbounded %v, want %v; %v", target, f.Unbounded(), want, err)
		}
	}
}

// TestTargetsWithTwoMeanings: what net/http would send on as another path than the one that is classified is refused.
func TestTargetsWithTwoMeanings(t *testing.T) {
	for target, wantFail := range map[string]bool{
		"GET http:https://127.0.0.1:6443/api/v1/secrets": true,
		"GET http:api/v1/secrets":                        true,
		"GET *":                                          true,
		"GET https://other":                              true,
		"CONNECT 127.0.0.1:6443":                         true,
		"CONNECT /api/v1/secrets":                        true,
		"TRACE /api":                                     true,
		"GET https://other/api/v1/secrets":               false,
		"GET //api/v1/secrets":                           false,
		"GET /api/v1/%2e%2e/secrets":                     false,
	} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(target + " HTTP/1.1\r\nHost: gate\r\n\r\n")))
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		if _, err := Classify(r, Caller{}, Standard, time.Time{}); (err != nil) != wantFail {
			t.Errorf("%s: %v, want a refusal: %v", target, err, wantFail)
		}
	}
}

// FuzzClassify holds that every request has a scope, and that it is to the API server what it is here: the target is
// sent as net/http sends it and parsed as net/http and the API server parse it there.
func FuzzClassify(f *testing.F) {
	for _, line := range []string{
		"GET /api/v1/namespaces/a/pods/b/exec?watch=true&resourceVersion=0", "GET /apis//v1/watch/pods?fieldSelector=metadata.name=&limit=-1",
		"POST /api/v1/proxy/namespaces?follow=x", "GET http:https://server:6443/api/v1/secrets", "GET https://other/api/v1/secrets?x", "CONNECT server:6443",
		"GET /api/v1/namespaces/a%2Fb/pods/%2e%2e", "GET //other/api/v1/pods", "GET *", "OPTIONS *", "GET /api/v1/pods?labelSelector=%zz;a", "GET http:?x",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(line + " HTTP/1.1\r\nHost: gate\r\n\r\n")))
		if err != nil {
			return
		}
		here, err := Classify(r, Caller{}, Standard, time.Time{})
		if err != nil {
			return
		}
		if here.Scope == "" {
			t.Error("the request has no scope")
		}
		out := *r.URL
		out.Scheme, out.Host = "https", "server:6443"
		there, err := http.ReadRequest(bufio.NewReader(strings.NewReader(r.Method + " " + out.RequestURI() + " HTTP/1.1\r\nHost: server:6443\r\n\r\n")))
		if err != nil {
			return // the API server refuses it
		}
		seen, err := Classify(there, Caller{}, Standard, time.Time{})
		if err != nil {
			return
		}
		if diff := cmp.Diff(here, seen, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("the API server sees another request (-here +there):\n%s", diff)
		}
	})
}
