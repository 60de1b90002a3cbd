package store

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
)

// The size the benchmarks are about: 10,000 services with one slice of 10 endpoints each.
const (
	benchServices  = 10_000
	benchEndpoints = 10
)

func benchAddr(i, e int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(e)})
}

func benchSlice(i, n int) *EndpointSlice {
	var endpoints []Endpoint
	for e := range n {
		endpoints = append(endpoints, Endpoint{
			Addr: benchAddr(i, e), Ready: true, Serving: true, NodeName: fmt.Sprintf("ip-10-0-%d-%d.ec2.internal", e, i%250), Zone: "us-east-1a",
			TargetName: fmt.Sprintf("service-%d-6d4cf56db6-x%04d", i, e), TargetUID: UID{1, byte(i), byte(i >> 8), byte(e)},
		})
	}
	return NewEndpointSlice(SliceMeta{
		Namespace: Intern(fmt.Sprint("namespace-", i%100)), Name: fmt.Sprintf("service-%d-x7k2p", i), Service: fmt.Sprintf("service-%d", i), Version: uint64(i),
		Ports: []Port{{Name: "http", Protocol: "TCP", Number: 8080}},
	}, endpoints)
}

func benchService(i int) *Service {
	return &Service{
		Namespace: Intern(fmt.Sprint("namespace-", i%100)), Name: fmt.Sprintf("service-%d", i), Version: uint64(i),
		ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)})}, Ports: []Port{{Name: "http", Protocol: "TCP", Number: 80}},
	}
}

func benchStore() *Store {
	s := New(clock)
	d := s.Fork()
	for i := range 100 {
		d.Put(&Namespace{Name: fmt.Sprint("namespace-", i)})
	}
	for i := range benchServices {
		d.Put(benchService(i))
		d.Put(benchSlice(i, benchEndpoints))
	}
	s.Publish(d)
	return s
}

// BenchmarkMemory reports what an endpoint costs, its share of slices, services and indices included.
func BenchmarkMemory(b *testing.B) {
	var before, after runtime.MemStats
	for range b.N {
		runtime.GC()
		runtime.ReadMemStats(&before)
		s := benchStore()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/(benchServices*benchEndpoints), "B/endpoint")
		b.ReportMetric(float64(after.HeapObjects-before.HeapObjects)/(benchServices*benchEndpoints), "objects/endpoint")
		runtime.KeepAlive(s)
	}
}

// BenchmarkApply changes one endpoint of one service among 100,000.
func BenchmarkApply(b *testing.B) {
	s := benchStore()
	full, less := benchSlice(77, benchEndpoints), benchSlice(77, benchEndpoints-1)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%2 == 0 {
			s.Put(less)
		} else {
			s.Put(full)
		}
	}
}

// BenchmarkApplyUnchanged is what a re-list does for each object that is known.
func BenchmarkApplyUnchanged(b *testing.B) {
	s := benchStore()
	same := benchSlice(77, benchEndpoints)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s.Put(same)
	}
}

func BenchmarkService(b *testing.B) {
	s := benchStore()
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if s.View().Service("namespace-77", "service-4277") == nil {
				b.Error("not found")
				return
			}
		}
	})
}

func BenchmarkSlicesOf(b *testing.B) {
	s := benchStore()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		n := 0
		for slice := range s.View().SlicesOf("namespace-77", "service-4277") {
			for range slice.Endpoints() {
				n++
			}
		}
		if n != benchEndpoints {
			b.Fatal(n)
		}
	}
}

func BenchmarkSlicesByAddr(b *testing.B) {
	s := benchStore()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		n := 0
		for range s.View().SlicesByAddr(benchAddr(4277, 3)) {
			n++
		}
		if n != 1 {
			b.Fatal(n)
		}
	}
}

func BenchmarkFork(b *testing.B) {
	s := benchStore()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		s.Fork()
	}
}
