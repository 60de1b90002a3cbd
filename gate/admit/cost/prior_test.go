package cost

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	flowcontrol "k8s.io/apiserver/pkg/util/flowcontrol/request"

	"github.com/seakeep/seakeep/gate/flow"
)

// progress says that etcd tells its watches' progress, as every etcd of the last years does: LISTs for the most recent state
// come from the watch cache.
type progress struct {
	etcdfeature.FeatureSupportChecker
}

func (progress) Supports(storage.Feature) bool { return true }

// fairness is API Priority and Fairness's estimator itself, over the same objects and watchers.
func fairness(t *testing.T, bySize bool, objects map[schema.GroupResource]Objects, watchers map[schema.GroupResource]int) flowcontrol.WorkEstimatorFunc {
	t.Helper()
	before := etcdfeature.DefaultFeatureSupportChecker
	etcdfeature.DefaultFeatureSupportChecker = progress{}
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = before })
	set := func(on bool) {
		if err := utilfeature.DefaultMutableFeatureGate.Set(fmt.Sprintf("%s=%t", features.SizeBasedListCostEstimate, on)); err != nil {
			t.Fatal(err)
		}
	}
	on := utilfeature.DefaultFeatureGate.Enabled(features.SizeBasedListCostEstimate)
	set(bySize)
	t.Cleanup(func() { set(on) })
	config := flowcontrol.DefaultWorkEstimatorConfig()
	config.MaximumListSeatsLimit = 10
	return flowcontrol.NewWorkEstimator(
		func(key string) (storage.Stats, error) {
			o, ok := objects[schema.ParseGroupResource(key)]
			if !ok {
				return storage.Stats{}, flowcontrol.ObjectCountNotFoundErr
			}
			return storage.Stats{ObjectCount: o.Count, EstimatedAverageObjectSizeBytes: o.AverageBytes}, nil
		},
		func(info *request.RequestInfo) int {
			return watchers[schema.GroupResource{Group: info.APIGroup, Resource: info.Resource}]
		},
		config, func(string) uint64 { return 0 })
}

var infos = &request.RequestInfoFactory{APIPrefixes: sets.NewString("api", "apis"), GrouplessAPIPrefixes: sets.NewString("api")}

// generated is a request of any sort a client sends, with limits at the ends of the classes of limits, which are all a
// shape knows.
func generated(random *rand.Rand) *http.Request {
	pick := func(from ...string) string { return from[random.IntN(len(from))] }
	root := pick("/api/v1", "/apis/apps/v1", "/apis/example.com/v1")
	resource := map[string][]string{
		"/api/v1":              {"pods", "secrets", "serviceaccounts", "nodes"},
		"/apis/apps/v1":        {"deployments", "unheardof"},
		"/apis/example.com/v1": {"widgets"},
	}[root]
	path := root + "/" + pick("", "namespaces/a/") + resource[random.IntN(len(resource))]
	method := pick("GET", "GET", "GET", "GET", "POST", "PUT", "PATCH", "DELETE")
	if method != http.MethodPost && (method != http.MethodGet || random.IntN(4) == 0) {
		path += pick("/x", "/x", "/x", "/x/status", "/x/token")
	} else if method == http.MethodPost && strings.Contains(path, "serviceaccounts") {
		path += pick("", "/x/token")
	}
	query := url.Values{}
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	if method == http.MethodGet {
		set("limit", pick("", "", "50", "500", "1000000000"))
		set("resourceVersion", pick("", "", "0", "17"))
		set("resourceVersionMatch", pick("", "", "", "NotOlderThan", "Exact"))
		set("fieldSelector", pick("", "", "", "metadata.name=x", "spec.nodeName=n1", "status.phase!=Running"))
		set("labelSelector", pick("", "", "a=b"))
		if query.Get("limit") != "" && random.IntN(4) == 0 {
			query.Set("limit", "500")
			query.Set("continue", "token")
			query.Del("resourceVersionMatch")
		}
		if random.IntN(4) == 0 {
			query.Set("watch", "true")
			set("sendInitialEvents", pick("", "true"))
		}
	}
	return httptest.NewRequest(method, path+"?"+query.Encode(), nil)
}

