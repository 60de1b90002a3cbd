package cost

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/cbor"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/gate/flow"
)

const protobuf = "application/vnd.kubernetes.protobuf"

func shapeOf(t testing.TB, method, target string, headers ...string) Shape {
	t.Helper()
	r := httptest.NewRequest(method, target, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return ShapeOf(f, r)
}

func TestShapeOf(t *testing.T) {
	const object, namespace, cluster, none = v1alpha1.ScopeObject, v1alpha1.ScopeNamespace, v1alpha1.ScopeCluster, v1alpha1.ScopeNonResource
	tests := map[string]struct {
		method, target string
		headers        []string
		want           Shape
	}{
		"everything": {"GET", "/api/v1/pods", nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster}},
		"an informer's first page": {"GET", "/api/v1/pods?limit=500&resourceVersion=0", []string{"Accept", protobuf + ",application/json", "Accept-Encoding", "gzip"},
			Shape{Verb: "list", Resource: "pods", Scope: cluster, Media: Protobuf, Gzip: true, Limit: UpTo500, Version: Memory}},
		"the second page": {"GET", "/api/v1/pods?limit=500&continue=abc%3D", nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster, Limit: Continued}},
		"a kubelet's": {"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1&resourceVersion=0", nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster, Selector: ByNode, Version: Memory}},
		"the pods of no node": {"GET", "/api/v1/pods?fieldSelector=spec.nodeName%3D", nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster, Selector: ByField}},
		"the pods of others": {"GET", "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1", nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster, Selector: ByField}},
		"one by name": {"GET", "/apis/apps/v1/namespaces/a/deployments?fieldSelector=metadata.name%3Dweb&labelSelector=a%3Db", nil,
			Shape{Verb: "list", Group: "apps", Resource: "deployments", Scope: object, Selector: ByName}},
		"by both": {"GET", "/api/v1/namespaces/a/pods?fieldSelector=status.phase%3DRunning&labelSelector=a%3Db&limit=10", nil,
			Shape{Verb: "list", Resource: "pods", Scope: namespace, Selector: ByBoth, Limit: UpTo50}},
		"one version, by its limit": {"GET", "/api/v1/pods?limit=1000&resourceVersion=17", nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster, Limit: MoreThan500, Version: Exact}},
		"the first of two counts": {"GET", "/api/v1/pods?limit=&limit=5&resourceVersion=&resourceVersion=0", nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster}},
		"kubectl get": {"GET", "/api/v1/pods?limit=500", []string{"Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"},
			Shape{Verb: "list", Resource: "pods", Scope: cluster, Media: Table, Limit: UpTo500}},
		"WatchList": {"GET", "/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=17", []string{"Accept", protobuf},
			Shape{Verb: "watch", Resource: "pods", Scope: cluster, Media: Protobuf, Version: NotOlderThan, InitialEvents: true}},
		"a watch is the same whatever form": {"GET", "/api/v1/pods?watch=1&resourceVersion=17", []string{"Accept", protobuf},
			Shape{Verb: "watch", Resource: "pods", Scope: cluster, Stream: true}},
		"a lease": {"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1?fieldManager=x", []string{"Accept", protobuf, "Accept-Encoding", "gzip"},
			Shape{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Scope: object, Media: Protobuf}},
		"a log": {"GET", "/api/v1/namespaces/a/pods/b/log", nil,
			Shape{Verb: "get", Resource: "pods", Subresource: "log", Scope: object, Stream: true}},
		"no resource":                {"GET", "/openapi/v3/apis/apps/v1", nil, Shape{Verb: "get", Resource: "/openapi", Scope: none}},
		"the root":                   {"GET", "/", nil, Shape{Verb: "get", Resource: "/", Scope: none}},
		"a method nobody has":        {"BREW", "/pot", nil, Shape{Verb: "other", Resource: "/pot", Scope: none}},
		"a name too long for an API": {"GET", "/api/v1/" + strings.Repeat("x", 64), nil, Shape{Verb: "list", Resource: "(unknown)", Scope: cluster}},
		"a name in no alphabet":      {"GET", "/api/v1/%3Cpods%3E", nil, Shape{Verb: "list", Resource: "(unknown)", Scope: cluster}},
		"more parameters than net/url reads": {"GET", "/api/v1/pods?limit=1" + strings.Repeat("&a", 10_000), nil,
			Shape{Verb: "list", Resource: "pods", Scope: cluster}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, shapeOf(t, tc.method, tc.target, tc.headers...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// everyTransform allows what the API server's built-in kinds do (k8s.io/apiserver/pkg/endpoints/handlers/rest.go).
type everyTransform struct{}

func (everyTransform) AllowsMediaTypeTransform(_, subtype string, kind *schema.GroupVersionKind) bool {
	if kind == nil {
		return true
	}
	if kind.Group != "meta.k8s.io" || kind.Version != "v1" && kind.Version != "v1beta1" {
		return false
	}
	switch kind.Kind {
	case "Table":
		return subtype == "json" || subtype == "yaml"
	case "PartialObjectMetadata", "PartialObjectMetadataList":
		return true
	}
	return false
}
func (everyTransform) AllowsServerVersion(v string) bool { return v == "v1" }
func (everyTransform) AllowsStreamSchema(s string) bool  { return s == "watch" }

// The API server's own negotiation says what an Accept header means.
func TestMediaAsTheAPIServerNegotiates(t *testing.T) {
	const table, metadata = ";as=Table;g=meta.k8s.io;v=v1", ";as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
	headers := []string{
		"", "*/*", "*", "application/*", "application/json, */*", "text/html", "text/html, */*;q=0.1", "application/yaml", "application/yaml,application/json",
		"application/cbor", "application/cbor, application/json;q=0.9", "application/json;q=0.5, application/cbor",
		protobuf, protobuf + ",application/json", protobuf + ";stream=watch," + protobuf, "application/json;q=0.9," + protobuf,
		"application/json" + table, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
		protobuf + table + ",application/json", "application/cbor" + table + ",application/yaml" + table, "application/json;as=Table", "application/json;as=Table,application/json",
		"application/json" + metadata, protobuf + metadata, protobuf + metadata + ",application/json" + metadata + ",application/json", "application/json;as=Pod;g=meta.k8s.io;v=v1,application/json",
		"text/html;q=1, application/*;q=0.3, " + protobuf + ";q=0.2", " application/json ; q=0.1 , " + protobuf + " ; q=0.2", ",,", ";", "application/json;;", "a/b/c",
	}
	for _, header := range headers {
		if got, want := mediaOf(http.Header{"Accept": {header}}), negotiated(header); got != want {
			t.Errorf("%q: want %s, got %s", header, want, got)
		}
	}
}

var accepted = serializer.NewCodecFactory(runtime.NewScheme(), serializer.WithSerializer(cbor.NewSerializerInfo)).SupportedMediaTypes()

func negotiated(header string) Media {
	options, ok := negotiation.NegotiateMediaTypeOptions(header, accepted, everyTransform{})
	if !ok {
		return OtherMedia
	}
	subtype := options.Accepted.MediaTypeSubType
	switch {
	case options.Convert != nil && options.Convert.Kind == "Table":
		return Table
	case options.Convert != nil && subtype == "vnd.kubernetes.protobuf":
		return MetadataProtobuf
	case options.Convert != nil:
		return Metadata
	case subtype == "yaml":
		return OtherMedia
	}
	return map[string]Media{"json": JSON, "cbor": CBOR, "vnd.kubernetes.protobuf": Protobuf}[subtype]
}

func FuzzMedia(f *testing.F) {
	f.Add("application/json;q=0.1 , application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, */*;q=0.2")
	f.Add("*;g==")
	f.Add("*, application/cbor;q=x, application/yaml; q=1;stream=watch;sv=v1, text/*;pretty=1")
	f.Add("application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json")
	f.Fuzz(func(t *testing.T, header string) {
		if strings.Count(header, ",") >= mostClauses || strings.Contains(header, "cbor-seq") {
			return // read on purpose as the API server does not
		}
		if got, want := mediaOf(http.Header{"Accept": {header}}), negotiated(header); got != want {
			t.Errorf("%q: want %s, got %s", header, want, got)
		}
	})
}

func FuzzShapeOf(f *testing.F) {
	f.Add("GET", "/api/v1/pods?limit=500&continue=%zz&resourceVersion=0", protobuf+";q=0.5, */*", "gzip")
	f.Add("GET", "/apis/apps/v1/namespaces/a/deployments?watch=1&sendInitialEvents=true", "application/json;as=Table;v=v1;g=meta.k8s.io", "")
	f.Add("DELETE", "/api/v1/namespaces/a/pods?labelSelector=a%3Db&a;b&&=", "", "deflate")
	f.Add("PUT", "/../x", ";;,,", "gzip;q=0")
	f.Fuzz(func(t *testing.T, method, target, accept, encoding string) {
		r := &http.Request{Method: method, Header: http.Header{"Accept": {accept}, "Accept-Encoding": {encoding}}, ProtoMajor: 2}
		var err error
		if r.URL, err = url.Parse(target); err != nil {
			return
		}
		classified, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Time{})
		if err != nil {
			return
		}
		s := ShapeOf(classified, r)
		m := New(Config{})
		if estimate := m.Estimate(s); estimate.Seats < 1 || estimate.Seats > 10 || !(estimate.Seconds >= 0) || estimate.Bytes < 0 {
			t.Fatalf("%+v is estimated %+v", s, estimate)
		}
		if s.Stream {
			return
		}
		m.Observe(time.Unix(0, 0), s, Sample{Upstream: time.Second, Bytes: 200_000, Code: 200})
		if estimate := m.Estimate(s); !estimate.Learned {
			t.Fatalf("%+v is not learned: %+v", s, estimate)
		}
		data, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		back := New(Config{})
		if err := back.Restore(data, time.Unix(0, 0)); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		if !back.Estimate(s).Learned {
			t.Fatalf("%+v does not come back from %s", s, data)
		}
	})
}
