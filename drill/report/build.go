package report

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/drill"
)

// NewRun sums one run up.
func NewRun(r *drill.Result) Run {
	headline := r.Drill.Headline
	if len(headline) == 0 {
		for _, p := range r.Drill.Phases[min(1, len(r.Drill.Phases)-1):] {
			headline = append(headline, p.Name)
		}
	}
	judgements := drill.Judge(r)
	run := Run{
		Layers:      r.Layers,
		Admin:       requests(r.Select("admin", "", headline)),
		BreakGlass:  requests(r.Select("breakglass", "", headline)),
		Controllers: requests(r.Select("controllers", "", headline)),
		Readyz:      requests(r.Select("readyz", "", headline)),
		Leases:      leases(r),
		DNS: DNS{
			Cached:       requests(r.Select("dns", "cached", headline)).SuccessRatio,
			Unique:       requests(r.Select("dns", "unique", headline)).SuccessRatio,
			AfterRestart: requests(r.Select("dns", "afterRestart", headline)).SuccessRatio,
		},
		Mitigation:  seconds(r.Mitigation),
		Recovery:    seconds(r.Recovery),
		Started:     r.Zero.Add(r.Begin).UTC(),
		BeginSecond: round(r.Begin.Seconds()),
		EndSecond:   round(r.End.Seconds()),
		Headline:    headline,
		Verdict:     drill.Overall(judgements),
		Agents:      r.Agents,
		Problems:    r.Problems,
	}
	run.Rollout = rolledOut(r.Rollout)
	if len(r.Problems) > 0 && run.Verdict == drill.Pass {
		run.Verdict = drill.Unknown // the story was not the one told
	}
	for _, j := range judgements {
		run.Hypotheses = append(run.Hypotheses, Hypothesis{
			Name: j.Hypothesis.Name, Claim: claim(j.Hypothesis), Verdict: j.Verdict, Value: rounded(j.Value), Reason: j.Reason,
		})
	}
	for _, p := range r.Phases {
		run.Phases = append(run.Phases, phase(r, p))
	}
	for _, s := range r.Steps {
		run.Timeline = append(run.Timeline, Step{
			Name: s.Name, Title: s.Title, Kind: s.Kind, Status: s.Status, Attempts: s.Attempts, Error: s.Error,
			StartSecond: round(s.Start.Seconds()), EndSecond: round(s.End.Seconds()),
		})
	}
	run.Series = series(r.Samples)
	run.Components = components(r.Usage)
	run.APIServer = apiServer(r, run.Components)
	run.Signals = signalSeries(r)
	return run
}

func rolledOut(r *drill.Rollout) *Rollout {
	if r == nil {
		return nil
	}
	verdict := drill.Unknown
	switch r.Phase {
	case "Completed":
		verdict = drill.Pass
	case "RollingBack", "RolledBack":
		verdict = drill.Fail
	}
	return &Rollout{
		ExposedNodes: r.ExposedNodes, ExposedRatio: round(float64(r.ExposedNodes) / float64(max(1, r.Nodes))), Verdict: verdict,
		Phase: r.Phase, Reason: r.Reason, Stopped: seconds(r.Stopped),
	}
}

func requests(samples []drill.Sample) Requests {
	s := drill.Summarize(samples, 0)
	q := Requests{Samples: s.Samples}
	if len(s.Outcomes) > 0 {
		q.Outcomes = map[string]int{}
		for outcome, n := range s.Outcomes {
			q.Outcomes[string(outcome)] = n
		}
	}
	if s.Samples > 0 {
		q.SuccessRatio = exactly(s.SuccessRatio)
		q.P50Seconds, q.P99Seconds, q.MaxSeconds = exactly(s.P50.Seconds()), exactly(s.P99.Seconds()), exactly(s.Max.Seconds())
	}
	return q
}

func leases(r *drill.Result) Leases {
	s := drill.Summarize(r.Select("leases", "renewal", nil), 0)
	l := Leases{Renewals: s.Samples, Undetermined: s.Undetermined}
	if s.Samples > 0 {
		missed, late := s.Missed, s.Late
		l.Missed, l.Late = &missed, &late
	}
	return l
}

func phase(r *drill.Result, p drill.Phase) Phase {
	out := Phase{Name: p.Name, StartSecond: round(p.Start.Seconds()), EndSecond: round(p.End.Seconds()), Probes: map[string]Requests{}}
	grouped := map[string][]drill.Sample{}
	for _, s := range r.Samples {
		if s.Due >= p.Start && s.Due < p.End {
			grouped[s.Probe] = append(grouped[s.Probe], s)
			grouped[s.Probe+"/"+s.Series] = append(grouped[s.Probe+"/"+s.Series], s)
		}
	}
	for name, samples := range grouped {
		out.Probes[name] = requests(samples)
	}
	return out
}

// claim says a hypothesis in words.
func claim(h v1alpha1.DrillHypothesis) string {
	subject := strings.TrimSpace(strings.Join([]string{h.Probe, h.Series, h.Metric}, " "))
	if h.Within != nil {
		subject += " (" + h.Within.Duration.String() + ")"
	}
	text := fmt.Sprintf("%s %s %g", strings.Join(strings.Fields(subject), " "), h.Op, h.Value)
	if len(h.During) > 0 {
		text += " during " + strings.Join(h.During, ", ")
	}
	return text
}

type seriesKey struct{ probe, series string }

