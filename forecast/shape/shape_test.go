package shape

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/signals"
)

var epoch = time.Unix(1_700_000_000, 0)

func readings(seconds, lists float64) []Reading {
	at := epoch.Add(time.Duration(seconds * float64(time.Second)))
	resource := func(group, name string) signals.Resource { return signals.Resource{Group: group, Resource: name} }
	kind := func(verb, group, name string) signals.RequestKind {
		return signals.RequestKind{Verb: verb, Group: group, Resource: name}
	}
	one := Reading{
		Load: signals.Load{
			Processors: 4, MemoryLimit: 8e9,
			Objects: map[signals.Resource]float64{
				resource("", "nodes"): 300, resource("", "pods"): 6000, resource("apps", "deployments"): 70,
				resource("billing.acme.example", "invoices"): 900, resource("gateway.networking.k8s.io", "httproutes"): 12,
			},
			ObjectBytes: map[signals.Resource]float64{resource("", "pods"): 48e6, resource("billing.acme.example", "invoices"): 9e5},
			Watches:     map[signals.Resource]float64{resource("", "pods"): 310, resource("billing.acme.example", "invoices"): 3},
		},
		Requests: signals.Requests{
			Read: at, Started: epoch.Add(-time.Hour),
			Answered: map[signals.RequestKind]float64{
				kind("LIST", "", "pods"): lists, kind("GET", "billing.acme.example", "invoices"): lists / 10, kind("WATCH", "", "pods"): lists,
				kind("GET", "metrics.k8s.io", "pods"): lists / 100, {Verb: "GET", Subresource: "/readyz"}: lists,
			},
			Self: map[signals.RequestKind]float64{kind("LIST", "", "pods"): lists / 2},
		},
		About: signals.About{Version: "v1.36.3"},
	}
	return []Reading{one, one}
}

// Two API servers count the same objects and answer their own requests. Nobody's name is left.
func TestOf(t *testing.T) {
	got, err := Of(readings(0, 0), readings(10, 1000))
	if err != nil {
		t.Fatal(err)
	}
	want := &v1alpha1.ClusterShape{
		TypeMeta: v1alpha1.TypeMeta{APIVersion: v1alpha1.APIVersion, Kind: v1alpha1.KindClusterShape}, Kubernetes: "v1.36.3",
		APIServers: v1alpha1.ShapeServers{Count: 2, MilliProcessors: 8000, MemoryBytes: 16e9},
		Objects: []v1alpha1.ShapeObjects{
			{Resource: "pods", Count: 6000, Bytes: 8000}, {Group: "custom-1", Resource: "custom-1", Count: 900, Bytes: 1000},
			{Resource: "nodes", Count: 300}, {Group: "apps", Resource: "deployments", Count: 70}, {Group: "custom-2", Resource: "custom-2", Count: 12},
		},
		Watches: []v1alpha1.ShapeWatches{{Resource: "pods", Count: 620}, {Group: "custom-1", Resource: "custom-1", Count: 6}},
		Requests: []v1alpha1.ShapeRequests{
			{Verb: "LIST", Resource: "pods", PerThousandSeconds: 100_000}, {Verb: "GET", Group: "custom-1", Resource: "custom-1", PerThousandSeconds: 20_000},
			{Verb: "GET", Group: "custom-3", Resource: "custom-3", PerThousandSeconds: 2000},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if errs := got.Validate(); len(errs) > 0 {
		t.Error(errs.ToAggregate())
	}
}

func TestOfRefuses(t *testing.T) {
	if _, err := Of(readings(0, 0), nil); err == nil {
		t.Error("nothing is taken")
	}
	again := readings(10, 100)
	again[1].Requests.Started = epoch
	if _, err := Of(readings(0, 0), again); err == nil || !strings.Contains(err.Error(), "began anew") {
		t.Errorf("a new API server: %v", err)
	}
	empty := readings(10, 100)
	for i := range empty {
		empty[i].Load.Objects = nil
	}
	if _, err := Of(readings(0, 0), empty); err == nil || !strings.Contains(err.Error(), "nodes") {
		t.Errorf("no nodes: %v", err)
	}
	if _, err := Read(strings.NewReader("up 1\n"), epoch); err == nil {
		t.Error("metrics of something else are taken")
	}
}

func FuzzRead(f *testing.F) {
	f.Add("process_cpu_seconds_total 1\nprocess_resident_memory_bytes 2\napiserver_current_inflight_requests{request_kind=\"readOnly\"} 1\napiserver_request_total{verb=\"LIST\",resource=\"pods\"} 3\nkubernetes_build_info{git_version=\"v1\"} 1\napiserver_resource_objects{group=\"\",resource=\"nodes\"} 3\n")
	f.Fuzz(func(t *testing.T, text string) {
		one, err := Read(strings.NewReader(text), epoch)
		if err != nil {
			return
		}
		later := one
		later.Requests.Read = epoch.Add(time.Minute)
		s, err := Of([]Reading{one}, []Reading{later})
		if err == nil && s.Count("", "nodes") == 0 {
			t.Errorf("%+v", s)
		}
	})
}
