package forecast

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/gonum/mat"
)

// At is what is asked about.
type At struct {
	// Cluster may be one of the samples' or another.
	Cluster string `json:"cluster"`
	Nodes   int    `json:"nodes"`
	// Exposed is how many nodes would run the component; 0 means all.
	Exposed int `json:"exposed"`
	// Objects is how many objects of what the component reads there are; 0 when not known, and then nodes stand for them.
	Objects int `json:"objects,omitempty"`
	// StartRate is how many nodes a second would begin to run it, > 0; Judge adds what so many starts cost. 0 leaves them out, and is
	// what `seakeep forecast` and a rollout's scale gate ask with: the one does not know the pace, and the other measures steps that
	// have started. It is for callers of this package that know it, and have samples with Startup.
	StartRate float64 `json:"startRate,omitempty"`
}

// Interval is one kind of cost, with what a measurement would show in 95 of 100 cases.
type Interval struct {
	Mean  float64 `json:"mean"`
	Lower float64 `json:"lower"`
	// Upper means nothing when Unbounded.
	Upper     float64 `json:"upper"`
	Unbounded bool    `json:"unbounded,omitempty"`
	// Unknown says why the upper bound is none or far off, or what is missing; the lower one holds even so.
	Unknown string `json:"unknown,omitempty"`
	// From says what it rests on.
	From string `json:"from,omitempty"`
}

// Prediction is what the component would cost.
type Prediction struct {
	At    At                `json:"at"`
	Kinds map[Kind]Interval `json:"kinds"`
	// Startup is what the start of one node costs beyond its steady state: seat-seconds, requests, bytes.
	Startup map[Kind]Interval `json:"startup,omitempty"`
	// Unknown says what is missing when no kind can be predicted.
	Unknown string `json:"unknown,omitempty"`
	// Earned says where the component was refused, or not waited for, because of its own load.
	Earned string `json:"earned,omitempty"`
	// Untested is true when no cluster was measured on enough steps to tell a straight line from one that bends upwards.
	Untested bool `json:"untested,omitempty"`
}

// normal is the quantile that 97.5 % of a normal distribution stay below.
const normal = 1.959964

// source is one cluster's word about another.
type source struct {
	c *cluster
	l *line
	y float64
	// sampling is the standard deviation of y by what was measured, model by what a line leaves out, future of the measurement
	// that is predicted.
	sampling, model, future float64
	// reach is the logarithm of the ratio of sizes; other, that it is another cluster than the one asked about.
	reach float64
	other bool
	// exponent is how the cost of a node grows with size, before sizes tell.
	exponent float64
}

// Predict says what the component would cost.
func (m *Model) Predict(at At) Prediction {
	if at.Exposed == 0 {
		at.Exposed = at.Nodes
	}
	p := Prediction{At: at, Kinds: map[Kind]Interval{}, Startup: map[Kind]Interval{}, Untested: true}
	var missing []string
	for _, c := range m.clusters {
		if c.earned != nil {
			p.Earned = fmt.Sprintf("on %d nodes of %s its own load earned refusals or time-outs", c.earned.Exposed, c.name)
		}
		if c.disturbed > 0 && c.disturbed == c.samples {
			missing = append(missing, fmt.Sprintf("all %d samples of %s were disturbed by others", c.samples, c.name))
		}
		for _, l := range c.lines {
			p.Untested = p.Untested && !l.tested
		}
	}
	for _, kind := range Kinds() {
		if i, ok := m.kind(kind, at); ok {
			p.Kinds[kind] = i
			if i.Unbounded && i.Lower == 0 && !slices.Contains(missing, i.Unknown) {
				missing = append(missing, i.Unknown)
			}
		}
		if i, ok := m.start(kind, at); ok {
			p.Startup[kind] = i
		}
	}
	known := false
	for _, i := range p.Kinds {
		known = known || !i.Unbounded || i.Lower > 0
	}
	if !known {
		if len(missing) == 0 {
			missing = append(missing, "there are no samples")
		}
		p.Unknown = strings.Join(missing, "; ")
	}
	return p
}

// Background is what the API servers of a cluster take of a kind without the component, as far as the samples tell.
func (m *Model) Background(cluster string, kind Kind) (v float64, ok bool) {
	for _, c := range m.clusters {
		if l := c.lines[kind]; c.name == cluster && l != nil && !l.own && l.why == "" {
			return math.Max(0, l.a), true
		}
	}
	return 0, false
}

