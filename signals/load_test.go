package signals

import (
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const loadSample = requestSample + `# TYPE go_sched_gomaxprocs_threads gauge
go_sched_gomaxprocs_threads 2
# TYPE go_gc_gomemlimit_bytes gauge
go_gc_gomemlimit_bytes 9.223372036854775807e+18
# TYPE go_memory_classes_heap_free_bytes gauge
go_memory_classes_heap_free_bytes 3.7e+07
# TYPE etcd_request_duration_seconds histogram
etcd_request_duration_seconds_bucket{group="",operation="get",resource="pods",le="0.005"} 90
etcd_request_duration_seconds_sum{group="",operation="get",resource="pods"} 0.4
etcd_request_duration_seconds_count{group="",operation="get",resource="pods"} 100
etcd_request_duration_seconds_sum{group="",operation="update",resource="leases"} 0.6
etcd_request_duration_seconds_count{group="",operation="update",resource="leases"} 100
etcd_request_duration_seconds_sum{group="",operation="listWithCount",resource="pods"} 7
etcd_request_duration_seconds_count{group="",operation="listWithCount",resource="pods"} 2
# TYPE apiserver_resource_objects gauge
apiserver_resource_objects{group="",resource="pods"} 1000
apiserver_resource_objects{group="apps",resource="deployments"} 10
apiserver_resource_objects{group="",resource="events"} -1
# TYPE apiserver_resource_size_estimate_bytes gauge
apiserver_resource_size_estimate_bytes{group="",resource="pods"} 3e+06
apiserver_resource_size_estimate_bytes{group="",resource="events"} -1
# TYPE apiserver_storage_objects gauge
apiserver_storage_objects{resource="deployments.apps"} 11
`

func TestReadLoad(t *testing.T) {
	now := time.Unix(1700000100, 0)
	got, err := ReadLoad(strings.NewReader(loadSample), now)
	if err != nil {
		t.Fatal(err)
	}
	server, err := Read(strings.NewReader(loadSample), now)
	if err != nil {
		t.Fatal(err)
	}
	pods, deployments := Resource{Resource: "pods"}, Resource{Group: "apps", Resource: "deployments"}
	want := Load{
		APIServer: server, Processors: 2, HeapFreeBytes: 3.7e7, EtcdSeconds: 1, EtcdRequests: 200,
		Objects: map[Resource]float64{pods: 1000, deployments: 10}, ObjectBytes: map[Resource]float64{pods: 3e6},
		Watches: map[Resource]float64{pods: 5},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("load (-want +got):\n%s", diff)
	}

	older := strings.ReplaceAll(loadSample, "apiserver_resource_objects", "other_objects")
	limited := strings.Replace(older, "9.223372036854775807e+18", "1.073741824e+09", 1)
	if got, err = ReadLoad(strings.NewReader(limited), now); err != nil || got.MemoryLimit != 1<<30 {
		t.Errorf("a memory limit of 1 GiB: got %v, %v", got.MemoryLimit, err)
	}
	if diff := cmp.Diff(map[Resource]float64{deployments: 11}, got.Objects); diff != "" {
		t.Errorf("objects as older API servers count them (-want +got):\n%s", diff)
	}
	var missing *MissingError
	if _, err := ReadLoad(strings.NewReader("go_goroutines 7\n"), now); !errors.As(err, &missing) {
		t.Errorf("another process: want a MissingError, got %v", err)
	}
}

func TestLoadSince(t *testing.T) {
	start := time.Unix(1700000000, 0)
	earlier := Load{APIServer: APIServer{Read: start, Started: start, CPUSeconds: 10}, EtcdSeconds: 1, EtcdRequests: 100}
	for name, tc := range map[string]struct {
		later Load
		want  time.Duration
	}{
		"the same process": {
			Load{APIServer: APIServer{Read: start.Add(time.Second), Started: start, CPUSeconds: 11}, EtcdSeconds: 1.5, EtcdRequests: 150}, 10 * time.Millisecond,
		},
		"nothing asked": {
			Load{APIServer: APIServer{Read: start.Add(time.Second), Started: start, CPUSeconds: 11}, EtcdSeconds: 1, EtcdRequests: 100}, 0,
		},
		"restarted": {
			Load{APIServer: APIServer{Read: start.Add(time.Second), Started: start.Add(time.Minute), CPUSeconds: 1}, EtcdSeconds: 0.2, EtcdRequests: 10}, 20 * time.Millisecond,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := tc.later.Since(earlier).EtcdLatency(); got != tc.want {
				t.Errorf("etcd took %s, want %s", got, tc.want)
			}
		})
	}
}

func FuzzReadLoad(f *testing.F) {
	f.Add(loadSample)
	f.Add("apiserver_resource_objects{resource=\"a.b\"} 1e400\n")
	f.Add(sample + "go_gc_gomemlimit_bytes -1\netcd_request_duration_seconds_count{operation=\"get\"} NaN\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ReadLoad(strings.NewReader(text), time.Unix(0, 0))
		if err != nil {
			return
		}
		if l.MemoryLimit < 0 || l.Processors < 0 || math.IsNaN(l.EtcdSeconds) {
			t.Errorf("load %+v", l)
		}
		for _, counts := range []map[Resource]float64{l.Objects, l.ObjectBytes, l.Watches} {
			for r, n := range counts {
				if !(n > 0) || r.Resource == "" {
					t.Errorf("%v of %v", n, r)
				}
			}
		}
		if latency := l.Since(Load{}).EtcdLatency(); latency < 0 {
			t.Errorf("etcd took %s", latency)
		}
	})
}

func BenchmarkReadLoad(b *testing.B) {
	text := loadSample + strings.Repeat("apiserver_request_duration_seconds_bucket{component=\"apiserver\",verb=\"LIST\",le=\"0.1\"} 12\n", 20_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := ReadLoad(strings.NewReader(text), time.Unix(0, 0)); err != nil {
			b.Fatal(err)
		}
	}
}