// Unseen shapes hold what API Priority and Fairness counts: the same where it counts what is asked for, no more where it
// counts objects of other namespaces, or that the selectors leave out.
func TestPriorAgainstPriorityAndFairness(t *testing.T) {
	for _, bySize := range []bool{true, false} {
		t.Run(fmt.Sprintf("by size %t", bySize), func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 2))
			var same, fewer int
			for range 50 {
				objects := map[schema.GroupResource]Objects{}
				watchers := map[schema.GroupResource]int{}
				for _, name := range []string{"pods", "secrets", "serviceaccounts", "nodes", "namespaces", "deployments.apps", "widgets.example.com"} {
					o := Objects{Count: int64(math.Exp(random.Float64() * 12))}
					if bySize {
						o.AverageBytes = 1 + int64(math.Exp(random.Float64()*12))
					}
					objects[schema.ParseGroupResource(name)] = o
					watchers[schema.ParseGroupResource(name)] = int(math.Exp(random.Float64() * 9))
				}
				estimator := fairness(t, bySize, objects, watchers)
				m := New(Config{})
				m.SetObjects(objects)
				m.SetWatchers(watchers)
				for range 120 {
					r := generated(random)
					info, err := infos.NewRequestInfo(r)
					if err != nil {
						t.Fatal(err)
					}
					want := estimator.EstimateWork(r.WithContext(request.WithRequestInfo(context.Background(), info)), "", "")
					f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Time{})
					if err != nil {
						t.Fatal(err)
					}
					s := ShapeOf(f, r)
					got := m.Estimate(s)
					if got.Learned {
						t.Fatalf("%s %s is learned", r.Method, r.URL)
					}
					if got.FinalSeats != int(want.FinalSeats) || math.Abs(got.FinalSeconds-want.AdditionalLatency.Seconds()) > 1e-6 {
						t.Errorf("%s %s: final seats %d for %vs, Kubernetes %d for %s", r.Method, r.URL, got.FinalSeats, got.FinalSeconds, want.FinalSeats, want.AdditionalLatency)
					}
					_, known := objects[schema.GroupResource{Group: f.APIGroup, Resource: f.Resource}]
					switch {
					case s.Encodes() && !known:
						if got.Seats < int(want.InitialSeats) || got.Seats > 5 {
							t.Errorf("%s %s: %d seats for a kind whose count nobody knows", r.Method, r.URL, got.Seats)
						}
					case s.Encodes() && s.Selector != ByName && (f.Namespace != "" || s.Selector != NoSelector):
						fewer++
						if got.Seats > int(want.InitialSeats) || got.Seats < 1 {
							t.Errorf("%s %s: %d seats, Kubernetes %d", r.Method, r.URL, got.Seats, want.InitialSeats)
						}
					default:
						same++
						if got.Seats != int(want.InitialSeats) {
							t.Errorf("%s %s of %+v: %d seats, Kubernetes %d", r.Method, r.URL, objects[schema.GroupResource{Group: f.APIGroup, Resource: f.Resource}], got.Seats, want.InitialSeats)
						}
					}
				}
			}
			t.Logf("%d the same, %d no more", same, fewer)
			if same < 3000 || fewer < 1000 {
				t.Error("too few were compared")
			}
		})
	}
}

