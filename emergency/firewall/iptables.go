package firewall

import (
	"fmt"
	"strings"
	"time"
)

// chain is a chain of our own in each family.
const chain = "SEAKEEP-LOCKDOWN"

// iptables ends by itself through the match "time": after the date the jump matches nothing. The date is computed by the
// host that the rules are set on, in UTC, as the kernel compares it.
func (p *Plan) iptables(b *strings.Builder) {
	fmt.Fprintf(b, "\n# Set. Doing it again begins the time anew.\nUNTIL=$(date -u -d '+%d seconds' +%%Y-%%m-%%dT%%H:%%M:%%S)\n", int64((p.For+time.Second-1)/time.Second))
	for _, family := range []struct {
		command string
		v6      bool
	}{{"iptables", false}, {"ip6tables", true}} {
		c := family.command + " -w"
		fmt.Fprintf(b, "%[1]s -N %[2]s 2>/dev/null || %[1]s -F %[2]s\n", c, chain)
		fmt.Fprintf(b, "%s -A %s -i lo -j RETURN\n", c, chain)
		for _, prefix := range p.sorted(family.v6) {
			fmt.Fprintf(b, "%s -A %s -s %s -j RETURN\n", c, chain, short(prefix))
		}
		fmt.Fprintf(b, "%s -A %s -j DROP\n", c, chain)
		p.unhook(b, c)
		fmt.Fprintf(b, "%s -I INPUT -p tcp -m multiport --dports %s -m time --datestop \"$UNTIL\" -j %s\n", c, ports(p.Ports, ","), chain)
	}
	b.WriteString("\n# What it drops:\niptables -w -L " + chain + " -v -n\nip6tables -w -L " + chain + " -v -n\n\n# Take it away.\n")
	for _, c := range []string{"iptables -w", "ip6tables -w"} {
		p.unhook(b, c)
		fmt.Fprintf(b, "%[1]s -F %[2]s && %[1]s -X %[2]s\n", c, chain)
	}
}

// unhook removes every jump to the chain, whatever date it has.
func (p *Plan) unhook(b *strings.Builder, c string) {
	fmt.Fprintf(b, "%[1]s -S INPUT | grep -- '-j %[2]s$' | sed 's/^-A/-D/' | while read -r rule; do eval \"%[1]s $rule\"; done\n", c, chain)
}
