// Package verdict says whether a change does harm: Pass, Fail or Unknown, with the figures that say so. It is pure: what was
// measured goes in, a verdict comes out.
package verdict

import (
	"fmt"
	"time"
)

// Verdict is what is known about a change.
type Verdict string

// The verdicts. Unknown never advances a rollout: on 2024-12-11 nothing looked wrong for as long as the caches hid it, and
// gates that take silence for health promoted on no data (argo-rollouts#3850, #4479).
const (
	Pass    Verdict = "Pass"
	Fail    Verdict = "Fail"
	Unknown Verdict = "Unknown"
)

// Worst is Fail if there is one, else Unknown if there is one or nothing was asked at all.
func Worst(all ...Verdict) Verdict {
	worst := Unknown
	if len(all) > 0 {
		worst = Pass
	}
	for _, v := range all {
		switch {
		case v == Fail:
			return Fail
		case v != Pass:
			worst = Unknown
		}
	}
	return worst
}

// Figure is one number a verdict rests on.
type Figure struct {
	// Name says what it is, as "api-server p99 of GET".
	Name string `json:"name"`
	// Value, and what it was held against; Unit is s, B, seats, ratio, or empty for a count.
	Value float64 `json:"value"`
	Bound float64 `json:"bound,omitempty"`
	Unit  string  `json:"unit,omitempty"`
}

// Finding is what one check found.
type Finding struct {
	// Check is the check's name: controlPlane.latency, dns, workload, scaleGate, query.NAME …
	Check   string  `json:"check"`
	Verdict Verdict `json:"verdict"`
	// Reason is a sentence with figures, for people.
	Reason  string   `json:"reason"`
	Figures []Figure `json:"figures,omitempty"`
	// Attributed is true when the harm can be shown to be the change's own: its pods, its requests, or a difference to
	// controls that ran at the same time. Reverts and deletes need it, or a human.
	Attributed bool `json:"attributed,omitempty"`
	// Critical is true when one failed look is enough.
	Critical bool `json:"critical,omitempty"`
	// At is when the newest data it rests on was measured; Fresh false says that there was none new enough.
	At    time.Time `json:"at"`
	Fresh bool      `json:"fresh"`
}

// Look is all findings of one time somebody looked.
type Look struct {
	Verdict  Verdict   `json:"verdict"`
	Findings []Finding `json:"findings"`
	At       time.Time `json:"at"`
	// Undecided is true when it is Unknown for want of more looks only: by itself it passed, or failed.
	Undecided bool `json:"undecided,omitempty"`
}

// Of sums findings up.
func Of(at time.Time, findings ...Finding) Look {
	all := make([]Verdict, len(findings))
	for i, f := range findings {
		all[i] = f.Verdict
	}
	return Look{Verdict: Worst(all...), Findings: findings, At: at}
}

// Why is the reason of the worst finding.
func (l Look) Why() string {
	for _, f := range l.Findings {
		if f.Verdict == l.Verdict {
			return fmt.Sprintf("%s: %s", f.Check, f.Reason)
		}
	}
	return "nothing was measured"
}
