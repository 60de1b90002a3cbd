package plugin

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"

	"github.com/seakeep/seakeep/dns/plugin/batch"
	"github.com/seakeep/seakeep/dns/plugin/fair"
)

const (
	batchSize = 64
	// receiveBuffer holds some 2,500 queries: 25 ms of work at 100,000 a second. What waited for longer is asked again.
	receiveBuffer = 2 << 20
	// pause is how long a reader that has much to do waits for more to come, before it reads. A system call and a wake-up for
	// each query cost twice as much as all the rest of it.
	pause = 250 * time.Microsecond
	// busy is how many queries in a second are much: below, queries are answered one by one, without a pause.
	busy = 4000
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

// reader is the memory of one reading goroutine.
type reader struct {
	front   *front
	conn    *batch.Conn
	queries []batch.Message
	replies []batch.Message
	buffers [][]byte
	limiter *fair.Limiter
	random  *rand.PCG
	load    load
	looked  time.Time // when the queue was looked at last
	wasLong bool
	lost    uint32
	hits    []hit
}

// hit is a packed answer that is not counted yet.
type hit struct {
	note  *note
	query int
	four  bool
	do    bool
}

// read answers until the socket is closed. Should it ever panic, the sockets are closed, and CoreDNS reads its own again.
func (f *front) read(c *batch.Conn, seed uint64) {
	defer func() {
		if problem := recover(); problem != nil {
			clog.Errorf("plugin/seakeep: the fast path of %s panicked and is off: %v", f.addr, problem)
			for _, c := range f.conns {
				_ = c.Close()
			}
		}
	}()
	r := &reader{
		front: f, conn: c, queries: batch.Buffers(batchSize), limiter: fair.New(fair.Options{}),
		random: rand.NewPCG(uint64(time.Now().UnixNano()), seed), buffers: make([][]byte, batchSize), //nolint:gosec // no secret
	}
	for {
		n, err := c.Read(r.queries)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error of an earlier answer
		}
		now := time.Now()
		r.batch(r.queries[:n], now)
		f.narrow(now)
		if n < batchSize && r.load.rate(n, now) > busy {
			// Not time.Sleep: to park and be woken by a timer is what is to be saved.
			nap(pause)
		}
	}
}

// load is how many queries come in a second, of the last tenths of one.
type load struct {
	since time.Time
	n     int
	last  float64
}

func (l *load) rate(n int, now time.Time) float64 {
	l.n += n
	if d := now.Sub(l.since); d >= 50*time.Millisecond {
		l.last = float64(l.n) / d.Seconds()
		l.since, l.n = now, 0
	}
	return l.last
}

func (r *reader) batch(queries []batch.Message, now time.Time) {
	s := r.front.serving.Load()
	status := s.handler.data.Status()
	s.handler.memo.follow(status, age(status, s.handler.now()))
	r.limiter.Batch(len(queries) == batchSize && r.long(now), now)
	r.replies, r.hits = r.replies[:0], r.hits[:0]
	shed := 0
	for i := range queries {
		query := &queries[i]
		peer := query.Peer().Addr()
		if !r.limiter.Allow(clientKey(peer)) {
			shed++
			continue
		}
		answer, note, ok := s.table.Append(r.buffers[i][:0], query.Data, r.random)
		r.buffers[i] = answer[:0]
		if !ok {
			r.front.hand(r.conn, s, query, now)
			continue
		}
		r.replies = append(r.replies, query.Reply(answer))
		r.hits = append(r.hits, hit{note, len(query.Data), peer.Is4(), dnssecOK(query.Data)})
	}
	_, _ = r.conn.Write(r.replies)
	took := time.Since(now).Seconds()
	for _, h := range r.hits {
		h.note.meter.count(h, took)
	}
	m := r.front.metrics
	m.batch.Observe(float64(len(queries)))
	m.packed.Add(float64(len(r.replies)))
	if shed > 0 {
		m.shed.WithLabelValues(shedClient).Add(float64(shed))
	}
}

// long says that half of what may wait waits.
func (r *reader) long(now time.Time) bool {
	if now.Sub(r.looked) < time.Millisecond {
		return r.wasLong
	}
	used, limit, lost, err := r.conn.Queue()
	r.looked, r.wasLong = now, err == nil && used > limit/2
	if r.wasLong {
		r.front.widen(now)
	}
	if lost > r.lost {
		r.front.metrics.shed.WithLabelValues(shedBuffer).Add(float64(lost - r.lost))
		r.lost = lost
	}
	return r.wasLong
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

// dnssecOK reads the DO bit of a query that has been looked up, so whose OPT, if any, is its last 11 bytes.
func dnssecOK(query []byte) bool { return query[11] == 1 && query[len(query)-4]&0x80 != 0 }

// hand gives a query to the CoreDNS server, if there is a place for it.
func (f *front) hand(c *batch.Conn, s *serving, query *batch.Message, start time.Time) {
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
