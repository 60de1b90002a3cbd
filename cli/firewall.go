package cli

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/seakeep/seakeep/emergency/firewall"
)

// noFirewall prints no rules.
const noFirewall = "none"

// firewallFlags are those of `emergency lockdown`, for what goes round the gates.
type firewallFlags struct {
	kind                           string
	ports                          []uint
	gates, peers, breakGlass, more []string
}

func (f *firewallFlags) flags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.kind, "firewall", string(firewall.NFTables), "print rules for what goes round the gates: nftables | iptables | cloud | none; never applied")
	flags.UintSliceVar(&f.ports, "api-port", []uint{6443}, "in those rules: the API servers' ports")
	flags.StringSliceVar(&f.gates, "gate-source", nil, "in those rules: gates' addresses or networks (default the addresses of --addr)")
	flags.StringSliceVar(&f.peers, "peer-source", nil, "in those rules: addresses of the other control-plane hosts, for API servers, controllers and etcd")
	flags.StringSliceVar(&f.breakGlass, "break-glass-source", nil, "in those rules: where engineers with break-glass credentials come from")
	flags.StringSliceVar(&f.more, "allow-source", nil, "in those rules: anyone else who may still reach the API servers, such as the nodes' network")
	_ = cmd.RegisterFlagCompletionFunc("firewall", cobra.FixedCompletions([]string{"nftables", "iptables", "cloud", noFirewall}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"api-port", "gate-source", "peer-source", "break-glass-source", "allow-source"} {
		_ = cmd.RegisterFlagCompletionFunc(name, cobra.NoFileCompletions)
	}
}

// plan is nil when no rules are wanted. addresses are the gates' admin endpoints.
func (f *firewallFlags) plan(addresses []string, length time.Duration) (*firewall.Plan, error) {
	if f.kind == noFirewall {
		return nil, nil
	}
	plan := &firewall.Plan{Kind: firewall.Kind(f.kind), For: length}
	for _, port := range f.ports {
		if port > 65535 {
			return nil, usageError(fmt.Errorf("--api-port must be 1 to 65535, got %d", port), emergencyHint)
		}
		plan.Ports = append(plan.Ports, uint16(port))
	}
	gates := f.gates
	if len(gates) == 0 {
		gates = hostsOf(addresses)
	}
	var errs []error
	for _, list := range []struct {
		flag, who string
		sources   []string
	}{
		{"--gate-source", "gates", gates}, {"--peer-source", "control-plane hosts", f.peers},
		{"--break-glass-source", "break-glass", f.breakGlass}, {"--allow-source", "others who may", f.more},
	} {
		for _, text := range list.sources {
			source, err := firewall.ParseSource(text, list.flag)
			errs = append(errs, err)
			source.Who = list.who
			plan.Sources = append(plan.Sources, source)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, usageError(err, emergencyHint)
	}
	if err := plan.Validate(); err != nil {
		return nil, usageError(err, emergencyHint)
	}
	return plan, nil
}

// hostsOf are the numeric hosts of host:port addresses. A name is not looked up: in an emergency there may be no DNS.
func hostsOf(addresses []string) []string {
	var hosts []string
	for _, address := range addresses {
		host, _, err := net.SplitHostPort(address)
		if err == nil && net.ParseIP(host) != nil {
			hosts = append(hosts, host)
		}
	}
	return hosts
}

// write prints the rules: below a table, which is for readers, or beside JSON, which is for programs.
func (f *firewallFlags) write(env *Env, plan *firewall.Plan, output string) {
	w := env.Stdout
	if output == "json" {
		w = env.Stderr
	}
	fmt.Fprintf(w, "\n%s", plan.Rules())
}
