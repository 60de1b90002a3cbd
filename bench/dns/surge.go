package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/seakeep/seakeep/bench/load"
	"github.com/seakeep/seakeep/bench/result"
	"github.com/seakeep/seakeep/bench/run"
)

// surge is the moment after an expiry: everybody asks, and one client asks far too much.
const surge = "expiry surge"

const (
	// others are the clients that behave, each with an address of its own.
	others = 50
	// retryAfter and attempts are glibc's: a resolver asks again after 5 s, once.
	retryAfter = 5 * time.Second
	attempts   = 2
	// abuse and share are what the abuser and the others send, of the server's capacity.
	abuse = 2.0
	share = 0.2
	// step is how often the generators send what is due.
	step = time.Millisecond
	// burst is the most that the abuser sends at once.
	burst = 4 * step
	// segments is how many datagrams one system call sends: the kernel's limit.
	segments = 64
)

const surgeProfile = "CPU of seakeep-dns in the expiry surge"

// surgeRounds are fewer than of the rest: a turn takes as long as a resolver goes on asking.
const surgeRounds = 3

func (r *rig) measureSurge(ctx context.Context, report *result.Report) (err error) {
	order := []string{seakeepName, stockName}
	servers, err := r.startAll(ctx, "-surge", order)
	defer func() { err = errors.Join(err, stopAll(context.WithoutCancel(ctx), servers)) }()
	if err != nil {
		return err
	}
	for _, contender := range order {
		if r.capacity[contender] > 0 {
			continue // known from the case before
		}
		if _, err = saturate(ctx, servers[contender], r.populated, warmUp); err != nil {
			return err
		}
		if r.capacity[contender], err = saturate(ctx, servers[contender], r.populated, r.options.Turn); err != nil {
			return err
		}
	}
	success, first, p99, offered, late := result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}, result.Runs{}
	err = run.Turns(min(surgeRounds, r.options.Rounds), order, func(contender string) error {
		o, err := r.surge(ctx, servers[contender], r.options.Turn)
		if err != nil {
			return err
		}
		success.Add(contender, float64(o.answered)/float64(o.asked)*100)
		first.Add(contender, float64(o.first)/float64(o.asked)*100)
		p99.Add(contender, o.latency.Milliseconds(0.99))
		offered.Add(contender, o.abused/r.capacity[contender])
		late.Add(contender, o.late.Milliseconds(0.99))
		return nil
	})
	if err != nil {
		return err
	}
	ok := success.Case(surge, "the others' queries answered after retries", "%", seakeepName)
	met := ok.Value >= 99.9
	ok.Target, ok.Met, ok.Profile = "≥ 99.9 %", &met, surgeProfile
	ok.Note = fmt.Sprintf("%d clients with addresses of their own send %g of the capacity together, for %s; one sends %g of it until the last of them has its answer. A resolver asks again after %s, once, as glibc's does. The capacities, as saturated clients found them, were %.0f/s and %.0f/s.",
		others, share, r.options.Turn, abuse, retryAfter, r.capacity[seakeepName], r.capacity[stockName])
	latency := p99.Case(surge, "the others' latency, p99", "ms", seakeepName)
	latency.AtMost(20)
	latency.Profile = surgeProfile
	latency.Note = fmt.Sprintf("From when the query was due. What was never answered counts with the time until the resolver gave up. The generators, abuser and others, are one process on the other CPU, which collects no garbage during a turn; it sent the others' queries %s ms late at p99, which is in the latencies.",
		result.Number(result.Median(late[seakeepName])))
	cases := []result.Case{ok, latency,
		first.Case(surge, "the others' queries answered at the first attempt", "%", seakeepName),
		offered.Case(surge, "what the abuser sent, times the capacity", "×", seakeepName)}
	r.unneeded(cases)
	report.Cases = append(report.Cases, cases...)
	if missed(cases) {
		return r.profileCPU(ctx, report, surgeProfile, "dns-surge.pprof", servers[seakeepName], func(during time.Duration) error {
			_, err := r.surge(ctx, servers[seakeepName], during)
			return err
		})
	}
	return nil
}

// surgeOutcome is what the others got.
type surgeOutcome struct {
	asked, first, answered int
	latency                *load.Histogram
	late                   *load.Histogram // how late they were sent at first
	abused                 float64         // queries per second that were sent
}

// surge plays one turn.
func (r *rig) surge(ctx context.Context, s *server, during time.Duration) (*surgeOutcome, error) {
	to, err := netip.ParseAddrPort(s.address)
	if err != nil {
		return nil, err
	}
	// The generators' own garbage collection would stop the clock of those who wait for an answer.
	runtime.GC()
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	capacity := r.capacity[s.contender]
	inner, stop := context.WithCancel(ctx)
	defer stop()
	abuser, err := dial(netip.AddrFrom4([4]byte{127, 0, 2, 1}), to)
	if err != nil {
		return nil, err
	}
	defer abuser.Close()
	crowd, err := newCrowd(to, r.populated)
	if err != nil {
		return nil, err
	}
	defer crowd.close()
	type abused struct {
		perSecond float64
		err       error
	}
	sent := make(chan abused, 1)
	go func() {
		perSecond, err := flood(inner, abuser, capacity*abuse, r.populated)
		sent <- abused{perSecond, err}
	}()
	if err := run.Pause(ctx, warmUp); err != nil { // it has begun
		return nil, err
	}
	outcome := crowd.play(ctx, capacity*share, during)
	stop()
	a := <-sent
	outcome.abused = a.perSecond
	return outcome, errors.Join(a.err, ctx.Err())
}

func dial(from netip.Addr, to netip.AddrPort) (*net.UDPConn, error) {
	return net.DialUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.UDPAddrFromAddrPort(to))
}

