package analysis

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/seakeep/seakeep/api/v1alpha1"
	"github.com/seakeep/seakeep/rollout/verdict"
)

// The checks that ask. After dns. and probes. comes whom, or what.
const (
	checkDNS    = "dns"
	checkProbes = "probes."
)

// judgeAsked judges every question to DNS and the API of the newest reading, beside those from before the change and those of
// clusters without it.
func (c *cluster) judgeAsked(a v1alpha1.RolloutAnalysis, controls []*cluster, now time.Time) []verdict.Finding {
	last, ok := c.last()
	stale := !ok || now.Sub(last.done) > a.MaxDataAge.Duration
	before, _ := c.split(now)
	var findings []verdict.Finding
	judge := func(check string, least float64, most time.Duration) {
		var keys []string
		for key := range last.asked {
			if about(key, check) {
				keys = append(keys, key)
			}
		}
		if len(keys) == 0 || stale {
			findings = append(findings, verdict.Finding{Check: check, Verdict: verdict.Unknown, Reason: "nothing was asked", At: last.at})
			return
		}
		slices.Sort(keys)
		// One finding for each server would make rows of failures that other servers' passes end: they are judged one by
		// one, and the worst stands for the check.
		var worst verdict.Finding
		for i, key := range keys {
			asked := last.asked[key]
			asked.Check = check
			asked.Before, asked.Control = answeredBefore(before, check), answeredElsewhere(controls, check)
			f := asked.Judge(least, most)
			if i == 0 || rank(f.Verdict) > rank(worst.Verdict) {
				worst = f
			}
		}
		if known := last.asked[keys[0]].Known; known > 0 {
			worst.Reason += fmt.Sprintf("; %d of %d were asked", len(keys), known)
		}
		findings = append(findings, worst)
	}
	if d := a.DNS; d.Mode == v1alpha1.Enabled {
		judge(checkDNS, d.MinSuccess, d.MaxLatency.Duration)
	}
	if p := a.Probes; p.Mode == v1alpha1.Enabled {
		for _, name := range probeNames(p) {
			judge(checkProbes+name, 1, p.MaxLatency.Duration)
		}
	}
	return findings
}

func rank(v verdict.Verdict) int {
	return slices.Index([]verdict.Verdict{verdict.Pass, verdict.Unknown, verdict.Fail}, v)
}

// answeredBefore is the share that was answered before the change, of all servers together, at the median reading.
func answeredBefore(before []reading, check string) float64 {
	var shares []float64
	for _, r := range before {
		if s := shareOf(r, check); !math.IsNaN(s) {
			shares = append(shares, s)
		}
	}
	if len(shares) == 0 {
		return math.NaN()
	}
	slices.Sort(shares)
	return shares[len(shares)/2]
}

func answeredElsewhere(controls []*cluster, check string) float64 {
	sum, n := 0.0, 0
	for _, c := range controls {
		if r, ok := c.last(); ok {
			if s := shareOf(r, check); !math.IsNaN(s) {
				sum += s
				n++
			}
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return sum / float64(n)
}

func shareOf(r reading, check string) float64 {
	asked, answered := r.counted(check)
	if asked == 0 {
		return math.NaN()
	}
	return float64(answered) / float64(asked)
}
