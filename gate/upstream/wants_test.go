package upstream

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/gate/flow"
	"github.com/seakeep/seakeep/gate/upstream/choice"
)

func TestWants(t *testing.T) {
	recent, proves := choice.Request{}, choice.Request{Proves: true}
	stream, memory := choice.Request{Stream: true}, choice.Request{Class: choice.Memory}
	for target, want := range map[string]choice.Request{
		"GET /api/v1/pods":                   proves,
		"GET /api/v1/namespaces/n/pods/p":    proves,
		"GET /api/v1/pods?resourceVersion=0": memory,
		"GET /api/v1/pods?resourceVersion=0&resourceVersionMatch=NotOlderThan": memory,
		"GET /api/v1/pods?limit=500&resourceVersion=0":                         memory,
		"GET /api/v1/namespaces/n/pods/p?resourceVersion=0":                    memory,
		"GET /api/v1/pods?resourceVersion=0&resourceVersionMatch=Exact":        recent,
		"GET /api/v1/pods?resourceVersion=07":                                  recent,
		"GET /api/v1/pods?resourceVersion=5":                                   recent,
		"GET /api/v1/pods?labelSelector=resourceVersion%3D0":                   proves,
		"GET /api/v1/pods?limit=5&continue=abc":                                recent,
		"GET /api/v1/pods?watch=true&resourceVersion=0":                        stream,
		"GET /api/v1/pods?watch=1":                                             stream,
		"GET /api/v1/namespaces/n/pods/p/log":                                  recent,
		"GET /api/v1/namespaces/n/pods/p/log?follow=true&resourceVersion=0":    stream,
		"GET /api/v1/namespaces/n/services/s/proxy/readyz?resourceVersion=0":   stream,
		"POST /api/v1/namespaces/n/pods":                                       proves,
		"POST /api/v1/namespaces/n/pods?resourceVersion=0":                     proves,
		"DELETE /api/v1/namespaces/n/pods/p":                                   proves,
		"POST /apis/authorization.k8s.io/v1/subjectaccessreviews":              memory,
		"POST /apis/authentication.k8s.io/v1/tokenreviews":                     memory,
		"PUT /apis/coordination.k8s.io/v1/namespaces/n/leases/l":               proves,
		"PATCH /apis/apps/v1/namespaces/n/deployments/d":                       proves,
		"GET /apis/example.com/v1/widgets":                                     recent,
		"GET /apis/metrics.k8s.io/v1beta1/nodes":                               recent,
		"GET /apis/custom.metrics.k8s.io/v1beta1/namespaces/n/pods/p/requests": recent,
		"GET /version":    memory,
		"GET /apis":       memory,
		"GET /openapi/v3": memory,
		"POST /somewhere": recent,
		"GET /apis/apps/v1/deployments?timeout=1ms": proves,
	} {
		method, path, _ := cut(target)
		r := httptest.NewRequest(method, path, nil)
		f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, wants(r, f)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/api/v1/pods", nil)
	f, _ := flow.Classify(r, flow.Caller{}, flow.BreakGlass, time.Now())
	if !wants(r, f).Insistent {
		t.Error("the break-glass lane does not insist")
	}
}

func cut(target string) (method, path string, ok bool) {
	for i := range target {
		if target[i] == ' ' {
			return target[:i], target[i+1:], true
		}
	}
	return "", "", false
}

func TestOwnWants(t *testing.T) {
	for target, want := range map[string]choice.Request{
		"GET /api/v1/pods":                                        {Proves: true},
		"GET /api/v1/pods?resourceVersion=0":                      {Class: choice.Memory},
		"GET /api/v1/pods?watch=true&resourceVersion=0":           {Stream: true},
		"GET /apis/example.com/v1/widgets":                        {},
		"GET /apis/apps/v1/deployments":                           {Proves: true},
		"POST /apis/authorization.k8s.io/v1/subjectaccessreviews": {},
		"GET /apis": {},
	} {
		method, path, _ := cut(target)
		if diff := cmp.Diff(want, ownWants(httptest.NewRequest(method, path, nil))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", target, diff)
		}
	}
}

func TestMovable(t *testing.T) {
	for target, want := range map[string]bool{
		"/api/v1/pods?watch=true&allowWatchBookmarks=true":                     true,
		"/api/v1/pods?watch=true&allowWatchBookmarks=true&resourceVersion=7":   true,
		"/api/v1/pods?watch=true&allowWatchBookmarks=false":                    false,
		"/api/v1/pods?watch=true":                                              false,
		"/api/v1/pods?allowWatchBookmarks=true":                                false,
		"/api/v1/namespaces/n/pods/p/log?follow=true&allowWatchBookmarks=true": false,
	} {
		r := httptest.NewRequest(http.MethodGet, target, nil)
		f, _ := flow.Classify(r, flow.Caller{}, flow.Standard, time.Now())
		if got := movable(f, r.URL.RawQuery); got != want {
			t.Errorf("%s: %v, want %v", target, got, want)
		}
	}
}
