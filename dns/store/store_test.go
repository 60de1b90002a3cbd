package store

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var compare = cmp.Options{cmp.AllowUnexported(EndpointSlice{}), cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()}

func clock() time.Time { return time.Unix(1_700_000_000, 0) }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func ready(addrs ...string) []Endpoint {
	var endpoints []Endpoint
	for _, a := range addrs {
		endpoints = append(endpoints, Endpoint{Addr: addr(a), Ready: true})
	}
	return endpoints
}

func slice(name, service string, endpoints []Endpoint) *EndpointSlice {
	return NewEndpointSlice(SliceMeta{Namespace: "shop", Name: name, Service: service}, endpoints)
}

func names[T Object](items iter.Seq[T]) []string {
	var names []string
	for o := range items {
		names = append(names, o.Key().Name)
	}
	slices.Sort(names)
	return names
}

func TestLookups(t *testing.T) {
	s := New(clock)
	for _, o := range []Object{
		&Namespace{Name: "shop"},
		&Service{Namespace: "shop", Name: "cart", ClusterIPs: []netip.Addr{addr("10.0.0.1"), addr("fd00::1")}, ExternalIPs: []string{"192.0.2.1", "lb.example.com"}},
		&Service{Namespace: "bank", Name: "cart", ClusterIPs: []netip.Addr{addr("10.0.0.2")}, ExternalIPs: []string{"192.0.2.1"}},
		slice("cart-1", "cart", append(ready("10.1.0.1", "10.1.0.2"), Endpoint{Addr: addr("10.1.0.3")})),
		slice("cart-2", "cart", ready("10.1.0.4", "10.1.0.1")),
		slice("none", "", ready("10.1.0.1")),
		NewEndpointSlice(SliceMeta{Namespace: "shop", Name: "imported", Import: "cart", Cluster: "east"}, ready("10.2.0.1")),
		&ServiceImport{Namespace: "shop", Name: "cart"},
		&Pod{Namespace: "shop", Name: "cart-a", IPs: []netip.Addr{addr("10.1.0.1"), addr("fd00::a")}},
	} {
		if !s.Put(o) {
			t.Fatalf("%T %s is not new", o, o.Key())
		}
	}
	v := s.View()
	if v.Service("shop", "cart") == nil || v.Service("shop", "Cart") != nil || v.Service("cart", "shop") != nil || v.Namespace("shop") == nil ||
		v.Namespace("bank") != nil || v.ServiceImport("shop", "cart") == nil || v.Pod("shop", "cart-a") == nil || v.EndpointSlice("shop", "none") == nil {
		t.Error("lookups by name")
	}
	for what, tc := range map[string]struct{ got, want []string }{
		"cluster IP":               {names(v.ServicesByClusterIP(addr("fd00::1"))), []string{"cart"}},
		"nobody's cluster IP":      {names(v.ServicesByClusterIP(addr("10.9.9.9"))), nil},
		"external IP of two":       {names(v.ServicesByExternalIP("192.0.2.1")), []string{"cart", "cart"}},
		"load balancer's name":     {names(v.ServicesByExternalIP("lb.example.com")), []string{"cart"}},
		"slices of a service":      {names(v.SlicesOf("shop", "cart")), []string{"cart-1", "cart-2"}},
		"slices of no service":     {names(v.SlicesOf("bank", "cart")), nil},
		"slices without a service": {names(v.SlicesOf("shop", "")), []string{"imported", "none"}},
		"slices of an import":      {names(v.SlicesOfImport("shop", "cart")), []string{"imported"}},
		"address of three":         {names(v.SlicesByAddr(addr("10.1.0.1"))), []string{"cart-1", "cart-2", "none"}},
		"address not ready":        {names(v.SlicesByAddr(addr("10.1.0.3"))), nil},
		"pod by its second IP":     {names(v.PodsByIP(addr("fd00::a"))), []string{"cart-a"}},
	} {
		if !slices.Equal(tc.got, tc.want) {
			t.Errorf("%s: %v, want %v", what, tc.got, tc.want)
		}
	}
}

