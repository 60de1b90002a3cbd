package endpoints

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/internal/pki"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func gateAt(name, address string, renewed time.Time) Gate {
	return Gate{Name: name, Address: netip.MustParseAddrPort(address), Holder: "h-" + name, Renewed: renewed, Lifetime: 10 * time.Second}
}

func names(gates []Gate) []string { return namesOf(gates) }

// Clocks of gates differ by hours; only what changes from one look to the next says who is alive.
func TestSightings(t *testing.T) {
	var s Sightings
	at := func(seconds int) time.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	early, late := noon.Add(-20*time.Second), noon.Add(5*time.Hour)
	look := func(seconds int, a, b time.Time) {
		s.See([]Gate{gateAt("a", "10.0.0.1:6443", a), gateAt("b", "10.0.0.2:6443", b)}, at(seconds))
	}
	want := func(what string, live, silent []string, proven bool) {
		t.Helper()
		if got := names(s.Live()); !slices.Equal(got, live) {
			t.Errorf("%s: live %v, want %v", what, got, live)
		}
		if got := names(s.Silent()); !slices.Equal(got, silent) {
			t.Errorf("%s: silent %v, want %v", what, got, silent)
		}
		if s.Proven() != proven {
			t.Errorf("%s: proven %t", what, s.Proven())
		}
	}
	none := []string{}
	look(0, early, late)
	want("at first everyone may be alive", []string{"a", "b"}, none, false)
	look(9, early, late.Add(time.Second))
	want("one renews", []string{"a", "b"}, none, true)
	look(11, early, late.Add(2*time.Second))
	want("the other does not", []string{"b"}, []string{"a"}, true)
	// No answer for an hour says nothing about anybody.
	look(3600, early.Add(time.Second), late.Add(2*time.Second))
	want("after an hour without answers, one renewed meanwhile", []string{"a"}, []string{"b"}, true)
	stopped := gateAt("a", "10.0.0.1:6443", early.Add(2*time.Second))
	stopped.Holder = ""
	s.See([]Gate{stopped}, at(3601))
	want("who stopped is neither", none, none, false)
	s = Sightings{}
	look(0, noon.Add(-time.Hour), late)
	want("a Lease of an hour ago is no sign of life", []string{"b"}, []string{"a"}, false)
}

func TestChoose(t *testing.T) {
	for name, tc := range map[string]struct {
		gates     []Gate
		addresses []string
		left      []string
	}{
		"sorted, each once": {[]Gate{gateAt("a", "10.0.0.9:6443", noon), gateAt("b", "10.0.0.10:6443", noon), gateAt("c", "10.0.0.9:6443", noon)},
			[]string{"10.0.0.9", "10.0.0.10"}, []string{}},
		"another port":   {[]Gate{gateAt("a", "10.0.0.1:6443", noon), gateAt("b", "10.0.0.2:8443", noon)}, []string{"10.0.0.1"}, []string{"b"}},
		"another family": {[]Gate{gateAt("a", "[fd00::1]:6443", noon), gateAt("b", "10.0.0.2:6443", noon)}, []string{"fd00::1"}, []string{"b"}},
		"nobody":         {nil, []string{}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			b, left := Choose(tc.gates)
			if got := b.strings(); !slices.Equal(got, tc.addresses) {
				t.Errorf("chose %v, want %v", got, tc.addresses)
			}
			if got := names(left); !slices.Equal(got, tc.left) {
				t.Errorf("left out %v, want %v", got, tc.left)
			}
		})
	}
	for _, bad := range [][]string{{}, {"127.0.0.1:6443"}, {"10.0.0.1:6443", "10.0.0.2:443"}, {"10.0.0.1:6443", "[fd00::1]:6443"}} {
		var servers []netip.AddrPort
		for _, s := range bad {
			servers = append(servers, netip.MustParseAddrPort(s))
		}
		if _, ok := Of(servers); ok {
			t.Errorf("%v can stand behind one Service", bad)
		}
	}
}

func TestMissingNames(t *testing.T) {
	ca, err := pki.NewCA("test", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue(pki.Spec{CommonName: "gate", DNSNames: []string{"kubernetes", "kubernetes.default.svc"}, Lifetime: time.Hour, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	got := Missing(pair.Cert, append(Names("cluster.local"), "10.96.0.1"))
	want := []string{"kubernetes.default", "kubernetes.default.svc.cluster.local", "10.96.0.1"}
	if !slices.Equal(got, want) {
		t.Errorf("missing %v, want %v", got, want)
	}
}

// Anybody who may write a Lease in kube-system can write anything into it: it never sends clients to an address that cannot
// be, and lives no longer than five minutes.
func FuzzLease(f *testing.F) {
	f.Add("seakeep-gate-a", "10.0.0.1:6443", "h", int32(10), int64(1))
	f.Add("seakeep-gate-", "[::1%eth0]:0", "", int32(-1), int64(0))
	f.Add("other", "[::ffff:10.0.0.1]:1", "h", int32(1<<30), int64(-1))
	f.Fuzz(func(t *testing.T, name, address, holder string, seconds int32, renewed int64) {
		at := metav1.NewMicroTime(time.Unix(renewed, 0))
		g, ok := gateOf(&coordinationv1.Lease{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{AnnotationWhere: address}},
			Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &at},
		})
		if !ok {
			return
		}
		if a := g.Address.Addr(); !Announceable(a) || a.IsLoopback() || g.Address.Port() == 0 {
			t.Errorf("%s is announced", g.Address)
		}
		if g.Lifetime < minLifetime || g.Lifetime > maxLifetime {
			t.Errorf("it lives %s", g.Lifetime)
		}
		b, left := Choose([]Gate{g, gateAt("b", "10.0.0.2:6443", noon)})
		if len(b.Addresses)+len(left) == 0 || len(b.Addresses) == 0 {
			t.Error("nobody was chosen")
		}
	})
}