// series cuts the samples by the second they were due in.
func series(samples []drill.Sample) []Series {
	type bin map[int][]drill.Sample
	grouped := map[seriesKey]bin{}
	for _, s := range samples {
		if s.Outcome == drill.Undetermined {
			continue
		}
		key := seriesKey{s.Probe, s.Series}
		if grouped[key] == nil {
			grouped[key] = bin{}
		}
		second := int(math.Floor(s.Due.Seconds()))
		grouped[key][second] = append(grouped[key][second], s)
	}
	keys := slices.SortedFunc(maps.Keys(grouped), func(a, b seriesKey) int {
		return cmp.Or(cmp.Compare(a.probe, b.probe), cmp.Compare(a.series, b.series))
	})
	out := []Series{}
	for _, key := range keys {
		one := Series{Probe: key.probe, Series: key.series}
		for _, second := range slices.Sorted(maps.Keys(grouped[key])) {
			s := drill.Summarize(grouped[key][second], 0)
			one.Points = append(one.Points, Point{
				Second: second, Samples: s.Samples, OK: s.OK,
				P50Seconds: round(s.P50.Seconds()), MaxSeconds: round(s.Max.Seconds()),
			})
		}
		out = append(out, one)
	}
	return out
}

// components takes the difference between the first and the last look at each process.
func components(points []drill.UsagePoint) []Component {
	first, last := map[string]drill.Usage{}, map[string]drill.Usage{}
	var order []string
	for _, p := range points {
		if _, seen := first[p.Component]; !seen {
			first[p.Component] = p.Usage
			order = append(order, p.Component)
		}
		last[p.Component] = p.Usage
	}
	out := []Component{}
	for _, name := range order {
		out = append(out, Component{
			Name: name, CPUSeconds: round(last[name].CPUSeconds - first[name].CPUSeconds),
			MaxRSSBytes: last[name].MaxRSSBytes, Restarts: last[name].Restarts - first[name].Restarts,
		})
	}
	return out
}

// isAPIServer tells API servers by their component's name.
func isAPIServer(component string) bool {
	return component == "kube-apiserver" || strings.HasPrefix(component, "kube-apiserver-")
}

func apiServer(r *drill.Result, components []Component) APIServer {
	var out APIServer
	for _, c := range components {
		if isAPIServer(c.Name) {
			out.CPUSeconds = round(out.CPUSeconds + c.CPUSeconds)
			out.MaxRSSBytes = max(out.MaxRSSBytes, c.MaxRSSBytes)
			out.Restarts += c.Restarts
		}
	}
	last := map[string]drill.SignalPoint{}
	for _, p := range r.Signals {
		if p.Error != "" {
			out.ScrapesWithoutReply++
			continue
		}
		out.MaxInFlight = larger(out.MaxInFlight, p.Reading.InFlight())
		before, seen := last[p.Server]
		last[p.Server] = p
		if !seen {
			continue
		}
		c := p.Reading.Since(before.Reading)
		out.ListRequests = plus(out.ListRequests, c.Lists)
		out.Requests = plus(out.Requests, c.Requests)
		out.TooManyRequests = plus(out.TooManyRequests, c.TooMany)
	}
	return out
}

// minLook is the least time between two looks at a process of which a rate is made: the operating system counts its
// processor time in hundredths of a second, and scrapes that an overloaded API server held up are answered together.
const minLook = 500 * time.Millisecond

// signalSeries joins what the operating system says of the API servers, every second, with what they say themselves.
func signalSeries(r *drill.Result) []Signal {
	bySecond := map[int]*Signal{}
	at := func(t time.Duration) *Signal {
		second := int(math.Round(t.Seconds())) // looks come every second, a little late: the nearest one is theirs
		if bySecond[second] == nil {
			bySecond[second] = &Signal{Second: float64(second)}
		}
		return bySecond[second]
	}
	before := map[string]drill.UsagePoint{}
	for _, p := range r.Usage {
		b, seen := before[p.Component]
		if !isAPIServer(p.Component) || seen && p.At-b.At < minLook {
			continue
		}
		before[p.Component] = p
		s := at(p.At)
		s.RSSBytes = plus(s.RSSBytes, float64(p.Usage.RSSBytes))
		if seen {
			s.CPU = plus(s.CPU, (p.Usage.CPUSeconds-b.Usage.CPUSeconds)/(p.At-b.At).Seconds())
		}
	}
	last := map[string]drill.SignalPoint{}
	for _, p := range r.Signals {
		if p.Error != "" {
			continue
		}
		b, seen := last[p.Server]
		if seen && p.At-b.At < minLook {
			continue // answers that were held up come together: between them no time passed
		}
		s := at(p.At)
		s.InFlight = plus(s.InFlight, p.Reading.InFlight())
		s.Queued = plus(s.Queued, p.Reading.QueuedRequests)
		if seen {
			s.ListsPerSecond = plus(s.ListsPerSecond, p.Reading.Since(b.Reading).ListsPerSecond())
		}
		last[p.Server] = p
	}
	out := []Signal{}
	for _, second := range slices.Sorted(maps.Keys(bySecond)) {
		out = append(out, *bySecond[second])
	}
	return out
}

func exactly(v float64) *float64 { v = round(v); return &v }

func rounded(v *float64) *float64 {
	if v == nil {
		return nil
	}
	return exactly(*v)
}

func seconds(d *time.Duration) *float64 {
	if d == nil {
		return nil
	}
	return exactly(d.Seconds())
}

func plus(sum *float64, v float64) *float64 {
	if sum == nil {
		return exactly(v)
	}
	return exactly(*sum + v)
}

func larger(a *float64, b float64) *float64 {
	if a != nil && *a >= b {
		return a
	}
	return exactly(b)
}

// round keeps a tenth of a millisecond: more digits would be noise in a file that people read.
func round(v float64) float64 { return math.Round(v*1e4) / 1e4 }
