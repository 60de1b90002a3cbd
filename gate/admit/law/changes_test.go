package law

import (
	"testing"
	"time"
)

// settled lets a storm of LISTs settle on a control plane.
func settled(servers int, processors float64, storm work, clients int) *model {
	m := newModel(3, servers, processors, 4*gib)
	m.run(20 * time.Second)
	m.begin(storm, clients)
	m.run(40 * time.Second)
	m.reset()
	m.run(20 * time.Second)
	return m
}

// until runs the model until the condition holds, and fails after the time.
func (m *model) until(t *testing.T, most time.Duration, what string, is func() bool) {
	t.Helper()
	began := m.now
	for !is() {
		if m.now.Sub(began) > most {
			t.Fatalf("not within %s: %s; %v", most, what, m)
		}
		m.run(250 * time.Millisecond)
	}
	t.Logf("%s after %s: %v", what, m.now.Sub(began), m)
}

// Twice the processors: the limit rises, and they are used.
func TestCapacityDoubles(t *testing.T) {
	m := settled(1, 2, listPods, 300)
	before := m.rate("list")
	m.servers[0].processors = 4
	m.run(30 * time.Second)
	m.reset()
	m.run(30 * time.Second)
	if now := m.rate("list"); now < 1.6*before {
		t.Errorf("from %.1f/s to %.1f/s: %v", before, now, m)
	}
}

// Half the processors: the limit falls, and small requests do not notice for long.
func TestCapacityHalves(t *testing.T) {
	m := settled(1, 4, listPods, 300)
	before := m.rate("list")
	m.servers[0].processors = 2
	m.reset()
	m.run(20 * time.Second)
	if p99 := m.quantile("small", 0.99); p99 > 0.1 {
		t.Errorf("small requests took %.0f ms (p99): %v", 1e3*p99, m)
	}
	m.reset()
	m.run(30 * time.Second)
	if use := m.use(); use < 0.7 || use > 0.95 {
		t.Errorf("settled: %v", m)
	}
	if now := m.rate("list"); now < 0.4*before {
		t.Errorf("from %.1f/s to %.1f/s: %v", before, now, m)
	}
}

// Processors that are taken away by a neighbour show in no reading: the API server thinks it has four. Latency tells.
func TestNeighbourTakesProcessors(t *testing.T) {
	m := settled(1, 4, listPods, 300)
	m.unbounded = true
	m.servers[0].processors = 1
	m.run(30 * time.Second)
	m.reset()
	m.run(30 * time.Second)
	t.Log(m)
	if p99 := m.quantile("small", 0.99); p99 > 0.25 || m.least < 20 {
		t.Errorf("small requests took %.0f ms (p99): %v", 1e3*p99, m)
	}
}

// etcd ten times as slow, and well again: the limit does not collapse, and is back.
func TestEtcdSlows(t *testing.T) {
	m := settled(1, 2, write, 300)
	limit, before := m.decision.Limit, m.rate("write")
	m.storePace *= 25
	m.reset()
	m.run(30 * time.Second)
	t.Logf("slow: %v", m)
	if m.least < limit/2 {
		t.Errorf("the limit collapsed: %v", m)
	}
	m.run(3 * time.Minute)
	t.Logf("slow for long: %v", m)
	if m.least < limit/2 {
		t.Errorf("the limit collapsed: %v", m)
	}
	m.storePace /= 25
	m.run(10 * time.Second)
	m.reset()
	m.run(20 * time.Second)
	if now := m.rate("write"); now < 0.8*before {
		t.Errorf("from %.1f/s to %.1f/s: %v", before, now, m)
	}
}

// One of three API servers goes and comes back cold.
func TestServerGoes(t *testing.T) {
	m := settled(3, 2, listPods, 1000)
	limit, before := m.decision.Limit, m.rate("list")
	left := limit - m.decision.Servers[2].Seats // parts of equal servers differ by chance
	m.crash(m.servers[2])
	m.run(250 * time.Millisecond)
	if now := m.decision.Limit; now > 1.1*left || now < 0.9*left {
		t.Errorf("the limit goes from %.0f to %.0f with the server, without its part it is %.0f", limit, now, left)
	}
	m.run(10 * time.Second)
	m.reset()
	m.run(20 * time.Second)
	if use := m.use(); use < 0.7 || use > 0.95 {
		t.Errorf("on two: %v", m)
	}
	m.servers[2].down, m.servers[2].started = false, m.now
	m.run(20 * time.Second)
	m.reset()
	m.run(20 * time.Second)
	if now := m.rate("list"); now < 0.85*before {
		t.Errorf("on three again, from %.1f/s to %.1f/s: %v", before, now, m)
	}
}

// Nothing is said any more: the limit stays, and never rises.
func TestSignalsGo(t *testing.T) {
	m := settled(1, 2, listPods, 300)
	m.blind = true
	m.run(15 * time.Second)
	limit := m.decision.Limit
	m.servers[0].processors = 8 // it could rise
	m.reset()
	m.run(time.Minute)
	if m.most > limit || m.least < 10 {
		t.Errorf("without a reading: %v", m)
	}
	if m.decision.Signal != Gone {
		t.Errorf("what binds is %s: %s", m.decision.Signal, m.decision.Reason)
	}
	m.blind = false
	m.reset()
	m.until(t, 30*time.Second, "the limit rises again", func() bool { return m.decision.Limit > 2*limit })
}

