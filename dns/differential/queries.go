package differential

import (
	"fmt"
	"iter"
	"math/rand/v2"
	"strings"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
)

// Query is one question and how it is put.
type Query struct {
	Name   string
	Type   uint16
	Class  uint16
	TCP    bool
	EDNS   uint16 // advertised size; 0: the query carries no OPT
	DO     bool
	CD, AD bool
	RD     bool
	Cookie bool // the OPT carries a cookie
}

// Msg returns the query as a message.
func (q Query) Msg() *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(q.Name, q.Type)
	m.Question[0].Qclass = q.Class
	m.RecursionDesired, m.CheckingDisabled, m.AuthenticatedData = q.RD, q.CD, q.AD
	if q.EDNS > 0 {
		m.SetEdns0(q.EDNS, q.DO)
		if q.Cookie {
			opt := m.IsEdns0()
			opt.Option = append(opt.Option, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "24a5ac1223344556"})
		}
	}
	return m
}

// String is how a difference names the query.
func (q Query) String() string {
	proto := "udp"
	if q.TCP {
		proto = "tcp"
	}
	return fmt.Sprintf("%s %s %s over %s, EDNS %d, DO %t", q.Name, dns.Class(q.Class), dns.Type(q.Type), proto, q.EDNS, q.DO)
}

// Queries returns endless questions about the world in the zone: what exists, what nearly exists, what a resolver's
// search list makes of names of the world outside, and what nobody should ask.
func Queries(w *World, zone string, seed uint64) iter.Seq[Query] {
	g := &generator{world: w, zone: zone, rand: rand.New(rand.NewPCG(seed, 2)), hosts: w.hosts()}
	return func(yield func(Query) bool) {
		for yield(g.query()) {
		}
	}
}

type generator struct {
	world *World
	zone  string
	rand  *rand.Rand
	hosts map[string][]string
}

var types = []uint16{
	dns.TypeA, dns.TypeA, dns.TypeA, dns.TypeAAAA, dns.TypeAAAA, dns.TypeSRV, dns.TypeSRV, dns.TypePTR, dns.TypeTXT,
	dns.TypeNS, dns.TypeSOA, dns.TypeCNAME, dns.TypeANY, dns.TypeMX, dns.TypeHTTPS, dns.TypeDS, dns.TypeNAPTR,
}

func (g *generator) query() Query {
	q := Query{Name: g.name(), Type: pick(g, types), Class: dns.ClassINET, RD: g.chance(90), CD: g.chance(3), AD: g.chance(10)}
	if strings.HasSuffix(q.Name, ".arpa.") && g.chance(80) {
		q.Type = dns.TypePTR
	}
	if dns.CountLabel(q.Name) < 5 && g.chance(30) { // what stands above all services
		q.Type = pick(g, []uint16{dns.TypeNS, dns.TypeSOA, dns.TypeTXT})
	}
	if strings.HasPrefix(q.Name, "_") && g.chance(70) {
		q.Type = dns.TypeSRV
	}
	q.TCP = g.chance(10)
	if g.chance(50) {
		q.EDNS = pick(g, []uint16{512, 1232, 1232, 1452, 4096, 300, 65535})
		q.DO = g.chance(20)
		q.Cookie = g.chance(10)
	}
	if g.chance(1) {
		q.Class = pick(g, []uint16{dns.ClassCHAOS, dns.ClassANY})
	}
	if g.chance(15) {
		q.Name = g.recase(q.Name)
	}
	return q
}

func (g *generator) chance(percent int) bool { return g.rand.IntN(100) < percent }

func pick[T any](g *generator, from []T) T { return from[g.rand.IntN(len(from))] }

func (g *generator) name() string {
	switch n := g.rand.IntN(100); {
	case n < 45:
		return g.service()
	case n < 55:
		return g.below()
	case n < 63:
		return g.pod()
	case n < 75:
		return g.reverse()
	case n < 87:
		return g.search()
	case n < 93:
		return g.apex()
	default:
		return g.broken()
	}
}

func (g *generator) service() string {
	s := pick(g, g.world.Services)
	name := s.Name + "." + s.Namespace + ".svc." + g.zone
	switch n := g.rand.IntN(100); {
	case n < 55:
		return name
	case n < 80 && len(s.Spec.Ports) > 0:
		port := pick(g, s.Spec.Ports)
		protocol := strings.ToLower(string(port.Protocol))
		if g.chance(15) {
			protocol = pick(g, []string{"tcp", "udp", "sctp"})
		}
		return "_" + port.Name + "._" + protocol + "." + name
	case n < 85:
		return "_nothing._tcp." + name
	case n < 90:
		return "http.tcp." + name // without the underscores
	case n < 95:
		return s.Name + ".nowhere.svc." + g.zone
	default:
		return "nothing." + s.Namespace + ".svc." + g.zone
	}
}

