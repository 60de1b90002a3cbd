package law

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// This file is a control plane to try the law on: API servers with processors that requests share, memory that a collector
// frees late, an etcd of its own pace, metrics that come a second or two late and are noisy, and a gate that lets in what
// the limit has room for. It is seeded, and runs in steps of modelStep.
const modelStep = 2 * time.Millisecond

// work is what one request costs: processor time, time at etcd and on the wire, and memory.
type work struct {
	name  string
	cpu   float64 // seconds of one processor
	store float64 // requests to etcd
	wire  float64 // seconds in which nothing is computed
	seats float64
	bytes float64 // of a LIST's answer
}

var (
	// A LIST of 6,000 pods: 18 MB, a fifth of a second of one processor.
	listPods = work{name: "list", cpu: 0.2, wire: 0.15, seats: 10, bytes: 18 << 20}
	listSome = work{name: "list", cpu: 0.02, wire: 0.02, seats: 2, bytes: 200 << 10}
	smallGet = work{name: "small", cpu: 0.001, seats: 1}
	lease    = work{name: "small", cpu: 0.0015, store: 1, seats: 1}
	write    = work{name: "write", cpu: 0.002, store: 1, seats: 1}
)

// job is one request: waiting at the gate, then at a server.
type job struct {
	work
	asked, sent         time.Time
	cpuLeft             float64
	storeLeft, wireLeft float64
	expected            float64
	client              int // -1: an open arrival
}

type apiServer struct {
	name        string
	processors  float64
	memoryBound float64
	down        bool
	started     time.Time
	jobs        []*job

	base, live, heap, nextGC, resident float64
	cpuUsed                            float64
	storeTime, storeCount              float64

	lastAt              time.Time
	lastCPU             float64
	lastStore, lastOver float64
	nextScrape          time.Time
	pending             []*Reading // taken, not yet arrived
	reading             *Reading
}

type model struct {
	random  *rand.Rand
	now     time.Time
	law     *Law
	fixed   float64 // a limit instead of the law's
	ceiling float64 // of list bytes with a fixed limit

	servers    []*apiServer
	storePace  float64       // seconds of one request at etcd
	storeWidth float64       // that many at once without waiting
	every      time.Duration // between two readings
	bias       float64       // by how much too fast the cost model takes everything to be; it learns while it may
	blind      bool          // nothing is scraped
	unbounded  bool          // servers do not say what they have

	storm   work
	clients int
	idle    []float64 // when each client asks again
	small   float64   // arrivals a second
	writes  float64

	high, low []*job // waiting: what is small goes first

	decision Decision
	ticked   time.Time
	passive  Passive
	inUse    float64
	useTime  float64

	// What came of it, since reset.
	since     time.Time
	done      map[string]int
	took      map[string][]float64
	cpuBefore float64
	peak      float64
	least     float64
	most      float64
	fewest    float64
}

func newModel(seed uint64, servers int, processors, memory float64) *model {
	m := &model{
		random: rand.New(rand.NewPCG(seed, 7)), now: epoch, storePace: 0.002, storeWidth: 16, every: time.Second, bias: 1,
		law: New(Config{Min: 4, Max: 600 * float64(servers), Initial: 40}), small: 40, writes: 20,
	}
	for i := range servers {
		s := &apiServer{
			name: string(rune('a' + i)), processors: processors, memoryBound: memory, started: epoch.Add(-time.Hour),
			base: 110 << 20, heap: 110 << 20, nextGC: 220 << 20, resident: 260 << 20,
		}
		m.servers = append(m.servers, s)
	}
	m.reset()
	m.tick()
	return m
}

func (m *model) reset() {
	m.since, m.done, m.took = m.now, map[string]int{}, map[string][]float64{}
	m.peak, m.cpuBefore = 0, m.cpu()
	m.least, m.most, m.fewest = math.Inf(1), 0, math.Inf(1)
}

func (m *model) cpu() (sum float64) {
	for _, s := range m.servers {
		sum += s.cpuUsed
	}
	return sum
}

// begin starts a storm of clients that ask again as soon as they have their answer.
func (m *model) begin(w work, clients int) {
	m.storm, m.clients, m.idle = w, clients, make([]float64, clients)
	for i := range m.idle {
		m.idle[i] = m.random.Float64() // they come within a second
	}
}

func (m *model) end() { m.clients, m.idle = 0, nil }

func (m *model) run(d time.Duration) {
	for until := m.now.Add(d); m.now.Before(until); {
		m.step()
	}
}

func (m *model) step() {
	dt := modelStep.Seconds()
	m.now = m.now.Add(modelStep)
	m.arrive(dt)
	m.admit()
	for _, s := range m.servers {
		m.serve(s, dt)
		m.scrape(s)
	}
	seats := m.seats()
	m.inUse += seats * dt
	m.useTime += dt
	if m.now.Sub(m.ticked) >= 250*time.Millisecond {
		m.tick()
	}
}