// Without readings and with too much under way, what requests tell lets it fall.
func TestBlindStorm(t *testing.T) {
	m := newModel(5, 1, 2, 4*gib)
	m.law = New(Config{Min: 4, Max: 600, Initial: 400})
	m.blind = true
	m.run(5 * time.Second)
	m.begin(write, 1000)
	m.run(20 * time.Second)
	m.reset()
	m.run(20 * time.Second)
	if m.decision.Limit > 250 || m.decision.Limit < 100 {
		t.Errorf("it should stop at half of where it began: %v", m)
	}
}

// The clock jumps: nothing is concluded from that.
func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{-time.Hour, time.Hour, -3 * time.Second, 3 * time.Second} {
		m := settled(1, 2, listPods, 300)
		limit := m.decision.Limit
		m.now = m.now.Add(jump)
		m.ticked = m.now
		for _, s := range m.servers {
			s.nextScrape, s.lastAt = m.now, time.Time{}
			s.pending = nil
		}
		m.reset()
		m.run(15 * time.Second)
		if m.least < 0.6*limit || m.most > 1.5*limit {
			t.Errorf("a jump by %s, from %.0f: %v", jump, limit, m)
		}
	}
}

// A limit far too high when the storm comes, learned from requests that cost little.
func TestLimitFarTooHigh(t *testing.T) {
	m := newModel(4, 1, 2, 4*gib)
	m.law = New(Config{Min: 4, Max: 600, Initial: 600})
	m.run(20 * time.Second)
	m.begin(listPods, 1000)
	m.reset()
	m.run(30 * time.Second)
	t.Logf("the first 30 s: %v", m)
	if m.peak > 0.85*4*gib {
		t.Errorf("it held %.1f GiB of 4: %v", m.peak/gib, m)
	}
	m.reset()
	m.run(30 * time.Second)
	t.Logf("the next 30 s: %v", m)
	m.reset()
	m.run(30 * time.Second)
	if use := m.use(); use < 0.7 || use > 0.96 || m.least < 10 {
		t.Errorf("settled: %v", m)
	}
}

// A day of nothing leaves the limit where it was.
func TestQuiet(t *testing.T) {
	m := newModel(6, 1, 2, 4*gib)
	m.run(2 * time.Minute)
	if m.least != 40 || m.most != 40 || m.decision.Signal != Unused || m.decision.Congested || !m.decision.Healthy {
		t.Errorf("quiet: %v, %+v", m, m.decision)
	}
}

// An API server with little memory holds to it.
func TestLittleMemory(t *testing.T) {
	m := newModel(8, 1, 8, gib)
	m.run(20 * time.Second)
	m.begin(listPods, 1000)
	m.reset()
	m.run(2 * time.Minute)
	t.Log(m)
	if m.peak > 0.9*gib {
		t.Errorf("it held %.2f GiB of 1", m.peak/gib)
	}
	m.reset()
	m.run(time.Minute)
	t.Log(m)
	if m.peak < 0.4*gib || m.rate("list") < 10 {
		t.Errorf("too careful: %v", m)
	}
}

// The storm ends, and the next finds the same control plane.
func TestStormsComeAndGo(t *testing.T) {
	m := newModel(9, 1, 2, 4*gib)
	m.run(20 * time.Second)
	var first float64
	for i := range 6 {
		m.begin(listPods, 300)
		m.run(20 * time.Second)
		m.reset()
		m.run(20 * time.Second)
		if i == 0 {
			first = m.rate("list")
		}
		t.Log(m)
		if now := m.rate("list"); now < 0.8*first {
			t.Errorf("storm %d gets %.1f/s, the first got %.1f/s: %v", i, now, first, m)
		}
		m.end()
		m.run(30 * time.Second)
	}
}

// A cost model that takes everything for three times as fast as it is must not pin the limit: on a control plane whose
// processors are idle it may learn.
func TestExpectationsAreWrong(t *testing.T) {
	m := newModel(10, 1, 8, 8*gib)
	m.law = New(Config{Min: 4, Max: 600, Initial: 10})
	m.bias = 3
	m.run(10 * time.Second)
	m.begin(listPods, 300)
	m.run(2 * time.Minute)
	m.reset()
	m.run(20 * time.Second)
	t.Logf("bias is now %.1f: %v", m.bias, m)
	if use := m.use(); use < 0.7 {
		t.Errorf("settled: %v", m)
	}
}

// Readings every five seconds: slower, and as steady.
func TestRareReadings(t *testing.T) {
	m := newModel(11, 1, 2, 4*gib)
	m.every = 5 * time.Second
	m.run(20 * time.Second)
	m.begin(listPods, 300)
	m.run(90 * time.Second)
	m.reset()
	m.run(60 * time.Second)
	t.Log(m)
	if use := m.use(); use < 0.7 || use > 0.95 || m.most > 2*m.least {
		t.Errorf("settled: %v", m)
	}
}

// One of three API servers has half the processors of the others: it is not driven to its end.
func TestUnequalServers(t *testing.T) {
	m := newModel(12, 3, 4, 4*gib)
	m.servers[1].processors = 2
	m.run(20 * time.Second)
	m.begin(listPods, 1000)
	m.run(time.Minute)
	m.reset()
	m.run(time.Minute)
	t.Log(m)
	if p99 := m.quantile("small", 0.99); p99 > 0.1 || m.use() < 0.5 {
		t.Errorf("small requests took %.0f ms: %v", 1e3*p99, m)
	}
}
