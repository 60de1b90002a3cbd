package plugin

import (
	"fmt"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin/etcd/msg"
	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/dns/keeper"
)

// class is a class of records: how long data of it stays true without anybody confirming it.
type class string

const (
	// classClusterIP addresses belong to their service for its life, and kube-proxy keeps their backends.
	classClusterIP class = "clusterip"
	// classHeadless addresses are pods', and an address that a pod left is given to another one, perhaps of another tenant.
	classHeadless class = "headless"
	// classPod addresses are pods' too.
	classPod class = "pod"
	// classExternalName are names that somebody wrote down.
	classExternalName class = "externalname"
	// classNegative is that there is nothing.
	classNegative class = "negative"
)

var classes = []class{classClusterIP, classHeadless, classPod, classExternalName, classNegative}

// staleness is what happens to the records of a class once the data is stale.
type staleness struct {
	// ttl of stale records. Where it is longer than the configured TTL, it takes off some of the surge of a recovery;
	// where it is shorter, what is wrong is not believed for long.
	ttl uint32
	// longest is the age of the data from which records are no longer given; 0 is never.
	longest time.Duration
}

// policy is the staleness of each class, and the TTL while the data is live.
type policy struct {
	ttl   uint32
	stale map[class]staleness
}

// defaultPolicy follows RFC 8767, which recommends a TTL of 30 s for stale records and to give them up after one to three
// days. Addresses of pods have a short TTL from the beginning, because they are reused; they are not given up sooner,
// because in an outage longer than the patience of the cache nothing would be left of a database that is found by them.
func defaultPolicy(ttl uint32) policy {
	return policy{ttl: ttl, stale: map[class]staleness{
		classClusterIP:    {ttl: max(ttl, 30), longest: 7 * 24 * time.Hour},
		classHeadless:     {ttl: min(ttl, 5), longest: 24 * time.Hour},
		classPod:          {ttl: min(ttl, 5), longest: 24 * time.Hour},
		classExternalName: {ttl: max(ttl, 30), longest: 7 * 24 * time.Hour},
		classNegative:     {ttl: min(ttl, 5)},
	}}
}

// expired says that data of this age is too old for the class.
func (p *policy) expired(c class, age time.Duration) bool {
	longest := p.stale[c].longest
	return longest > 0 && age > longest
}

// classOf is the class of a record that the kubernetes plugin found, by the shape of its key:
// /c/local/cluster/pod/namespace/address, …/svc/namespace/name, …/svc/namespace/name/[cluster/]host.
func classOf(s msg.Service, zonePath string) class {
	rest, ok := strings.CutPrefix(s.Key, zonePath+"/")
	if !ok {
		return classClusterIP
	}
	kind, below, _ := strings.Cut(rest, "/")
	if kind == "pod" {
		return classPod
	}
	if strings.Count(below, "/") >= 2 {
		return classHeadless
	}
	if what, _ := s.HostType(); what == dns.TypeCNAME {
		return classExternalName
	}
	return classClusterIP
}

// explain is the Extended DNS Error (RFC 8914) that goes with an answer in this state, or nil.
func explain(status keeper.Status, held, expired bool, rcode int, now time.Time) *dns.EDNS0_EDE {
	switch {
	case !status.Ready():
		return &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNotReady, ExtraText: "no complete data from any source yet"}
	case expired:
		return &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNotReady, ExtraText: "data is too old for this class of records: " + age(status, now)}
	case status.Stale && rcode == dns.RcodeNameError:
		return &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleNXDOMAINAnswer, ExtraText: age(status, now)}
	case status.Stale:
		return &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer, ExtraText: age(status, now)}
	case held:
		return &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer, ExtraText: "holds endpoints that were removed all at once"}
	}
	return nil
}

// age is in whole units, seconds in tens, so that an answer stays the same for a while: each other text is another answer,
// and all names of a cluster, made again every second of the first minutes of an outage, take a good part of a CPU.
func age(status keeper.Status, now time.Time) string {
	a := status.Age(now)
	switch {
	case a >= 2*time.Hour:
		return fmt.Sprintf("last confirmed %d h ago", int(a.Hours()))
	case a >= 2*time.Minute:
		return fmt.Sprintf("last confirmed %d min ago", int(a.Minutes()))
	}
	return fmt.Sprintf("last confirmed %d s ago", int(a.Seconds())/10*10)
}
