// Package firewall writes the rules that go with a lockdown: the gate denies what comes through it, and the rules drop
// what goes round it. It prints; it never applies anything, because a rule that a machine sets at the wrong moment locks
// out those who repair. Every set of rules ends by itself where the kernel can see to that.
package firewall

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kind is what the rules are written for.
type Kind string

// The kinds.
const (
	NFTables Kind = "nftables"
	IPTables Kind = "iptables"
	Cloud    Kind = "cloud"
)

// Kinds is the closed list of kinds.
func Kinds() []Kind { return []Kind{NFTables, IPTables, Cloud} }

// Source is who may still reach the API servers.
type Source struct {
	Prefix netip.Prefix
	// Who is a word or two for a reader: "gate", "API servers and etcd", "break-glass".
	Who string
}

// Plan is what the rules are to do on each host that runs an API server.
type Plan struct {
	Kind Kind
	// Ports are the API servers'.
	Ports []uint16
	// Sources may enter; everyone else's packets to the ports are dropped, those of open connections too. The host
	// itself always may: the API server talks to itself, and so does a gate beside it.
	Sources []Source
	// For is after how long the rules stop acting by themselves.
	For time.Duration
}

// Limits on a plan.
const (
	maxFor     = 24 * time.Hour // as long as an emergency rule may be
	maxSources = 1000
)

// Validate says all that is wrong with the plan.
func (p *Plan) Validate() error {
	var errs []error
	if !slices.Contains(Kinds(), p.Kind) {
		errs = append(errs, fmt.Errorf("the firewall must be one of %v, got %q", Kinds(), p.Kind))
	}
	if len(p.Ports) == 0 || slices.Contains(p.Ports, 0) {
		errs = append(errs, fmt.Errorf("the API server's port must be 1 to 65535, got %v", p.Ports))
	}
	if p.For < time.Second || p.For > maxFor {
		errs = append(errs, fmt.Errorf("the rules must end after 1s to %v, got %v", maxFor, p.For))
	}
	if len(p.Sources) > maxSources {
		errs = append(errs, fmt.Errorf("at most %d sources can be let in, got %d", maxSources, len(p.Sources)))
	}
	for _, s := range p.Sources {
		switch {
		case !s.Prefix.IsValid() || s.Prefix.Addr().Zone() != "":
			errs = append(errs, fmt.Errorf("%s: %v is no network", s.Who, s.Prefix))
		case s.Prefix.Bits() == 0:
			errs = append(errs, fmt.Errorf("%s: %v lets everyone in", s.Who, s.Prefix))
		}
	}
	return errors.Join(errs...)
}

// ParseSource reads an address or a network: 10.0.0.1, 10.0.0.0/24, fd00::1, fd00::/64. It may not be everyone.
func ParseSource(text, who string) (Source, error) {
	prefix, err := netip.ParsePrefix(text)
	if err != nil {
		address, failed := netip.ParseAddr(text)
		if failed != nil || address.Zone() != "" {
			return Source{}, fmt.Errorf("%s must be an address or a network such as 10.0.0.0/24, got %q", who, text)
		}
		address = address.Unmap()
		prefix = netip.PrefixFrom(address, address.BitLen())
	}
	if prefix.Addr().Is4In6() {
		return Source{}, fmt.Errorf("%s must be written as IPv4, got %q", who, text)
	}
	if prefix.Bits() == 0 {
		return Source{}, fmt.Errorf("%s must not be everyone, got %q", who, text)
	}
	return Source{Prefix: prefix.Masked(), Who: who}, nil
}

// Rules returns the text to read and then to run: comments, the commands that set the rules, and those that take them
// away. The plan must be valid.
func (p *Plan) Rules() string {
	var b strings.Builder
	p.head(&b)
	switch p.Kind {
	case NFTables:
		p.nftables(&b)
	case IPTables:
		p.iptables(&b)
	default:
		p.cloud(&b)
	}
	return b.String()
}

func (p *Plan) head(b *strings.Builder) {
	if p.Kind == Cloud {
		b.WriteString("# What goes round the gates: nothing was applied. Read this, then run it yourself. A provider takes minutes to act on it.\n")
		fmt.Fprintf(b, "# Everyone but the following loses the API server for %s:\n", p.For)
	} else {
		b.WriteString("# What goes round the gates: nothing was applied. Read this, then run it yourself, as root, on every host with an API server.\n")
		fmt.Fprintf(b, "# Everyone but the following loses port %s at once, open connections included; it ends by itself after %s.\n", ports(p.Ports, ", "), p.For)
	}
	for _, who := range p.whos() {
		fmt.Fprintf(b, "#   %s: %s\n", who, strings.Join(p.of(who), ", "))
	}
	if p.Kind != Cloud {
		b.WriteString("#   the host itself\n")
	}
	if len(p.Sources) == 0 {
		b.WriteString("# Nobody else was named: --gate-source, --peer-source, --break-glass-source and --allow-source let in.\n")
	}
	b.WriteString("# Nodes that do not come through a gate cannot renew their leases meanwhile and turn NotReady. Keep it short, or let\n" +
		"# them in with --allow-source.\n")
}

// sorted are the networks of one family, each once and none inside another: nftables refuses overlapping intervals.
func (p *Plan) sorted(v6 bool) []netip.Prefix {
	var list []netip.Prefix
	for _, s := range p.Sources {
		if s.Prefix.Addr().Is6() == v6 {
			list = append(list, s.Prefix.Masked())
		}
	}
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var kept []netip.Prefix
	for _, prefix := range list {
		if n := len(kept); n > 0 && kept[n-1].Contains(prefix.Addr()) {
			continue
		}
		kept = append(kept, prefix)
	}
	return kept
}

func (p *Plan) whos() []string {
	var names []string
	for _, s := range p.Sources {
		if !slices.Contains(names, s.Who) {
			names = append(names, s.Who)
		}
	}
	return names
}

func (p *Plan) of(who string) []string {
	var list []string
	for _, s := range p.Sources {
		if s.Who == who {
			list = append(list, short(s.Prefix))
		}
	}
	return list
}

// short leaves out the length of a single address.
func short(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

func ports(list []uint16, separator string) string {
	texts := make([]string, len(list))
	for i, n := range list {
		texts[i] = fmt.Sprint(n)
	}
	return strings.Join(texts, separator)
}