func TestPriorScales(t *testing.T) {
	m := New(Config{})
	m.SetObjects(map[schema.GroupResource]Objects{
		{Resource: "pods"}:                           {Count: 10_000, AverageBytes: 2000},
		{Resource: "nodes"}:                          {Count: 1000, AverageBytes: 5000},
		{Resource: "namespaces"}:                     {Count: 100, AverageBytes: 500},
		{Group: "example.com", Resource: "widgets"}:  {Count: 1000, AverageBytes: 1000},
		{Resource: "events"}:                         {Count: -1, AverageBytes: 1000},
		{Group: "huge.example", Resource: "widgets"}: {Count: math.MaxInt64, AverageBytes: math.MaxInt64},
	})
	tests := map[string]struct {
		target, accept string
		seats          int
		bytes          int64
	}{
		"all pods":                              {"/api/v1/pods", "", 10, 60_000_000},
		"in protobuf, a third":                  {"/api/v1/pods", protobuf, 10, 20_000_000},
		"of a namespace, by the root of them":   {"/api/v1/namespaces/a/pods", "", 10, 6_000_000},
		"of one node of a thousand":             {"/api/v1/pods?fieldSelector=spec.nodeName%3Dn1", "", 1, 60_000},
		"by name":                               {"/api/v1/pods?fieldSelector=metadata.name%3Dx", "", 1, 6_000},
		"a page":                                {"/api/v1/pods?limit=50", "", 1, 300_000},
		"custom resources are stored as JSON":   {"/apis/example.com/v1/widgets", "", 10, 1_000_000},
		"and are JSON in protobuf too":          {"/apis/example.com/v1/widgets", protobuf, 10, 1_000_000},
		"nobody knows how many":                 {"/api/v1/events", "", 5, 1_500_000},
		"nor of a namespace":                    {"/apis/x.example/v1/namespaces/a/things", "", 1, 50_000},
		"one object":                            {"/api/v1/namespaces/a/pods/x", "", 1, 6_000},
		"a watch with what exists":              {"/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "", 10, 60_000_000},
		"a watch from now on":                   {"/api/v1/pods?watch=1&resourceVersion=17", "", 1, 0},
		"more than there can be is bounded too": {"/apis/huge.example/v1/widgets", "", 10, mostBytes},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := m.Estimate(shapeOf(t, "GET", tc.target, "Accept", tc.accept))
			if got.Seats != tc.seats || got.Bytes != tc.bytes {
				t.Errorf("want %d seats and %d bytes, got %+v", tc.seats, tc.bytes, got)
			}
			if got.Seconds > mostSeconds*10 {
				t.Errorf("%v seconds", got.Seconds)
			}
		})
	}
}

// An unseen form of what was seen in another is no longer guessed from counts.
func TestBorrowing(t *testing.T) {
	m := New(Config{})
	m.SetObjects(map[schema.GroupResource]Objects{{Resource: "pods"}: {Count: 1_000_000, AverageBytes: 10_000}})
	json := shapeOf(t, "GET", "/api/v1/pods?resourceVersion=0")
	for range 30 {
		m.Observe(time.Unix(0, 0), json, Sample{Upstream: 62 * time.Millisecond, Bytes: 600_000, Code: 200})
	}
	tests := map[string]struct {
		target, accept, encoding string
		want                     Estimate
	}{
		"protobuf is a third":           {"/api/v1/pods?resourceVersion=0", protobuf, "", Estimate{Seats: 2, Bytes: 200_000, Seconds: 0.022}},
		"compressed":                    {"/api/v1/pods?resourceVersion=0", "", "gzip", Estimate{Seats: 6, Bytes: 600_000, Seconds: 0.062}},
		"the most recent":               {"/api/v1/pods", "", "", Estimate{Seats: 6, Bytes: 600_000, Seconds: 0.062}},
		"WatchList":                     {"/api/v1/pods?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan", "", "", Estimate{Seats: 6, Bytes: 600_000, Seconds: 0.062}},
		"itself":                        {"/api/v1/pods?resourceVersion=0", "", "", Estimate{Seats: 6, Bytes: 600_000, Seconds: 0.062, Learned: true}},
		"a page is another matter":      {"/api/v1/pods?limit=500", "", "", Estimate{Seats: 10, Bytes: 15_000_000, Seconds: 0.305}},
		"a namespace is another matter": {"/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx", "", "", Estimate{Seats: 1, Bytes: 30_000, Seconds: 0.0056}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := m.Estimate(shapeOf(t, "GET", tc.target, "Accept", tc.accept, "Accept-Encoding", tc.encoding))
			got.Seconds = math.Round(got.Seconds*1e5) / 1e5
			if got != tc.want {
				t.Errorf("want %+v, got %+v", tc.want, got)
			}
		})
	}
	// The nearest tells, not the first.
	m.Observe(time.Unix(0, 0), shapeOf(t, "GET", "/api/v1/pods?resourceVersion=0", "Accept", protobuf), Sample{Upstream: time.Millisecond, Bytes: 90_000, Code: 200})
	if got := m.Estimate(shapeOf(t, "GET", "/api/v1/pods", "Accept", protobuf, "Accept-Encoding", "gzip")); got.Seats != 1 || got.Learned {
		t.Errorf("protobuf was seen: %+v", got)
	}
}
