package snapshot

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

// large is 10,000 services with 10 endpoints each.
func large() []store.Object {
	objects := []store.Object{&store.Namespace{Name: "shop"}}
	for i := range 10_000 {
		name := fmt.Sprintf("service-%d", i)
		var endpoints []store.Endpoint
		for e := range 10 {
			endpoints = append(endpoints, store.Endpoint{
				Addr: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(e)}), Ready: true, Serving: true,
				NodeName: fmt.Sprintf("ip-10-0-%d-%d.ec2.internal", e, i%250), Zone: "us-east-1a",
				TargetName: fmt.Sprintf("%s-6d4cf56db6-x%04d", name, e), TargetUID: store.UID{1, byte(i), byte(i >> 8), byte(e)},
			})
		}
		objects = append(objects,
			&store.Service{Namespace: "shop", Name: name, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{172, 20, byte(i >> 8), byte(i)})}, Ports: []store.Port{{Name: "http", Protocol: "TCP", Number: 80}}},
			store.NewEndpointSlice(store.SliceMeta{Namespace: "shop", Name: name + "-x7k2p", Service: name, Ports: []store.Port{{Name: "http", Protocol: "TCP", Number: 8080}}}, endpoints))
	}
	return objects
}

func benchFile(b *testing.B) *File {
	f, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close() })
	return f
}

// BenchmarkSave writes 100,000 endpoints, durably.
func BenchmarkSave(b *testing.B) {
	f, objects := benchFile(b), large()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := f.Save(meta(uint64(i)), slices.Values(objects)); err != nil {
			b.Fatal(err)
		}
	}
	b.StopTimer()
	info, err := os.Stat(f.Path())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(info.Size()), "file-bytes")
}

// BenchmarkLoad reads them into a store, as a restart does.
func BenchmarkLoad(b *testing.B) {
	f := benchFile(b)
	if err := f.Save(meta(1), slices.Values(large())); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		var draft *store.Draft
		s := store.New(func() time.Time { return confirmed })
		_, err := f.Load(cluster, func() func(store.Object) error {
			draft = s.Fresh()
			return func(o store.Object) error {
				draft.Put(o)
				return nil
			}
		})
		if err != nil {
			b.Fatal(err)
		}
		s.Publish(draft)
		if s.Count(store.EndpointSlices) != 10_000 {
			b.Fatal(s.Count(store.EndpointSlices))
		}
	}
}
