package plugin

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/coredns/coredns/plugin/pkg/dnsutil"
	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/dns/keeper"
	"github.com/seakeep/seakeep/dns/plugin/packed"
	"github.com/seakeep/seakeep/dns/store"
)

// memo joins tables of packed answers, one for each address that is listened on, to the data they are made from.
type memo struct {
	data         keeper.Data
	pods         bool     // pods are verified, so names of pods depend on them
	multicluster []string // zones whose names depend on service imports
	tables       atomic.Pointer[[]*table]
	// print is the fingerprint of the status that all kept answers were made in.
	print atomic.Pointer[string]
}

type table = packed.Table[*note]

// add makes a table that is kept up to date from now on.
func (m *memo) add(bytes int64, rotate bool) *table {
	t := packed.New[*note](bytes, rotate)
	for {
		old := m.tables.Load()
		list := []*table{t}
		if old != nil {
			list = append(list, *old...)
		}
		if m.tables.CompareAndSwap(old, &list) {
			break
		}
	}
	t.SetSerial(m.serial())
	return t
}

func (m *memo) each(do func(*table)) {
	if tables := m.tables.Load(); tables != nil {
		for _, t := range *tables {
			do(t)
		}
	}
}

func (m *memo) serial() uint32 {
	return uint32(m.data.Store().Modified(store.Internal)) //nolint:gosec // Unix time to serial, as upstream
}

// note is what is kept beside an answer: how to count it.
type note struct {
	meter *meter
	size  int // of the message before it was cut to the client's size, as the prometheus plugin counts it
}

// captureKey is the context's key of the capture of a query that came by the fast path.
type captureKey struct{}

// capture is where the handler says of a query what its answer depends on. One goroutine uses it.
type capture struct {
	owner  *memo
	table  *table
	basis  packed.Basis
	asked  int  // how often the handler was asked: more than once when a plugin looked for something else
	usable bool // the answer depends on nothing but the basis
	size   int
}

// basis is a capture while the handler answers. A nil basis notes nothing.
type basis struct {
	*capture
	no bool
}

// begin starts to note what an answer depends on, if the query came by the fast path as it is now.
func (m *memo) begin(ctx context.Context, r *dns.Msg) *basis {
	c, ok := ctx.Value(captureKey{}).(*capture)
	if !ok || c.owner != m {
		return nil
	}
	c.asked++
	c.basis = c.table.Begin()
	return &basis{capture: c}
}

// never says that the answer depends on something that is not data.
func (b *basis) never() {
	if b != nil {
		b.no = true
	}
}

// on notes a name of the zone.
func (b *basis) on(name, zone string) {
	if b == nil {
		return
	}
	rest, err := dnsutil.TrimZone(name, zone)
	if err != nil || slices.Contains(b.owner.multicluster, strings.ToLower(zone)) {
		b.no = true
		return
	}
	labels := dns.SplitDomainName(rest)
	last := len(labels) - 1
	if last < 1 {
		return // the apex, svc, pod: always the same
	}
	b.table.On(&b.capture.basis, namespaceKey(labels[last-1]))
	switch {
	case labels[last] == "pod" && b.owner.pods:
		b.no = true
	case labels[last] == "svc" && last >= 2:
		b.table.On(&b.capture.basis, serviceKey(labels[last-1], labels[last-2]))
	}
}

// done says that m is the answer.
func (b *basis) done(q *query, m *dns.Msg) {
	if b == nil {
		return
	}
	current := b.owner.print.Load()
	b.usable = !b.no && b.asked == 1 && current != nil && *current == fingerprint(q)
	b.size = m.Len()
}

func namespaceKey(namespace string) string        { return "n/" + namespace }
func serviceKey(namespace, service string) string { return "s/" + namespace + "/" + service }

// fingerprint is what of the status shows in answers. It changes while data is stale, as its age is told.
func fingerprint(q *query) string { return printOf(q.conn.status, age(q.conn.status, q.now)) }

func printOf(status keeper.Status, age string) string {
	p := strconv.FormatBool(status.Ready())
	if status.Stale {
		p += age
	}
	return p
}

// follow drops what was made in another state than this one.
func (m *memo) follow(status keeper.Status, age string) {
	p := printOf(status, age)
	if old := m.print.Load(); old != nil && *old == p {
		return
	}
	m.print.Store(&p)
	m.each((*table).ChangedAll)
}

// changed drops what was made from data that is no longer. The store calls it, once the new data can be read.
func (m *memo) changed(changes store.Changes) {
	m.each(func(t *table) {
		t.SetSerial(m.serial())
		if changes.Whole {
			t.ChangedAll()
		}
		for _, c := range changes.List {
			changed(t, c)
		}
	})
}

func changed(t *table, c store.Change) {
	switch c.Kind {
	case store.Namespaces:
		t.Changed(namespaceKey(c.Key.Name))
	case store.Services:
		t.Changed(serviceKey(c.Key.Namespace, c.Key.Name))
	case store.EndpointSlices:
		for _, o := range []store.Object{c.Old, c.New} {
			if s, ok := o.(*store.EndpointSlice); ok {
				t.Changed(serviceKey(s.Namespace, s.Service))
			}
		}
	case store.ServiceImports, store.Pods:
		// Answers from these are not kept.
	}
}

// clientKey is what shares of clients are counted by: an address; of IPv6, the /64 that one client can fill at will.
func clientKey(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	prefix, err := a.Prefix(64)
	if err != nil {
		return a
	}
	return prefix.Addr()
}
