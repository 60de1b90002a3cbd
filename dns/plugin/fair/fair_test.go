package fair

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
)

// server is a queue with a capacity, and a limiter in front of the work.
type server struct {
	limiter  *Limiter
	now      time.Time
	capacity int // units of work per millisecond; an answer costs 10, a drop 2
	queue    []query
	answered map[netip.Addr]int
	worst    time.Duration // that one of the others waited, once it was answered
	// filtered drops at the source what is not to pass.
	filtered bool
	passes   map[netip.Addr]float64
	debt     map[netip.Addr]float64
	// Every now and then something else has the processor.
	stallEvery, stall int
}

type query struct {
	from netip.Addr
	at   time.Time
}

// passed is what the source lets through, evenly.
func (s *server) passed(a netip.Addr) bool {
	pass, ok := s.passes[a]
	if !ok {
		return true
	}
	if s.debt[a] += pass; s.debt[a] >= 1 {
		s.debt[a]--
		return true
	}
	return false
}

func (s *server) millisecond(number int, arrivals []netip.Addr) {
	const batch = 64
	s.now = s.now.Add(time.Millisecond)
	for _, a := range arrivals {
		if s.passed(a) && len(s.queue) < longest { // a socket's buffer
			s.queue = append(s.queue, query{a, s.now})
		}
	}
	if s.stallEvery > 0 && number%s.stallEvery < s.stall {
		return
	}
	for budget := s.capacity; budget > 0 && len(s.queue) > 0; {
		n := min(len(s.queue), batch)
		if s.limiter.Batch(Queue{Late: float64(len(s.queue)) / tooLong, Full: float64(len(s.queue)) / (longest / 2)}, s.now) && s.filtered {
			clear(s.passes)
			for _, share := range s.limiter.Shares() {
				s.passes[share.Client] = share.Pass
			}
		}
		for _, q := range s.queue[:n] {
			if budget -= 2; s.limiter.Allow(q.from) {
				budget -= 8
				s.answered[q.from]++
				if q.from != abuser {
					s.worst = max(s.worst, s.now.Sub(q.at))
				}
			}
		}
		s.queue = s.queue[n:]
	}
}

const (
	// longest is the size of a socket's buffer.
	longest = 10000
	// tooLong is the queue that is behind: 4 ms of work.
	tooLong = 400
)

var abuser = netip.MustParseAddr("10.9.9.9")

func client(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }

// load is what the server is given, per millisecond.
type load struct {
	abuser, others, clients int
	filtered                bool
	stallEvery, stall       int
}

// run gives the server the load for some seconds, and returns the parts of the abuser's and of the others' that were
// answered in the last three of five, and how long one of the others waited at most.
func run(l load) (abused, served float64, worst time.Duration) {
	s := &server{
		limiter: New(Options{}), now: time.Unix(1e9, 0), capacity: 1000, answered: map[netip.Addr]int{}, filtered: l.filtered,
		passes: map[netip.Addr]float64{}, debt: map[netip.Addr]float64{}, stallEvery: l.stallEvery, stall: l.stall,
	}
	asked, given := 0, 0
	for ms := range 5000 {
		if ms == 2000 {
			clear(s.answered)
			asked, given, s.worst = 0, 0, 0
		}
		var arrivals []netip.Addr
		for i := range max(l.abuser, l.others) {
			if i < l.abuser {
				arrivals = append(arrivals, abuser)
				given++
			}
			if i < l.others {
				arrivals = append(arrivals, client((ms*l.others+i)%l.clients))
				asked++
			}
		}
		s.millisecond(ms, arrivals)
	}
	total := 0
	for a, n := range s.answered {
		if a != abuser {
			total += n
		}
	}
	return float64(s.answered[abuser]) / float64(max(given, 1)), float64(total) / float64(asked), s.worst
}

func TestOneAbuserHurtsNobodyElse(t *testing.T) {
	// The capacity is 100 answers per millisecond.
	tests := map[string]struct {
		load
		wantOthers float64       // at least
		wantWorst  time.Duration // at most; 0: any
	}{
		"nobody is limited below the capacity":   {load: load{abuser: 0, others: 90, clients: 50}, wantOthers: 0.999, wantWorst: 2 * time.Millisecond},
		"one client alone may take it all":       {load: load{abuser: 90, others: 5, clients: 50}, wantOthers: 0.999, wantWorst: 2 * time.Millisecond},
		"twice the capacity":                     {load: load{abuser: 200, others: 20, clients: 50}, wantOthers: 0.999, wantWorst: 15 * time.Millisecond},
		"twice, dropped at the source":           {load: load{abuser: 200, others: 20, clients: 50, filtered: true}, wantOthers: 0.999, wantWorst: 15 * time.Millisecond},
		"twenty times, dropped at the source":    {load: load{abuser: 2000, others: 20, clients: 50, filtered: true}, wantOthers: 0.999, wantWorst: 15 * time.Millisecond},
		"twice, and the processor is taken away": {load: load{abuser: 200, others: 20, clients: 50, filtered: true, stallEvery: 200, stall: 10}, wantOthers: 0.999, wantWorst: 40 * time.Millisecond},
		"twice, and it is gone for long":         {load: load{abuser: 200, others: 20, clients: 20, filtered: true, stallEvery: 2500, stall: 400}, wantOthers: 0.8},
		"few other clients, busy ones":           {load: load{abuser: 200, others: 40, clients: 4, filtered: true}, wantOthers: 0.99},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			abused, served, worst := run(tc.load)
			t.Logf("the abuser got %.1f answers per millisecond; %.5f of the others' were answered, within %s", abused*float64(tc.abuser), served, worst)
			if served < tc.wantOthers {
				t.Errorf("%.4f of the others' requests were answered, want %.4f", served, tc.wantOthers)
			}
			if tc.wantWorst > 0 && worst > tc.wantWorst {
				t.Errorf("one of the others waited %s, want at most %s", worst, tc.wantWorst)
			}
			if tc.abuser > 0 && tc.abuser+tc.others <= 100 && abused < 1 {
				t.Errorf("%.2f of a heavy client's were answered though there was room", abused)
			}
			if got := abused * float64(tc.abuser); tc.abuser > 100 && (tc.filtered && got < 30 || got < 8) {
				t.Errorf("the abuser got %.1f answers per millisecond, want a good part of what the others left", got)
			}
		})
	}
}