// below is a name of one endpoint of a service.
func (g *generator) below() string {
	s := pick(g, g.world.Services)
	label := "192-0-2-1"
	if hosts := g.hosts[s.Name+"."+s.Namespace]; len(hosts) > 0 && g.chance(85) {
		label = pick(g, hosts)
	}
	name := label + "." + s.Name + "." + s.Namespace + ".svc." + g.zone
	if g.chance(5) {
		name = "_http._tcp." + name
	}
	if g.chance(10) {
		name = "zone-" + pick(g, []string{"0", "1", "2"}) + "." + pick(g, []string{"pin", "prefer", "other"}) + "._zone." +
			s.Name + "." + s.Namespace + ".svc." + g.zone
	}
	return name
}

func (g *generator) pod() string {
	p := pick(g, g.world.Pods)
	label := strings.NewReplacer(".", "-", ":", "-").Replace(pick(g, p.Status.PodIPs).IP)
	if g.chance(30) {
		label = pick(g, []string{"192-0-2-9", "10-128-0-1", "no-address", "256-1-1-1", "fd00--1"})
	}
	ns := p.Namespace
	if g.chance(15) {
		ns = pick(g, []string{"nowhere", "kube-system", "default"})
	}
	return label + "." + ns + ".pod." + g.zone
}

func (g *generator) reverse() string {
	address := "192.0.2.55"
	switch g.rand.IntN(4) {
	case 0:
		if s := pick(g, g.world.Services); len(s.Spec.ClusterIPs) > 0 && s.Spec.ClusterIP != corev1.ClusterIPNone {
			address = pick(g, s.Spec.ClusterIPs)
		}
	case 1, 2:
		if slice := pick(g, g.world.Slices); len(slice.Endpoints) > 0 {
			address = pick(g, slice.Endpoints).Addresses[0]
		}
	}
	name, err := dns.ReverseAddr(address)
	if err != nil {
		panic(fmt.Sprintf("BUG: %q is no address", address))
	}
	if g.chance(5) {
		_, name, _ = strings.Cut(name, ".") // not a whole address
	}
	return name
}

// search is what a pod's resolver makes of a name of the world outside with ndots:5.
func (g *generator) search() string {
	outside := pick(g, []string{"google.com", "api.example.com", "localhost", "registry.example.com", "a.b.c.d.e.example.org"})
	ns := pick(g, g.world.Namespaces).Name
	return outside + pick(g, []string{"." + ns + ".svc." + g.zone, ".svc." + g.zone, "." + g.zone, "."})
}

func (g *generator) apex() string {
	return pick(g, []string{
		g.zone, "svc." + g.zone, "pod." + g.zone, "dns-version." + g.zone, "ns.dns." + g.zone, "dns." + g.zone,
		"apex.dns." + g.zone, "x.dns-version." + g.zone, pick(g, g.world.Namespaces).Name + ".svc." + g.zone,
		pick(g, g.world.Namespaces).Name + ".pod." + g.zone, "nowhere.svc." + g.zone, "in-addr.arpa.", "10.in-addr.arpa.", "ip6.arpa.", ".",
	})
}

// broken is what no application asks on purpose.
func (g *generator) broken() string {
	s := pick(g, g.world.Services)
	name := s.Name + "." + s.Namespace + ".svc." + g.zone
	return pick(g, []string{
		"a.b.c.d." + name, "*." + name, `\000.` + name, `a\.b.` + name, "_._." + name, "-." + name, `\255\254.` + name,
		strings.Repeat("x", 63) + "." + name, s.Name + "." + s.Namespace + ".unknown." + g.zone, s.Name + "." + s.Namespace + "." + g.zone,
	})
}

// recase does to a name what resolvers do that put entropy into its case.
func (g *generator) recase(name string) string {
	if g.chance(30) {
		return strings.ToUpper(name)
	}
	out := []byte(name)
	for i, c := range out {
		if c >= 'a' && c <= 'z' && g.chance(50) {
			out[i] = c - 'a' + 'A'
		}
	}
	return string(out)
}
