package forecast

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
)

// Model is what was learned of one component.
type Model struct {
	options  Options
	clusters []*cluster
	// identified is true when sizes of clusters tell β: three and more, the largest four times the smallest.
	identified bool
}

// cluster is what was learned on one cluster.
type cluster struct {
	name  string
	nodes int
	// objects is the mean over the samples, 0 when not all say.
	objects float64
	most    int // exposed at once
	lines   map[Kind]*line
	bursts  map[Kind]burst
	// earned is the largest sample of those cut off by the component itself.
	earned *Sample
	// disturbed samples were cut off by others and left out.
	disturbed, samples int
	// short says what is missing of the time.
	short string
}

// burst is what the start of one node costs beyond its steady state: seat-seconds, requests, bytes.
type burst struct {
	mean, variance, freedom float64
	starts                  int
}

// Fit learns from samples in any order. An error is a sample that makes no sense; data that do not suffice are none: Predict
// then says what is missing.
func Fit(samples []Sample, options Options) (*Model, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("fitting a forecast: %w", err)
	}
	by := map[string][]Sample{}
	for i := range samples {
		if err := samples[i].Validate(); err != nil {
			return nil, fmt.Errorf("fitting a forecast: sample %d: %w", i+1, err)
		}
		by[samples[i].Cluster] = append(by[samples[i].Cluster], samples[i])
	}
	m := &Model{options: options}
	for name, list := range by {
		m.clusters = append(m.clusters, m.learn(name, list))
	}
	slices.SortFunc(m.clusters, func(a, b *cluster) int { return cmp.Compare(a.name, b.name) })
	m.identified = m.sizesTell()
	return m, nil
}

// learn fits one cluster.
func (m *Model) learn(name string, samples []Sample) *cluster {
	slices.SortStableFunc(samples, func(a, b Sample) int { return a.From.Compare(b.From) })
	c := &cluster{name: name, lines: map[Kind]*line{}, bursts: map[Kind]burst{}, samples: len(samples)}
	var steady, startups []Sample
	total, weight := 0.0, 0.0
	for _, s := range samples {
		c.nodes = s.Nodes // of the latest
		switch {
		case s.Censored == ByItself:
			if c.earned == nil || s.Exposed > c.earned.Exposed {
				c.earned = &s
			}
			continue
		case s.Censored == ByOthers:
			c.disturbed++
			continue
		case s.Startup:
			startups = append(startups, s)
			continue
		}
		steady = append(steady, s)
		c.most = max(c.most, s.Exposed)
		if s.Exposed > 0 {
			if s.Objects == 0 {
				weight = math.Inf(1) // one that does not say makes the mean meaningless
			}
			total, weight = total+float64(s.Objects)*s.seconds(), weight+s.seconds()
		}
	}
	if weight > 0 {
		c.objects = total / weight
	}
	c.short = m.held(steady)
	for _, kind := range Kinds() {
		if l := fitLine(steady, kind, m.options.floor(kind)); l != nil {
			c.lines[kind] = l
			if b, ok := fitBurst(startups, kind, l); ok {
				c.bursts[kind] = b
			}
		}
	}
	return c
}

// held says which step was not held long enough for the component's slowest timer to be seen.
func (m *Model) held(samples []Sample) string {
	type level struct{ seconds, requests float64 }
	levels := map[int]*level{}
	counted := false
	for _, s := range samples {
		if _, ok := s.Cost[Requests]; ok {
			counted = true
		}
		if s.Exposed == 0 {
			continue
		}
		l := levels[s.Exposed]
		if l == nil {
			l = &level{}
			levels[s.Exposed] = l
		}
		l.seconds += s.seconds()
		l.requests += s.Cost[Requests] * s.seconds() / float64(s.Exposed)
	}
	// Requests are whole, and were made rates: two of them come back as 1.9999…
	const two = 2 - 1e-6
	for _, n := range slices.Sorted(maps.Keys(levels)) {
		l := levels[n]
		switch need := 2 * m.options.Period.Seconds(); {
		case l.seconds < need:
			return fmt.Sprintf("%d nodes were held for %.0f s, and two periods of the component are %.0f s", n, l.seconds, need)
		case need == 0 && !counted && l.seconds < m.options.MinHold.Seconds():
			return fmt.Sprintf("%d nodes were held for %.0f s, and nothing says how often the component asks: its requests must be counted, or its slowest period given", n, l.seconds)
		case need == 0 && l.requests < two && l.seconds < m.options.MinHold.Seconds():
			return fmt.Sprintf("%d nodes were held for %.0f s and made %.1f requests each: hold them for two of the component's periods, or %s",
				n, l.seconds, l.requests, m.options.MinHold)
		}
	}
	return ""
}

// fitBurst takes what a steady state costs off what was measured while nodes started.
func fitBurst(samples []Sample, kind Kind, l *line) (b burst, ok bool) {
	if l.why != "" || kind == Watches || kind == Memory || kind == CPU || kind == Service {
		return b, false
	}
	type one struct{ cost, starts float64 }
	var all []one
	total := 0.0
	for i := range samples {
		y, own, has := samples[i].of(kind)
		if !has || !own || samples[i].Started == 0 {
			continue
		}
		steady := l.a + l.s*float64(samples[i].Exposed)
		all = append(all, one{(y - steady) * samples[i].seconds(), float64(samples[i].Started)})
		total += float64(samples[i].Started)
	}
	if total == 0 {
		return b, false
	}
	for _, o := range all {
		b.mean += o.cost / total
	}
	for _, o := range all {
		r := o.cost - b.mean*o.starts
		b.variance += r * r / o.starts
	}
	b.freedom, b.starts = float64(len(all)-1), int(total)
	if b.freedom > 0 {
		b.variance = b.variance / b.freedom / total
	}
	b.mean = math.Max(0, b.mean)
	return b, true
}

// size is what the cost of a node may grow with: objects where both say, else nodes.
func (c *cluster) size(objects bool) float64 {
	if objects {
		return c.objects
	}
	return float64(c.nodes)
}

// sizesTell is true when there are enough sizes of clusters and the largest is four times the smallest.
func (m *Model) sizesTell() bool {
	var sizes []float64
	for _, c := range m.clusters {
		sizes = append(sizes, float64(c.nodes))
	}
	slices.Sort(sizes)
	different := 0
	for i, s := range sizes {
		if i == 0 || s > 1.1*sizes[i-1] {
			different++
		}
	}
	return different >= m.options.MinSizes && sizes[len(sizes)-1] >= 4*sizes[0]
}
