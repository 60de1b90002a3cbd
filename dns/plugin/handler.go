package plugin

import (
	"context"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/etcd/msg"
	"github.com/coredns/coredns/plugin/kubernetes"
	coremetrics "github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/request"
	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/dns/plugin/control"
	"github.com/seakeep/seakeep/dns/store"
)

// Handler answers for the cluster's zones. What a name means is the kubernetes plugin's business (the DNS specification
// is large, and clusters depend on the rest too); what is known, how old it is and what to say of that, is ours.
type Handler struct {
	next     plugin.Handler
	upstream *kubernetes.Kubernetes // never asked itself: each query has a copy over its own View
	data     control.Keeper
	run      func(context.Context) error // follows the sources
	options  *options
	now      func() time.Time
	localIPs []string // what this server listens on, loopback apart; set at startup
	memo     memo
	metrics  *metrics
	// What the fast path reproduces of the plugins before; see eligible.
	rotates    bool
	prometheus *coremetrics.Metrics
}

var (
	_ plugin.Handler        = (*Handler)(nil)
	_ plugin.ServiceBackend = (*query)(nil)
)

// Name is that of the plugin whose place this one takes: k8s_external looks for it, and autopath's users write
// @kubernetes.
func (h *Handler) Name() string { return "kubernetes" }

// query is one question under way: the kubernetes plugin over one View, whose answers are classified as they pass.
type query struct {
	kubernetes.Kubernetes
	handler *Handler
	conn    *conn
	now     time.Time
	class   class // of the records found; the one that goes stale first
	basis   *basis
}

func (h *Handler) query() *query {
	c := h.conn()
	q := &query{Kubernetes: *h.upstream, handler: h, conn: c, now: h.now()}
	q.APIConn = c
	return q
}

func (h *Handler) conn() *conn {
	// The status first: data that became complete in between is then taken for incomplete, not the other way round.
	status := h.data.Status()
	return &conn{
		view: h.data.Store().View(), data: h.data, status: status, zonal: h.options.zonal, noEndpoints: h.options.noEndpoints,
	}
}

// ServeDNS implements plugin.Handler. It does what the kubernetes plugin's does, but two things: a name that is not found
// before the data is complete is never handed to the next plugin, which would ask the world outside for it; and what it
// says depends on the data's age.
func (h *Handler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	qname := state.QName()
	zone := plugin.Zones(h.upstream.Zones).Matches(qname)
	if zone == "" {
		return plugin.NextOrFailure(h.Name(), h.next, ctx, w, r)
	}
	zone = qname[len(qname)-len(zone):] // as the client wrote it
	state.Zone = zone

	basis := h.memo.begin(ctx, r) // before the data is read
	q := h.query()
	q.basis = basis
	m := new(dns.Msg)
	m.SetReply(r)
	m.Authoritative = true

	records, extra, truncated, err := q.lookup(ctx, zone, state)
	switch {
	case err != nil && q.IsNameError(err):
		if !q.conn.status.Ready() {
			m.Rcode = dns.RcodeServerFailure
			break
		}
		if h.upstream.Fall.Through(state.Name()) {
			return plugin.NextOrFailure(h.Name(), h.next, ctx, w, r)
		}
		m.Rcode = dns.RcodeNameError
	case err != nil:
		return dns.RcodeServerFailure, err
	case state.QType() == dns.TypeAXFR || state.QType() == dns.TypeIXFR:
		return dns.RcodeRefused, nil
	}
	age := q.conn.status.Age(q.now)
	expired := q.conn.status.Stale && len(records) > 0 && h.options.policy.expired(q.class, age)
	if expired {
		m.Rcode, records, extra = dns.RcodeServerFailure, nil, nil
	}
	if len(records) == 0 {
		m.Ns, _ = plugin.SOA(ctx, q, zone, state, plugin.Options{})
	} else {
		m.Truncated = truncated
		m.Answer, m.Extra = records, extra
	}
	if ede := explain(q.conn.status, q.conn.held, expired, m.Rcode, q.now); ede != nil && r.IsEdns0() != nil {
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: []dns.EDNS0{ede}}
		// An explanation must not cost a record (RFC 8914 section 3): an answer that fills the client's buffer has none.
		if m.Len()+dns.Len(opt) <= state.Size() {
			m.Extra = append(m.Extra, opt)
		}
	}
	h.metrics.answered(q.conn.status, q.class, m.Rcode)
	basis.done(q, m)
	_ = w.WriteMsg(m)
	return dns.RcodeSuccess, nil
}

