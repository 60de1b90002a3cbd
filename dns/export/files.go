package export

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/dns/store"
)

// header is what the files say of themselves.
type header struct {
	zone                string // without the final dot
	ttl                 int    // seconds
	serial              uint32
	nameServers         []netip.Addr
	source, state       string
	confirmed, exported time.Time
}

func (h header) comment(w io.Writer, mark string) {
	fmt.Fprintf(w, "%[1]s Written by seakeep-dns; it will be overwritten.\n%[1]s Data from %[2]s (%[3]s), last confirmed %[4]s, exported %[5]s.\n",
		mark, printable(h.source), h.state, stamp(h.confirmed), stamp(h.exported))
}

// start writes what every zone begins with. The numbers are those of CoreDNS's kubernetes plugin.
func (h header) start(w io.Writer, zone string) {
	h.comment(w, ";")
	fmt.Fprintf(w, "$ORIGIN %s.\n$TTL %d\n", zone, h.ttl)
	fmt.Fprintf(w, "@ SOA ns.dns.%[1]s. hostmaster.%[1]s. %[2]d 7200 1800 86400 5\n", h.zone, h.serial)
	fmt.Fprintf(w, "@ NS ns.dns.%s.\n", h.zone)
	fmt.Fprintf(w, "_seakeep TXT \"source=%s\" \"state=%s\" \"confirmed=%s\" \"exported=%s\"\n",
		printable(h.source), h.state, stamp(h.confirmed), stamp(h.exported))
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// printable is the text without what would end a line or a character string, and short enough for one.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '"' || r == '\\' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 200)]
}

func typeOf(a netip.Addr) string {
	if a.Is4() {
		return "A"
	}
	return "AAAA"
}

// sorted are the services in the order of their names, so that two files of one state are equal, and the difference
// between two states can be read.
func sorted(v *store.View) []*store.Service {
	return slices.SortedFunc(v.Services(), func(a, b *store.Service) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

// writeZone writes the cluster's zone.
func writeZone(out io.Writer, v *store.View, h header) error {
	w := bufio.NewWriter(out)
	h.start(w, h.zone)
	fmt.Fprintf(w, "dns-version TXT \"1.1.0\"\n")
	for _, a := range h.nameServers {
		fmt.Fprintf(w, "ns.dns %s %s\n", typeOf(a), a)
	}
	for _, s := range sorted(v) {
		r := recordsOf(v, s)
		for _, host := range r.hosts {
			for _, a := range host.addrs {
				fmt.Fprintf(w, "%s %s %s\n", host.name, typeOf(a), a)
			}
		}
		written := map[srv]bool{} // endpoints that share a host name give one record
		for _, s := range r.srvs {
			if !written[s] {
				written[s] = true
				fmt.Fprintf(w, "%s SRV 0 %d %d %s\n", s.name, s.weight, s.port, s.target)
			}
		}
		for _, a := range r.aliases {
			fmt.Fprintf(w, "%s CNAME %s\n", a.name, a.target)
		}
	}
	return w.Flush()
}

// writeReverse writes the part of the reverse names that lies in the zone, such as 96.10.in-addr.arpa.
func writeReverse(out io.Writer, v *store.View, h header, zone string) error {
	w := bufio.NewWriter(out)
	h.start(w, zone)
	for _, s := range sorted(v) {
		for _, p := range recordsOf(v, s).pointers {
			if name, ok := strings.CutSuffix(reverse(p.addr), "."+zone); ok {
				fmt.Fprintf(w, "%s PTR %s.%s.\n", name, p.name, h.zone)
			}
		}
	}
	return w.Flush()
}

// writeHosts writes the names as /etc/hosts has them: the full name first, then those that pods use by their search list.
func writeHosts(out io.Writer, v *store.View, h header) error {
	w := bufio.NewWriter(out)
	h.comment(w, "#")
	for _, s := range sorted(v) {
		for _, host := range recordsOf(v, s).hosts {
			for _, a := range host.addrs {
				fmt.Fprintf(w, "%s %s.%s %s %s\n", a, host.name, h.zone, host.name, strings.TrimSuffix(host.name, ".svc"))
			}
		}
	}
	return w.Flush()
}