// What a client asks is known though most of it does not arrive, and what it does not ask any more is not held against it.
func TestSharesFollowWhatIsAsked(t *testing.T) {
	l, now := New(Options{}), time.Unix(1e9, 0)
	pass := 1.0
	second := func(perSecond int, queue float64) {
		arrived := 0.0
		for ms := range 1000 {
			now = now.Add(time.Millisecond)
			if l.Batch(Queue{Late: queue}, now) {
				pass = 1
				for _, s := range l.Shares() {
					if s.Client != abuser {
						t.Errorf("%s is named", s.Client)
					}
					pass = s.Pass
				}
			}
			for arrived += float64(perSecond) / 1000 * pass; arrived >= 1; arrived-- {
				l.Allow(abuser)
			}
			if ms%10 == 0 {
				l.Allow(client(1))
			}
		}
	}
	second(100000, 0)
	if pass != 1 {
		t.Errorf("there is no pressure, and %g may pass", pass)
	}
	for range 20 {
		second(100000, 2)
	}
	if want := 200.0 / 100000; pass < want/2 || pass > want*2 {
		t.Errorf("%g may pass, want the floor, %g", pass, want)
	}
	second(100, 0)
	if pass != 1 {
		t.Errorf("a client that asks little again is let pass %g", pass)
	}
	second(100000, 0)
	if pass != 1 {
		t.Errorf("when the pressure has ended %g may pass", pass)
	}
}

// Where all ask alike, a queue is no reason to drop anything until it is full: these clients wait for their answers.
func TestAQueueOfEqualsIsLeftAlone(t *testing.T) {
	l, now := New(Options{}), time.Unix(1e9, 0)
	for _, tc := range []struct {
		full    float64
		refused bool
	}{{0.9, false}, {1.1, true}} {
		refused := false
		for i := range 1000 {
			now = now.Add(time.Millisecond)
			l.Batch(Queue{Late: 3, Full: tc.full}, now)
			for range 100 {
				refused = !l.Allow(client(i%16)) || refused
			}
		}
		if refused != tc.refused {
			t.Errorf("with %g of the queue in use, refused is %t", tc.full, refused)
		}
	}
}

// When the processor was gone, everybody has been cut; once it is back, that ends within some windows.
func TestLimitComesBackAfterAStall(t *testing.T) {
	l, now := New(Options{}), time.Unix(1e9, 0)
	millisecond := func(q Queue, others int) (refused int) {
		now = now.Add(time.Millisecond)
		l.Batch(q, now)
		for range 100 {
			l.Allow(abuser)
		}
		for i := range others {
			if !l.Allow(client(i)) {
				refused++
			}
		}
		return refused
	}
	for range 200 { // an abuser, found and cut
		millisecond(Queue{Late: 0.5}, 1)
	}
	for range 30 {
		millisecond(Queue{Late: 2}, 1)
	}
	for range 600 {
		millisecond(Queue{Late: 0.5}, 1)
	}
	before := l.limit
	for range 600 {
		millisecond(Queue{Late: 2, Full: 2}, 1)
	}
	if l.limit > before/10 {
		t.Fatalf("the limit was %g and is %g: nothing was cut", before, l.limit)
	}
	for range 500 {
		millisecond(Queue{}, 1)
	}
	if l.limit < before/2 {
		t.Errorf("half a second later the limit is %g; before it was %g", l.limit, before)
	}
}

func TestWholeTakesSharesBack(t *testing.T) {
	l, now := New(Options{}), time.Unix(1e9, 0)
	for range 100 {
		now = now.Add(time.Millisecond)
		if l.Batch(Queue{Late: 2, Full: 2}, now) && len(l.Shares()) > 0 {
			l.Whole()
		}
		for range 100 {
			l.Allow(abuser)
		}
	}
	l.Batch(Queue{Late: 2, Full: 2}, now.Add(time.Second))
	for _, o := range l.over {
		if o.asks > 200000 {
			t.Errorf("%s asks %.0f/s, which is more than the 100,000/s that all came in", o.client, o.asks)
		}
	}
}

func TestLimitEndsWithThePressure(t *testing.T) {
	l, now := New(Options{}), time.Unix(1e9, 0)
	for range 100 {
		now = now.Add(10 * time.Millisecond)
		l.Batch(Queue{Late: 2, Full: 2}, now)
		for range 500 {
			l.Allow(client(1))
		}
	}
	refused := 0
	for range 1000 {
		now = now.Add(10 * time.Millisecond)
		l.Batch(Queue{}, now)
	}
	for i := range 5000 {
		if !l.Allow(client(i % 3)) {
			refused++
		}
	}
	if refused > 0 {
		t.Errorf("%d requests were refused after the pressure had ended", refused)
	}
}

func BenchmarkAllow(b *testing.B) {
	l := New(Options{})
	var clients []netip.Addr
	for i := range 100 {
		clients = append(clients, netip.MustParseAddr(fmt.Sprintf("10.0.0.%d", i)))
	}
	for i := 0; b.Loop(); i++ {
		l.Allow(clients[i%100])
	}
}