func TestChanges(t *testing.T) {
	now := clock()
	s := New(func() time.Time { return now })
	var told []Changes
	cancel := s.Subscribe(func(c Changes) {
		if c.List != nil && c.List[0].New != nil && s.View().Get(c.List[0].Kind, c.List[0].Key) != c.List[0].New {
			t.Error("told of a change that cannot be seen yet")
		}
		told = append(told, c)
	})
	first := &Service{Namespace: "shop", Name: "cart", Version: 1, ClusterIPs: []netip.Addr{addr("10.0.0.1")}}
	s.Put(first)
	before := s.Sequence()
	if s.Put(&Service{Namespace: "shop", Name: "cart", Version: 2, ClusterIPs: []netip.Addr{addr("10.0.0.1")}}) {
		t.Error("the same service with another version is called a change")
	}
	if s.View().Service("shop", "cart") != first || s.Sequence() != before || s.Delete(Services, Key{"shop", "none"}) {
		t.Error("nothing changed, but not for the store")
	}
	second := &Service{Namespace: "shop", Name: "cart", ClusterIPs: []netip.Addr{addr("10.0.0.2")}}
	now = now.Add(time.Minute)
	s.Put(second)
	if s.Modified(Internal) != now.Unix() || s.Modified(External) != 0 || s.Modified(ClusterSet) != 0 {
		t.Errorf("modified %d, %d, %d", s.Modified(Internal), s.Modified(External), s.Modified(ClusterSet))
	}
	now = now.Add(-time.Hour) // the clock is set back; serials must not be
	s.Delete(Services, second.Key())
	if s.Modified(Internal) != clock().Add(time.Minute).Unix() || s.Count(Services) != 0 || s.Sequence() != before+2 {
		t.Errorf("modified %d, %d services, sequence %d", s.Modified(Internal), s.Count(Services), s.Sequence())
	}
	key := second.Key()
	want := []Changes{
		{List: []Change{{Services, key, nil, first}}},
		{List: []Change{{Services, key, first, second}}},
		{List: []Change{{Services, key, second, nil}}},
	}
	if diff := cmp.Diff(want, told, compare); diff != "" {
		t.Errorf("(-want +told):\n%s", diff)
	}
	cancel()
	s.Put(first)
	if len(told) != 3 {
		t.Error("told after cancelling")
	}
}

func TestTouchedZones(t *testing.T) {
	tests := map[string]struct {
		o    Object
		want [ZoneCount]bool
	}{
		"service":          {&Service{Name: "a"}, [ZoneCount]bool{Internal: true}},
		"with external IP": {&Service{Name: "a", ExternalIPs: []string{"192.0.2.1"}}, [ZoneCount]bool{Internal: true, External: true}},
		"slice":            {slice("a", "a", nil), [ZoneCount]bool{Internal: true}},
		"imported slice":   {NewEndpointSlice(SliceMeta{Name: "a", Import: "a"}, nil), [ZoneCount]bool{Internal: true, ClusterSet: true}},
		"import":           {&ServiceImport{Name: "a"}, [ZoneCount]bool{ClusterSet: true}},
		"namespace":        {&Namespace{Name: "a"}, [ZoneCount]bool{Internal: true}},
		"pod":              {&Pod{Name: "a"}, [ZoneCount]bool{Internal: true}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, c := range []Change{{Kind: tc.o.Kind(), New: tc.o}, {Kind: tc.o.Kind(), Old: tc.o}} {
				if got := touchedZones(Changes{List: []Change{c}}); got != tc.want {
					t.Errorf("%v, want %v", got, tc.want)
				}
			}
		})
	}
}

