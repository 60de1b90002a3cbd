package store

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// endpoints have every field set somewhere.
func endpoints() []Endpoint {
	return []Endpoint{
		{Addr: addr("10.1.0.1"), Ready: true, Serving: true, NodeName: "node-1", TargetName: "web-1", TargetUID: ParseUID("0e4d9b52-6a5d-4a5c-8f6e-3b2f6f6e0001")},
		{Addr: addr("fd00::1"), Serving: true, Terminating: true, Hostname: "db-0", Zone: "eu-1a", TargetUID: ParseUID("static")},
		{Addr: addr("::ffff:10.0.0.1"), Ready: true, Held: true, Gone: true},
		{Host: "pod.example.com", Ready: true, Hostname: strings.Repeat("h", 300)},
	}
}

func TestPackedEndpoints(t *testing.T) {
	s := slice("web-x7k2p", "web", endpoints())
	if diff := cmp.Diff(endpoints(), slices.Collect(s.Endpoints()), compare); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.Ready != 3 || s.Total != 4 || s.Service != "web" {
		t.Errorf("%d of %d ready, service %s", s.Ready, s.Total, s.Service)
	}
	again, err := UnpackEndpointSlice(s.SliceMeta, s.Packed())
	if diff := cmp.Diff(s, again, compare); diff != "" || err != nil {
		t.Errorf("unpacked: %v\n%s", err, diff)
	}
	for e := range s.Endpoints() {
		if e.Address() != "10.1.0.1" {
			t.Errorf("first is %s", e.Address())
		}
		break
	}
	if n := testing.AllocsPerRun(100, func() {
		for range s.Endpoints() {
		}
	}); n > 0 {
		t.Errorf("reading a slice allocates %v times", n)
	}
}

func TestUnpackRefuses(t *testing.T) {
	packed := slice("web-1", "web", endpoints()).Packed()
	ends := map[int]bool{0: true}
	for i := range endpoints() {
		ends[len(slice("web-1", "web", endpoints()[:i+1]).Packed())] = true
	}
	for i := range packed {
		if _, err := UnpackEndpointSlice(SliceMeta{Name: "web-1"}, packed[:i]); (err == nil) != ends[i] {
			t.Errorf("%d of %d bytes: error %v", i, len(packed), err)
		}
	}
	for what, packed := range map[string]string{
		"unknown flags":             "\x00\x80\x00",
		"both kinds of address":     "\x30\x00aaaaaaaaaaaaaaaaaaaa",
		"a length of many bytes":    "\x00\x00\x80\x80\x80\x80\x80\x01",
		"a length not the shortest": "\x00\x00\x81\x00a",
	} {
		if _, err := UnpackEndpointSlice(SliceMeta{Namespace: "shop", Name: "web-1"}, packed); err == nil || !strings.Contains(err.Error(), "slice shop/web-1") {
			t.Errorf("%s: error %v", what, err)
		}
	}
}

func TestHeld(t *testing.T) {
	served := slice("web-1", "web", ready("10.0.0.1", "10.0.0.2", "10.0.0.3"))
	truth := slice("web-1", "web", append(ready("10.0.0.1", "10.0.0.4"), Endpoint{Addr: addr("10.0.0.2"), Terminating: true}))
	lost := Lost(served, truth)
	if len(lost) != 2 || lost[0].Addr != addr("10.0.0.2") || lost[1].Addr != addr("10.0.0.3") || Added(served, truth) != 1 {
		t.Fatalf("lost %+v, added %d", lost, Added(served, truth))
	}
	held := WithHeld(truth, lost)
	want := []Endpoint{
		{Addr: addr("10.0.0.1"), Ready: true},
		{Addr: addr("10.0.0.4"), Ready: true},
		{Addr: addr("10.0.0.2"), Ready: true, Terminating: true, Held: true},
		{Addr: addr("10.0.0.3"), Ready: true, Held: true, Gone: true},
	}
	if diff := cmp.Diff(want, slices.Collect(held.Endpoints()), compare); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
	if back := WithoutHeld(held); !Equal(back, truth) {
		t.Errorf("without what is held it is %+v", slices.Collect(back.Endpoints()))
	}
	if WithoutHeld(truth) != truth || WithHeld(truth, nil) != truth {
		t.Error("a slice with nothing held was made anew")
	}
	// What came back is not held any more.
	back := slice("web-1", "web", ready("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"))
	if !Equal(WithHeld(back, Lost(held, back)), back) {
		t.Error("an endpoint that came back is still called held")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(slice("web-1", "web", endpoints()).Packed())
	f.Add("\x30\x00aaaaaaaaaaaaaaaaaaaa")
	f.Fuzz(func(t *testing.T, packed string) {
		s, err := UnpackEndpointSlice(SliceMeta{Name: "web-1", Service: "web"}, packed)
		if err != nil {
			return
		}
		// What is accepted can be read and packed again, to the same endpoints; held ones included.
		all := slices.Collect(s.Endpoints())
		again := NewEndpointSlice(s.SliceMeta, all)
		if diff := cmp.Diff(all, slices.Collect(again.Endpoints()), compare); diff != "" || again.Ready != s.Ready || again.Total != s.Total {
			t.Errorf("packed again (-first +second):\n%s", diff)
		}
		WithoutHeld(WithHeld(s, all))
	})
}