// flood sends queries at a rate and reads no answer. The kernel cuts one write into many datagrams (UDP_SEGMENT), as all
// are of one length: otherwise one CPU could not send twice what another answers.
func flood(ctx context.Context, conn *net.UDPConn, perSecond float64, services int) (float64, error) {
	packets, size, err := train(nil, 0, services)
	if err != nil {
		return 0, err
	}
	if err := segmented(conn, size); err != nil {
		return 0, err
	}
	began := time.Now()
	sent, skipped := 0, 0
	for ctx.Err() == nil {
		due := int(time.Since(began).Seconds()*perSecond) - skipped
		// What a generator that was kept from running could not send is not made up for: it would be a burst.
		if late := due - sent - max(2*segments, int(perSecond*burst.Seconds())); late > 0 {
			skipped, due = skipped+late, due-late
		}
		for ; sent+segments <= due; sent += segments {
			if _, err := conn.Write(packets); err != nil && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOBUFS) {
				return 0, fmt.Errorf("sending as the abuser: %w", err)
			}
		}
		if run.Pause(ctx, step) != nil {
			break
		}
	}
	return float64(sent) / time.Since(began).Seconds(), nil
}

func query(id uint16, service int) ([]byte, error) {
	m := new(dns.Msg).SetQuestion(fullName(service), dns.TypeA)
	m.Id = id
	return m.Pack()
}

// crowd are the clients that behave.
type crowd struct {
	clients []*client
	packets [][]byte // by service, with an id to be filled in
	reading sync.WaitGroup
}

// client is one of them.
type client struct {
	conn *net.UDPConn
	mu   sync.Mutex
	open [1 << 16]*attempt // by the query's id
}

// attempt is one query until it has its answer or is given up.
type attempt struct {
	client  *client
	id      uint16
	service int
	due     time.Time
	late    time.Duration // it was sent after that
	tries   int
	took    time.Duration // 0: no answer yet
}

func newCrowd(to netip.AddrPort, services int) (*crowd, error) {
	c := &crowd{}
	for i := range services {
		packet, err := query(0, i)
		if err != nil {
			return nil, err
		}
		c.packets = append(c.packets, packet)
	}
	for i := range others {
		conn, err := dial(netip.AddrFrom4([4]byte{127, 0, 1, byte(i + 1)}), to)
		if err != nil {
			c.close()
			return nil, err
		}
		one := &client{conn: conn}
		c.clients = append(c.clients, one)
		c.reading.Go(one.read)
	}
	return c, nil
}

func (c *crowd) close() {
	for _, one := range c.clients {
		_ = one.conn.Close()
	}
	c.reading.Wait()
}

// read takes answers in until the socket is closed.
func (c *client) read() {
	buffer := make([]byte, 2048)
	for {
		n, err := c.conn.Read(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 12 {
			continue
		}
		now, ok := time.Now(), good(buffer[:n])
		c.mu.Lock()
		if a := c.open[binary.BigEndian.Uint16(buffer)]; a != nil && ok && a.took == 0 {
			a.took = max(now.Sub(a.due), 1)
		}
		c.mu.Unlock()
	}
}

// play sends queries at a rate for a time, and goes on asking as resolvers do until each is answered or given up.
func (c *crowd) play(ctx context.Context, perSecond float64, during time.Duration) *surgeOutcome {
	began := time.Now()
	total := int(perSecond * during.Seconds())
	all := make([]attempt, 0, total)
	buffer := make([]byte, 512)
	waiting := make([]*attempt, 0, total*attempts) // in the order in which they were sent last
	for ctx.Err() == nil {
		now := time.Now()
		for due := min(total, int(now.Sub(began).Seconds()*perSecond)); len(all) < due; {
			i := len(all)
			all = append(all, attempt{client: c.clients[i%others], id: uint16(i / others), service: i % len(c.packets), due: began.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))})
			a := &all[i]
			waiting = append(waiting, a)
			a.late = time.Since(a.due)
			c.send(a, buffer)
		}
		again := 0
		for _, a := range waiting {
			if now.Sub(a.due) < time.Duration(a.tries)*retryAfter {
				break
			}
			again++
			if a.tries < attempts && !a.answered() {
				waiting = append(waiting, a)
				c.send(a, buffer)
			}
		}
		waiting = waiting[again:]
		if len(all) == total && c.settled(waiting) {
			break
		}
		if run.Pause(ctx, step) != nil {
			break
		}
	}
	return sum(all)
}

// settled drops from the head what needs no more waiting; it is true when nothing is left.
func (c *crowd) settled(waiting []*attempt) bool {
	for _, a := range waiting {
		if !a.answered() {
			return false
		}
	}
	return true
}

func (a *attempt) answered() bool {
	a.client.mu.Lock()
	defer a.client.mu.Unlock()
	return a.took > 0
}

func (c *crowd) send(a *attempt, buffer []byte) {
	n := copy(buffer, c.packets[a.service])
	binary.BigEndian.PutUint16(buffer, a.id)
	a.client.mu.Lock()
	a.tries++
	a.client.open[a.id] = a
	a.client.mu.Unlock()
	_, _ = a.client.conn.Write(buffer[:n]) // what could not be sent is not answered, and asked again
}

func sum(all []attempt) *surgeOutcome {
	o := &surgeOutcome{asked: len(all), latency: load.NewHistogram(), late: load.NewHistogram()}
	for i := range all {
		a := &all[i]
		o.late.Add(a.late)
		a.client.mu.Lock()
		took, tries := a.took, a.tries
		a.client.mu.Unlock()
		if took == 0 {
			o.latency.Add(attempts * retryAfter)
			continue
		}
		o.answered++
		o.latency.Add(took)
		if tries == 1 {
			o.first++
		}
	}
	return o
}
