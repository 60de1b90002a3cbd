package limit

import (
	"fmt"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/seakeep/seakeep/api/v1alpha1"
)

// rule is a compiled rule of any origin.
type rule struct {
	name   string
	match  *matcher
	action v1alpha1.LimitAction
	per    v1alpha1.LimitKey
	table  *table // of a throttle
	// continues says that admission by this rule does not end the search: a rule that matches on a user agent, or an
	// emergency throttle, may only tighten what the later rules allow.
	continues bool
	spec      v1alpha1.LimitRule
	// shadow says that the rule only counts whom it would have turned away, among the requests it matched.
	shadow  bool
	matched *atomic.Int64
}

// compileRule compiles a rule; old, when it is the same rule, lends its buckets, so that a reload that changes one
// line does not forgive everyone's debt.
func compileRule(spec *v1alpha1.LimitRule, old *rule, part *share) (*rule, error) {
	match, err := compileMatch(&spec.Match)
	if err != nil {
		return nil, fmt.Errorf("compiling rule %q: %w", spec.Name, err)
	}
	r := &rule{name: spec.Name, match: match, action: spec.Action, spec: *spec,
		continues: match.userAgents != nil, shadow: spec.Mode == v1alpha1.Shadow, matched: new(atomic.Int64)}
	switch spec.Action {
	case v1alpha1.LimitAllow, v1alpha1.LimitDeny:
	case v1alpha1.LimitThrottle:
		if spec.Throttle == nil {
			return nil, fmt.Errorf("compiling rule %q: action Throttle without throttle", spec.Name)
		}
		r.per = spec.Throttle.Per
		if old != nil && old.table != nil && equality.Semantic.DeepEqual(old.spec, *spec) {
			r.table = old.table
		} else {
			r.table = newTable(compileBounds(spec.Throttle), maxBuckets, part)
		}
	default:
		return nil, fmt.Errorf("compiling rule %q: unknown action %q", spec.Name, spec.Action)
	}
	return r, nil
}

// ruleset is what Configure swaps whole.
type ruleset struct{ rules []*rule }

func compileRules(specs []v1alpha1.LimitRule, old *ruleset, part *share) (*ruleset, error) {
	known := make(map[string]*rule)
	if old != nil {
		for _, r := range old.rules {
			known[r.name] = r
		}
	}
	set := &ruleset{rules: make([]*rule, 0, len(specs))}
	for i := range specs {
		r, err := compileRule(&specs[i], known[specs[i].Name], part)
		if err != nil {
			return nil, err
		}
		set.rules = append(set.rules, r)
	}
	return set, nil
}

// charge takes from every bucket of the request, and gives the places back when one of them refuses.
func (r *rule) charge(p *Pass, clock func() time.Time) *refusal {
	keys, n := keysOf(r.per, p.flow)
	for _, k := range keys[:n] {
		b, refused := r.table.take(k, clock)
		if refused != nil {
			return refused // the pass's earlier places are given back by whoever drops it
		}
		p.holds = append(p.holds, hold{table: r.table, bucket: b})
	}
	return nil
}
