package agents

import (
	"hash/fnv"
	"net"
	"net/netip"
	"net/url"
)

// addressOf is the address a node's agents come from: one of 127.64.0.0/10 for each node, as in a cluster each node has its own.
// Who tells clients apart by where they come from sees as many as there are nodes. nil, any, for a server that is not on
// loopback.
func addressOf(server, node string) net.Addr {
	u, err := url.Parse(server)
	if err != nil || node == "" {
		return nil
	}
	if host, err := netip.ParseAddr(u.Hostname()); err != nil || !host.Is4() || !host.IsLoopback() {
		return nil
	}
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(node))
	sum := hash.Sum32()
	return &net.TCPAddr{IP: net.IPv4(127, 64|byte(sum>>16)&63, byte(sum>>8), byte(sum)|1)}
}