// lookup returns the records of a question, as the kubernetes plugin's ServeDNS does.
func (q *query) lookup(ctx context.Context, zone string, state request.Request) (records, extra []dns.RR, truncated bool, err error) {
	var o plugin.Options
	switch state.QType() {
	case dns.TypeA:
		records, truncated, err = plugin.A(ctx, q, zone, state, nil, o)
	case dns.TypeAAAA:
		records, truncated, err = plugin.AAAA(ctx, q, zone, state, nil, o)
	case dns.TypeTXT:
		records, truncated, err = plugin.TXT(ctx, q, zone, state, nil, o)
	case dns.TypeCNAME:
		records, err = plugin.CNAME(ctx, q, zone, state, o)
	case dns.TypePTR:
		records, err = plugin.PTR(ctx, q, zone, state, o)
	case dns.TypeMX:
		records, extra, err = plugin.MX(ctx, q, zone, state, o)
	case dns.TypeSRV:
		records, extra, err = plugin.SRV(ctx, q, zone, state, o)
	case dns.TypeSOA:
		if state.QName() == zone {
			records, err = plugin.SOA(ctx, q, zone, state, o)
		}
	case dns.TypeAXFR, dns.TypeIXFR:
	case dns.TypeNS:
		if state.Name() == zone {
			records, extra, err = plugin.NS(ctx, q, zone, state, o)
			break
		}
		fallthrough
	default:
		// An address is looked for, to tell a name without such a record from no name.
		fake := state.NewWithQuestion(state.QName(), dns.TypeA)
		fake.Zone = state.Zone
		_, _, err = plugin.A(ctx, q, zone, fake, nil, o)
	}
	return records, extra, truncated, err
}

// Services implements plugin.ServiceBackend.
func (q *query) Services(ctx context.Context, state request.Request, exact bool, o plugin.Options) ([]msg.Service, error) {
	if state.QType() == dns.TypeNS || state.QType() != dns.TypeTXT && isDefaultNS(state.Name(), state.Zone) {
		q.basis.never() // depends on where this process runs
		return q.nameServers(state), nil
	}
	q.basis.on(state.Name(), state.Zone)
	services, err := q.Kubernetes.Services(ctx, state, exact, o)
	if state.QType() == dns.TypeTXT {
		return services, err // the version of the specification does not go stale
	}
	zonePath := msg.Path(state.Zone, "c")
	for i := range services {
		q.age(&services[i], classOf(services[i], zonePath))
	}
	return services, err
}

// Lookup implements plugin.ServiceBackend: what a name outside the zone is, which any other plugin may answer.
func (q *query) Lookup(ctx context.Context, state request.Request, name string, qtype uint16) (*dns.Msg, error) {
	q.basis.never()
	return q.Kubernetes.Lookup(ctx, state, name, qtype)
}

// Reverse implements plugin.ServiceBackend.
func (q *query) Reverse(ctx context.Context, state request.Request, exact bool, o plugin.Options) ([]msg.Service, error) {
	q.basis.never() // depends on more than one key
	services, err := q.Kubernetes.Reverse(ctx, state, exact, o)
	for i := range services {
		c := classHeadless
		if dns.CountLabel(services[i].Host)-dns.CountLabel(q.handler.primaryZone()) == 3 { // name.namespace.svc
			c = classClusterIP
		}
		q.age(&services[i], c)
	}
	return services, err
}

// age notes the class of a record and sets its TTL.
func (q *query) age(s *msg.Service, c class) {
	policy := &q.handler.options.policy
	if q.class == "" || policy.stale[c].ttl < policy.stale[q.class].ttl {
		q.class = c
	}
	switch {
	case q.conn.status.Stale:
		s.TTL = policy.stale[c].ttl
	case q.conn.held && c == classHeadless:
		s.TTL = min(s.TTL, policy.stale[c].ttl)
	}
}

// MinTTL implements plugin.ServiceBackend: how long it may be believed that a name does not exist.
func (q *query) MinTTL(request.Request) uint32 {
	if q.conn.status.Stale || !q.conn.status.Ready() {
		return q.handler.options.policy.stale[classNegative].ttl
	}
	return q.handler.options.policy.ttl
}

// Serial implements plugin.ServiceBackend.
func (q *query) Serial(state request.Request) uint32 {
	zone := store.Internal
	if plugin.Zones(q.handler.options.multicluster).Contains(state.Zone) {
		zone = store.ClusterSet
	}
	return uint32(q.conn.data.Store().Modified(zone)) //nolint:gosec // Unix time to serial, as upstream
}

func (h *Handler) primaryZone() string { return h.options.primaryZone }
