package agree

import (
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// What a gate keeps of other gates' decisions. An operator may set 64 rules on one gate; two sides of a partition may each
// have done so. Beyond these bounds what others decided is refused and counted, and gates may then differ.
const (
	MaxRules = 128
	MaxLifts = 1024
	maxBytes = 512 << 10 // of all rules, encoded
	maxLine  = 1024      // of who and why
)

// slack is how long a lift is remembered after its rule would have ended anyhow, for clocks that are set back a little.
const slack = time.Minute

// Lift is the decision to end a rule before its time. It is kept until the rule would have ended by itself: until then a
// gate that did not hear of it still has the rule, and would bring it back.
type Lift struct {
	// ID is the rule's; Expires is when the rule ends by itself.
	ID      string      `json:"id"`
	Expires metav1.Time `json:"expires"`
	// By, Reason and At say who lifted it, why and when.
	By     string      `json:"by,omitempty"`
	Reason string      `json:"reason,omitempty"`
	At     metav1.Time `json:"at"`
}

// Decisions are the rules in force and the lifts not to be forgotten yet. A rule is never changed and its ID never used
// again; so of any two decisions on one ID the lift is the newer one, whatever the clocks say.
type Decisions struct {
	Rules []v1alpha1.EmergencyRule `json:"rules,omitempty"`
	Lifts []Lift                   `json:"lifts,omitempty"`
}

// Lifted is a rule that ends by what another gate decided.
type Lifted struct {
	Rule v1alpha1.EmergencyRule
	Lift Lift
}

// Learned is what changes by what another gate said.
type Learned struct {
	// Decisions are what is to be kept from now on.
	Decisions
	// Set are rules that come into force, Ended those that end.
	Set   []v1alpha1.EmergencyRule
	Ended []Lifted
	// News is true when Decisions differ from those before.
	News bool
	// Refused counts what was not taken: malformed, or beyond the bounds.
	Refused int
}

// Merge adds what another gate decided to the own decisions. The order in which gates hear of one another makes no
// difference to the outcome, within the bounds above.
func Merge(own, from Decisions, now time.Time) Learned {
	l := Learned{Decisions: Decisions{Rules: slices.Clone(own.Rules), Lifts: slices.Clone(own.Lifts)}}
	for _, lift := range from.Lifts {
		l.lift(lift, now)
	}
	room := maxBytes
	for i := range l.Rules {
		room -= size(&l.Rules[i])
	}
	for _, rule := range from.Rules {
		l.set(rule, now, &room)
	}
	l.News = len(l.Set) > 0 || len(l.Ended) > 0 || len(l.Lifts) != len(own.Lifts)
	return l
}

func (l *Learned) lift(lift Lift, now time.Time) {
	if !validID(lift.ID) || !line(lift.By) || !line(lift.Reason) || lift.Expires.After(now.Add(v1alpha1.MaxEmergencyDuration+time.Hour)) {
		l.Refused++
		return
	}
	if over(lift, now) || slices.ContainsFunc(l.Lifts, func(known Lift) bool { return known.ID == lift.ID }) {
		return
	}
	i := slices.IndexFunc(l.Rules, func(r v1alpha1.EmergencyRule) bool { return r.ID == lift.ID })
	if i < 0 && len(l.Lifts) >= MaxLifts {
		l.Refused++
		return
	}
	l.Lifts = append(l.Lifts, lift)
	if i >= 0 {
		l.Ended = append(l.Ended, Lifted{Rule: l.Rules[i], Lift: lift})
		l.Rules = slices.Delete(l.Rules, i, i+1)
	}
}

func (l *Learned) set(rule v1alpha1.EmergencyRule, now time.Time, room *int) {
	if slices.ContainsFunc(l.Rules, func(r v1alpha1.EmergencyRule) bool { return r.ID == rule.ID }) ||
		slices.ContainsFunc(l.Lifts, func(lift Lift) bool { return lift.ID == rule.ID }) {
		return
	}
	if !wellFormed(&rule) {
		l.Refused++
		return
	}
	if !now.Before(rule.Expires.Time) {
		return
	}
	// The end is absolute. A gate whose clock is ahead may name one too far away; no gate keeps a rule longer than it was
	// meant to live, counted from when it heard of it.
	if latest := now.Add(rule.Duration.Duration); rule.Expires.After(latest) {
		rule.Expires = metav1.NewTime(latest)
	}
	if *room -= size(&rule); *room < 0 || len(l.Rules) >= MaxRules {
		l.Refused++
		return
	}
	l.Rules = append(l.Rules, rule)
	l.Set = append(l.Set, rule)
}

// Forget drops the lifts of rules that would have ended by now.
func Forget(lifts []Lift, now time.Time) []Lift {
	return slices.DeleteFunc(slices.Clone(lifts), func(l Lift) bool { return over(l, now) })
}

func over(l Lift, now time.Time) bool { return now.After(l.Expires.Add(slack)) }

var id = regexp.MustCompile(`^[a-z]{1,20}-[0-9a-f]{8}$`)

func validID(s string) bool { return len(s) < 32 && id.MatchString(s) }

// wellFormed is what any gate would have let its operator set.
func wellFormed(r *v1alpha1.EmergencyRule) bool {
	r.SetDefaults()
	lives := r.Expires.Sub(r.Created.Time)
	const rounding = 2 * time.Second // times are written in whole seconds
	return validID(r.ID) && strings.HasPrefix(r.ID, strings.ToLower(string(r.Action))+"-") && line(r.By) &&
		lives <= r.Duration.Duration+rounding && size(r) <= maxBytes/8 && len(r.Validate()) == 0
}

func line(s string) bool {
	return len(s) <= maxLine && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

func size(r *v1alpha1.EmergencyRule) int {
	b, err := json.Marshal(r)
	if err != nil {
		return maxBytes + 1
	}
	return len(b)
}
