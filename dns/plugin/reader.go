package plugin

import (
	"errors"
	"math/rand/v2"
	"net"
	"runtime"
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"

	"github.com/seakeep/seakeep/dns/plugin/batch"
	"github.com/seakeep/seakeep/dns/plugin/fair"
)

const (
	// tooLong is the queue that is behind, in time: longer than this the others wait because of one.
	tooLong = 4 * time.Millisecond
	// perQuery is the memory that a waiting query takes at least, as the kernel counts it.
	perQuery = 768
	// pause is how long a reader that has much to do waits for more to come, before it reads. A system call and a wake-up for
	// each query cost twice as much as all the rest of it.
	pause = 250 * time.Microsecond
	// busy is how many queries in a second are much: below, queries are answered one by one, without a pause.
	busy = 4000
)

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
	looked  time.Time  // when the queue was looked at last
	length  fair.Queue // as it was then
	lost    uint32
	hits    []hit
	filter  filtering
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
		front: f, conn: c, queries: batch.Buffers(batchSize), limiter: fair.New(fair.Options{Named: batch.MaxParts}),
		random: rand.NewPCG(uint64(time.Now().UnixNano()), seed), buffers: make([][]byte, batchSize), //nolint:gosec // no secret
	}
	for naps := 0; ; {
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
			// Not time.Sleep: to park and be woken by a timer is what is to be saved. What waits for the network, a resolver's
			// answer or a probe, has its turn every 2 ms, or at once when the chain is at work.
			naps++
			nap(pause, naps%8 == 0 || f.underWay.Load() > 0)
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
	queue := fair.Queue{}
	if len(queries) == batchSize {
		queue = r.long(now)
	}
	if r.limiter.Batch(queue, now) {
		r.refilter(now)
	}
	r.replies, r.hits = r.replies[:0], r.hits[:0]
	shed, handed := 0, false
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
			r.front.hand(r.conn, s, query)
			handed = true
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
	if handed {
		// A reader with much to do never waits, and on one processor the chain would get its turn from the scheduler alone,
		// every 10 ms.
		runtime.Gosched()
	}
}

// long is how much waits, of what is too long to wait for, and of half of the memory there is.
func (r *reader) long(now time.Time) fair.Queue {
	if now.Sub(r.looked) < time.Millisecond {
		return r.length
	}
	r.looked, r.length = now, fair.Queue{}
	if used, limit, err := r.queue(); err == nil {
		r.length = fair.Queue{Late: used / max(256<<10, r.load.last*tooLong.Seconds()*perQuery), Full: used / (limit / 2)}
	}
	if max(r.length.Late, r.length.Full) > 1 {
		r.front.widen(now)
	}
	return r.length
}

// queue is the memory of what waits, and how much there is; what was lost is counted.
func (r *reader) queue() (used, limit float64, err error) {
	u, l, lost, err := r.conn.Queue()
	if err == nil && lost != r.lost {
		reason := shedBuffer
		if r.filter.on {
			reason = shedFilter // the kernel counts both alike
		}
		r.front.metrics.shed.WithLabelValues(reason).Add(float64(lost - r.lost))
		r.lost = lost
	}
	return float64(u), float64(l), err
}

// dnssecOK reads the DO bit of a query that has been looked up, so whose OPT, if any, is its last 11 bytes.
func dnssecOK(query []byte) bool { return query[11] == 1 && query[len(query)-4]&0x80 != 0 }
