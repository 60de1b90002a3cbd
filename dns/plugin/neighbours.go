package plugin

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/etcd/msg"
	"github.com/coredns/coredns/plugin/kubernetes"
	"github.com/coredns/coredns/plugin/kubernetes/object"
	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"
)

// This file is what other plugins ask of the kubernetes plugin: autopath, k8s_external, transfer, metadata, ready and
// cache. Where the answer depends on fields that only the plugin's own setup fills in (the addresses the server listens
// on, whether pods are read), it is given here.

const defaultNSName = "ns.dns."

func isDefaultNS(name, zone string) bool {
	return strings.HasPrefix(name, defaultNSName) && strings.Index(name, zone) == len(defaultNSName)
}

// errNotReady is why a zone is not transferred.
var errNotReady = errors.New("there is no complete data yet")

// over returns the kubernetes plugin over the data of now.
func (h *Handler) over() *kubernetes.Kubernetes {
	k := *h.upstream
	k.APIConn = h.conn()
	return &k
}

// Ready implements ready.Readiness: complete data, from any source.
func (h *Handler) Ready() bool { return h.data.Status().Ready() }

// CacheBypassZones implements cache.ZoneBypasser. The cache plugin strips the EDNS options of what it keeps, and with
// them how old an answer is; and what is answered from memory needs no cache. Reverse zones stay cached, because most
// of what is asked in them is forwarded.
func (h *Handler) CacheBypassZones() []string {
	var zones []string
	for _, z := range h.upstream.Zones {
		if dnsutil.IsReverse(z) == 0 {
			zones = append(zones, z)
		}
	}
	return zones
}

// AutoPath implements autopath.AutoPather: the search path of the pod that asks, nil when it is not known.
func (h *Handler) AutoPath(state request.Request) []string {
	zone := plugin.Zones(h.upstream.Zones).Matches(state.Name())
	if zone == "" || h.options.podMode != podsVerified {
		return nil
	}
	pods := h.conn().PodIndex(state.IP())
	if len(pods) == 0 {
		return nil
	}
	services := "svc." + strings.TrimPrefix(zone, ".")
	search := []string{pods[0].Namespace + "." + services, services, zone}
	return append(append(search, h.options.search...), "")
}

// Metadata implements metadata.Provider.
func (h *Handler) Metadata(ctx context.Context, state request.Request) context.Context {
	return h.over().Metadata(ctx, state)
}

// External implements k8s_external's Externaler.
func (h *Handler) External(state request.Request, headless bool) ([]msg.Service, int) {
	k := h.over()
	if !k.APIConn.HasSynced() {
		return nil, dns.RcodeServerFailure
	}
	return k.External(state, headless)
}

// ExternalAddress implements k8s_external's Externaler.
func (h *Handler) ExternalAddress(state request.Request, headless bool) []dns.RR {
	return h.nsAddrs(h.conn(), true, headless, state.Zone)
}

// ExternalServices implements k8s_external's Externaler.
func (h *Handler) ExternalServices(zone string, headless bool) ([]msg.Service, map[string][]msg.Service) {
	return h.over().ExternalServices(zone, headless)
}

// ExternalSerial implements k8s_external's Externaler.
func (h *Handler) ExternalSerial(zone string) uint32 { return h.over().ExternalSerial(zone) }

// Transfer implements transfer.Transferer. The name servers, which upstream's own takes from fields that only its setup
// fills in, are put in after the first SOA.
func (h *Handler) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	k := h.over()
	if !k.APIConn.HasSynced() {
		// A secondary that gets an empty zone serves an empty zone.
		return nil, errNotReady
	}
	in, err := k.Transfer(zone, serial)
	if err != nil {
		return nil, err
	}
	out := make(chan []dns.RR)
	go func() {
		defer close(out)
		out <- <-in
		second, more := <-in
		if !more {
			return // the serial is current
		}
		addrs := h.nsAddrs(k.APIConn.(*conn), false, false, zone)
		seen := map[string]bool{}
		for _, a := range addrs {
			if name := a.Header().Name; !seen[name] {
				seen[name] = true
				out <- []dns.RR{&dns.NS{Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeNS, Class: dns.ClassINET, Ttl: h.options.policy.ttl}, Ns: name}}
			}
		}
		if len(addrs) > 0 {
			out <- addrs
		}
		for ; more; second, more = <-in {
			if len(second) > 0 {
				out <- second
			}
		}
	}()
	return out, nil
}

