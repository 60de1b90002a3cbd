package agree

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func rule(n int, created time.Time, lives time.Duration) v1alpha1.EmergencyRule {
	return v1alpha1.EmergencyRule{
		ID: fmt.Sprintf("block-%08x", n), Action: v1alpha1.EmergencyBlock, Match: v1alpha1.LimitMatch{Users: []string{"mallory"}},
		Reason: "test", By: "uid 0", Duration: metav1.Duration{Duration: lives},
		Created: metav1.NewTime(created), Expires: metav1.NewTime(created.Add(lives)),
	}
}

func liftOf(r v1alpha1.EmergencyRule, at time.Time) Lift {
	return Lift{ID: r.ID, Expires: r.Expires, By: "uid 0", Reason: "over", At: metav1.NewTime(at)}
}

func ids(d Decisions) (rules, lifts []string) {
	for _, r := range d.Rules {
		rules = append(rules, r.ID)
	}
	for _, l := range d.Lifts {
		lifts = append(lifts, l.ID)
	}
	slices.Sort(rules)
	slices.Sort(lifts)
	return rules, lifts
}

func TestMerge(t *testing.T) {
	one, two := rule(1, noon, time.Hour), rule(2, noon, time.Hour)
	change := func(f func(*v1alpha1.EmergencyRule)) v1alpha1.EmergencyRule { r := one; f(&r); return r }
	for name, tc := range map[string]struct {
		own, from      Decisions
		rules, lifts   []string
		set, ended, no int
	}{
		"a rule is learned":                  {Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{one}}, []string{one.ID}, nil, 1, 0, 0},
		"a known rule is no news":            {Decisions{Rules: []v1alpha1.EmergencyRule{one}}, Decisions{Rules: []v1alpha1.EmergencyRule{one}}, []string{one.ID}, nil, 0, 0, 0},
		"a lift ends a rule":                 {Decisions{Rules: []v1alpha1.EmergencyRule{one, two}}, Decisions{Lifts: []Lift{liftOf(one, noon)}}, []string{two.ID}, []string{one.ID}, 0, 1, 0},
		"a stale peer brings nothing back":   {Decisions{Lifts: []Lift{liftOf(one, noon)}}, Decisions{Rules: []v1alpha1.EmergencyRule{one}}, nil, []string{one.ID}, 0, 0, 0},
		"a lift before its rule":             {Decisions{}, Decisions{Lifts: []Lift{liftOf(one, noon)}, Rules: []v1alpha1.EmergencyRule{one}}, nil, []string{one.ID}, 0, 0, 0},
		"an ended rule is not taken":         {Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{rule(3, noon.Add(-2*time.Hour), time.Hour)}}, nil, nil, 0, 0, 0},
		"a lift of what is long over":        {Decisions{}, Decisions{Lifts: []Lift{liftOf(rule(3, noon.Add(-2*time.Hour), time.Hour), noon)}}, nil, nil, 0, 0, 0},
		"a rule nobody may set":              {Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{change(func(r *v1alpha1.EmergencyRule) { r.Match = v1alpha1.LimitMatch{} })}}, nil, nil, 0, 0, 1},
		"a rule that lives too long":         {Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{change(func(r *v1alpha1.EmergencyRule) { r.Expires = metav1.NewTime(noon.Add(2 * time.Hour)) })}}, nil, nil, 0, 0, 1},
		"an ID of another action":            {Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{change(func(r *v1alpha1.EmergencyRule) { r.ID = "lockdown-00000001" })}}, nil, nil, 0, 0, 1},
		"an ID that is none":                 {Decisions{}, Decisions{Lifts: []Lift{{ID: "../x", Expires: one.Expires}}}, nil, nil, 0, 0, 1},
		"lines that are none":                {Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{change(func(r *v1alpha1.EmergencyRule) { r.By = "a\nb" })}}, nil, nil, 0, 0, 1},
		"a lift that would be kept for ever": {Decisions{}, Decisions{Lifts: []Lift{{ID: one.ID, Expires: metav1.NewTime(noon.Add(1000 * time.Hour))}}}, nil, nil, 0, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := Merge(tc.own, tc.from, noon)
			rules, lifts := ids(l.Decisions)
			if !slices.Equal(rules, tc.rules) || !slices.Equal(lifts, tc.lifts) {
				t.Errorf("kept %v and %v, want %v and %v", rules, lifts, tc.rules, tc.lifts)
			}
			if len(l.Set) != tc.set || len(l.Ended) != tc.ended || l.Refused != tc.no {
				t.Errorf("set %d, ended %d, refused %d; want %d, %d, %d", len(l.Set), len(l.Ended), l.Refused, tc.set, tc.ended, tc.no)
			}
		})
	}
}

