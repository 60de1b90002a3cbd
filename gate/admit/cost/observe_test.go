package cost

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

var (
	pods  = Shape{Verb: "list", Resource: "pods", Scope: "Cluster"}
	lease = Shape{Verb: "update", Group: "coordination.k8s.io", Resource: "leases", Scope: "Object"}
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// world makes answers: lognormal times around a median, and now and then one of many times that.
type world struct {
	random  *rand.Rand
	median  float64 // seconds
	noise   float64 // of the logarithm
	outlier float64 // how many, 0 to 1; each takes 30 times as long
	bytes   float64
	load    float64 // times are multiplied by 1 to 1+load
	now     time.Time
}

func (w *world) answer(congested bool) Sample {
	seconds := w.median * math.Exp(w.noise*w.random.NormFloat64()) * (1 + w.load*w.random.Float64())
	if w.random.Float64() < w.outlier {
		seconds *= 30
	}
	w.now = w.now.Add(time.Second)
	return Sample{
		Upstream: time.Duration(seconds * 1e9), Congested: congested, Code: 200,
		Bytes: int64(w.bytes * math.Exp(0.02*w.random.NormFloat64())),
	}
}

func (w *world) teach(m *Model, s Shape, n int, congested bool) {
	for range n {
		m.Observe(w.now, s, w.answer(congested))
	}
}

func newWorld(seed uint64) *world {
	return &world{random: rand.New(rand.NewPCG(seed, 7)), median: 0.08, noise: 0.25, outlier: 0.02, bytes: 3_000_000, now: start}
}

func within(t *testing.T, what string, got, want, tolerance float64) {
	t.Helper()
	if math.Abs(got-want) > tolerance*want {
		t.Errorf("%s: want %v ± %v %%, got %v", what, want, tolerance*100, got)
	}
}

func TestLearnsTheMedian(t *testing.T) {
	for seed := range uint64(20) {
		w, m := newWorld(seed), New(Config{})
		w.teach(m, pods, 300, false)
		got := m.Estimate(pods)
		within(t, fmt.Sprintf("seconds, seed %d", seed), got.Seconds, w.median, 0.2)
		within(t, fmt.Sprintf("bytes, seed %d", seed), float64(got.Bytes), w.bytes, 0.03)
		if !got.Learned || got.Seats != 10 {
			t.Errorf("seed %d: %+v", seed, got)
		}
	}
}

func TestOneOutlierMovesLittle(t *testing.T) {
	w, m := newWorld(1), New(Config{})
	w.outlier = 0
	w.teach(m, pods, 100, false)
	before := m.Estimate(pods)
	m.Observe(w.now, pods, Sample{Upstream: time.Minute, Bytes: 1 << 33, Code: 200})
	m.Observe(w.now, pods, Sample{Upstream: time.Microsecond, Bytes: 1, Code: 200})
	m.Observe(w.now, pods, Sample{Upstream: time.Minute, Bytes: 1 << 33, Code: 200})
	after := m.Estimate(pods)
	within(t, "seconds", after.Seconds, before.Seconds, 0.1)
	within(t, "bytes", float64(after.Bytes), float64(before.Bytes), 0.1)
}

// Objects grew, or went: within some tens of answers that is what is expected, up or down.
func TestFollowsAChange(t *testing.T) {
	for _, factor := range []float64{10, 3, 1. / 3, 1. / 10} {
		for seed := range uint64(10) {
			t.Run(fmt.Sprintf("%.2g times, seed %d", factor, seed), func(t *testing.T) {
				w, m := newWorld(seed), New(Config{})
				w.teach(m, pods, 1000, false)
				w.median *= factor
				w.bytes *= factor
				w.teach(m, pods, 50, false)
				got := m.Estimate(pods)
				within(t, "seconds", got.Seconds, w.median, 0.3)
				within(t, "bytes", float64(got.Bytes), w.bytes, 0.1)
			})
		}
	}
}

// Under a load that lasts, what is expected stays where it was; also where the load is none, and every answer is only said to
// be congested.
func TestCongestionMovesNothing(t *testing.T) {
	for _, load := range []float64{0, 0.5, 5, 100} {
		for seed := range uint64(10) {
			t.Run(fmt.Sprintf("load %v, seed %d", load, seed), func(t *testing.T) {
				w, m := newWorld(seed), New(Config{})
				w.teach(m, pods, 1000, false)
				before := m.Estimate(pods).Seconds
				w.load = load
				least := before
				for range 100 {
					w.teach(m, pods, 100, true)
					got := m.Estimate(pods).Seconds
					if got > before*1.03 { // as much as the size of the answers varies
						t.Fatalf("it crept up, %v after %v", got, before)
					}
					within(t, "seconds", got, before, 0.2)
					least = min(least, got)
				}
				t.Logf("at least %.3f of what it was", least/before)
			})
		}
	}
}

// A control plane that became faster is believed in the middle of a load.
func TestQuickerIsBelievedUnderCongestion(t *testing.T) {
	w, m := newWorld(1), New(Config{})
	w.teach(m, pods, 500, false)
	w.median /= 4
	w.teach(m, pods, 200, true)
	within(t, "seconds", m.Estimate(pods).Seconds, w.median, 0.25)
}

// What grows during congestion is expected to take longer, or it would look congested for ever.
func TestGrowthUnderCongestion(t *testing.T) {
	w, m := newWorld(1), New(Config{})
	w.teach(m, pods, 500, false)
	before := m.Estimate(pods).Seconds
	w.median, w.bytes, w.load = w.median*10, w.bytes*10, 1
	w.teach(m, pods, 100, true)
	within(t, "seconds", m.Estimate(pods).Seconds, before*10, 0.25)
}

func TestWhatTeachesNothing(t *testing.T) {
	exec := Shape{Verb: "create", Resource: "pods", Subresource: "exec", Scope: "Object", Stream: true}
	m := New(Config{})
	for _, code := range []int{0, 101, 304, 404, 409, 410, 429, 500, 504} {
		m.Observe(start, pods, Sample{Upstream: time.Second, Bytes: 100, Code: code})
	}
	m.Observe(start, exec, Sample{Upstream: time.Hour, Bytes: 100, Code: 200})
	if m.Len() != 0 {
		t.Errorf("%d shapes are remembered", m.Len())
	}
	// Of a shape that was only ever seen under load, the size is known and the time is guessed from it.
	m.Observe(start, pods, Sample{Upstream: time.Minute, Bytes: 400_000, Code: 200, Congested: true})
	got := m.Estimate(pods)
	if got.Learned || got.Seats != 4 || got.Seconds > 0.1 {
		t.Errorf("%+v", got)
	}
}

func TestGzipAsSent(t *testing.T) {
	m := New(Config{})
	m.Observe(start, pods, Sample{Upstream: time.Second, Bytes: 50_000, Gzip: true, Code: 200})
	if got := m.Estimate(pods).Seats; got != 3 {
		t.Errorf("%d seats", got)
	}
}

func TestRatio(t *testing.T) {
	w, m := newWorld(1), New(Config{})
	w.outlier = 0
	w.teach(m, pods, 19, false)
	if _, _, ok := m.Ratio(pods, time.Second); ok {
		t.Error("19 answers are evidence")
	}
	w.teach(m, pods, 200, false)
	ratio, weight, ok := m.Ratio(pods, time.Duration(5*w.median*1e9))
	if !ok {
		t.Fatal("219 are not")
	}
	within(t, "ratio", ratio, 5, 0.2)
	if weight < 0.7 || weight > 1 {
		t.Errorf("weight %v", weight)
	}
	w.median, w.noise, w.bytes = 0.0004, 0.6, 500
	w.teach(m, lease, 200, false)
	if _, small, ok := m.Ratio(lease, time.Millisecond); !ok || small > weight/4 {
		t.Errorf("0.4 ms weigh %v, 80 ms %v", small, weight)
	}
	for _, upstream := range []time.Duration{0, -1} {
		if _, _, ok := m.Ratio(pods, upstream); ok {
			t.Errorf("%v has a ratio", upstream)
		}
	}
	if ratio, _, _ := m.Ratio(pods, time.Hour); ratio != 100 {
		t.Errorf("an hour is %v times as long", ratio)
	}
}

func TestErrors(t *testing.T) {
	w, m := newWorld(1), New(Config{})
	w.teach(m, pods, 20, false)
	if got := m.Errors().All; got != (Error{}) {
		t.Errorf("counted before there were 20: %+v", got)
	}
	w.teach(m, pods, 2000, false)
	w.load = 50
	w.teach(m, pods, 1000, true)
	got := m.Errors()
	// The median of |exp(x) − 1| with x normal of 0.25 is 0.167; of 0.02, 0.0135.
	within(t, "seconds", got.Lists.Seconds, 0.17, 0.15)
	within(t, "bytes", got.Lists.Bytes, 0.0135, 0.15)
	if got.Lists.Samples != 2000 || got.All != got.Lists {
		t.Errorf("%+v", got)
	}
	w.load, w.bytes = 0, 300
	w.teach(m, lease, 50, false)
	if got := m.Errors(); got.All.Samples != 2030 || got.Lists.Samples != 2000 {
		t.Errorf("a lease is no LIST: %+v", got)
	}
}

func TestErrorMedianForgets(t *testing.T) {
	var m errorMedian
	for range 10 * lately {
		m.add(0.5)
	}
	for range 2 * lately {
		m.add(0.02)
	}
	within(t, "median", m.value(), 0.02, 0.05)
	for _, err := range []float64{0, 1e9, math.Inf(1)} {
		m.add(err) // no step is outside
	}
}

// Whoever asks for everything in every form does not grow memory, and pushes out what nobody asks for.
func TestShapesAreBounded(t *testing.T) {
	m := New(Config{MaxShapes: 100})
	for i := range 10_000 {
		s := Shape{Verb: "list", Group: fmt.Sprintf("g%d.example", i/8), Resource: "things", Scope: "Cluster", Media: Media(i % int(medias)), Gzip: i%2 == 0}
		m.Observe(start, s, Sample{Upstream: time.Second, Bytes: 1, Code: 200})
		if i%50 == 0 {
			m.Observe(start, pods, Sample{Upstream: time.Second, Bytes: 1, Code: 200})
		}
	}
	if m.Len() != 100 || len(m.table.kins) > 100 {
		t.Errorf("%d shapes, %d kin", m.Len(), len(m.table.kins))
	}
	if !m.Estimate(pods).Learned {
		t.Error("what is seen all the time was forgotten")
	}
	if New(Config{MaxShapes: 1 << 30}).config.MaxShapes != mostShapes {
		t.Error("the bound has none")
	}
}

func TestConcurrently(t *testing.T) {
	m := New(Config{MaxShapes: 50})
	var done sync.WaitGroup
	for worker := range 4 {
		done.Go(func() {
			w := newWorld(uint64(worker))
			for i := range 3000 {
				s := pods
				s.Media, s.Limit, s.Gzip = Media(i%int(medias)), Limit(i%int(limits)), i%2 == 0
				m.Observe(w.now, s, w.answer(i%3 == 0))
				if got := m.Estimate(s); got.Seats < 1 || got.Seats > 10 {
					t.Errorf("%+v", got)
				}
				m.Ratio(s, time.Second)
				m.Errors()
				switch i % 500 {
				case 0:
					m.SetObjects(nil)
				case 1:
					m.SetWatchers(nil)
				case 2:
					data, err := m.Marshal()
					if err != nil {
						t.Error(err)
					}
					if err := m.Restore(data, w.now); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	done.Wait()
}
