package plugin

import (
	"sync"

	"github.com/coredns/coredns/plugin"
	coremetrics "github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/plugin/metrics/vars"
	"github.com/coredns/coredns/plugin/pkg/rcode"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// meters count packed answers as the prometheus plugin would have, had they gone through it: the same series, with the
// same labels. Looking a series up costs more than answering, so each kind of answer keeps its series.
type meters struct {
	server     string
	prometheus *coremetrics.Metrics // nil: nothing counts
	mu         sync.Mutex
	known      map[meterKey]*meter
}

type meterKey struct {
	zone  string
	qtype uint16
	rcode int
}

// meter is the series of one kind of answer. A nil meter counts nothing.
type meter struct {
	// Series that there might never be a query for are made with the first one.
	requests     [2]func() prometheus.Counter // by family: IPv4, IPv6
	do           func() prometheus.Counter
	duration     prometheus.Observer
	requestSize  prometheus.Observer
	responseSize prometheus.Observer
	responses    prometheus.Counter
}

func newMeters(server string, p *coremetrics.Metrics) *meters {
	return &meters{server: server, prometheus: p, known: map[meterKey]*meter{}}
}

// of returns the meter of an answer.
func (m *meters) of(q dns.Question, code int) *meter {
	if m.prometheus == nil {
		return nil
	}
	zone := plugin.Zones(m.prometheus.ZoneNames()).Matches(q.Name)
	if zone == "" {
		zone = "."
	}
	key := meterKey{zone, q.Qtype, code}
	m.mu.Lock()
	defer m.mu.Unlock()
	if known, ok := m.known[key]; ok {
		return known
	}
	const view, proto = "", "udp"
	counted := &meter{
		do:           sync.OnceValue(func() prometheus.Counter { return vars.RequestDo.WithLabelValues(m.server, zone, view) }),
		duration:     vars.RequestDuration.WithLabelValues(m.server, zone, view),
		requestSize:  vars.RequestSize.WithLabelValues(m.server, zone, view, proto),
		responseSize: vars.ResponseSize.WithLabelValues(m.server, zone, view, proto),
		// The plugin that is named is the one after prometheus: it hands the answer over.
		responses: vars.ResponseRcode.WithLabelValues(m.server, zone, view, rcode.ToString(code), m.prometheus.Next.Name()),
	}
	for i, family := range []string{"1", "2"} {
		counted.requests[i] = sync.OnceValue(func() prometheus.Counter {
			return vars.RequestCount.WithLabelValues(m.server, zone, view, proto, family, typeLabel(q.Qtype))
		})
	}
	m.known[key] = counted
	return counted
}

// count counts one answer that took so many seconds.
func (m *meter) count(h hit, seconds float64) {
	if m == nil {
		return
	}
	family := 1
	if h.four {
		family = 0
	}
	m.requests[family]().Inc()
	if h.do {
		m.do().Inc()
	}
	m.duration.Observe(seconds)
	m.requestSize.Observe(float64(h.query))
	m.responseSize.Observe(float64(h.note.size))
	m.responses.Inc()
}

// typeLabel is the label of a type: those that CoreDNS counts one by one, and "other".
func typeLabel(qtype uint16) string {
	switch qtype {
	case dns.TypeAAAA, dns.TypeA, dns.TypeCNAME, dns.TypeDNSKEY, dns.TypeDS, dns.TypeMX, dns.TypeNSEC3, dns.TypeNSEC, dns.TypeNS,
		dns.TypePTR, dns.TypeRRSIG, dns.TypeSOA, dns.TypeSRV, dns.TypeTXT, dns.TypeHTTPS, dns.TypeSVCB, dns.TypeIXFR, dns.TypeAXFR, dns.TypeANY:
		return dns.Type(qtype).String()
	}
	return "other"
}
