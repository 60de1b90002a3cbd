package export

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/seakeep/seakeep/dns/store"
)

// host is one name of the cluster and the addresses it has, as CoreDNS's kubernetes plugin answers it.
type host struct {
	name  string // below the zone: "web.prod.svc"
	addrs []netip.Addr
}

// srv is one service record.
type srv struct {
	name, target string // below the zone
	weight       int
	port         int32
}

// alias is a service that is an external name.
type alias struct{ name, target string }

// pointer is an address that names what it belongs to.
type pointer struct {
	addr netip.Addr
	name string
}

// records is what one service adds to the zones.
type records struct {
	hosts    []host
	srvs     []srv
	aliases  []alias
	pointers []pointer
}

// recordsOf follows the DNS specification of Kubernetes (kubernetes/dns, docs/specification.md, 1.1.0). Names for the
// single endpoints of services with a cluster IP, which CoreDNS adds to it, are left out: they would be most of the file.
func recordsOf(v *store.View, s *store.Service) records {
	var r records
	name := s.Name + "." + s.Namespace + ".svc"
	if !labels(name) || v.Namespace(s.Namespace) == nil {
		return r
	}
	switch {
	case s.Type == store.ExternalName:
		target := strings.TrimSuffix(s.ExternalName, ".")
		if _, err := netip.ParseAddr(target); err != nil && labels(target) { // an address is no name to be an alias of
			r.aliases = append(r.aliases, alias{name, target + "."})
		}
	case s.Headless:
		r.headless(v, s, name)
	case len(s.ClusterIPs) > 0:
		r.hosts = append(r.hosts, host{name, s.ClusterIPs})
		for _, ip := range s.ClusterIPs {
			r.pointers = append(r.pointers, pointer{ip, name})
		}
		for _, p := range s.Ports {
			for range s.ClusterIPs { // each counts as a record for CoreDNS, though all of a name are equal
				r.port(name, name, p)
			}
		}
	}
	r.weigh()
	return r
}

// weigh gives the service records of a name equal parts of 100, as CoreDNS does. It counts them before equal ones are
// left out.
func (r *records) weigh() {
	count := map[string]int{}
	for _, s := range r.srvs {
		count[s.name]++
	}
	for i, s := range r.srvs {
		r.srvs[i].weight = max(100/count[s.name], 1)
	}
}

// port adds the records of a port: under its own name when it has one, and, as CoreDNS does, under the service's.
func (r *records) port(name, target string, p store.Port) {
	if p.Number < 0 {
		return
	}
	r.srvs = append(r.srvs, srv{name: name, target: target, port: p.Number})
	if full := "_" + p.Name + "._" + strings.ToLower(p.Protocol) + "." + name; p.Name != "" && labels(full) {
		r.srvs = append(r.srvs, srv{name: full, target: target, port: p.Number})
	}
}

// endpoint is a ready endpoint and its slice's ports.
type endpoint struct {
	store.Endpoint
	ports []store.Port
}

func (r *records) headless(v *store.View, s *store.Service, name string) {
	ready := readyOf(v, s)
	if len(ready) == 0 {
		return
	}
	all := host{name: name}
	byName := map[string][]netip.Addr{}
	for _, e := range ready {
		if len(all.addrs) == 0 || all.addrs[len(all.addrs)-1] != e.Addr {
			all.addrs = append(all.addrs, e.Addr)
		}
		label := e.Hostname
		if !labels(label) {
			label = dashed(e.Addr)
		}
		own := label + "." + name
		byName[own] = append(byName[own], e.Addr)
		r.pointers = append(r.pointers, pointer{e.Addr, own})
		for _, p := range e.ports {
			r.port(name, own, p)
		}
	}
	r.hosts = append(r.hosts, all)
	for _, own := range slices.Sorted(maps.Keys(byName)) {
		r.hosts = append(r.hosts, host{own, byName[own]})
	}
}

// readyOf are the endpoints DNS serves, in order and each once: slices come in no order, and overlap while endpoints move
// from one to another.
func readyOf(v *store.View, s *store.Service) []endpoint {
	var ready []endpoint
	for slice := range v.SlicesOf(s.Namespace, s.Name) {
		for e := range slice.Endpoints() {
			if e.Ready && e.Addr.IsValid() {
				ready = append(ready, endpoint{e, slice.Ports})
			}
		}
	}
	slices.SortFunc(ready, func(a, b endpoint) int {
		return cmp.Or(a.Addr.Compare(b.Addr), strings.Compare(a.Hostname, b.Hostname))
	})
	return slices.CompactFunc(ready, func(a, b endpoint) bool { return a.Addr == b.Addr && a.Hostname == b.Hostname })
}

// dashed is the name of an endpoint that has none: 10-0-0-1, or fd00--1.
func dashed(a netip.Addr) string { return strings.NewReplacer(".", "-", ":", "-").Replace(a.String()) }

// labels is true for what may stand in a zone file as it is. The API server allows nothing else in names, but the data
// may come from a file, and a line break in a name would be a record of somebody's own.
func labels(name string) bool {
	if len(name) > 240 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, func(c rune) bool {
			return c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
		}) {
			return false
		}
	}
	return true
}

// reverse is the address's name in in-addr.arpa or ip6.arpa, without the final dot.
func reverse(a netip.Addr) string {
	var b strings.Builder
	for _, octet := range slices.Backward(a.AsSlice()) {
		if a.Is4() {
			b.WriteString(strconv.Itoa(int(octet)) + ".")
			continue
		}
		b.WriteString(strconv.FormatUint(uint64(octet&0xf), 16) + "." + strconv.FormatUint(uint64(octet>>4), 16) + ".")
	}
	if a.Is4() {
		return b.String() + "in-addr.arpa"
	}
	return b.String() + "ip6.arpa"
}
