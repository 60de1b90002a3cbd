package watchdog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// Switch moves clients to the backup and back. Its methods are called by one goroutine, one at a time, and do nothing when
// what they do is done already: Release is called at the start too, because a watchdog that was killed left its work behind.
// They end soon after ctx.
type Switch interface {
	Engage(ctx context.Context) error
	Release(ctx context.Context) error
}

func switchOf(c *v1alpha1.DNSWatchdog) Switch {
	if n := c.Switch.NFTables; n != nil {
		return &nftables{
			path: n.Path, table: n.Table,
			from: netip.MustParseAddrPort(c.Primary.Address), to: netip.MustParseAddrPort(c.Backup.Address).Port(),
		}
	}
	s := c.Switch.Command
	return &command{engage: s.Engage, release: s.Release, timeout: s.Timeout.Duration}
}

// command is a Switch that runs programs.
type command struct {
	engage, release []string
	timeout         time.Duration
}

// Engage implements Switch.
func (s *command) Engage(ctx context.Context) error { return run(ctx, s.timeout, "", s.engage) }

// Release implements Switch.
func (s *command) Release(ctx context.Context) error { return run(ctx, s.timeout, "", s.release) }

// nftables is a Switch that changes the port of packets to and from the primary's address, in a table of its own.
//
// It does so packet by packet, before connection tracking. A redirect of the nat table would be taken for new flows
// only: a resolver that repeats its question from the same port would go on asking the dead server for as long as the kernel
// remembers the flow. The price is that the backup must listen at the same address. TCP connections to the other
// server are reset in either direction, and opened again by their clients.
type nftables struct {
	path, table string
	from        netip.AddrPort
	to          uint16
}

// nftTimeout bounds one run of nft, which waits for locks of the kernel.
const nftTimeout = 5 * time.Second

// Engage implements Switch.
func (s *nftables) Engage(ctx context.Context) error {
	return run(ctx, nftTimeout, s.rules(), []string{s.path, "-f", "-"})
}

// Release implements Switch.
func (s *nftables) Release(ctx context.Context) error {
	return run(ctx, nftTimeout, s.drop(), []string{s.path, "-f", "-"})
}

// drop removes the table whether it is there or not: adding one that exists is no error, removing one that does not is.
func (s *nftables) drop() string {
	return fmt.Sprintf("add table inet %[1]s\ndelete table inet %[1]s\n", s.table)
}

// rules are applied as one transaction.
func (s *nftables) rules() string {
	family := "ip"
	if s.from.Addr().Is6() {
		family = "ip6"
	}
	var there, back strings.Builder
	for _, protocol := range []string{"udp", "tcp"} {
		fmt.Fprintf(&there, "    %s daddr %s %s dport %d meta mark != %#x notrack %[3]s dport set %[6]d\n",
			family, s.from.Addr(), protocol, s.from.Port(), mark, s.to)
		fmt.Fprintf(&back, "    %s saddr %s %s sport %d notrack %[3]s sport set %[5]d\n",
			family, s.from.Addr(), protocol, s.to, s.from.Port())
	}
	return s.drop() + fmt.Sprintf(`table inet %s {
  chain from_pods {
    type filter hook prerouting priority raw; policy accept;
%s  }
  chain from_node {
    type filter hook output priority raw; policy accept;
%s%s  }
}
`, s.table, there.String(), there.String(), back.String())
}

// run runs a program to its end, which comes after the timeout at the latest.
func run(ctx context.Context, timeout time.Duration, stdin string, args []string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.WaitDelay = time.Second // a child of its own may hold its output open
	c.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("it took longer than %s", timeout)
		}
		text := strings.TrimSpace(out.String())
		return fmt.Errorf("running %s: %w: %s", args[0], err, text[:min(len(text), 500)])
	}
	return nil
}
