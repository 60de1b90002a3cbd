// Package endpoints keeps the Service default/kubernetes to the gates that are alive, so that everything in the cluster
// passes them, and gives it back to the API servers when none is. Each gate renews a Lease and keeps the Service's
// EndpointSlice and Endpoints; so does a watchdog outside the gates, which restores the API servers' own addresses. All of
// them come to the same result from the same Leases, so that it does not matter who writes.
//
// The API servers must run with --endpoint-reconciler-type=none, or they write against it.
package endpoints

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
)

// Where the Leases are, and how they are known.
const (
	Namespace       = "kube-system"
	LeasePrefix     = "seakeep-gate-"
	LabelGate       = "seakeep.dev/gate"
	AnnotationWhere = "seakeep.dev/gate-address"
	// AnnotationBy on the endpoints says who wrote them: gates or watchdog.
	AnnotationBy = "seakeep.dev/endpoints-for"
)

// Bounds on what is believed of a Lease.
const (
	maxGates    = 100
	minLifetime = time.Second
	maxLifetime = 5 * time.Minute
)

// Gate is what a Lease says of a gate.
type Gate struct {
	Name    string
	Address netip.AddrPort
	// Holder is the process that renews; "" when it has stopped.
	Holder   string
	Renewed  time.Time
	Lifetime time.Duration
}

// gateOf reads a Lease; false when it is no gate's, or names an address that nobody can be sent to.
func gateOf(l *coordinationv1.Lease) (Gate, bool) {
	name, ours := strings.CutPrefix(l.Name, LeasePrefix)
	where, err := netip.ParseAddrPort(l.Annotations[AnnotationWhere])
	if !ours || err != nil || !Announceable(where.Addr()) || where.Port() == 0 || l.Spec.RenewTime == nil || l.Spec.HolderIdentity == nil {
		return Gate{}, false
	}
	g := Gate{Name: name, Address: where, Holder: *l.Spec.HolderIdentity, Renewed: l.Spec.RenewTime.Time, Lifetime: minLifetime}
	if s := l.Spec.LeaseDurationSeconds; s != nil {
		g.Lifetime = min(max(time.Duration(*s)*time.Second, minLifetime), maxLifetime)
	}
	return g, true
}

// Announceable is true for an address the API server takes for an endpoint.
func Announceable(a netip.Addr) bool {
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsLoopback() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsUnspecified()
}

// Sightings say which gates are alive, by the clock of whoever looks: a Lease that is renewed changes. Nobody's clock is
// compared with another's.
type Sightings struct{ seen map[string]sighting }

type sighting struct {
	gate Gate
	// changed is when the question was asked whose answer first showed the Lease as it is; asked, the latest question.
	changed, asked time.Time
	proven         bool // it was seen to be renewed
}

// clocksDiffer is how far the clock of a gate is thought to be off at most, when nothing but its own time says since when it
// is silent.
const clocksDiffer = 30 * time.Second

// See takes the answer to one question in. A gate that is not in it any more is forgotten.
func (s *Sightings) See(gates []Gate, asked time.Time) {
	next := make(map[string]sighting, len(gates))
	for _, g := range gates[:min(len(gates), maxGates)] {
		now := sighting{gate: g, changed: asked, asked: asked}
		before, known := s.seen[g.Name]
		switch {
		case known && before.gate.Renewed.Equal(g.Renewed) && before.gate.Holder == g.Holder:
			now.changed, now.proven = before.changed, before.proven
		case known:
			now.proven = true
		case asked.Sub(g.Renewed) > g.Lifetime+clocksDiffer:
			now.changed = asked.Add(-g.Lifetime)
		}
		next[g.Name] = now
	}
	s.seen = next
}

// Live are the gates that renew their Leases, by name. One that was seen for the first time is given the time of its Lease to
// show that it does: it is not known since when it is silent.
func (s *Sightings) Live() []Gate {
	return s.those(func(v sighting) bool { return v.gate.Holder != "" && v.asked.Sub(v.changed) < v.gate.Lifetime })
}

// Proven is true when one of the live gates was seen to renew its Lease.
func (s *Sightings) Proven() bool {
	return len(s.those(func(v sighting) bool {
		return v.proven && v.gate.Holder != "" && v.asked.Sub(v.changed) < v.gate.Lifetime
	})) > 0
}

// Silent are the gates that did not stop, and do not renew.
func (s *Sightings) Silent() []Gate {
	return s.those(func(v sighting) bool { return v.gate.Holder != "" && v.asked.Sub(v.changed) >= v.gate.Lifetime })
}

func (s *Sightings) those(is func(sighting) bool) []Gate {
	var all []Gate
	for _, v := range s.seen {
		if is(v) {
			all = append(all, v.gate)
		}
	}
	slices.SortFunc(all, func(a, b Gate) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// Backends are what the Service stands for: addresses of one family, and one port, as of the API servers themselves.
type Backends struct {
	Addresses []netip.Addr
	Port      uint16
}

// Choose makes the Backends of the gates. One port and one family go: those of the first gate by name. The others are left
// out.
func Choose(gates []Gate) (b Backends, left []Gate) {
	for _, g := range gates {
		if len(b.Addresses) == 0 {
			b.Port = g.Address.Port()
		}
		if len(b.Addresses) > 0 && (g.Address.Port() != b.Port || g.Address.Addr().Is4() != b.Addresses[0].Is4()) {
			left = append(left, g)
			continue
		}
		b.Addresses = append(b.Addresses, g.Address.Addr())
	}
	b.sort()
	return b, left
}

// Of makes the Backends of API servers; all must have one port and one family.
func Of(servers []netip.AddrPort) (b Backends, ok bool) {
	for _, s := range servers {
		if !Announceable(s.Addr()) || s.Port() == 0 || len(b.Addresses) > 0 && (s.Port() != b.Port || s.Addr().Is4() != b.Addresses[0].Is4()) {
			return Backends{}, false
		}
		b.Port = s.Port()
		b.Addresses = append(b.Addresses, s.Addr())
	}
	b.sort()
	return b, len(b.Addresses) > 0
}

func (b *Backends) sort() {
	slices.SortFunc(b.Addresses, netip.Addr.Compare)
	b.Addresses = slices.Compact(b.Addresses)
}

func (b Backends) strings() []string {
	all := make([]string, 0, len(b.Addresses))
	for _, a := range b.Addresses {
		all = append(all, a.String())
	}
	return all
}
