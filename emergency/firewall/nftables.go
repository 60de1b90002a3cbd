package firewall

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// table is a table of our own: it takes nothing from other tables, and is taken away whole.
const table = "seakeep_lockdown"

// nftables arms the rules with a set whose elements the kernel forgets after their timeout: what ends the lockdown needs no
// process, no timer unit and no engineer, and neither does it need the API server. Rules for a port that is not armed any
// more match nothing.
func (p *Plan) nftables(b *strings.Builder) {
	b.WriteString("\n# Set. Doing it again begins the time anew.\n")
	fmt.Fprintf(b, "nft -f - <<'SEAKEEP'\n%sSEAKEEP\n", p.Script())
	b.WriteString("\n# What it drops, and what time is left:\n")
	fmt.Fprintf(b, "nft list table inet %s\n", table)
	b.WriteString("\n# Take it away.\n")
	fmt.Fprintf(b, "nft delete table inet %s\n", table)
}

// Script is what `nft -f` reads, for a plan of kind NFTables. It replaces the table as one transaction.
func (p *Plan) Script() string {
	var b strings.Builder
	elements := make([]string, len(p.Ports))
	for i, port := range p.Ports {
		elements[i] = fmt.Sprintf("%d timeout %s", port, nftTime(p.For))
	}
	// Adding before deleting makes the deletion succeed when there was no table yet.
	fmt.Fprintf(&b, "add table inet %[1]s\ndelete table inet %[1]s\ntable inet %[1]s {\n", table)
	fmt.Fprintf(&b, "\tset armed {\n\t\ttype inet_service\n\t\tflags timeout\n\t\telements = { %s }\n\t}\n", strings.Join(elements, ", "))
	writeSet(&b, "may4", "ipv4_addr", p.sorted(false))
	writeSet(&b, "may6", "ipv6_addr", p.sorted(true))
	b.WriteString(`	chain judge {
		iif "lo" accept
		ip saddr @may4 accept
		ip6 saddr @may6 accept
		counter drop
	}
	chain input {
		type filter hook input priority -10; policy accept;
		tcp dport @armed jump judge
	}
}
`)
	return b.String()
}

func writeSet(b *strings.Builder, name, kind string, list []netip.Prefix) {
	fmt.Fprintf(b, "\tset %s {\n\t\ttype %s\n\t\tflags interval\n", name, kind)
	if len(list) > 0 {
		texts := make([]string, len(list))
		for i, prefix := range list {
			texts[i] = short(prefix)
		}
		fmt.Fprintf(b, "\t\telements = { %s }\n", strings.Join(texts, ", "))
	}
	b.WriteString("\t}\n")
}

// nftTime is whole seconds, up, in nftables' own form.
func nftTime(d time.Duration) string {
	return fmt.Sprintf("%ds", int64((d+time.Second-1)/time.Second))
}