func TestDraft(t *testing.T) {
	s := New(clock)
	kept, changed, gone := &Service{Name: "kept"}, &Service{Name: "changed"}, &Service{Name: "gone"}
	for _, o := range []*Service{kept, changed, gone} {
		s.Put(o)
	}
	view := s.View()
	d := s.Fork()
	later := &Service{Name: "changed", Headless: true}
	d.Put(later)
	d.Delete(Services, gone.Key())
	d.Put(&Service{Name: "passing"})
	d.Delete(Services, Key{Name: "passing"})
	d.Put(&Service{Name: "kept", Headless: true})
	d.Put(&Service{Name: "kept"})
	if d.Count(Services) != 2 || s.Count(Services) != 3 || view.Service("", "gone") != gone || view.Service("", "changed") != changed {
		t.Error("a draft is seen before it is published")
	}
	var told []Changes
	s.Subscribe(func(c Changes) { told = append(told, c) })
	s.Publish(d)
	if s.View() == view || s.View().Service("", "gone") != nil || s.View().Service("", "changed") != later || s.Count(Services) != 2 {
		t.Error("what was published is not what is served")
	}
	if view.Service("", "gone") != gone {
		t.Error("who still has the old data lost something of it")
	}
	slices.SortFunc(told[0].List, func(a, b Change) int { return len(a.Key.Name) - len(b.Key.Name) })
	want := []Changes{{List: []Change{{Services, gone.Key(), gone, nil}, {Services, later.Key(), changed, later}}}}
	if diff := cmp.Diff(want, told, compare); diff != "" {
		t.Errorf("(-want +told):\n%s", diff)
	}

	fresh := s.Fresh()
	fresh.Put(&Service{Name: "only"})
	s.Publish(fresh)
	if got := names(s.View().Services()); !slices.Equal(got, []string{"only"}) || !told[1].Whole || s.Count(Services) != 1 {
		t.Errorf("after a whole data set: %v, told %+v", got, told[1])
	}

	defer func() {
		if recover() == nil {
			t.Error("a draft that missed a change was published")
		}
	}()
	d = s.Fork()
	s.Put(&Service{Name: "behind its back"})
	s.Publish(d)
}

func TestDraftWithMoreChangesThanAreListed(t *testing.T) {
	s := New(clock)
	var told Changes
	s.Subscribe(func(c Changes) { told = c })
	d := s.Fork()
	for i := range maxListed + 1 {
		d.Put(&Pod{Name: fmt.Sprint(i)})
	}
	s.Publish(d)
	if !told.Whole || told.List != nil || s.Count(Pods) != maxListed+1 {
		t.Errorf("whole %t, %d listed", told.Whole, len(told.List))
	}
}

// The indices are what a search through everything would find, whatever happened before.
func TestIndicesAgainstASearch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	s := New(clock)
	model := map[Key]*EndpointSlice{}
	some := func() string { return fmt.Sprintf("10.0.%d.%d", rnd.IntN(2), rnd.IntN(20)) }
	var draft *Draft
	for step := range 5000 {
		var in interface {
			Put(Object) bool
			Delete(Kind, Key) bool
			View() *View
		} = s
		switch rnd.IntN(200) {
		case 0:
			if draft == nil {
				draft = s.Fork()
			}
		case 1:
			if draft != nil {
				s.Publish(draft)
				draft = nil
			}
		}
		if draft != nil {
			in = draft
		}
		name := fmt.Sprint("s", rnd.IntN(60))
		if rnd.IntN(4) == 0 {
			_, there := model[Key{"shop", name}]
			if in.Delete(EndpointSlices, Key{"shop", name}) != there {
				t.Fatal("deleting what is not there, or not what is")
			}
			delete(model, Key{"shop", name})
		} else {
			var endpoints []Endpoint
			for range rnd.IntN(6) {
				endpoints = append(endpoints, Endpoint{Addr: addr(some()), Ready: rnd.IntN(3) > 0})
			}
			o := slice(name, fmt.Sprint("svc", rnd.IntN(9)), endpoints)
			in.Put(o)
			model[o.Key()] = o
		}
		if step%50 > 0 {
			continue
		}
		v := in.View()
		if got := names(v.EndpointSlices()); len(got) != len(model) {
			t.Fatalf("%d slices, want %d", len(got), len(model))
		}
		search := func(match func(*EndpointSlice) bool) []string {
			var found []string
			for _, o := range model {
				if match(o) {
					found = append(found, o.Name)
				}
			}
			slices.Sort(found)
			return found
		}
		for i := range 9 {
			service := fmt.Sprint("svc", i)
			if got, want := names(v.SlicesOf("shop", service)), search(func(o *EndpointSlice) bool { return o.Service == service }); !slices.Equal(got, want) {
				t.Fatalf("step %d: slices of %s: %v, want %v", step, service, got, want)
			}
		}
		for range 20 {
			a := addr(some())
			if got, want := names(v.SlicesByAddr(a)), search(func(o *EndpointSlice) bool { return o.ready(a) }); !slices.Equal(got, want) {
				t.Fatalf("step %d: slices with %v: %v, want %v", step, a, got, want)
			}
		}
	}
}

