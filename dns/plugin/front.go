package plugin

import (
	"context"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/dns/plugin/batch"
)

const (
	batchSize = 64
	// receiveBuffer, which the kernel doubles, holds some 10,000 queries: room for what comes in at several times the capacity
	// while the scheduler, a garbage collection or another process has the CPU.
	receiveBuffer = 4 << 20
	// maxUnderWay bounds the queries that the chain works on at a time, for one address. What waits for a resolver outside
	// takes 30 KB and up to some seconds each.
	maxUnderWay = 4096
	// maxOfOne bounds those of one client, once half of all places are taken.
	maxOfOne = maxUnderWay / 16
)

// front stands before the UDP socket that CoreDNS opened for an address: it answers what is packed, and hands all else to
// the CoreDNS server, in its own process, as if it had come in by the server's own socket.
type front struct {
	addr    string // as CoreDNS names it: dns://127.0.0.1:53
	conns   []*batch.Conn
	serving atomic.Pointer[serving]
	readers sync.WaitGroup
	metrics *metrics

	before  int          // sockets that CoreDNS opened itself
	spread  atomic.Int32 // sockets that get datagrams
	crowded atomic.Int64 // when a queue was last found long, Unix nanoseconds

	underWay atomic.Int64
	ofClient [1 << 10]atomic.Int32 // under way, by client; clients share cells by chance
}

// serving is what a front serves. A reload replaces it, and the sockets stay.
type serving struct {
	handler *Handler
	server  *dnsserver.Server
	table   *table
	meters  *meters
}

// fronts are the process's: sockets outlive a reload, which is another instance of the plugin.
var fronts struct {
	sync.Mutex
	byAddr map[string]*front
}

// stand puts a front before the server's UDP socket, or lets the one that is there serve the new server.
func (h *Handler) stand(s *dnsserver.Server, sockets int) error {
	fronts.Lock()
	defer fronts.Unlock()
	f := fronts.byAddr[s.Addr]
	if f != nil {
		if old := f.serving.Load(); old.handler == h {
			return nil // another of the server's own sockets
		}
	}
	next := &serving{handler: h, server: s, table: h.memo.add(h.options.fast.memory, h.rotates), meters: newMeters(s.Addr, h.prometheus)}
	if f != nil {
		f.serving.Store(next)
		return nil
	}
	f = &front{addr: s.Addr, metrics: h.metrics, before: sockets}
	f.spread.Store(1)
	f.serving.Store(next)
	n := h.options.fast.sockets
	if n == 0 {
		n = runtime.GOMAXPROCS(0)
	}
	var err error
	f.conns, err = batch.Listen(strings.TrimPrefix(s.Addr, "dns://"), batch.Options{
		Sockets: n, Before: sockets, ReceiveBuffer: receiveBuffer,
	})
	if err != nil {
		return err
	}
	for i, c := range f.conns {
		f.readers.Go(func() { f.read(c, uint64(i)) })
	}
	if fronts.byAddr == nil {
		fronts.byAddr = map[string]*front{}
	}
	fronts.byAddr[s.Addr] = f
	f.metrics.sockets.Add(float64(n))
	return nil
}

// leave takes away the fronts that still serve this handler.
func (h *Handler) leave() {
	fronts.Lock()
	defer fronts.Unlock()
	for addr, f := range fronts.byAddr {
		if f.serving.Load().handler == h {
			delete(fronts.byAddr, addr)
			f.close()
		}
	}
}

func (f *front) close() {
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.readers.Wait()
	f.metrics.sockets.Sub(float64(len(f.conns)))
}

// One socket is enough for most loads, and cheapest: its reader finds several queries when it looks. When its queue is long,
// twice as many sockets get datagrams, until none was long for calmAfter.
const calmAfter = 10 * time.Second

func (f *front) widen(now time.Time) {
	last := f.crowded.Swap(now.UnixNano())
	n := f.spread.Load()
	if int(n) >= len(f.conns) || now.UnixNano()-last < int64(50*time.Millisecond) || !f.spread.CompareAndSwap(n, min(2*n, int32(len(f.conns)))) { //nolint:gosec // at most 64
		return
	}
	_ = f.conns[0].Steer(f.before, int(f.spread.Load()))
}

// narrow goes back to one socket.
func (f *front) narrow(now time.Time) {
	n := f.spread.Load()
	if n > 1 && now.UnixNano()-f.crowded.Load() > int64(calmAfter) && f.spread.CompareAndSwap(n, 1) {
		_ = f.conns[0].Steer(f.before, 1)
	}
}

