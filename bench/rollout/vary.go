package main

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/seakeep/seakeep/rollout/analysis"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// vary draws another course of the same trial from a trace: another time before it, looks that are missing, levels that are a
// little different, a tide that both clusters have, single wild values, lost answers, and a bystander's mishap. None of it is
// the change's doing, and none of it hides what the change does.
func vary(t *trace, seed uint64) *trace {
	random := rand.New(rand.NewPCG(seed, 7))
	out := &trace{Trial: t.Trial, Since: t.Since, Exposed: t.Exposed}
	begin := t.Looks[0].At
	// The baseline starts later, and keeps at least eight looks.
	room := t.Since.Sub(begin) - 8*interval
	cutBefore := begin
	if room > 0 {
		cutBefore = begin.Add(time.Duration(random.Float64() * float64(room)))
	}
	scale := math.Exp(0.2 * random.NormFloat64()) // another machine
	tide := 0.4 * (random.Float64() - 0.3)        // per 10 s, on both
	noise := 0.05 + 0.1*random.Float64()
	mishap := random.IntN(4)
	for _, r := range t.Looks {
		if r.At.Before(cutBefore) || random.Float64() < 0.04 {
			continue
		}
		v := analysis.Record{Cluster: r.Cluster, At: r.At, Troubles: r.Troubles, Executed: r.Executed, Own: r.Own, Levels: map[string]float64{}, Asked: maps.Clone(r.Asked), Workload: r.Workload}
		swell := math.Exp(tide * r.At.Sub(begin).Seconds() / 10)
		wild := random.Float64() < 0.03
		for _, check := range slices.Sorted(maps.Keys(r.Levels)) {
			x := r.Levels[check]
			switch {
			case strings.HasSuffix(check, "Latency"):
				x *= scale * swell * math.Exp(noise*random.NormFloat64())
				if wild {
					x *= 3 + 5*random.Float64()
					wild = false
				}
			case strings.HasSuffix(check, "cpu"), strings.HasSuffix(check, "inFlight"):
				x = min(1, x*swell*math.Exp(noise*random.NormFloat64()))
			}
			v.Levels[check] = x
		}
		for _, key := range slices.Sorted(maps.Keys(v.Asked)) {
			// A datagram is lost now and then.
			if a := v.Asked[key]; strings.HasPrefix(key, "dns") && a.Answered > 0 && random.Float64() < 0.01 {
				a.Answered--
				v.Asked[key] = a
			}
		}
		if w := r.Workload; w != nil && !r.At.Before(t.Since) {
			v.Workload = bystander(*w, mishap, r.At, t.Since)
		}
		out.Looks = append(out.Looks, v)
	}
	return out
}

// bystander lets something happen where the change is not.
func bystander(w verdict.Workload, mishap int, now, since time.Time) *verdict.Workload {
	late := now.Sub(since) > 3*time.Second
	switch {
	case mishap == 1 && late && len(w.Control) > 0: // a node without the change turns unhealthy
		w.Control = slices.Clone(w.Control)
		w.Control[0].Bad = map[string]time.Time{"DiskPressure": since.Add(3 * time.Second)}
	case mishap == 2 && late && len(w.Stable) > 0: // an old pod restarts
		w.Stable = slices.Clone(w.Stable)
		w.Stable[0].Restarts, w.Stable[0].Ready = 1, false
	case mishap == 3 && late && len(w.Control) > 1: // another workload falls over, elsewhere
		w.Control = slices.Clone(w.Control)
		w.Control[1].OthersNotReady = w.Control[1].Others / 2
	}
	return &w
}