// sources are the clusters that can say something about a kind, and otherwise why they cannot.
func (m *Model) sources(kind Kind, at At) (all []source, why string) {
	objects := at.Objects > 0
	for _, c := range m.clusters {
		if c.lines[kind] != nil && c.objects == 0 {
			objects = false
		}
	}
	target := float64(at.Nodes)
	if objects {
		target = float64(at.Objects)
	}
	for _, c := range m.clusters {
		l := c.lines[kind]
		switch {
		case l == nil:
			continue
		case l.why != "":
			why = fmt.Sprintf("%s of %s: %s", kind, c.name, l.why)
			continue
		case c.short != "":
			why = fmt.Sprintf("%s: %s", c.name, c.short)
			continue
		}
		n, window := float64(at.Exposed), m.options.Window.Seconds()
		s := source{c: c, l: l, other: c.name != at.Cluster, y: l.s * n, exponent: m.options.exponent(kind)}
		variance := n * n * l.varS
		if l.own {
			s.y += l.a
			variance += l.varA + 2*n*l.cov
		}
		s.sampling, s.model = math.Sqrt(math.Max(0, variance)), m.options.floor(kind)*math.Abs(s.y)
		s.future = math.Sqrt((l.base + l.each*n) / window)
		s.reach = math.Log(target / math.Max(1, c.size(objects)))
		all = append(all, s)
	}
	return all, why
}

