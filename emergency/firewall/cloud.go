package firewall

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// cloud is for API servers whose hosts are out of reach. A provider's list of allowed networks has no end of its own, so
// the engineer's machine must take it away, and the commands say so.
func (p *Plan) cloud(b *strings.Builder) {
	b.WriteString("\n# Networks that may enter; a managed control plane filters the port it has, and needs no more than these:\n")
	v4, v6 := p.sorted(false), p.sorted(true)
	for _, prefix := range slices.Concat(v4, v6) {
		fmt.Fprintf(b, "#   tcp %s from %s\n", ports(p.Ports, ","), prefix)
	}
	if len(v4)+len(v6) == 0 {
		b.WriteString("#   (none: a provider refuses an empty list; name at least your own address with --break-glass-source)\n")
	}
	b.WriteString("# Only the public endpoint is filtered so. Nodes inside the network use a private one on EKS, GKE and AKS, if it is\n" +
		"# switched on, and are not stopped by these lists; a security group or network policy of the provider stops them.\n")
	if len(v4)+len(v6) == 0 {
		return
	}
	for _, c := range []struct{ name, look, set, allowed string }{
		{
			"Amazon EKS",
			`aws eks describe-cluster --name "$CLUSTER" --query cluster.resourcesVpcConfig`,
			`aws eks update-cluster-config --name "$CLUSTER" --resources-vpc-config publicAccessCidrs=%s`, cidrs(slices.Concat(v4, v6)),
		},
		{
			"Google GKE (IPv4 only)",
			`gcloud container clusters describe "$CLUSTER" --format='value(masterAuthorizedNetworksConfig)'`,
			`gcloud container clusters update "$CLUSTER" --enable-master-authorized-networks --master-authorized-networks %s`, cidrs(v4),
		},
		{
			"Azure AKS (IPv4 only)",
			`az aks show --resource-group "$GROUP" --name "$CLUSTER" --query apiServerAccessProfile`,
			`az aks update --resource-group "$GROUP" --name "$CLUSTER" --api-server-authorized-ip-ranges %s`, cidrs(v4),
		},
	} {
		if c.allowed == "" {
			continue
		}
		undo := fmt.Sprintf(c.set, `"$BEFORE"`)
		fmt.Fprintf(b, "\n# %s. First see what is allowed now, and write it down, because it is what the last command puts back:\n%s\n", c.name, c.look)
		b.WriteString("BEFORE=   # networks with commas between them; 0.0.0.0/0 if everyone was allowed\n")
		fmt.Fprintf(b, "# Set, and have it taken away by itself as long as this shell lives:\n[ -n \"$BEFORE\" ] && %s && (sleep %d; %s) &\n", fmt.Sprintf(c.set, c.allowed), int64((p.For+time.Second-1)/time.Second), undo)
		fmt.Fprintf(b, "# Take it away sooner.\n%s\n", undo)
	}
}

func cidrs(prefixes []netip.Prefix) string {
	texts := make([]string, len(prefixes))
	for i, prefix := range prefixes {
		texts[i] = prefix.String()
	}
	return strings.Join(texts, ",")
}