func (m *model) arrive(dt float64) {
	for i := range m.idle {
		if m.idle[i] < 0 {
			continue
		}
		if m.idle[i] -= dt; m.idle[i] <= 0 {
			m.idle[i] = -1
			m.low = append(m.low, m.job(m.storm, i))
		}
	}
	for range poisson(m.random, m.small*dt) {
		m.high = append(m.high, m.job(smallGet, -1))
	}
	for range poisson(m.random, m.writes*dt) {
		m.high = append(m.high, m.job(lease, -1))
	}
}

func poisson(random *rand.Rand, mean float64) (n int) {
	for p := random.Float64(); p > math.Exp(-mean) && n < 1000; n++ {
		p *= random.Float64()
	}
	return n
}

func (m *model) job(w work, client int) *job {
	j := &job{work: w, asked: m.now, client: client}
	vary := 0.7 + 0.6*m.random.Float64()
	j.cpuLeft, j.wireLeft, j.storeLeft = w.cpu*vary, w.wire*vary, w.store*vary
	// What the cost model expects is right on the average.
	j.expected = w.cpu + w.wire + w.store*0.002
	return j
}

func (m *model) seats() (n float64) {
	for _, s := range m.servers {
		n += s.seats()
	}
	return n
}

func (s *apiServer) seats() (n float64) {
	for _, j := range s.jobs {
		n += j.seats
	}
	return n
}

func (m *model) listBytes() (n float64) {
	for _, s := range m.servers {
		for _, j := range s.jobs {
			n += j.bytes
		}
	}
	return n
}

// admit lets in what there is room for. What is small goes first, and finds 30 % of the limit that the storm leaves it.
func (m *model) admit() {
	limit, bytes := m.decision.Limit, m.decision.ListBytes
	if m.fixed > 0 {
		limit, bytes = m.fixed, m.ceiling
	}
	seats, listed := m.seats(), m.listBytes()
	for len(m.high) > 0 && (seats+1 <= limit || seats == 0 || m.smallSeats() < 0.3*limit) {
		if !m.send(m.high[0]) {
			return
		}
		m.high = m.high[1:]
		seats++
	}
	for len(m.low) > 0 {
		j := m.low[0]
		if seats+j.seats > limit && seats-m.smallSeats() > 0 || j.bytes > 0 && listed > 0 && listed+j.bytes > bytes || !m.send(j) {
			return
		}
		m.low = m.low[1:]
		seats += j.seats
		listed += j.bytes
	}
}

func (m *model) smallSeats() (n float64) {
	for _, s := range m.servers {
		for _, j := range s.jobs {
			if j.name == "small" {
				n += j.seats
			}
		}
	}
	return n
}

// send gives a request to the server with the fewest seats held.
func (m *model) send(j *job) bool {
	var best *apiServer
	for _, s := range m.servers {
		if !s.down && (best == nil || s.seats() < best.seats()) {
			best = s
		}
	}
	if best == nil {
		return false
	}
	j.sent = m.now
	best.jobs = append(best.jobs, j)
	best.live += 2 * j.bytes // the objects' share and the encoder's buffers
	best.allocate(2 * j.bytes)
	return true
}

// allocate grows the heap; the collector frees what is not live when it has doubled.
func (s *apiServer) allocate(bytes float64) {
	s.heap += bytes
	if s.heap > s.nextGC {
		s.heap = s.base + s.live
		s.nextGC = 2 * s.heap
		s.cpuUsed += s.heap / (4 << 30) // it marks 4 GiB a second
	}
	s.resident = max(s.resident, outsideHeap+s.heap)
}

// outsideHeap is what a process holds besides its heap: stacks, its program.
const outsideHeap = 40 << 20

func (m *model) serve(s *apiServer, dt float64) {
	if s.down {
		return
	}
	// What a heap needs to double is kept; the rest goes back in time.
	s.resident -= max(0, s.resident-outsideHeap-s.nextGC) * (1 - math.Exp(-dt/60))
	computing, storing := 0.0, 0.0
	for _, j := range s.jobs {
		switch {
		case j.cpuLeft > 0:
			computing++
		case j.storeLeft > 0:
			storing++
		}
	}
	// Many at once hinder each other, and the collector.
	share := min(1, s.processors/max(1, computing)) / (1 + computing/150)
	s.cpuUsed += min(computing, s.processors) * dt
	pace := m.storePace * max(1, storing/m.storeWidth)
	kept := s.jobs[:0]
	for _, j := range s.jobs {
		left := dt
		if j.cpuLeft > 0 {
			used := min(j.cpuLeft, left*share)
			j.cpuLeft -= used
			if j.cpuLeft <= 1e-9 { // a short request does not take a whole step
				j.cpuLeft = 0
				over := left - used/share
				s.cpuUsed -= over * share
			}
			left -= used / share
		}
		if j.cpuLeft == 0 && j.storeLeft > 0 && left > 0 {
			used := min(j.storeLeft, left/pace)
			j.storeLeft -= used
			s.storeTime += used * pace
			s.storeCount += used
			left -= used * pace
			if j.storeLeft <= 1e-9 {
				j.storeLeft = 0
			}
		}
		if j.cpuLeft == 0 && j.storeLeft == 0 && left > 0 {
			j.wireLeft -= left
		}
		if j.cpuLeft == 0 && j.storeLeft == 0 && j.wireLeft <= 0 {
			m.finish(s, j)
			continue
		}
		kept = append(kept, j)
	}
	s.jobs = kept
}