// hand gives a query to the CoreDNS server, if there is a place for it.
func (f *front) hand(c *batch.Conn, s *serving, query *batch.Message) {
	const header = 12
	if len(query.Data) < header {
		f.metrics.shed.WithLabelValues(shedShort).Inc()
		return
	}
	peer := query.Peer()
	cell := &f.ofClient[clientCell(clientKey(peer.Addr()))]
	total, own := f.underWay.Add(1), cell.Add(1)
	if total > maxUnderWay || total > maxUnderWay/2 && own > maxOfOne {
		f.underWay.Add(-1)
		cell.Add(-1)
		f.metrics.shed.WithLabelValues(shedBusy).Inc()
		return
	}
	f.metrics.chain.Inc()
	data := slices.Clone(query.Data)
	w := &writer{conn: c, to: query.Reply(nil), local: c.LocalAddr(), peer: peer}
	go func() {
		defer func() {
			f.underWay.Add(-1)
			cell.Add(-1)
		}()
		s.serve(w, data)
	}()
}

func clientCell(a netip.Addr) int {
	b := a.As16()
	h := uint32(2166136261) // FNV-1a
	for _, c := range b {
		h = (h ^ uint32(c)) * 16777619
	}
	return int(h % (1 << 10))
}

// serve does what the DNS library's server does with a datagram, and keeps the answer if it may.
func (s *serving) serve(w *writer, data []byte) {
	r := new(dns.Msg)
	switch action := dns.DefaultMsgAcceptFunc(header(data)); action {
	case dns.MsgIgnore:
		return
	case dns.MsgAccept:
		if r.Unpack(data) == nil {
			break
		}
		fallthrough
	default:
		if len(data) >= 3 {
			r.Id, r.Opcode = uint16(data[0])<<8|uint16(data[1]), int(data[2]>>3)&0xf
		}
		opcode := r.Opcode
		r.SetRcodeFormatError(r)
		r.Zero = false
		if action == dns.MsgRejectNotImplemented {
			r.Opcode, r.Rcode = opcode, dns.RcodeNotImplemented
		}
		r.Ns, r.Answer, r.Extra = nil, nil, nil
		_ = w.WriteMsg(r)
		return
	}
	ctx := context.WithValue(context.WithValue(context.Background(), dnsserver.Key{}, s.server), dnsserver.LoopKey{}, 0)
	c := &capture{owner: &s.handler.memo, table: s.table}
	ctx = context.WithValue(ctx, captureKey{}, c)
	question := dns.Question{}
	if len(r.Question) > 0 {
		question = r.Question[0]
	}
	s.server.ServeDNS(ctx, w, r)
	if !c.usable || w.writes != 1 {
		return
	}
	s.table.Store(data, w.packed, c.basis, &note{meter: s.meters.of(question, w.rcode), size: c.size})
}

func header(data []byte) dns.Header {
	field := func(i int) uint16 { return uint16(data[2*i])<<8 | uint16(data[2*i+1]) }
	return dns.Header{Id: field(0), Bits: field(1), Qdcount: field(2), Ancount: field(3), Nscount: field(4), Arcount: field(5)}
}

// writer is the dns.ResponseWriter of a query that came by a front.
type writer struct {
	conn   *batch.Conn
	to     batch.Message
	local  *net.UDPAddr
	peer   netip.AddrPort
	packed []byte
	rcode  int
	writes int
}

var _ dns.ResponseWriter = (*writer)(nil)

// LocalAddr implements dns.ResponseWriter.
func (w *writer) LocalAddr() net.Addr { return w.local }

// RemoteAddr implements dns.ResponseWriter.
func (w *writer) RemoteAddr() net.Addr { return net.UDPAddrFromAddrPort(w.peer) }

// WriteMsg implements dns.ResponseWriter.
func (w *writer) WriteMsg(m *dns.Msg) error {
	data, err := m.Pack()
	if err != nil {
		return err
	}
	w.rcode = m.Rcode
	_, err = w.Write(data)
	return err
}

// Write implements dns.ResponseWriter.
func (w *writer) Write(data []byte) (int, error) {
	w.packed = data
	w.writes++
	w.to.Data = data
	if err := w.conn.WriteOne(w.to); err != nil {
		return 0, err
	}
	return len(data), nil
}

// Close implements dns.ResponseWriter.
func (w *writer) Close() error { return nil }

// TsigStatus implements dns.ResponseWriter: servers with TSIG keys have no front.
func (w *writer) TsigStatus() error { return nil }

// TsigTimersOnly implements dns.ResponseWriter.
func (w *writer) TsigTimersOnly(bool) {}

// Hijack implements dns.ResponseWriter.
func (w *writer) Hijack() {}
