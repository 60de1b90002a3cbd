package agents

import (
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func TestParseBehaviour(t *testing.T) {
	pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	tests := map[string]struct {
		annotations map[string]string
		want        Behaviour
		wantNone    bool
		wantErr     string
	}{
		"no agent": {annotations: map[string]string{AnnotationPeriod: "1s"}, wantNone: true},
		"defaults": {
			annotations: map[string]string{AnnotationVerb: "list"},
			want:        Behaviour{Verb: VerbList, Resource: pods, Scope: ScopeCluster, Period: 30 * time.Second, Jitter: 0.1, Burst: 1, Parallel: 1, Compressed: true},
		},
		"all": {
			annotations: map[string]string{
				AnnotationVerb: "watchlist", AnnotationResource: "deployments.apps", AnnotationScope: "namespace", AnnotationMediaType: "protobuf",
				AnnotationPeriod: "2s", AnnotationJitter: "0.5", AnnotationBurst: "3", AnnotationUserAgent: "telemetry/1.0",
				AnnotationResourceVersion: "0", AnnotationCompression: "none", AnnotationParallel: "4",
			},
			want: Behaviour{
				Verb: VerbWatchList, Resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"},
				Scope: ScopeNamespace, Protobuf: true, Period: 2 * time.Second, Jitter: 0.5, Burst: 3, Parallel: 4, UserAgent: "telemetry/1.0", FromCache: true,
			},
		},
		"version": {
			annotations: map[string]string{AnnotationVerb: "list", AnnotationResource: "widgets.v1beta1.example.com"},
			want: Behaviour{
				Verb: VerbList, Resource: schema.GroupVersionResource{Group: "example.com", Version: "v1beta1", Resource: "widgets"},
				Scope: ScopeCluster, Period: 30 * time.Second, Jitter: 0.1, Burst: 1, Parallel: 1, Compressed: true,
			},
		},
		"dotted group": {
			annotations: map[string]string{AnnotationVerb: "list", AnnotationResource: "endpointslices.discovery.k8s.io"},
			want: Behaviour{
				Verb: VerbList, Resource: schema.GroupVersionResource{Group: "discovery.k8s.io", Version: "v1", Resource: "endpointslices"},
				Scope: ScopeCluster, Period: 30 * time.Second, Jitter: 0.1, Burst: 1, Parallel: 1, Compressed: true,
			},
		},
		"unknown verb":        {annotations: map[string]string{AnnotationVerb: "delete"}, wantErr: "agent-verb"},
		"path in resource":    {annotations: map[string]string{AnnotationVerb: "list", AnnotationResource: "../secrets"}, wantErr: "agent-resource"},
		"no period":           {annotations: map[string]string{AnnotationVerb: "list", AnnotationPeriod: "0s"}, wantErr: "agent-period"},
		"jitter of more":      {annotations: map[string]string{AnnotationVerb: "list", AnnotationJitter: "NaN"}, wantErr: "agent-jitter"},
		"burst":               {annotations: map[string]string{AnnotationVerb: "list", AnnotationBurst: "1000000"}, wantErr: "agent-burst"},
		"parallel":            {annotations: map[string]string{AnnotationVerb: "list", AnnotationParallel: "65"}, wantErr: "agent-parallel"},
		"line end in agent":   {annotations: map[string]string{AnnotationVerb: "list", AnnotationUserAgent: "a\r\nX-Remote-User: b"}, wantErr: "agent-user-agent"},
		"get of deployments":  {annotations: map[string]string{AnnotationVerb: "get", AnnotationResource: "deployments.apps"}, wantErr: "pods or nodes"},
		"services of a node":  {annotations: map[string]string{AnnotationVerb: "list", AnnotationResource: "services", AnnotationScope: "node"}, wantErr: "agent-scope"},
		"unknown compression": {annotations: map[string]string{AnnotationVerb: "list", AnnotationCompression: "br"}, wantErr: "agent-compression"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok, err := ParseBehaviour(tc.annotations)
			if tc.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wantErr) || ok {
					t.Errorf("ok %t, error %v; want one with %q", ok, err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if ok == tc.wantNone {
				t.Fatalf("ok is %t", ok)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("behaviour differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPath(t *testing.T) {
	tests := map[string]struct {
		annotations map[string]string
		want        string
	}{
		"list":           {nil, "/api/v1/pods"},
		"from the cache": {map[string]string{AnnotationResourceVersion: "0"}, "/api/v1/pods?resourceVersion=0"},
		"of the node":    {map[string]string{AnnotationScope: "node"}, "/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-1"},
		"of the namespace": {
			map[string]string{AnnotationScope: "namespace", AnnotationResource: "deployments.apps"}, "/apis/apps/v1/namespaces/ns/deployments",
		},
		"own pod":  {map[string]string{AnnotationVerb: "get"}, "/api/v1/namespaces/ns/pods/pod-1"},
		"own node": {map[string]string{AnnotationVerb: "get", AnnotationResource: "nodes"}, "/api/v1/nodes/node-1"},
		"watch list": {
			map[string]string{AnnotationVerb: "watchlist", AnnotationPeriod: "5s"},
			"/api/v1/pods?watch=true&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&resourceVersion=&timeoutSeconds=5",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			annotations := map[string]string{AnnotationVerb: "list"}
			maps.Copy(annotations, tc.annotations)
			b, ok, err := ParseBehaviour(annotations)
			if err != nil || !ok {
				t.Fatalf("ok %t, error %v", ok, err)
			}
			if got := b.path("ns", "pod-1", "node-1"); got != tc.want {
				t.Errorf("path is %s, want %s", got, tc.want)
			}
		})
	}
}

func TestDefaultUserAgent(t *testing.T) {
	for image, want := range map[string]string{
		"registry.example.com:5000/a/telemetry:1.4.2": "telemetry-agent/1.4.2",
		"telemetry":                        "telemetry-agent/latest",
		"registry.example.com:5000/a":      "telemetry-agent/latest",
		"a/telemetry:2@sha256:0123456789a": "telemetry-agent/2",
		"":                                 "telemetry-agent/latest",
	} {
		if got := defaultUserAgent("telemetry-agent", image); got != want {
			t.Errorf("user agent of %q is %q, want %q", image, got, want)
		}
	}
}

func FuzzParseBehaviour(f *testing.F) {
	f.Add("list", "pods", "cluster", "1s", "0.1", "1", "agent/1")
	f.Add("watchlist", "widgets.v1beta1.example.com", "namespace", "10ms", "1", "100", "")
	f.Fuzz(func(t *testing.T, verb, resource, scope, period, jitter, burst, userAgent string) {
		b, ok, err := ParseBehaviour(map[string]string{
			AnnotationVerb: verb, AnnotationResource: resource, AnnotationScope: scope, AnnotationPeriod: period,
			AnnotationJitter: jitter, AnnotationBurst: burst, AnnotationParallel: burst, AnnotationUserAgent: userAgent,
		})
		if err != nil || !ok {
			return
		}
		if b.Period < minPeriod || b.Burst > maxBurst || b.Parallel > maxLoops || !(b.Jitter >= 0 && b.Jitter <= 1) {
			t.Errorf("accepted %+v", b)
		}
		req, err := http.NewRequest(http.MethodGet, "https://127.0.0.1"+b.path("ns", "pod", "node"), nil)
		if err != nil {
			t.Fatalf("%+v makes a URL that cannot be requested: %v", b, err)
		}
		if !strings.HasPrefix(req.URL.Path, "/api") || strings.Contains(req.URL.Path, "..") {
			t.Errorf("%+v leads to %s", b, req.URL.Path)
		}
	})
}
