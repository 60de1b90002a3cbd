package keeper

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

func benchSlice(i, ready int) *store.EndpointSlice {
	var endpoints []store.Endpoint
	for e := range 10 {
		endpoints = append(endpoints, store.Endpoint{
			Addr: netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(e)}), Ready: e < ready, NodeName: fmt.Sprintf("ip-10-0-%d-%d.ec2.internal", e, i%250),
			TargetName: fmt.Sprintf("service-%d-6d4cf56db6-x%04d", i, e), TargetUID: store.UID{1, byte(i), byte(i >> 8), byte(e)},
		})
	}
	name := fmt.Sprintf("service-%d", i)
	return store.NewEndpointSlice(store.SliceMeta{Namespace: store.Intern("shop"), Name: name + "-x7k2p", Service: name}, endpoints)
}

// benchKeeper has 10,000 services with 10 endpoints each, and does not run: the benchmarks are its goroutine.
func benchKeeper(b *testing.B) *Keeper {
	b.Helper()
	k, err := New(Options{
		Store: store.New(time.Now), Sources: []Source{newServer("a", newCluster("uid"))}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	if err != nil {
		b.Fatal(err)
	}
	k.followed(k.o.Sources[0])
	for _, kind := range k.o.Kinds {
		k.listBegin(kind)
	}
	k.listObject(&store.Namespace{Name: "shop"})
	for i := range 10_000 {
		k.listObject(&store.Service{Namespace: "shop", Name: fmt.Sprintf("service-%d", i)})
		k.listObject(benchSlice(i, 10))
	}
	for _, kind := range k.o.Kinds {
		k.listEnd(kind, "100")
	}
	if k.draft != nil {
		b.Fatal("not complete")
	}
	return k
}

// BenchmarkEvent takes one endpoint of one service away and brings it back, past the guard, among 100,000.
func BenchmarkEvent(b *testing.B) {
	k := benchKeeper(b)
	full, less := benchSlice(77, 10), benchSlice(77, 9)
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if i%2 == 0 {
			k.put(less)
		} else {
			k.put(full)
		}
	}
}

func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// BenchmarkRelist reads everything again and reports what it holds at its end, beyond the data, relative to the data.
func BenchmarkRelist(b *testing.B) {
	for name, ready := range map[string]int{"the same": 10, "every endpoint lost": 0} {
		b.Run(name, func(b *testing.B) {
			empty := heap()
			k := benchKeeper(b)
			steady := heap() - empty
			b.ResetTimer()
			for range b.N {
				k.listBegin(store.EndpointSlices)
				for i := range 10_000 {
					k.listObject(benchSlice(i, ready))
				}
				b.StopTimer()
				b.ReportMetric(heap()/(steady+empty), "×steady")
				b.StartTimer()
				k.listEnd(store.EndpointSlices, "200")
			}
			runtime.KeepAlive(k)
		})
	}
}