// nameServers is what NS and ns.dns questions are answered with.
func (q *query) nameServers(state request.Request) []msg.Service {
	var out []msg.Service
	for _, rr := range q.handler.nsAddrs(q.conn, false, false, state.Zone) {
		key := msg.Path(state.QName(), "c")
		if state.QType() == dns.TypeNS {
			key = msg.Path(rr.Header().Name, "c")
		} else if rr.Header().Rrtype != state.QType() {
			continue
		}
		switch rr := rr.(type) {
		case *dns.A:
			out = append(out, msg.Service{Host: rr.A.String(), Key: key, TTL: q.handler.options.policy.ttl})
		case *dns.AAAA:
			out = append(out, msg.Service{Host: rr.AAAA.String(), Key: key, TTL: q.handler.options.policy.ttl})
		}
	}
	return out
}

// nsAddrs returns address records of the services that this server is an endpoint of, or of the server itself.
func (h *Handler) nsAddrs(c *conn, external, headless bool, zone string) []dns.RR {
	var out []dns.RR
	add := func(name, ip string) {
		if rr := addressRecord(name, ip); rr != nil {
			out = append(out, rr)
		}
	}
	found := false
	for _, local := range h.localIPs {
		for _, endpoint := range c.EpIndexReverse(local) {
			found = true
			for _, svc := range c.SvcIndex(endpoint.Index) {
				name := svc.Name + "." + svc.Namespace + ".svc." + zone
				if external {
					name = svc.Name + "." + svc.Namespace + "." + zone
				}
				ips := svc.ClusterIPs
				switch {
				case svc.Headless() && (!external || headless):
					for _, a := range endpoint.Subsets[0].Addresses {
						add(endpointHostname(a, h.options.endpointNames)+"."+name, a.IP)
					}
					continue
				case external:
					ips = svc.ExternalIPs
				}
				for _, ip := range ips {
					add(name, ip)
				}
			}
		}
	}
	if !found {
		for _, local := range h.localIPs {
			add(defaultNSName+zone, local)
		}
	}
	return out
}

func addressRecord(name, ip string) dns.RR {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return nil
	}
	header := dns.RR_Header{Name: name, Class: dns.ClassINET}
	if addr.Is4() {
		header.Rrtype = dns.TypeA
		return &dns.A{Hdr: header, A: addr.AsSlice()}
	}
	header.Rrtype = dns.TypeAAAA
	return &dns.AAAA{Hdr: header, AAAA: addr.AsSlice()}
}

// endpointHostname is the label of an endpoint, as upstream names it.
func endpointHostname(a object.EndpointAddress, names bool) string {
	switch {
	case a.Hostname != "":
		return a.Hostname
	case names && a.TargetRefName != "":
		return a.TargetRefName
	case strings.Contains(a.IP, "."):
		return strings.ReplaceAll(a.IP, ".", "-")
	case strings.HasSuffix(a.IP, ":"):
		return strings.ReplaceAll(a.IP, ":", "-") + "0"
	}
	return strings.ReplaceAll(a.IP, ":", "-")
}

// boundIPs are the addresses a server listens on, loopback apart. hosts are those of bind, empty meaning all.
func boundIPs(hosts []string) []string {
	if len(hosts) == 0 || hosts[0] == "" {
		hosts = nil
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return nil
		}
		for _, a := range addrs {
			hosts = append(hosts, a.String())
		}
	}
	var out []string
	for _, host := range hosts {
		// As upstream does, whose bind hands over plain addresses and finds none.
		if prefix, err := netip.ParsePrefix(host); err == nil && !prefix.Addr().IsLoopback() {
			out = append(out, prefix.Addr().Unmap().String())
		}
	}
	return out
}