func (m *model) finish(s *apiServer, j *job) {
	s.live -= 2 * j.bytes
	took := m.now.Sub(j.sent).Seconds()
	m.passive.Slowness += took / max(j.expected/m.bias, modelStep.Seconds())
	m.passive.Finished++
	m.done[j.name]++
	m.took[j.name] = append(m.took[j.name], m.now.Sub(j.asked).Seconds())
	if j.client >= 0 && j.client < len(m.idle) {
		m.idle[j.client] = 1e-9 // at once
	}
}

// crash ends a server with all it has under way; its clients ask again.
func (m *model) crash(s *apiServer) {
	for _, j := range s.jobs {
		if j.client >= 0 && j.client < len(m.idle) {
			m.idle[j.client] = 0.1
		}
	}
	s.jobs, s.live, s.heap, s.down, s.reading, s.pending = nil, 0, s.base, true, nil, nil
	s.resident, s.nextGC, s.cpuUsed, s.lastAt, s.lastCPU = outsideHeap+s.base, 2*s.base, 0, time.Time{}, 0
}

// scrape takes a reading every second and lets it arrive late.
func (m *model) scrape(s *apiServer) {
	if !s.down && !m.blind && !m.now.Before(s.nextScrape) {
		s.nextScrape = m.now.Add(time.Duration((0.9 + 0.2*m.random.Float64()) * float64(m.every)))
		r := &Reading{
			At: m.now, Started: s.started, Resident: s.resident * (0.99 + 0.02*m.random.Float64()), InFlight: float64(len(s.jobs)),
		}
		if !m.unbounded {
			r.CPUBound, r.MemoryBound = s.processors, s.memoryBound
		}
		if !s.lastAt.IsZero() {
			r.Over = m.now.Sub(s.lastAt)
			r.CPU = (s.cpuUsed - s.lastCPU) / r.Over.Seconds() * (0.97 + 0.06*m.random.Float64())
			if r.EtcdRequests = s.storeCount - s.lastOver; r.EtcdRequests > 0 {
				r.EtcdLatency = time.Duration((s.storeTime - s.lastStore) / r.EtcdRequests * float64(time.Second))
			}
		}
		s.lastAt, s.lastCPU, s.lastStore, s.lastOver = m.now, s.cpuUsed, s.storeTime, s.storeCount
		s.pending = append(s.pending, r)
	}
	for len(s.pending) > 0 && m.now.Sub(s.pending[0].At) >= time.Duration((0.3+0.7*m.random.Float64())*float64(time.Second)) {
		s.reading, s.pending = s.pending[0], s.pending[1:]
	}
}

func (m *model) tick() {
	m.ticked = m.now
	e := Evidence{Passive: m.passive}
	if m.passive.Finished > 0 {
		e.Passive.Slowness /= m.passive.Finished
	}
	if m.useTime > 0 {
		e.Passive.SeatsInUse = m.inUse / m.useTime
	}
	for _, j := range slices.Concat(m.high, m.low) {
		e.Passive.SeatsWaiting += j.seats
	}
	e.Passive.ListBytes = m.listBytes()
	for _, s := range m.servers {
		e.Servers = append(e.Servers, Server{Name: s.name, Serving: !s.down, Reading: s.reading})
		m.peak = max(m.peak, s.resident)
	}
	m.decision = m.law.Tick(m.now, e)
	m.passive, m.inUse, m.useTime = Passive{}, 0, 0
	if !m.decision.Congested {
		m.bias += (1 - m.bias) * 0.25 / 30
	}
	m.least, m.most = min(m.least, m.decision.Limit), max(m.most, m.decision.Limit)
}

// use is the part of all processors that was used since reset.
func (m *model) use() float64 {
	var processors float64
	for _, s := range m.servers {
		if !s.down {
			processors += s.processors
		}
	}
	return (m.cpu() - m.cpuBefore) / m.now.Sub(m.since).Seconds() / processors
}

func (m *model) rate(name string) float64 {
	return float64(m.done[name]) / m.now.Sub(m.since).Seconds()
}

// quantile of what requests of the name took, waiting at the gate included, in seconds.
func (m *model) quantile(name string, q float64) float64 {
	all := slices.Sorted(slices.Values(m.took[name]))
	if len(all) == 0 {
		return math.NaN()
	}
	return all[min(len(all)-1, int(q*float64(len(all))))]
}
