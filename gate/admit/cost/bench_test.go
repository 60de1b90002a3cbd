package cost

import (
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/seakeep/seakeep/gate/flow"
)

var benchmarked = map[string][]string{
	"lease":   {"PUT", "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1?timeout=10s", "Accept", protobuf + ",application/json", "Accept-Encoding", "gzip"},
	"list":    {"GET", "/api/v1/pods?limit=500&resourceVersion=0", "Accept", protobuf, "Accept-Encoding", "gzip"},
	"kubectl": {"GET", "/api/v1/namespaces/a/pods?limit=500&labelSelector=a%3Db", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json", "Accept-Encoding", "gzip"},
}

// BenchmarkRequest is what each request pays before it is let in.
func BenchmarkRequest(b *testing.B) {
	for name, request := range benchmarked {
		r := httptest.NewRequest(request[0], request[1], nil)
		for i := 2; i < len(request); i += 2 {
			r.Header.Set(request[i], request[i+1])
		}
		f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Time{})
		if err != nil {
			b.Fatal(err)
		}
		m := New(Config{})
		objects := map[schema.GroupResource]Objects{{Resource: "pods"}: {Count: 10_000, AverageBytes: 2000}}
		m.SetObjects(objects)
		m.SetWatchers(map[schema.GroupResource]int{{Group: "coordination.k8s.io", Resource: "leases"}: 30})
		s := ShapeOf(f, r)
		b.Run(name+"/ShapeOf", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				ShapeOf(f, r)
			}
		})
		b.Run(name+"/Estimate unseen", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Estimate(s)
			}
		})
		b.Run(name+"/Observe", func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				m.Observe(start, s, Sample{Upstream: time.Duration(50+i%10) * time.Millisecond, Bytes: 500_000, Code: 200})
			}
		})
		m.Observe(start, s, Sample{Upstream: time.Second, Bytes: 500_000, Code: 200})
		b.Run(name+"/Estimate", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Estimate(s)
			}
		})
		b.Run(name+"/Estimate parallel", func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					m.Estimate(s)
				}
			})
		})
	}
}

// The hot path does not allocate.
func TestNoAllocations(t *testing.T) {
	for name, request := range benchmarked {
		if name == "kubectl" {
			continue // its label selector is escaped
		}
		r := httptest.NewRequest(request[0], request[1], nil)
		for i := 2; i < len(request); i += 2 {
			r.Header.Set(request[i], request[i+1])
		}
		f, err := flow.Classify(r, flow.Caller{}, flow.Standard, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		m := New(Config{})
		s := ShapeOf(f, r)
		for _, unseen := range []bool{true, false} {
			if n := testing.AllocsPerRun(100, func() { m.Estimate(ShapeOf(f, r)) }); n != 0 {
				t.Errorf("%s, unseen %t: %v allocations", name, unseen, n)
			}
			m.Observe(start, s, Sample{Upstream: time.Second, Bytes: 1, Code: 200})
		}
		if n := testing.AllocsPerRun(100, func() { m.Observe(start, s, Sample{Upstream: time.Second, Bytes: 1, Code: 200}) }); n != 0 {
			t.Errorf("%s: Observe allocates %v", name, n)
		}
	}
}
