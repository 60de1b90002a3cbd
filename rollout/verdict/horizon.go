package verdict

import (
	"fmt"
	"strings"
	"time"
)

// Horizon makes one verdict of looks that follow each other: a check must fail so many times in a row before the verdict is
// Fail, and everything must pass as often before it is Pass, because every look is another chance for chance. In between it is
// Unknown, which moves nothing. The zero value has seen nothing. It can be stored as JSON; one that was lost starts again from
// nothing, which delays and never advances. Not safe for concurrent use.
type Horizon struct {
	// Failing counts by check how often it failed in a row. A look at which it was Unknown, or said again what it had said of the
	// same data, neither adds nor ends the row.
	Failing map[string]int `json:"failing,omitempty"`
	// Judged is when the newest data of each check was measured.
	Judged map[string]time.Time `json:"judged,omitempty"`
	// Passing counts looks in a row that passed.
	Passing int `json:"passing,omitempty"`
	// At is the last look's time: the same look is not counted twice.
	At time.Time `json:"at,omitempty"`
}

// CheckReady is the check that asks whether the control plane is ready, from outside.
const CheckReady = "controlPlane.ready"

// CheckRow is the check a verdict carries that waits for more looks.
const CheckRow = "looks"

// Next takes a look in and returns what is known now: the look with its verdict settled, and with a finding that says how far
// the row has come when it is not decided. consecutive is at least 1.
func (h *Horizon) Next(look Look, consecutive int) Look {
	look = settle(look)
	if !look.At.After(h.At) && !h.At.IsZero() {
		return look.with(Unknown, fmt.Sprintf("nothing new since %s", h.At.UTC().Format(time.RFC3339)))
	}
	h.At = look.At
	h.count(look, consecutive)
	worst, row := "", 0
	for _, f := range look.Findings {
		if n := h.Failing[f.Check]; f.Verdict == Fail && n > row {
			worst, row = f.Check, n
		}
	}
	if look.Verdict == Pass {
		h.Passing++
	} else {
		h.Passing = 0
	}
	switch {
	case row >= consecutive:
		return look.decided(h.Failing, consecutive)
	case look.Verdict == Fail:
		return look.undecided(fmt.Sprintf("%s failed %d time(s) in a row, %d are needed", worst, row, consecutive))
	case look.Verdict == Pass && h.Passing < consecutive:
		return look.undecided(fmt.Sprintf("%d of %d looks in a row passed", h.Passing, consecutive))
	}
	return look
}

// count adds a look to the rows. What a check asks of several, as of each DNS server, is one check: it fails when one of them does.
func (h *Horizon) count(look Look, consecutive int) {
	if h.Failing == nil {
		h.Failing = map[string]int{}
	}
	if h.Judged == nil {
		h.Judged = map[string]time.Time{}
	}
	said := map[string][]Verdict{}
	critical, newest := map[string]bool{}, map[string]time.Time{}
	for _, f := range look.Findings {
		said[f.Check] = append(said[f.Check], f.Verdict)
		critical[f.Check] = critical[f.Check] || f.Verdict == Fail && f.Critical
		if f.At.After(newest[f.Check]) {
			newest[f.Check] = f.At
		}
	}
	for check, verdicts := range said {
		at, before := newest[check], h.Judged[check]
		again := !before.IsZero() && !at.After(before)
		h.Judged[check] = at
		switch v := Worst(verdicts...); {
		case critical[check]:
			h.Failing[check] = max(h.Failing[check]+1, consecutive)
		case again:
		case v == Fail:
			h.Failing[check]++
		case v == Pass:
			delete(h.Failing, check)
		}
	}
}

// settle makes Unknown Fail while the control plane is not ready: what cannot be measured because nothing answers any more is
// no absence of news. That questions are not answered then says nothing about who brought it down.
func settle(look Look) Look {
	down := false
	for _, f := range look.Findings {
		down = down || f.Check == CheckReady && f.Verdict == Fail
	}
	if !down {
		return look
	}
	findings := make([]Finding, len(look.Findings))
	for i, f := range look.Findings {
		if f.Verdict == Unknown {
			f = f.say(Fail, f.Reason+", and the control plane is not ready")
			f.Attributed = false
		}
		if f.Check == "dns" || strings.HasPrefix(f.Check, "probes.") {
			f.Attributed = false
		}
		findings[i] = f
	}
	return Of(look.At, findings...)
}

// with gives the look a verdict that none of its findings has yet.
func (l Look) with(v Verdict, reason string) Look {
	l.Findings = append([]Finding{{Check: CheckRow, Verdict: v, Reason: reason, At: l.At, Fresh: true}}, l.Findings...)
	l.Verdict = v
	return l
}

// undecided makes a look Unknown that waits for more.
func (l Look) undecided(reason string) Look {
	l = l.with(Unknown, reason)
	l.Undecided = true
	return l
}

// decided puts the findings first that decided, so that Why names one of them.
func (l Look) decided(failing map[string]int, consecutive int) Look {
	var first, rest []Finding
	for _, f := range l.Findings {
		if f.Verdict == Fail && failing[f.Check] >= consecutive {
			if !f.Critical && consecutive > 1 {
				f.Reason += fmt.Sprintf(" (%d looks in a row)", failing[f.Check])
			}
			first = append(first, f)
		} else {
			rest = append(rest, f)
		}
	}
	l.Findings = append(first, rest...)
	l.Verdict = Fail
	return l
}

// Attributed is true when a finding that fails can be laid at the change's door.
func (l Look) Attributed() bool {
	for _, f := range l.Findings {
		if f.Verdict == Fail && f.Attributed {
			return true
		}
	}
	return false
}

// ControlPlaneFails is true when a finding about API servers, etcd, or the probes of what users do there fails.
func (l Look) ControlPlaneFails() bool {
	for _, f := range l.Findings {
		if f.Verdict == Fail && (strings.HasPrefix(f.Check, "controlPlane.") || strings.HasPrefix(f.Check, "probes.")) {
			return true
		}
	}
	return false
}
