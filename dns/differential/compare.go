package differential

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Ask puts the question to the server at host:port.
func Ask(ctx context.Context, addr string, q Query) (*dns.Msg, error) {
	client := &dns.Client{Net: "udp", UDPSize: dns.MaxMsgSize, Timeout: 5 * time.Second}
	if q.TCP {
		client.Net = "tcp"
	}
	answer, _, err := client.ExchangeContext(ctx, q.Msg(), addr)
	if err != nil {
		return nil, fmt.Errorf("asking %s for %s: %w", addr, q, err)
	}
	return answer, nil
}

// Compare returns what differs between a wanted and a given answer, or nothing.
func Compare(want, got *dns.Msg) []string {
	var diffs []string
	differ := func(what string, want, got any) {
		if want != got {
			diffs = append(diffs, fmt.Sprintf("%s: want %v, got %v", what, want, got))
		}
	}
	differ("response code", dns.RcodeToString[want.Rcode], dns.RcodeToString[got.Rcode])
	differ("authoritative", want.Authoritative, got.Authoritative)
	differ("truncated", want.Truncated, got.Truncated)
	differ("recursion desired", want.RecursionDesired, got.RecursionDesired)
	differ("recursion available", want.RecursionAvailable, got.RecursionAvailable)
	differ("authentic data", want.AuthenticatedData, got.AuthenticatedData)
	differ("checking disabled", want.CheckingDisabled, got.CheckingDisabled)
	differ("question", fmt.Sprint(want.Question), fmt.Sprint(got.Question))
	differ("OPT", opt(want), opt(got))
	if want.Truncated && got.Truncated {
		// Which records are left out is chance: they are shuffled before they are cut.
		differ("number of answers", len(want.Answer), len(got.Answer))
		return diffs
	}
	differ("answer", section(want.Answer), section(got.Answer))
	differ("authority", section(want.Ns), section(got.Ns))
	differ("additional", section(want.Extra), section(got.Extra))
	return diffs
}

// opt is what of an OPT two servers must agree on.
func opt(m *dns.Msg) string {
	o := m.IsEdns0()
	if o == nil {
		return "none"
	}
	return fmt.Sprintf("version %d, size %d, DO %t", o.Version(), o.UDPSize(), o.Do())
}

// section is a set of records as text, with TTL and serials left out.
func section(rrs []dns.RR) string {
	var out []string
	for _, rr := range rrs {
		if rr.Header().Rrtype == dns.TypeOPT {
			continue
		}
		out = append(out, Record(rr))
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

// Record is the record as text, with TTL and serial left out.
func Record(rr dns.RR) string {
	rr = dns.Copy(rr)
	rr.Header().Ttl = 0
	if soa, ok := rr.(*dns.SOA); ok {
		soa.Serial, soa.Minttl = 0, 0
	}
	return strings.ReplaceAll(rr.String(), "\t", " ")
}

// Transfer returns the zone as the server transfers it, each record as Record writes it, in order.
func Transfer(addr, zone string) ([]string, error) {
	m := new(dns.Msg)
	m.SetAxfr(zone)
	envelopes, err := new(dns.Transfer).In(m, addr)
	if err != nil {
		return nil, fmt.Errorf("transferring %s from %s: %w", zone, addr, err)
	}
	var out []string
	for e := range envelopes {
		if e.Error != nil {
			return nil, fmt.Errorf("transferring %s from %s: %w", zone, addr, e.Error)
		}
		for _, rr := range e.RR {
			out = append(out, Record(rr))
		}
	}
	slices.Sort(out)
	return out, nil
}