// A setter's clock that is ahead prolongs nothing: the rule lives here as long as it was meant to, at most.
func TestMergeBoundsTheEndByTheOwnClock(t *testing.T) {
	l := Merge(Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{rule(1, noon.Add(6*time.Hour), time.Hour)}}, noon)
	if len(l.Set) != 1 || !l.Set[0].Expires.Equal(&metav1.Time{Time: noon.Add(time.Hour)}) {
		t.Errorf("set %+v", l.Set)
	}
}

func TestMergeIsBounded(t *testing.T) {
	var own Decisions
	for i := range 3000 {
		r := rule(i, noon, time.Hour)
		own = Merge(own, Decisions{Rules: []v1alpha1.EmergencyRule{r}, Lifts: []Lift{liftOf(rule(100000+i, noon, time.Hour), noon)}}, noon).Decisions
	}
	if len(own.Rules) != MaxRules || len(own.Lifts) != MaxLifts {
		t.Errorf("%d rules and %d lifts are kept", len(own.Rules), len(own.Lifts))
	}
	// A lift of a rule in force is taken even then.
	l := Merge(own, Decisions{Lifts: []Lift{liftOf(rule(5, noon, time.Hour), noon)}}, noon)
	if len(l.Ended) != 1 {
		t.Error("a rule in force cannot be lifted any more")
	}
	large := rule(1, noon, time.Hour)
	for i := range 5000 {
		large.Match.Users = append(large.Match.Users, fmt.Sprint("user-", i, strings.Repeat("x", 40)))
	}
	if l := Merge(Decisions{}, Decisions{Rules: []v1alpha1.EmergencyRule{large}}, noon); len(l.Set) != 0 || l.Refused != 1 {
		t.Error("a rule of hundreds of kilobytes is taken")
	}
}

// Gates set and lift rules, hear of one another late, twice, in any order and through partitions, are restarted, and forget
// lifts that no longer matter. A lifted rule never comes back anywhere it was seen to be lifted, and when everybody has
// spoken to everybody all have the same.
func TestDecisionsConverge(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			const n = 4
			var gates, said [n]Decisions // said: an older state, as a message that is late
			var lifted [n]map[string]bool
			for i := range n {
				lifted[i] = map[string]bool{}
			}
			now, next := noon, 0
			hear := func(to int, from Decisions) {
				l := Merge(gates[to], from, now)
				for _, set := range l.Set {
					if lifted[to][set.ID] {
						t.Fatalf("gate %d: %s is back", to, set.ID)
					}
				}
				for _, e := range l.Ended {
					lifted[to][e.Rule.ID] = true
				}
				gates[to] = l.Decisions
			}
			for range 400 {
				now = now.Add(time.Duration(r.IntN(20)) * time.Second)
				i, j := r.IntN(n), r.IntN(n)
				gates[i].Rules = slices.DeleteFunc(slices.Clone(gates[i].Rules), func(r v1alpha1.EmergencyRule) bool { return !now.Before(r.Expires.Time) })
				gates[i].Lifts = Forget(gates[i].Lifts, now)
				switch r.IntN(8) {
				case 0:
					next++
					gates[i].Rules = append(slices.Clone(gates[i].Rules), rule(next, now, time.Duration(1+r.IntN(1800))*time.Second))
				case 1:
					if rules := gates[i].Rules; len(rules) > 0 {
						k := r.IntN(len(rules))
						lifted[i][rules[k].ID] = true
						gates[i].Lifts = append(slices.Clone(gates[i].Lifts), liftOf(rules[k], now))
						gates[i].Rules = slices.Delete(slices.Clone(rules), k, k+1)
					}
				case 2:
					said[i] = gates[i]
				case 3, 4:
					hear(i, said[j])
				default:
					hear(i, gates[j])
				}
			}
			for range 2 {
				for i := range n {
					for j := range n {
						hear(i, gates[j])
					}
				}
			}
			rules, _ := ids(gates[0])
			for i := 1; i < n; i++ {
				if other, _ := ids(gates[i]); !slices.Equal(live(gates[i], now), live(gates[0], now)) {
					t.Errorf("gate 0 has %v, gate %d %v", rules, i, other)
				}
			}
		})
	}
}

func live(d Decisions, now time.Time) []string {
	var all []string
	for _, r := range d.Rules {
		if now.Before(r.Expires.Time) {
			all = append(all, r.ID)
		}
	}
	slices.Sort(all)
	return all
}