// kind predicts one kind; ok is false when there is no sample of it.
func (m *Model) kind(kind Kind, at At) (i Interval, ok bool) {
	all, why := m.sources(kind, at)
	if len(all) == 0 {
		return Interval{Unbounded: true, Unknown: why}, why != ""
	}
	best := slices.MinFunc(all, func(a, b source) int {
		switch x, y := m.doubt(a), m.doubt(b); {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	i = m.interval(best)
	i.From = m.tell(best, kind)
	if joint, ok := m.joint(all, best); ok && m.identified {
		joint.From = fmt.Sprintf("%d clusters", len(all))
		i = joint
	}
	var own *source // of the cluster that is asked about
	if at := slices.IndexFunc(all, func(s source) bool { return !s.other }); at >= 0 {
		own = &all[at]
	}
	for _, s := range all {
		if s.l.bent == 0 || own != nil && s.other && own.l.tested && own.l.most() >= s.l.most() {
			continue // it was exposed as far itself, and says how it grows
		}
		i = m.bent(i, kind, float64(at.Exposed), s, own)
	}
	return i, true
}

// bent widens an interval to what the cost would be if it went on as steeply as can be beyond where a source bends: no straight line
// and no parabola can be trusted there, but where even that fits it does not matter. Own is the cluster that is asked about, nil when
// nothing was measured there.
func (m *Model) bent(i Interval, kind Kind, n float64, s source, own *source) Interval {
	i.Unknown = fmt.Sprintf("%s a node grows with the nodes exposed: %.1f times from the first step to %.0f nodes of %s. It may watch what it writes, and no straight line holds that",
		kind, s.l.bent, s.l.most(), s.c.name)
	upper := s.l.atMost(n) * math.Exp(math.Max(0, s.exponent*s.reach)+normal*m.reached(s))
	if own != nil && s.other {
		upper = math.Min(upper, m.steep(n, s, *own))
	}
	if math.IsInf(upper, 0) {
		i.Unbounded = true
		return i
	}
	i.Upper = math.Max(i.Upper, upper)
	i.Unknown += fmt.Sprintf("; by the cube of the nodes it is at most %s", Number(upper))
	return i
}

// steep is an upper bound by what a cluster's own nodes cost, which have no doubt over size: they say how high, and another cluster,
// whose line bends and which was exposed further, how steep.
func (m *Model) steep(n float64, s, own source) float64 {
	if own.l.bent > 0 {
		return own.l.atMost(n)
	}
	straight := m.interval(own)
	if straight.Unbounded {
		return math.Inf(1)
	}
	return straight.Upper * s.l.bent * math.Pow(math.Max(1, n/s.l.most()), steepest-1)
}

// reached is the standard deviation, as a logarithm, of what is carried over to the size asked about.
func (m *Model) reached(s source) float64 {
	reach := m.options.PriorSpread * s.reach
	if s.other {
		reach = math.Hypot(reach, math.Sqrt2*m.options.ClusterError)
	}
	return math.Abs(reach)
}

func (s *source) spread() float64 { return math.Hypot(s.sampling, s.model) }

// doubt is how wide a source's answer is, relative to it.
func (m *Model) doubt(s source) float64 {
	relative := math.Inf(1)
	if s.y > 0 {
		relative = s.spread() / s.y
	}
	reach := m.options.PriorSpread * s.reach
	other := 0.0
	if s.other {
		other = m.options.ClusterError
	}
	return relative*relative + reach*reach + other*other
}

// interval is a source's answer, carried over to the size asked about with the prior's exponent and all its doubt.
func (m *Model) interval(s source) Interval {
	t := student(0.975, s.l.freedom)
	carried := math.Exp(s.exponent * s.reach)
	i := Interval{Mean: math.Max(0, s.y*carried)}
	if math.IsInf(t, 0) {
		i.Unbounded = true
		i.Unknown = "too few samples for any bound"
		return i
	}
	half := math.Hypot(t*math.Hypot(s.sampling, s.future), normal*s.model) * carried
	z := normal * m.reached(s)
	i.Upper = math.Max(0, s.y*carried+half)
	i.Lower = math.Max(0, s.y*carried-half)
	if i.Mean > 0 && z > 0 {
		i.Upper = i.Mean * math.Exp(math.Hypot(math.Log(i.Upper/i.Mean), z))
		if i.Lower > 0 {
			i.Lower = i.Mean * math.Exp(-math.Hypot(math.Log(i.Lower/i.Mean), z))
		}
	} else {
		i.Upper *= math.Exp(z)
	}
	return i
}

// joint fits s(M) = k·M^β over all sources that lie clearly above nothing, with the prior on β, and reads it at the size asked
// about: generalised least squares with β's doubt in the covariance.
func (m *Model) joint(all []source, best source) (Interval, bool) {
	var use []source
	for _, s := range all {
		if s.y > 0 && s.spread() < 0.5*s.y && s.l.freedom > 0 {
			use = append(use, s)
		}
	}
	if len(use) < 3 {
		return Interval{}, false
	}
	k := len(use)
	sigma, x, ones := mat.NewSymDense(k, nil), mat.NewVecDense(k, nil), mat.NewVecDense(k, nil)
	freedom := 0.0
	prior := m.options.PriorSpread * m.options.PriorSpread
	for i, s := range use {
		ones.SetVec(i, 1)
		x.SetVec(i, math.Log(s.y)+s.exponent*s.reach)
		for j := i; j < k; j++ {
			sigma.SetSym(i, j, prior*s.reach*use[j].reach)
		}
		v := s.spread() * s.spread() / (s.y * s.y)
		if s.other {
			v += 2 * m.options.ClusterError * m.options.ClusterError
		}
		sigma.SetSym(i, i, sigma.At(i, i)+v)
		freedom += s.l.freedom
	}
	var cholesky mat.Cholesky
	var a, b mat.VecDense
	if !cholesky.Factorize(sigma) || cholesky.SolveVecTo(&a, ones) != nil || cholesky.SolveVecTo(&b, x) != nil {
		return Interval{}, false
	}
	precision := mat.Dot(ones, &a)
	mean := mat.Dot(ones, &b) / precision
	var residual, solved mat.VecDense
	residual.AddScaledVec(x, -mean, ones)
	if cholesky.SolveVecTo(&solved, &residual) != nil {
		return Interval{}, false
	}
	scale := math.Max(1, mat.Dot(&residual, &solved)/float64(k-1))
	y := math.Exp(mean)
	future := best.future / math.Max(best.y, 1e-12)
	half := student(0.975, freedom) * math.Sqrt(scale/precision+future*future)
	return Interval{Mean: y, Lower: y * math.Exp(-half), Upper: y * math.Exp(half)}, true
}

// tell says what a prediction rests on.
func (m *Model) tell(s source, kind Kind) string {
	steps := make([]string, len(s.l.levels))
	for i, n := range s.l.levels {
		steps[i] = fmt.Sprint(n)
	}
	from := fmt.Sprintf("%s nodes of %s, %d samples", strings.Join(steps, ", "), s.c.name, s.l.windows)
	if ratio := math.Exp(s.reach); ratio > 1.05 || ratio < 0.95 {
		from += fmt.Sprintf(", carried to %.3g times its size", ratio)
	}
	return from
}

// start predicts what the start of a node costs.
func (m *Model) start(kind Kind, at At) (i Interval, ok bool) {
	all, _ := m.sources(kind, at)
	var best *source
	for j := range all {
		if all[j].c.bursts[kind].starts > 0 && (best == nil || m.doubt(all[j]) < m.doubt(*best)) {
			best = &all[j]
		}
	}
	if best == nil {
		return i, false
	}
	b := best.c.bursts[kind]
	carried := math.Exp(best.exponent * best.reach)
	i = Interval{Mean: b.mean * carried, From: fmt.Sprintf("%d starts on %s", b.starts, best.c.name)}
	t := student(0.975, b.freedom)
	if math.IsInf(t, 0) {
		i.Unbounded, i.Unknown = true, "starts were measured in one sample only"
		return i, true
	}
	half := math.Hypot(t*math.Sqrt(b.variance), normal*m.options.floor(kind)*b.mean) * carried
	z := math.Exp(normal * math.Abs(m.options.PriorSpread*best.reach))
	i.Lower, i.Upper = math.Max(0, i.Mean-half)/z, (i.Mean+half)*z
	return i, true
}
