package signals

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const requestSample = sample + `# TYPE apiserver_selfrequest_total counter
apiserver_selfrequest_total{group="",resource="nodes",subresource="",verb="GET"} 7
# TYPE apiserver_longrunning_requests gauge
apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="cluster",subresource="",verb="WATCH",version="v1"} 3
apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="namespace",subresource="",verb="WATCH",version="v1"} 2
apiserver_longrunning_requests{component="apiserver",group="",resource="pods",scope="resource",subresource="exec",verb="CONNECT",version="v1"} 0
`

func TestReadRequests(t *testing.T) {
	now := time.Unix(1700000100, 0)
	got, err := ReadRequests(strings.NewReader(requestSample), now)
	if err != nil {
		t.Fatal(err)
	}
	want := Requests{
		Read: now, Started: time.Unix(1700000000, 0),
		Answered: map[RequestKind]float64{{Verb: "LIST", Resource: "pods"}: 390, {Verb: "GET", Resource: "nodes"}: 1000},
		Self:     map[RequestKind]float64{{Verb: "GET", Resource: "nodes"}: 7},
		Open:     map[RequestKind]float64{{Verb: "WATCH", Resource: "pods"}: 5},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
	if got, err := ReadRequests(strings.NewReader(sample), now); err != nil || got.Self != nil {
		t.Errorf("an API server that does not tell its own requests apart: want no error and nil, got %v, %v", err, got.Self)
	}
}

func TestReadRequestsRefuses(t *testing.T) {
	var missing *MissingError
	if _, err := ReadRequests(strings.NewReader("go_goroutines 7\n"), time.Unix(0, 0)); !errors.As(err, &missing) {
		t.Errorf("another process: want a MissingError, got %v", err)
	}
	long := "apiserver_request_total{resource=\"" + strings.Repeat("x", 300) + "\"} 1\n"
	if _, err := ReadRequests(strings.NewReader(long), time.Unix(0, 0)); err == nil {
		t.Error("a label of 300 bytes is taken")
	}
}

func TestRequestsSince(t *testing.T) {
	start := time.Unix(1700000000, 0)
	pods, nodes := RequestKind{Verb: "LIST", Resource: "pods"}, RequestKind{Verb: "GET", Resource: "nodes"}
	earlier := Requests{Read: start, Started: start, Answered: map[RequestKind]float64{pods: 10, nodes: 5}, Self: map[RequestKind]float64{nodes: 1}}
	for name, tc := range map[string]struct {
		later Requests
		want  RequestChange
	}{
		"the same process": {
			Requests{Read: start.Add(2 * time.Second), Started: start, Answered: map[RequestKind]float64{pods: 14, nodes: 5}, Self: map[RequestKind]float64{nodes: 2}},
			RequestChange{Seconds: 2, Answered: map[RequestKind]float64{pods: 4}, Self: map[RequestKind]float64{nodes: 1}},
		},
		"restarted: what the new process did counts": {
			Requests{Read: start.Add(2 * time.Second), Started: start.Add(time.Minute), Answered: map[RequestKind]float64{pods: 3}, Self: map[RequestKind]float64{}},
			RequestChange{Seconds: 2, Answered: map[RequestKind]float64{pods: 3}, Self: map[RequestKind]float64{}, Restarted: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.later.Since(earlier)); diff != "" {
				t.Errorf("change (-want +got):\n%s", diff)
			}
		})
	}
}

func FuzzReadRequests(f *testing.F) {
	f.Add(requestSample)
	f.Add("apiserver_request_total{")
	f.Add("# TYPE apiserver_request_total histogram\napiserver_request_total{le=\"1\"} NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ReadRequests(strings.NewReader(text), time.Unix(0, 0))
		if err != nil {
			return
		}
		for kind, n := range r.Since(Requests{}).Answered {
			if !(n > 0) || math.IsInf(n, 0) {
				t.Errorf("%v was counted %v times", kind, n)
			}
		}
	})
}

const aboutSample = `# TYPE apiserver_flowcontrol_nominal_limit_seats gauge
apiserver_flowcontrol_nominal_limit_seats{priority_level="workload-low"} 245
apiserver_flowcontrol_nominal_limit_seats{priority_level="exempt"} 0
# TYPE apiserver_storage_size_bytes gauge
apiserver_storage_size_bytes{storage_cluster_id="etcd-0"} 1000
apiserver_storage_size_bytes{storage_cluster_id="etcd-1"} 500
# TYPE kubernetes_build_info gauge
kubernetes_build_info{git_version="v1.36.3",major="1",minor="36"} 1
# TYPE kubernetes_feature_enabled gauge
kubernetes_feature_enabled{name="WatchList",stage="BETA"} 1
kubernetes_feature_enabled{name="ShardedListAndWatch",stage="ALPHA"} 0
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e+09
`

func TestReadAbout(t *testing.T) {
	got, err := ReadAbout(strings.NewReader(aboutSample))
	if err != nil {
		t.Fatal(err)
	}
	want := About{
		Started: time.Unix(1700000000, 0), Version: "v1.36.3", StorageBytes: 1500,
		Features: map[string]bool{"WatchList": true, "ShardedListAndWatch": false},
		Seats:    map[string]float64{"workload-low": 245, "exempt": 0},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("reading (-want +got):\n%s", diff)
	}
	var missing *MissingError
	if _, err := ReadAbout(strings.NewReader(sample)); !errors.As(err, &missing) {
		t.Errorf("metrics without a build: want a MissingError, got %v", err)
	}
}

func FuzzReadAbout(f *testing.F) {
	f.Add(aboutSample)
	f.Add("kubernetes_build_info{git_version=\"")
	f.Fuzz(func(t *testing.T, text string) {
		if about, err := ReadAbout(strings.NewReader(text)); err == nil && about.Version == "" {
			t.Error("a reading without a version and without an error")
		}
	})
}