// Readers run beside the writer. What is there all the time, however it changes, is found every time.
func TestReadersDoNotMissWhatIsThere(t *testing.T) {
	s := New(clock)
	put := func(in interface{ Put(Object) bool }, i int) {
		in.Put(slice("always-1", "always", ready("10.0.0.1", fmt.Sprintf("10.1.%d.%d", i/250, i%250))))
		in.Put(&Service{Namespace: "shop", Name: "always", ClusterIPs: []netip.Addr{addr("10.0.0.1")}, Ports: []Port{{Number: int32(i)}}})
	}
	put(s, 0)
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				v := s.View()
				service, bySlice := v.Service("shop", "always"), names(v.SlicesOf("shop", "always"))
				byAddr, byIP := names(v.SlicesByAddr(addr("10.0.0.1"))), names(v.ServicesByClusterIP(addr("10.0.0.1")))
				if service == nil || len(bySlice) != 1 || len(byAddr) != 1 || len(byIP) != 1 {
					t.Errorf("something that is there all the time was missed, or found twice: %v, %v, %v, %v", service, bySlice, byAddr, byIP)
					return
				}
			}
		})
	}
	for i := range 3000 {
		put(s, i)
		s.Put(&Service{Namespace: "shop", Name: fmt.Sprint(i), ClusterIPs: []netip.Addr{addr("10.0.0.2")}}) // the tables grow
		if i%3 == 0 {
			s.Delete(Services, Key{"shop", fmt.Sprint(i / 2)})
		}
		if i%100 == 0 {
			d := s.Fork()
			put(d, i+1)
			s.Publish(d)
		}
	}
	close(done)
	readers.Wait()
}

func TestParseKind(t *testing.T) {
	for k := range Kind(KindCount) {
		if got, err := ParseKind(k.String()); got != k || err != nil {
			t.Errorf("%s: %v, %v", k, got, err)
		}
	}
	if _, err := ParseKind("secrets"); err == nil {
		t.Error("secrets are a kind")
	}
	if got := fmt.Sprint(Key{"shop", "cart"}, Key{Name: "shop"}, Kind(9)); got != "shop/cart shop kind(9)" {
		t.Error(got)
	}
}

func TestUID(t *testing.T) {
	const text = "0e4d9b52-6a5d-4a5c-8f6e-3b2f6f6e0001"
	if got := ParseUID(text).String(); got != text {
		t.Errorf("%s came back as %s", text, got)
	}
	uids := map[UID]string{}
	for _, text := range []string{"", text, "no-uuid", "No-uuid", "00000000-0000-0000-0000-000000000000", text[:35], "zzzzzzzz-6a5d-4a5c-8f6e-3b2f6f6e0001"} {
		u := ParseUID(text)
		if other, taken := uids[u]; taken {
			t.Errorf("%q and %q are the same", text, other)
		}
		if u != ParseUID(text) || (text == "") != (u.String() == "") {
			t.Errorf("%q is %q", text, u)
		}
		uids[u] = text
	}
}
