package law

import (
	"fmt"
	"testing"
	"time"
)

const gib = 1 << 30

// best is the highest rate of the storm that any fixed limit gives on the same control plane.
func best(build func() *model, storm work, clients int) (limit, rate float64) {
	for _, fixed := range []float64{10, 14, 20, 30, 50, 80, 150, 200, 300} {
		m := build()
		m.fixed, m.ceiling = fixed, 1e18
		m.begin(storm, clients)
		m.run(5 * time.Second)
		m.reset()
		m.run(10 * time.Second)
		if r := m.rate(storm.name); r > rate {
			limit, rate = fixed, r
		}
	}
	return limit, rate
}

func (m *model) String() string {
	return fmt.Sprintf("limit %.0f (%.0f–%.0f), bytes %.0f MB, CPU %.0f%%, storm %.1f/s, small p50 %.0f ms p99 %.0f ms, peak %.0f MB, %s: %s",
		m.decision.Limit, m.least, m.most, m.decision.ListBytes/1e6, 100*m.use(), m.rate(m.storm.name),
		1e3*m.quantile("small", 0.5), 1e3*m.quantile("small", 0.99), m.peak/1e6, m.decision.Signal, m.decision.Reason)
}

func TestStorms(t *testing.T) {
	for name, tc := range map[string]struct {
		servers    int
		processors float64
		memory     float64
		storm      work
		clients    int
	}{
		"300 clients LIST 6,000 pods":              {1, 2, 4 * gib, listPods, 300},
		"1,000 clients LIST 6,000 pods":            {1, 2, 4 * gib, listPods, 1000},
		"300 clients LIST 6,000 pods, no memory":   {1, 2, 0, listPods, 300},
		"300 clients LIST 6,000 pods, 8 processor": {1, 8, 8 * gib, listPods, 300},
		"1,000 clients, three servers":             {3, 4, 4 * gib, listPods, 1000},
		"1,000 clients LIST a little":              {1, 2, 4 * gib, listSome, 1000},
		"300 clients write":                        {1, 2, 4 * gib, write, 300},
		"1,000 clients write, three servers":       {3, 2, 4 * gib, write, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			build := func() *model { return newModel(1, tc.servers, tc.processors, tc.memory) }
			limit, rate := best(build, tc.storm, tc.clients)
			m := build()
			m.run(20 * time.Second)
			m.begin(tc.storm, tc.clients)
			m.run(24 * time.Second)
			m.reset()
			m.run(40 * time.Second)
			t.Logf("best fixed limit %.0f: %.1f/s; %v", limit, rate, m)
			if got := m.rate(tc.storm.name); got < 0.8*rate {
				t.Errorf("the storm gets %.1f/s, %.0f%% of what the best fixed limit gives", got, 100*got/rate)
			}
			if use := m.use(); use < 0.70 || use > 0.95 {
				t.Errorf("the API server uses %.0f%% of its processors", 100*use)
			}
			if p99 := m.quantile("small", 0.99); p99 > 0.05 {
				t.Errorf("small requests take %.0f ms (p99)", 1e3*p99)
			}
			if m.least <= 4 {
				t.Errorf("the limit fell to %v", m.least)
			}
		})
	}
}
